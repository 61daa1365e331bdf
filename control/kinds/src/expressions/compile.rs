//! Rules that are ready to run, at the places of a schema that they are for.

use hypernetes_cel::{CompileErrors, Declaration, Environment, Program, Type, compile};
use hypernetes_schema::ListKind;
use serde_json::Value;

use super::path::normal;

/// The rules of a schema, or of a part of one; parts without any are left out.
#[derive(Debug)]
pub(crate) struct Rules {
    /// What values here are to expressions.
    pub declared: Declaration,
    /// The schema's type, by which a value is told of that is not shown.
    pub ty: String,
    pub own: Vec<Rule>,
    pub properties: Vec<(Box<str>, Rules)>,
    pub values: Option<Box<Rules>>,
    pub items: Option<Box<Rules>>,
    /// By which items are the same as before.
    pub list: ListKind,
}

#[derive(Debug)]
pub(crate) struct Rule {
    pub program: Program,
    /// What is said when it does not hold, as an expression.
    pub message_program: Option<Program>,
    pub source: String,
    pub message: String,
    pub reason: Option<String>,
    /// The field that it is told of, below the value that it is a rule for: `.size`.
    pub field: String,
    /// It is a rule for new values too: what was before may be none.
    pub optional_old: bool,
    /// It is about changes.
    pub uses_old: bool,
    /// How many values there can be in a request that it is a rule for, where no bound is said.
    pub most_times: u64,
}

/// What is wrong with a rule.
pub(crate) enum Fault {
    /// Its source, in upstream's words.
    Rule(String),
    /// The source of its message.
    Message(String),
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// What the values of a schema are to expressions; none: they cannot be written of.
pub(crate) fn declare(schema: &Value, is_root: bool) -> Option<Declaration> {
    let is_resource = is_root || schema.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true));
    Declaration::of_schema("selfType", schema, is_resource)
}

/// What rules of values so declared may name.
fn environment(declared: &Declaration, optional_old: bool) -> Environment {
    let environment = Environment::new().declared("self", declared);
    match optional_old {
        true => environment.optional("oldSelf", declared),
        false => environment.declared("oldSelf", declared),
    }
}

fn program(source: &str, environment: &Environment, wanted: &Type, words: [&str; 3]) -> Result<Program, String> {
    let [compiling, wrong_type, instantiating] = words;
    let failed = |errors: CompileErrors| match errors.instantiation() {
        None => format!("{compiling}: {errors}"),
        Some(ty) if ty != wanted => wrong_type.to_owned(),
        Some(_) => format!("{instantiating}: {errors}"),
    };
    let program = compile(source, environment).map_err(failed)?;
    if program.result_type() != wanted {
        return Err(wrong_type.to_owned());
    }
    Ok(program)
}

impl Rule {
    pub(crate) fn compile(rule: &Value, schema: &Value, declared: &Declaration) -> Result<Self, Fault> {
        let optional_old = rule.get("optionalOldSelf") == Some(&Value::Bool(true));
        let environment = environment(declared, optional_old);
        let source = text(rule, "rule");
        let words = ["compilation failed", "cel expression must evaluate to a bool", "program instantiation failed"];
        let compiled = program(source, &environment, &Type::Bool, words).map_err(Fault::Rule)?;
        let words = [
            "messageExpression compilation failed",
            "messageExpression must evaluate to a string",
            "messageExpression instantiation failed",
        ];
        let message_program = match text(rule, "messageExpression") {
            "" => None,
            source => Some(program(source, &environment, &Type::String, words).map_err(Fault::Message)?),
        };
        Ok(Self {
            uses_old: compiled.uses(&environment, "oldSelf"),
            program: compiled,
            message_program,
            source: source.trim().to_owned(),
            message: text(rule, "message").trim().to_owned(),
            reason: rule.get("reason").and_then(Value::as_str).map(str::to_owned),
            field: normal(text(rule, "fieldPath"), schema).unwrap_or_default(),
            optional_old,
            most_times: declared.cardinality(),
        })
    }
}

impl Rules {
    /// Those of an `openAPIV3Schema` that has been accepted; none where it has none.
    pub fn of(schema: &Value) -> Option<Self> {
        Self::of_part(schema, true)
    }

    pub(crate) fn of_part(schema: &Value, is_root: bool) -> Option<Self> {
        let part = |name: &str| schema.get(name).filter(|part| part.is_object());
        let inner = |name: &str| part(name).and_then(|part| Self::of_part(part, false)).map(Box::new);
        let properties = part("properties").and_then(Value::as_object).into_iter().flatten();
        let properties: Vec<_> = properties
            .filter_map(|(name, property)| Some((name.as_str().into(), Self::of_part(property, false)?)))
            .collect();
        let (values, items) = (inner("additionalProperties"), inner("items"));
        let said = schema.get("x-kubernetes-validations").and_then(Value::as_array);
        let said = said.map(Vec::as_slice).unwrap_or_default();
        if said.is_empty() && properties.is_empty() && values.is_none() && items.is_none() {
            return None;
        }
        let declared = declare(schema, is_root)?;
        let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten();
        Some(Self {
            // One that was accepted by an earlier version and is none today holds nobody to anything.
            own: said.iter().filter_map(|rule| Rule::compile(rule, schema, &declared).ok()).collect(),
            declared,
            ty: text(schema, "type").to_owned(),
            properties,
            values,
            items,
            list: match text(schema, "x-kubernetes-list-type") {
                "map" => ListKind::Map(keys.filter_map(Value::as_str).map(Into::into).collect()),
                _ => ListKind::Atomic,
            },
        })
    }
}
