//! Holding an object to its definition's rules.

use hypernetes_cel::{EvalError, Evaluation, Value as Cel, limits};
use hypernetes_schema::ListKind;
use serde_json::Value;

use super::compile::{Rule, Rules};
use crate::{
    fault::WHOLE,
    field::{self, ErrorKind, Errors, Field, FieldError, Path},
};

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// One object's evaluation.
struct Run<'e> {
    /// Units of cost that are left; none: nothing is evaluated any more.
    left: Option<u64>,
    errors: &'e mut Errors,
}

impl Rules {
    /// What of an object is against the rules; `old` is what it was before, if it was. What has not changed is not told of
    /// again, but for rules that are about changes.
    pub fn evaluate(&self, object: &Value, old: Option<&Value>, errors: &mut Errors) {
        let mut run = Run { left: Some(limits::RUNTIME_BUDGET), errors };
        self.walk(object, old, &Path::default(), &mut run);
    }

    /// What of a value that stands somewhere is against the rules of its part.
    pub(crate) fn evaluate_part(&self, value: &Field<'_>, errors: &mut Errors) {
        let mut run = Run { left: Some(limits::RUNTIME_BUDGET), errors };
        self.walk(value.value, None, &value.path, &mut run);
    }

    fn walk(&self, value: &Value, old: Option<&Value>, path: &Path, run: &mut Run<'_>) {
        if value.is_null() || run.left.is_none() {
            return;
        }
        self.apply(value, old.filter(|old| !old.is_null()), path, run);
        match value {
            Value::Object(object) => {
                for (name, value) in object {
                    let old = old.and_then(|old| old.get(name));
                    if let Some(values) = &self.values {
                        values.walk(value, old, &path.key(name), run);
                    }
                    if let Some((_, property)) = self.properties.iter().find(|(known, _)| **known == **name) {
                        property.walk(value, old, &path.named(name), run);
                    }
                }
            }
            Value::Array(list) => {
                let Some(items) = &self.items else { return };
                for (index, item) in list.iter().enumerate() {
                    items.walk(item, self.same_before(item, old), &path.index(index), run);
                }
            }
            _ => {}
        }
    }

    /// The item of a list before that is the same as this one: of a list that is a map, the one with its keys.
    fn same_before<'v>(&self, item: &Value, old: Option<&'v Value>) -> Option<&'v Value> {
        let ListKind::Map(keys) = &self.list else { return None };
        let same = |before: &&Value| keys.iter().all(|key| before.get(&**key) == item.get(&**key));
        old?.as_array()?.iter().find(same)
    }

    fn apply(&self, value: &Value, old: Option<&Value>, path: &Path, run: &mut Run<'_>) {
        if self.own.is_empty() {
            return;
        }
        let of = |value| Cel::of_json(value, Some(&self.declared));
        let (Ok(this), Ok(before)) = (of(value), old.map(of).transpose()) else {
            return run.tell(path, &self.ty, "rule compiler initialization error: the value is not of its type".into());
        };
        let unchanged = old == Some(value);
        for rule in &self.own {
            if rule.uses_old && before.is_none() && !rule.optional_old {
                continue;
            }
            let old_self = match (&before, rule.optional_old) {
                (before, true) => Cel::optional(before.clone()),
                (Some(before), false) => before.clone(),
                (None, false) => Cel::Null,
            };
            let mut evaluation = Evaluation::new(vec![this.clone(), old_self]);
            let Some(left) = run.left else { return };
            let outcome = evaluation.run(&rule.program);
            if outcome.cost > left {
                run.left = None;
                return run.tell(path, &self.ty, OUT_OF_BUDGET.into());
            }
            let left = left - outcome.cost;
            run.left = Some(left);
            match outcome.value {
                Err(error) => {
                    let (detail, ends) = rule.failed(&error);
                    if ends {
                        run.left = None;
                    }
                    run.tell(path, &self.ty, detail);
                }
                Ok(Cel::Bool(true)) => {}
                Ok(_) => {
                    let message = rule.message_program.as_ref().map(|program| evaluation.run(program));
                    let mut detail = None;
                    if let Some(message) = message {
                        run.left = left.checked_sub(message.cost);
                        detail = message.value.ok().and_then(|text| rule.said(&text));
                    }
                    // What was so before is no fault of the change.
                    if rule.uses_old || !unchanged {
                        let detail = detail.unwrap_or_else(|| rule.usual_message());
                        run.refuse(rule, path, value, &self.ty, detail);
                    }
                }
            }
            if run.left.is_none() {
                return;
            }
        }
    }
}

impl Rule {
    /// What an error of it is told of as.
    fn name(&self) -> &str {
        if self.message.is_empty() { &self.source } else { &self.message }
    }

    fn usual_message(&self) -> String {
        match self.message.as_str() {
            "" => format!("failed rule: {}", self.source),
            message => message.to_owned(),
        }
    }

    /// What is told when it could not be evaluated, and whether no other is then.
    fn failed(&self, error: &EvalError) -> (String, bool) {
        let (words, name) = (error.to_string(), self.name());
        if words.starts_with("no such overload") {
            let what = "call arguments did not match a supported operator, function or macro signature for rule";
            (format!("'{words}': {what}: {name}"), false)
        } else if error.is_cost() {
            let what = "no further validation rules will be run due to call cost exceeds limit for rule";
            (format!("'{words}': {what}: {name}"), true)
        } else {
            (format!("{words} evaluating rule: {name}"), false)
        }
    }

    /// What a message's expression came to, if it can be said.
    fn said(&self, message: &Cel<'_>) -> Option<String> {
        let text = message.to_json()?;
        let text = text.as_str()?.trim().to_owned();
        let good = !text.is_empty() && text.len() <= limits::MESSAGE_BYTES && !text.contains('\n');
        good.then_some(text)
    }
}

impl Run<'_> {
    fn tell(&mut self, path: &Path, ty: &str, detail: String) {
        self.push(ErrorKind::Invalid, path.to_string(), field::quote(ty), detail);
    }

    fn push(&mut self, kind: ErrorKind, path: String, value: String, detail: String) {
        let path = if path.is_empty() { WHOLE.to_owned() } else { path };
        self.errors.push(FieldError { kind, path, value, detail, of_change: true });
    }

    fn refuse(&mut self, rule: &Rule, path: &Path, value: &Value, ty: &str, detail: String) {
        let path = format!("{path}{}", rule.field);
        let path = path.strip_prefix('.').unwrap_or(&path).to_owned();
        // Of what is large nothing is shown.
        let shown = if matches!(ty, "object" | "array") { String::new() } else { field::shown(value) };
        match rule.reason.as_deref() {
            Some("FieldValueForbidden") => self.push(ErrorKind::Forbidden, path, String::new(), detail),
            Some("FieldValueRequired") => self.push(ErrorKind::Required, path, String::new(), detail),
            Some("FieldValueDuplicate") => self.push(ErrorKind::Duplicate, path, shown, String::new()),
            _ => self.push(ErrorKind::Invalid, path, shown, detail),
        }
    }
}
