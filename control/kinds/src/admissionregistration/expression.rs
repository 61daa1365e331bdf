//! Expressions about requests: whether they are some, and of which type their values are.

use std::collections::HashSet;

use hypernetes_cel::{Environment, Type, compile};
use serde_json::Value;

use crate::{
    expressions::admission::Variables,
    field::{Errors, Field},
    format,
};

const MAX_CONDITIONS: usize = 64;

/// What all expressions of one object may be together: compiling as much takes half a second, and whoever else writes waits for it.
/// Upstream has no such bound.
const MAX_EXPRESSIONS: usize = 512;
const MAX_EXPRESSION_BYTES: usize = 128 * 1024;

/// Whether what is in a field can be compiled in a time that may be spent on it; an error where not.
pub(super) fn check_amount(field: &Field<'_>, errors: &mut Errors) -> bool {
    let mut lengths = Vec::new();
    add_lengths(field.value, &mut lengths);
    let (many, bytes) = (lengths.len(), lengths.iter().sum::<usize>());
    let good = many <= MAX_EXPRESSIONS && bytes <= MAX_EXPRESSION_BYTES;
    if !good {
        let most = format!("may not have more than {MAX_EXPRESSIONS} of {MAX_EXPRESSION_BYTES} bytes together");
        field.forbidden(errors, format!("has {many} expressions of {bytes} bytes together: {most}"));
    }
    good
}

/// Of all sources, wherever they are.
fn add_lengths(value: &Value, lengths: &mut Vec<usize>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| add_lengths(item, lengths)),
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("expression" | "messageExpression" | "valueExpression", Value::String(source)) => {
                        lengths.push(source.len());
                    }
                    _ => add_lengths(value, lengths),
                }
            }
        }
        _ => {}
    }
}

/// An expression that stands in a field.
pub(super) struct Expression<'f> {
    pub field: Field<'f>,
    /// What is compiled of its text.
    pub source: &'f str,
    /// What its error shows.
    pub shown: &'f str,
    /// The types that its value may have; none: any.
    pub wanted: &'f [Type],
}

impl<'f> Expression<'f> {
    /// The text of a field as it is.
    pub fn whole(field: Field<'f>, wanted: &'f [Type]) -> Self {
        let source = field.text();
        Self { field, source, shown: source, wanted }
    }

    /// As [`Self::whole`], without spaces around.
    pub fn trimmed(field: Field<'f>, wanted: &'f [Type]) -> Self {
        let source = field.text().trim();
        Self { field, source, shown: source, wanted }
    }

    /// The type of its value; none, and an error, where it has not.
    pub fn check(&self, environment: &Environment, errors: &mut Errors) -> Option<Type> {
        let (ty, failure) = match compile(self.source, environment) {
            Ok(program) => (program.result_type().clone(), None),
            Err(failure) => match failure.instantiation() {
                Some(ty) => (ty.clone(), Some(failure)),
                None => {
                    self.field.invalid_quoted(errors, self.shown, format!("compilation failed: {failure}"));
                    return None;
                }
            },
        };
        if !self.wanted.is_empty() && !self.wanted.contains(&ty) {
            self.field.invalid_quoted(errors, self.shown, self.another_type(&ty));
            return None;
        }
        if let Some(failure) = failure {
            self.field.internal(errors, &format!("program instantiation failed: {failure}"));
            return None;
        }
        Some(ty)
    }

    fn another_type(&self, ty: &Type) -> String {
        let wanted: Vec<String> = self.wanted.iter().map(name_of).collect();
        let must = match wanted.as_slice() {
            [one] => format!("must evaluate to {one}"),
            several => format!("must evaluate to one of [{}]", several.join(" ")),
        };
        format!("{must} but got {}", name_of(ty))
    }
}

/// A type by the name that it is declared by.
fn name_of(ty: &Type) -> String {
    match ty {
        Type::Null => "null_type".into(),
        Type::Duration => "google.protobuf.Duration".into(),
        Type::Timestamp => "google.protobuf.Timestamp".into(),
        Type::List(of) => format!("list({})", name_of(of)),
        Type::Map(of) => format!("map({}, {})", name_of(&of.0), name_of(&of.1)),
        Type::Optional(of) => format!("optional_type({})", name_of(of)),
        Type::Type(Some(of)) => format!("type({})", name_of(of)),
        other => other.to_string(),
    }
}

/// What an expression may name that stands alone: no variables of a policy.
pub(super) fn alone(variables: Variables) -> Environment {
    variables.environment().without("variables")
}

/// `matchConditions`: all of them hold for a request that is asked about.
pub(super) fn check_conditions(conditions: &Field<'_>, params: bool, errors: &mut Errors) {
    if conditions.len() > MAX_CONDITIONS {
        conditions.too_many(errors, MAX_CONDITIONS);
    }
    if conditions.is_empty() {
        return;
    }
    let environment = alone(Variables { params, authorizer: true, mutates: false });
    let mut names = HashSet::new();
    for condition in conditions.items() {
        let (name, expression) = (condition.get("name"), condition.get("expression"));
        let expression = Expression::trimmed(expression, &[Type::Bool]);
        match expression.source.is_empty() {
            true => expression.field.required(errors, ""),
            false => drop(expression.check(&environment, errors)),
        }
        name.required_text(errors, format::qualified_name);
        if !name.is_empty() && !names.insert(name.text()) {
            name.duplicate(errors);
        }
    }
}
