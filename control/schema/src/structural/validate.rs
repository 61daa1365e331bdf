//! What of a value is not as its schema says, in the words of upstream's validator of OpenAPI.

use std::cell::Cell;

use serde_json::Value;

use super::{Additional, Checks, Structural, Type, formats, number::shown, path::Path, prune::OF_OBJECTS};

/// How many schemas are held against parts of an object at most: definitions and objects are a tenant's, and each alternative
/// of a list's items is tried for each item.
const MAX_STEPS: usize = 2_000_000;

/// What kind of error a field has.
#[derive(Debug, Clone, PartialEq)]
pub enum FaultKind {
    Required,
    /// With the most that there may be, bytes.
    TooLong(u64),
    /// How many there are, and how many there may be.
    TooMany(u64, u64),
    /// What there may be.
    NotSupported(Vec<String>),
    TypeInvalid,
    Invalid,
    Duplicate,
}

/// What is wrong at one place.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    pub kind: FaultKind,
    /// Empty: the object as a whole.
    pub path: Option<String>,
    pub value: Value,
    pub detail: String,
}

/// The faults of a value, and how much of it was looked at: of several schemas none of which holds, the faults of the one that
/// was looked at most are told.
#[derive(Debug, Default)]
pub(super) struct Found {
    faults: Vec<Fault>,
    looked: usize,
}

/// How many more steps there may be.
type Steps = Cell<usize>;

impl Found {
    fn add(&mut self, kind: FaultKind, path: &Path<'_>, value: Value, detail: String) {
        self.faults.push(Fault { kind, path: Some(path.to_string()), value, detail });
    }

    /// What is no field's but the object's.
    fn whole(&mut self, detail: String) {
        self.faults.push(Fault { kind: FaultKind::Invalid, path: None, value: "".into(), detail });
    }

    fn invalid(&mut self, path: &Path<'_>, value: Value, what: &str) {
        self.add(FaultKind::Invalid, path, value, format!("{path} in body {what}"));
    }

    fn wrong_type(&mut self, path: &Path<'_>, value: Value, wanted: &str) {
        let detail = match value.as_str() {
            Some(text) => format!("{path} in body must be of type {wanted}: {text:?}"),
            None => format!("{path} in body must be of type {wanted}"),
        };
        self.add(FaultKind::TypeInvalid, path, value, detail);
    }

    pub(super) fn duplicate(&mut self, path: &Path<'_>, value: Value) {
        self.add(FaultKind::Duplicate, path, value, String::new());
    }

    fn take(&mut self, other: Self) {
        self.faults.extend(other.faults);
        self.looked += other.looked;
    }

    /// What was not looked at to its end is not taken for good.
    fn end(&mut self, steps: &Steps) {
        if steps.get() == 0 {
            self.whole(format!("the object takes more than {MAX_STEPS} steps to validate"));
        }
    }

    fn is_fine(&self) -> bool {
        self.faults.is_empty()
    }
}

/// JSON's name of a value's type.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_whole(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

impl Structural {
    /// What of an object of the API is not as its schema says, its metadata apart.
    pub fn faults(&self, object: &Value) -> Vec<Fault> {
        let steps = Cell::new(MAX_STEPS);
        let mut found = self.look(object, &Path::Root, true, &steps);
        found.end(&steps);
        self.duplicates(object, &Path::Root, &mut found);
        found.faults
    }

    /// What of a part is not as this schema says; paths begin at the part.
    pub fn faults_of_part(&self, value: &Value) -> Vec<Fault> {
        let at = Path::Root;
        let steps = Cell::new(MAX_STEPS);
        let mut found = self.look(value, &at, false, &steps);
        found.end(&steps);
        self.duplicates(value, &at, &mut found);
        found.faults
    }

