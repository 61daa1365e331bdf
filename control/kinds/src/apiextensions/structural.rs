//! What makes a schema structural: its shape is said outside of `allOf`, `anyOf`, `oneOf` and `not`, whole, and once.

use serde_json::{Value, json};

use crate::field::{Errors, Field};

/// Where a schema stands, which says how its missing type is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What may not be said within a value's rules, with the words that say so.
const OUTSIDE_ONLY: &[(&str, &str)] = &[
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
    ("x-kubernetes-validations", "must be empty to be structural"),
];

/// The rules of the whole schema, in the order in which upstream tells them: by their text.
pub(super) fn check(schema: &Field<'_>, errors: &mut Errors) {
    let mut found = Errors::default();
    invariants(schema, Level::Root, &mut found);
    completeness(schema, schema, &mut found);
    let mut list = found.into_vec();
    list.sort_by_cached_key(|error| format!("{}: {}", error.path, error.cause().message));
    list.into_iter().for_each(|error| errors.push(error));
}

fn flag(schema: &Field<'_>, name: &'static str) -> bool {
    schema.get(name).is_true()
}

fn invariants(schema: &Field<'_>, level: Level, errors: &mut Errors) {
    if !schema.is_set() {
        return;
    }
    let ty = schema.get("type");
    let items = schema.get("items");
    if ty.text() == "array" && !items.is_set() {
        items.required(errors, "must be specified");
    }
    if items.value.is_object() {
        invariants(&items, Level::Item, errors);
    }
    for (_, property) in schema.get("properties").entries() {
        invariants(&property, Level::Field, errors);
    }
    let additional = schema.get("additionalProperties");
    if additional.is_set() {
        if level == Level::Root {
            additional.forbidden(errors, "must not be used at the root");
        }
        if additional.value.is_object() {
            invariants(&additional, Level::Field, errors);
        }
    }
    extensions(schema, errors);
    let (any_of, all_of) = int_or_string_patterns(schema.value);
    value_rules(schema, any_of, all_of, errors);
    type_is_there(schema, level, errors);
    metadata(schema, level, errors);
}

fn extensions(schema: &Field<'_>, errors: &mut Errors) {
    if !flag(schema, "x-kubernetes-int-or-string") {
        return;
    }
    for name in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
        if flag(schema, name) {
            schema.get(name).invalid(errors, "must be false if x-kubernetes-int-or-string is true");
        }
    }
}

/// The two ways to say with types that a value is a number or a text, which are let through: as `anyOf`, or as the first of
/// `allOf`.
fn int_or_string_patterns(schema: &Value) -> (bool, bool) {
    let pattern = json!([{"type": "integer"}, {"type": "string"}]);
    let all_of = schema.get("allOf").and_then(|all| all.get(0)).and_then(|first| first.get("anyOf"));
    (schema.get("anyOf") == Some(&pattern), all_of == Some(&pattern))
}

fn value_rules(schema: &Field<'_>, skip_any_of: bool, skip_in_all_of: bool, errors: &mut Errors) {
    if !skip_any_of {
        schema.get("anyOf").items().for_each(|one| nested(&one, false, errors));
    }
    for (index, one) in schema.get("allOf").items().enumerate() {
        nested(&one, skip_in_all_of && index == 0, errors);
    }
    schema.get("oneOf").items().for_each(|one| nested(&one, false, errors));
    nested(&schema.get("not"), false, errors);
    let pattern = schema.get("pattern");
    if !pattern.is_empty()
        && let Err(why) = hypernetes_schema::structural::compile(pattern.text())
    {
        pattern.invalid(errors, format!("must be a valid regular expression, but isn't: {why}"));
    }
}

