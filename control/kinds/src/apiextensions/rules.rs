//! `x-kubernetes-validations` of a definition: whether they are rules, and what they may cost.

use hypernetes_cel::limits::{ESTIMATED_PER_DEFINITION, ESTIMATED_PER_RULE};
use serde_json::{Value, json};

use crate::{
    expressions::{Fault, Rule, Rules, declare, normal},
    field::{self, ErrorKind, Errors, Field, FieldError, quote},
};

/// Reasons that an error of a rule may have.
const REASONS: &[&str] = &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
/// So many rules that cost most are told of when all together cost too much.
const MOST_TOLD: usize = 4;

/// What all rules of a schema are estimated to cost.
#[derive(Default)]
struct Total {
    units: u64,
    /// With where they are.
    most: Vec<(u64, String)>,
}

/// Where a part stands.
#[derive(Clone)]
struct Place {
    is_root: bool,
    /// How many values there may be of it; none: no bound is said.
    times: Option<u64>,
    /// The first part on the way whose values cannot be told from one version of an object to the next.
    uncorrelated: Option<String>,
}

/// The rules of a schema that is right otherwise.
pub(super) fn check(schema: &Field<'_>, errors: &mut Errors) {
    let mut total = Total::default();
    part(schema, Place { is_root: true, times: Some(1), uncorrelated: None }, &mut total, errors);
    if total.units > ESTIMATED_PER_DEFINITION {
        total.most.sort_by_key(|(units, _)| std::cmp::Reverse(*units));
        for (_, path) in total.most.iter().take(MOST_TOLD) {
            let why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            let (path, value, detail) = (path.clone(), String::new(), why.to_owned());
            errors.push(FieldError { kind: ErrorKind::Forbidden, path, value, detail, of_change: false });
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        schema.forbidden(errors, over_budget(what, total.units, ESTIMATED_PER_DEFINITION));
    }
}

impl Total {
    fn add(&mut self, units: u64, path: String) {
        self.units = self.units.saturating_add(units);
        // Who costs less than a hundredth of what all may is not told of.
        if units >= ESTIMATED_PER_DEFINITION / 100 {
            self.most.push((units, path));
        }
    }
}

fn over_budget(what: &str, units: u64, most: u64) -> String {
    let factor = units as f64 / most as f64;
    let factor = match factor {
        f if f > 100.0 => "more than 100x".to_owned(),
        f if f < 1.5 => format!("{f:.6}x"),
        f => format!("{f:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

/// How many values of its parts one value of a schema has at most.
fn elements(schema: &Field<'_>) -> Option<u64> {
    let count = |name| schema.get(name).value.as_i64().map(|count| u64::try_from(count).unwrap_or(0));
    match schema.get("type").text() {
        "object" if schema.get("additionalProperties").is_set() => count("maxProperties"),
        "array" => count("maxItems"),
        _ => Some(1),
    }
}

fn part(schema: &Field<'_>, place: Place, total: &mut Total, errors: &mut Errors) {
    if !schema.value.is_object() {
        return;
    }
    let before = errors.count();
    let times = place.times.zip(elements(schema)).map(|(times, each)| times.saturating_mul(each));
    let inner = |uncorrelated: Option<String>| Place { is_root: false, times, uncorrelated };
    part(&schema.get("additionalProperties"), inner(place.uncorrelated.clone()), total, errors);
    for (_, property) in schema.get("properties").entries() {
        part(&property, inner(place.uncorrelated.clone()), total, errors);
    }
    let by_key = schema.get("x-kubernetes-list-type").text() == "map";
    let here = || if by_key { None } else { Some(schema.path.to_string()) };
    part(&schema.get("items"), inner(place.uncorrelated.clone().or_else(here)), total, errors);
    let rules = schema.get("x-kubernetes-validations");
    for rule in rules.items() {
        words(&rule, schema, errors);
    }
    // What is wrong further in is mended first.
    if rules.is_empty() || errors.count() > before {
        return;
    }
    let Some(declared) = declare(schema.value, place.is_root) else {
        let why = "internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations";
        return rules.internal(errors, why);
    };
    for rule in rules.items() {
        match Rule::compile(rule.value, schema.value, &declared) {
            Err(Fault::Rule(why)) => rule.get("rule").invalid_as(errors, shown(rule.value), why),
            Err(Fault::Message(why)) => rule.get("messageExpression").invalid_as(errors, shown(rule.value), why),
            Ok(compiled) => judge(&rule, &compiled, &place, total, errors),
        }
    }
    let default = schema.get("default");
    if default.is_set()
        && let Some(rules) = Rules::of_part(schema.value, place.is_root)
    {
        let mut found = Errors::default();
        rules.evaluate_part(&default, &mut found);
        errors.append(found);
    }
}

/// What is said of a rule besides its sources.
fn words(rule: &Field<'_>, schema: &Field<'_>, errors: &mut Errors) {
    let (source, message) = (rule.get("rule"), rule.get("message"));
    let broken = |text: &str| text.contains(['\n', '\r']);
    let (trimmed, said) = (source.text().trim(), message.text().trim());
    if trimmed.is_empty() {
        source.required(errors, "rule is not specified");
    } else if !message.is_empty() && said.is_empty() {
        message.invalid(errors, "must be non-empty if specified");
    } else if broken(said) {
        message.invalid(errors, "must not contain line breaks");
    } else if broken(trimmed) && said.is_empty() {
        message.required(errors, "message must be specified if rule contains line breaks");
    }
    let expression = rule.get("messageExpression");
    if !expression.is_empty() && expression.text().trim().is_empty() {
        expression.required(errors, "messageExpression must be non-empty if specified");
    }
    let reason = rule.get("reason");
    if reason.is_set() && !REASONS.contains(&reason.text()) {
        reason.not_supported_as(errors, quote(reason.text()), REASONS);
    }
    let path = rule.get("fieldPath");
    if !path.is_empty() && path.text().trim().is_empty() {
        path.invalid(errors, "must be non-empty if specified");
    }
    if broken(path.text()) {
        path.invalid(errors, "must not contain line breaks");
    }
    if !path.is_empty() && normal(path.text(), schema.value).is_none() {
        path.invalid(errors, "must be a valid path");
    }
}

fn judge(rule: &Field<'_>, compiled: &Rule, place: &Place, total: &mut Total, errors: &mut Errors) {
    let units = match place.times {
        Some(times) => compiled.program.cost().max.saturating_mul(times),
        // As often as a request has room for.
        None => compiled.program.cost().max.saturating_mul(compiled.most_times),
    };
    let source = rule.get("rule");
    if units > ESTIMATED_PER_RULE {
        source.forbidden(errors, over_budget("estimated rule cost", units, ESTIMATED_PER_RULE));
    }
    total.add(units, source.path.to_string());
    if let Some(message) = &compiled.message_program {
        let units = message.cost().max;
        let expression = rule.get("messageExpression");
        if units > ESTIMATED_PER_RULE {
            expression.forbidden(errors, over_budget("estimated messageExpression cost", units, ESTIMATED_PER_RULE));
        }
        total.add(units, expression.path.to_string());
    }
    let optional = rule.get("optionalOldSelf");
    match (compiled.uses_old, &place.uncorrelated) {
        (true, Some(path)) => {
            let why = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {path}");
            source.invalid(errors, why);
        }
        (false, _) if optional.is_set() => optional.invalid(errors, "may not be set if oldSelf is not used in rule"),
        _ => {}
    }
}

/// A rule as upstream's errors show it.
fn shown(rule: &Value) -> String {
    let text = |name: &str| rule.get(name).cloned().unwrap_or_else(|| "".into());
    let other = |name: &str| rule.get(name).cloned().unwrap_or_default();
    let fields = [
        ("Rule", text("rule")),
        ("Message", text("message")),
        ("MessageExpression", text("messageExpression")),
        ("Reason", other("reason")),
        ("FieldPath", text("fieldPath")),
        ("OptionalOldSelf", other("optionalOldSelf")),
    ];
    let fields: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}:{}", json!(name), field::json(value))).collect();
    format!("{{{}}}", fields.join(","))
}