    fn look(&self, value: &Value, path: &Path<'_>, is_resource: bool, steps: &Steps) -> Found {
        let mut found = Found::default();
        if steps.get() == 0 {
            return found;
        }
        steps.set(steps.get() - 1);
        self.look_at_type(value, path, &mut found);
        if value.is_null() {
            return found;
        }
        found.looked += 1;
        let checks = &self.checks;
        checks.look_at_alternatives(value, path, steps, &mut found);
        match value {
            Value::String(text) => checks.look_at_text(text, path, &mut found),
            Value::Number(_) => self.look_at_number(value, path, &mut found),
            Value::Array(list) => self.look_at_list(list, path, steps, &mut found),
            Value::Object(_) | Value::Bool(_) | Value::Null => {}
        }
        if !checks.values.is_empty() && !checks.values.iter().any(|one| same(one, value)) {
            let shown = |one: &Value| one.as_str().map_or_else(|| one.to_string(), str::to_owned);
            let values = checks.values.iter().map(shown).collect();
            found.add(FaultKind::NotSupported(values), path, value.clone(), String::new());
        }
        found.looked += 1;
        if let Value::Object(object) = value {
            self.look_at_object(object, path, is_resource, steps, &mut found);
        }
        found
    }

    fn look_at_type(&self, value: &Value, path: &Path<'_>, found: &mut Found) {
        let wanted = if self.int_or_string { "integer,string" } else { self.ty.map_or("", Type::as_str) };
        if wanted.is_empty() && self.checks.format.is_none() {
            return;
        }
        found.looked += 1;
        let fits = match (value, self.ty) {
            (Value::Null, _) => self.nullable || wanted.is_empty(),
            (Value::String(_), _) if self.int_or_string => true,
            (Value::Number(_), _) if self.int_or_string => is_whole(value),
            (Value::Number(_), Some(Type::Number)) => true,
            (Value::Number(_), Some(Type::Integer)) => is_whole(value),
            (_, Some(ty)) => ty.as_str() == type_of(value),
            (Value::String(_), None) => true,
            (_, None) => wanted.is_empty(),
        };
        if !fits {
            found.wrong_type(path, type_of(value).into(), wanted);
        }
    }

    fn look_at_number(&self, value: &Value, path: &Path<'_>, found: &mut Found) {
        let checks = &self.checks;
        let number = value.as_f64().unwrap_or(0.0);
        let is_integer = self.ty == Some(Type::Integer);
        let small = number < f64::from(i32::MIN) || number > f64::from(i32::MAX);
        let format = checks.format.as_deref();
        if is_integer && (!is_whole(value) || format == Some("int32") && small) {
            let format = format.map_or_else(|| "(default format)".to_owned(), |format| format!("with format {format}"));
            found.whole(format!("Checked value must be of type integer {format} in {path}"));
        }
        checks.look_at_factor(value, number, path, found);
        if let Some((least, exclusive)) = checks.minimum
            && (number < least || exclusive && number <= least)
        {
            let what = if exclusive { "greater than" } else { "greater than or equal to" };
            found.invalid(path, value.clone(), &format!("should be {what} {}", shown(least)));
        }
        if let Some((most, exclusive)) = checks.maximum
            && (number > most || exclusive && number >= most)
        {
            let what = if exclusive { "less than" } else { "less than or equal to" };
            found.invalid(path, value.clone(), &format!("should be {what} {}", shown(most)));
        }
        found.looked += 2;
    }

    fn look_at_list(&self, list: &[Value], path: &Path<'_>, steps: &Steps, found: &mut Found) {
        if let Some(items) = &self.items {
            for (index, item) in list.iter().enumerate() {
                found.take(items.look(item, &path.index(index), items.embedded, steps));
            }
        }
        let count = list.len() as u64;
        if let Some(least) = self.checks.min_items.filter(|least| count < *least) {
            found.invalid(path, count.into(), &format!("should have at least {least} items"));
        }
        if let Some(most) = self.checks.max_items.filter(|most| count > *most) {
            found.add(FaultKind::TooMany(count, most), path, count.into(), String::new());
        }
        found.looked += 2;
    }

    fn look_at_object(
        &self,
        object: &serde_json::Map<String, Value>,
        path: &Path<'_>,
        is_resource: bool,
        steps: &Steps,
        found: &mut Found,
    ) {
        let count = object.len() as u64;
        let checks = &self.checks;
        if let Some(least) = checks.min_properties.filter(|least| count < *least) {
            found.invalid(path, count.into(), &format!("should have at least {least} properties"));
        }
        if let Some(most) = checks.max_properties.filter(|most| count > *most) {
            found.add(FaultKind::TooMany(count, most), path, count.into(), String::new());
        }
        for (name, value) in object {
            let implied = is_resource && OF_OBJECTS.contains(&name.as_str());
            match self.of_field(name) {
                // What metadata may be is said elsewhere, but for what a definition adds.
                Some(schema) => found.take(schema.look(value, &path.field(name), schema.embedded, steps)),
                None if matches!(self.additional, Some(Additional::Allowed(false))) && !implied => {
                    found.invalid(path, name.as_str().into(), "is a forbidden property");
                }
                None => {}
            }
        }
        for name in &checks.required {
            if !object.contains_key(&**name) {
                found.add(FaultKind::Required, &path.field(name), Value::Null, String::new());
            }
        }
        found.looked += 1;
    }
}