fn nested(rules: &Field<'_>, skip_any_of: bool, errors: &mut Errors) {
    if !rules.is_set() {
        return;
    }
    value_rules(rules, skip_any_of, false, errors);
    let items = rules.get("items");
    if items.value.is_object() {
        nested(&items, false, errors);
    }
    for (_, property) in rules.get("properties").entries() {
        nested(&property, false, errors);
    }
    if !rules.get("type").is_empty() {
        rules.get("type").forbidden(errors, "must be empty to be structural");
    }
    for (name, why) in OUTSIDE_ONLY {
        let field = rules.get(name);
        if field.is_set() && *field.value != json!(false) && (!field.is_empty() || field.value.is_object()) {
            field.forbidden(errors, *why);
        }
    }
    if rules.get("properties").key("metadata").is_set() {
        rules.get("properties").key("metadata").forbidden(errors, "must not be specified in a nested context");
    }
}

fn type_is_there(schema: &Field<'_>, level: Level, errors: &mut Errors) {
    let ty = schema.get("type");
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    let free = flag(schema, "x-kubernetes-int-or-string") || flag(schema, "x-kubernetes-preserve-unknown-fields");
    if embedded && ty.text() != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        match ty.is_empty() {
            true => ty.required(errors, why),
            false => ty.invalid(errors, why),
        }
    } else if ty.is_empty() && !free {
        ty.required(
            errors,
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        );
    }
    if embedded {
        if schema.get("additionalProperties").is_set() {
            let why = "must not be used if x-kubernetes-embedded-resource is set";
            schema.get("additionalProperties").forbidden(errors, why);
        }
        if schema.get("properties").is_empty() && !flag(schema, "x-kubernetes-preserve-unknown-fields") {
            let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
            schema.get("properties").required(errors, why);
        }
    }
    if level == Level::Root && !ty.is_empty() && ty.text() != "object" {
        ty.invalid(errors, "must be object at the root");
    }
}

/// Of what every object has a schema says next to nothing.
fn metadata(schema: &Field<'_>, level: Level, errors: &mut Errors) {
    let is_resource = level == Level::Root || flag(schema, "x-kubernetes-embedded-resource");
    let properties = schema.get("properties");
    for name in ["kind", "apiVersion"] {
        let property = properties.key(name);
        if is_resource && property.is_set() && property.get("type").text() != "string" {
            property.get("type").invalid_text(errors, "must be string");
        }
    }
    let metadata = properties.key("metadata");
    if !metadata.is_set() {
        return;
    }
    if is_resource && metadata.get("type").text() != "object" {
        metadata.get("type").invalid_text(errors, "must be object");
    }
    if level == Level::Root {
        let said = metadata.value.as_object().into_iter().flatten();
        let other = said.filter(|(name, value)| match name.as_str() {
            "type" | "default" => false,
            "properties" => {
                let names = value.as_object().into_iter().flat_map(|properties| properties.keys());
                !names.into_iter().all(|name| matches!(name.as_str(), "name" | "generateName"))
            }
            _ => true,
        });
        if other.count() > 0 {
            let why =
                "must not specify anything other than name and generateName, but metadata is implicitly specified";
            metadata.forbidden(errors, why);
        }
    }
}

/// What rules speak of is there in the shape that they are rules of.
fn completeness(rules: &Field<'_>, shape: &Field<'_>, errors: &mut Errors) {
    for name in ["allOf", "anyOf", "oneOf"] {
        rules.get(name).items().for_each(|one| nested_completeness(&one, shape, errors));
    }
    nested_completeness(&rules.get("not"), shape, errors);
}

fn nested_completeness(rules: &Field<'_>, shape: &Field<'_>, errors: &mut Errors) {
    if !rules.is_set() {
        return;
    }
    completeness(rules, shape, errors);
    let because = |rules: &Field<'_>| format!("because it is defined in {}", rules.path);
    let items = rules.get("items");
    if items.is_set() {
        match shape.get("items") {
            there if there.is_set() => nested_completeness(&items, &there, errors),
            missing => missing.required(errors, &because(&items)),
        }
    }
    for (name, property) in rules.get("properties").entries() {
        match shape.get("properties").key(name) {
            there if there.is_set() => nested_completeness(&property, &there, errors),
            missing => missing.required(errors, &because(&property)),
        }
    }
}
