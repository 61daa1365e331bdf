//! An `openAPIV3Schema`: what of OpenAPI it may say, and that its defaults are what it says.

use hypernetes_schema::{Structural, structural::Fault};
use serde_json::Value;

use super::{rules as expressions, structural as rules};
use crate::{
    fault::of_schema,
    field::{Errors, Field, quote},
};

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
/// What may stand beside a root's properties where the status is written apart.
const AT_ROOT: &str = "[Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations]";
const NOT_AT_ROOT: &[&str] = &[
    "additionalProperties",
    "allOf",
    "anyOf",
    "default",
    "enum",
    "maxProperties",
    "minProperties",
    "not",
    "nullable",
    "oneOf",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
];
/// What of JSON schema definitions do not have.
const NOT_SUPPORTED: &[&str] = &["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"];

/// Where a part stands.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    is_root: bool,
    in_metadata: bool,
    /// Why nothing may have a default here.
    no_defaults: Option<&'static str>,
}

/// The schema of a version; `has_status`: its status is written through an endpoint of its own.
pub(super) fn check(schema: &Field<'_>, has_status: bool, errors: &mut Errors) {
    if has_status {
        check_root(schema, errors);
    }
    if schema.get("nullable").is_true() {
        schema.get("nullable").forbidden(errors, "nullable cannot be true at the root");
    }
    let before = errors.count();
    rules::check(schema, errors);
    if errors.count() == before {
        check_defaults(schema, false, errors);
    }
    check_part(schema, Place { is_root: true, ..Place::default() }, errors);
    if errors.count() == before {
        expressions::check(schema, errors);
    }
}

fn check_root(schema: &Field<'_>, errors: &mut Errors) {
    let ty = schema.get("type");
    if ty.text() != "object" {
        let why =
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        return ty.invalid_text(errors, why);
    }
    if NOT_AT_ROOT.iter().any(|name| schema.get(name).is_set()) {
        let why =
            format!("only {AT_ROOT} fields are allowed at the root of the schema if the status subresource is enabled");
        schema.invalid(errors, why);
    }
}

fn check_part(schema: &Field<'_>, place: Place, errors: &mut Errors) {
    if !schema.is_set() {
        return;
    }
    check_words(schema, place, errors);
    let inner = Place { is_root: false, ..place };
    let (properties, additional) = (schema.get("properties"), schema.get("additionalProperties"));
    if additional.is_set() {
        if !properties.is_empty() && *additional.value != Value::Bool(true) {
            additional.forbidden(errors, "additionalProperties and properties are mutual exclusive");
        }
        if additional.value.is_object() {
            let why = "inside additionalProperties applying to object metadata";
            let no_defaults = if place.in_metadata { Some(why) } else { place.no_defaults };
            check_part(&additional, Place { no_defaults, ..inner }, errors);
        }
    }
    let is_resource = place.is_root || schema.get("x-kubernetes-embedded-resource").is_true();
    for (name, property) in properties.entries() {
        let of_resource = is_resource && matches!(name, "metadata" | "kind" | "apiVersion");
        let no_defaults = match name {
            "metadata" if place.is_root => Some("in top-level metadata"),
            "kind" if place.is_root => Some("in top-level kind"),
            "apiVersion" if place.is_root => Some("in top-level apiVersion"),
            _ => place.no_defaults,
        };
        check_part(&property, Place { in_metadata: place.in_metadata || of_resource, no_defaults, ..inner }, errors);
    }
    check_part(&schema.get("not"), inner, errors);
    for name in ["allOf", "oneOf", "anyOf"] {
        schema.get(name).items().for_each(|one| check_part(&one, inner, errors));
    }
    let items = schema.get("items");
    if items.value.is_object() {
        check_part(&items, inner, errors);
    }
    check_extensions(schema, errors);
    check_list(schema, errors);
}

fn check_words(schema: &Field<'_>, place: Place, errors: &mut Errors) {
    let ty = schema.get("type");
    if !ty.is_empty() {
        ty.one_of(errors, TYPES);
    }
    if schema.get("default").is_set()
        && let Some(why) = place.no_defaults
    {
        schema.get("default").forbidden(errors, format!("must not be set {why}"));
    }
    for name in NOT_SUPPORTED {
        if schema.get(name).is_set() {
            schema.get(name).forbidden(errors, format!("{name} is not supported"));
        }
    }
    if ty.text() == "null" {
        ty.forbidden(errors, "type cannot be set to null, use nullable as an alternative");
    }
    if schema.get("items").value.is_array() {
        schema.get("items").forbidden(errors, "items must be a schema object and not an array");
    }
    if place.in_metadata && schema.get("x-kubernetes-embedded-resource").is_true() {
        schema.get("x-kubernetes-embedded-resource").forbidden(errors, "must not be used inside of resource meta");
    }
    if schema.get("uniqueItems").is_true() {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        schema.get("uniqueItems").forbidden(errors, why);
    }
}