impl Checks {
    fn look_at_factor(&self, value: &Value, number: f64, path: &Path<'_>, found: &mut Found) {
        let Some(factor) = self.multiple_of else { return };
        // Of whole numbers upstream takes the whole part of the factor.
        let factor = if value.is_f64() { factor } else { factor.trunc() };
        if factor <= 0.0 {
            let detail = format!("factor MultipleOf declared for {path} must be positive: {}", shown(factor));
            found.add(FaultKind::Invalid, path, Value::from(factor as i64), detail);
        } else if (number / factor).fract() != 0.0 {
            found.invalid(path, value.clone(), &format!("should be a multiple of {}", shown(factor)));
        }
    }

    fn look_at_text(&self, text: &str, path: &Path<'_>, found: &mut Found) {
        let length = text.chars().count() as u64;
        if let Some(most) = self.max_length.filter(|most| length > *most) {
            found.add(FaultKind::TooLong(most), path, Value::Null, String::new());
        } else if let Some(least) = self.min_length.filter(|least| length < *least) {
            found.invalid(path, text.into(), &format!("should be at least {least} chars long"));
        } else if let Some(pattern) = self.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            found.invalid(path, text.into(), &format!("should match '{pattern}'"));
        }
        found.looked += 1;
        if let Some(format) = &self.format {
            if !formats::is(text, format) {
                found.wrong_type(path, text.into(), format);
            }
            found.looked += 1;
        }
    }

    /// `anyOf`, `oneOf`, `allOf`, `not`.
    fn look_at_alternatives(&self, value: &Value, path: &Path<'_>, steps: &Steps, found: &mut Found) {
        let path_shown = || format!("\"{path}\"");
        if !self.any_of.is_empty() {
            let (fitting, best) = try_each(&self.any_of, value, path, steps, true);
            if fitting == 0 {
                found.whole(format!("{} must validate at least one schema (anyOf)", path_shown()));
            }
            found.take(best);
        }
        if !self.one_of.is_empty() {
            let (fitting, best) = try_each(&self.one_of, value, path, steps, false);
            match fitting {
                1 => found.take(best),
                0 => {
                    found.whole(format!(
                        "{} must validate one and only one schema (oneOf). Found none valid",
                        path_shown()
                    ));
                    found.take(best);
                }
                several => found.whole(format!(
                    "{} must validate one and only one schema (oneOf). Found {several} valid alternatives",
                    path_shown()
                )),
            }
        }
        if !self.all_of.is_empty() {
            let mut fitting = 0;
            for schema in &self.all_of {
                let one = schema.look(value, path, false, steps);
                fitting += usize::from(one.is_fine());
                found.take(one);
            }
            if fitting < self.all_of.len() {
                let none = if fitting == 0 { ". None validated" } else { "" };
                found.whole(format!("{} must validate all the schemas (allOf){none}", path_shown()));
            }
        }
        if self.not.as_ref().is_some_and(|not| not.look(value, path, false, steps).is_fine()) {
            found.whole(format!("{} must not validate the schema (not)", path_shown()));
        }
        found.looked += 2;
    }
}

/// How many of several schemas a value fits, and what was found by the first that it fits, or by the one that fits it best.
fn try_each(
    schemas: &[Structural],
    value: &Value,
    path: &Path<'_>,
    steps: &Steps,
    first_is_enough: bool,
) -> (usize, Found) {
    let (mut fitting, mut first, mut best) = (0, None, None::<Found>);
    for schema in schemas {
        let found = schema.look(value, path, false, steps);
        if found.is_fine() {
            fitting += 1;
            first.get_or_insert(found);
            if first_is_enough {
                break;
            }
        } else if best.as_ref().is_none_or(|best| found.looked > best.looked) {
            best = Some(found);
        }
    }
    (fitting, first.or(best).unwrap_or_default())
}

/// Whether two values are the same: numbers by what they are.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        _ => one == other,
    }
}