fn check_extensions(schema: &Field<'_>, errors: &mut Errors) {
    let free = schema.get("x-kubernetes-preserve-unknown-fields");
    if free.flag() == Some(false) {
        free.invalid(errors, "must be true or undefined");
    }
    for (name, ty, known) in [
        ("x-kubernetes-map-type", "object", &["atomic", "granular"][..]),
        ("x-kubernetes-list-type", "array", &["atomic", "set", "map"]),
    ] {
        let kind = schema.get(name);
        if !kind.is_set() {
            continue;
        }
        let has = schema.get("type");
        if has.text() != ty {
            let why = format!("must be {ty} if {name} is specified");
            match has.is_empty() {
                true => has.required(errors, &why),
                false => has.invalid(errors, why),
            }
        }
        if !known.contains(&kind.text()) {
            kind.not_supported_as(errors, quote(kind.text()), known);
        }
    }
}

fn check_list(schema: &Field<'_>, errors: &mut Errors) {
    let (kind, keys, items) =
        (schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-list-map-keys"), schema.get("items"));
    if kind.text() == "set" {
        let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
        match items.get("type").text() {
            "array" if items.get("x-kubernetes-list-type").text() != "atomic" => {
                items.get("x-kubernetes-list-type").invalid(errors, why);
            }
            "object" if items.get("x-kubernetes-map-type").text() != "atomic" => {
                items.get("x-kubernetes-map-type").invalid(errors, why);
            }
            _ => {}
        }
    }
    if !keys.is_empty() && kind.text() != "map" {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        match kind.is_set() {
            true => kind.invalid(errors, why),
            false => kind.required(errors, why),
        }
    }
    if kind.text() == "map" {
        check_map_list(&keys, &items, errors);
    }
    if !matches!(kind.text(), "set" | "map") || !items.value.is_object() {
        return;
    }
    if items.get("nullable").is_true() {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {}", kind.text());
        items.get("nullable").forbidden(errors, why);
    }
    if kind.text() == "map" {
        check_map_keys(&keys, &items, errors);
    }
}

fn check_map_list(keys: &Field<'_>, items: &Field<'_>, errors: &mut Errors) {
    if keys.is_empty() {
        keys.required(errors, "must not be empty if x-kubernetes-list-type is map");
    }
    if !items.is_set() {
        return items.required(errors, "must have a schema if x-kubernetes-list-type is map");
    }
    if items.get("type").text() != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        return items.get("type").invalid_text(errors, why);
    }
    let mut seen = Vec::new();
    for key in keys.items() {
        let property = items.get("properties").key(key.text());
        if !property.is_set() {
            keys.invalid(errors, "entries must all be names of item properties");
        } else if matches!(property.get("type").text(), "object" | "array") {
            let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            property.get("type").invalid_quoted(errors, items.get("type").text(), why);
        }
        if seen.contains(&key.text()) {
            keys.invalid(errors, "must not contain duplicate entries");
        }
        seen.push(key.text());
    }
}

fn check_map_keys(keys: &Field<'_>, items: &Field<'_>, errors: &mut Errors) {
    for key in keys.items() {
        let property = items.get("properties").key(key.text());
        if !property.is_set() {
            continue;
        }
        let required = items.get("required").items().any(|name| name.text() == key.text());
        if !required && !property.get("default").is_set() {
            let why =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            property.get("default").required(errors, why);
        }
        if property.get("nullable").is_true() {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            property.get("nullable").forbidden(errors, why);
        }
    }
}

/// A default has nothing that its schema does not know, and is as that says.
fn check_defaults(schema: &Field<'_>, in_metadata: bool, errors: &mut Errors) {
    if !schema.value.is_object() {
        return;
    }
    let embedded = schema.get("x-kubernetes-embedded-resource").is_true();
    let in_metadata = in_metadata && !embedded;
    let default = schema.get("default");
    if default.is_set() && !in_metadata {
        let parsed = Structural::parse(schema.value);
        let mut pruned = default.value.clone();
        parsed.prune_part(&mut pruned);
        if pruned != *default.value {
            default.invalid(errors, "must not have unknown fields");
        }
        for fault in parsed.faults_of_part(default.value) {
            let path = match fault.path.as_deref() {
                None | Some("") => default.path.to_string(),
                Some(inside) => format!("{}.{inside}", default.path),
            };
            errors.push(of_schema(Fault { path: Some(path), ..fault }));
        }
    }
    check_defaults(&schema.get("items"), in_metadata, errors);
    for (name, property) in schema.get("properties").entries() {
        let of_resource = embedded && matches!(name, "metadata" | "kind" | "apiVersion");
        check_defaults(&property, in_metadata || of_resource, errors);
    }
}
