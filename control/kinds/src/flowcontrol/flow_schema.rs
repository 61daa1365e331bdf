//! `FlowSchema`: the requests that a level is for, by who sends them and what they are about.

use k8s_openapi::api::flowcontrol::v1::FlowSchema;
use serde_json::{Map, Value, json};

use super::{EXEMPT, check_status, fixed, is_all, set_number};
use crate::{
    columns::{Cell, age, column, name, number_at, path, path_or},
    field::{Errors, Field, same, shown},
    format,
    internal::{Internal, TEXT},
    resource::Resource,
    subresource::Subresource,
};

pub(super) fn resource() -> Resource {
    Resource::kubernetes::<FlowSchema>("flowschemas")
        .subresources([Subresource::status()])
        .columns(vec![
            name(),
            column("PriorityLevel", path_or("spec.priorityLevelConfiguration.name", "")),
            column("MatchingPrecedence", number_at("spec.matchingPrecedence")),
            column("DistinguisherMethod", path("spec.distinguisherMethod.type")),
            age(),
            column("MissingPL", Cell::Of(is_dangling)),
        ])
        .defaults(defaults)
        .first_status(|_| json!({}))
        .counts_changes()
        .check(check)
        .on_status(check_status)
}

fn is_dangling(schema: &Value) -> Value {
    let mut conditions = schema["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == "Dangling");
    found.map_or_else(|| "?".into(), |condition| condition["status"].clone())
}

const USUAL_PRECEDENCE: u32 = 1000;
const LAST_PRECEDENCE: i64 = 10_000;
const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

static METHOD: Internal = Internal::Pointer(&Internal::Struct(&[("type", "Type", TEXT)]));
static NAMED: Internal = Internal::Pointer(&Internal::Struct(&[("name", "Name", TEXT)]));
static ACCOUNT: Internal =
    Internal::Pointer(&Internal::Struct(&[("namespace", "Namespace", TEXT), ("name", "Name", TEXT)]));
static SUBJECT: Internal = Internal::Struct(&[
    ("kind", "Kind", TEXT),
    ("user", "User", Internal::Pointer(&NAMED)),
    ("group", "Group", Internal::Pointer(&NAMED)),
    ("serviceAccount", "ServiceAccount", Internal::Pointer(&ACCOUNT)),
]);
static RESOURCES: Internal = Internal::Struct(&[
    ("verbs", "Verbs", Internal::List(&TEXT)),
    ("apiGroups", "APIGroups", Internal::List(&TEXT)),
    ("resources", "Resources", Internal::List(&TEXT)),
    ("clusterScope", "ClusterScope", Internal::Plain("false")),
    ("namespaces", "Namespaces", Internal::List(&TEXT)),
]);
static PATHS: Internal = Internal::Struct(&[
    ("verbs", "Verbs", Internal::List(&TEXT)),
    ("nonResourceURLs", "NonResourceURLs", Internal::List(&TEXT)),
]);
static RULE: Internal = Internal::Struct(&[
    ("subjects", "Subjects", Internal::List(&SUBJECT)),
    ("resourceRules", "ResourceRules", Internal::List(&RESOURCES)),
    ("nonResourceRules", "NonResourceRules", Internal::List(&PATHS)),
]);
static SPEC: Internal = Internal::Struct(&[
    ("priorityLevelConfiguration", "PriorityLevelConfiguration", Internal::Struct(&[("name", "Name", TEXT)])),
    ("matchingPrecedence", "MatchingPrecedence", Internal::Plain("0")),
    ("distinguisherMethod", "DistinguisherMethod", Internal::Pointer(&METHOD)),
    ("rules", "Rules", Internal::List(&RULE)),
]);

fn defaults(schema: &mut Map<String, Value>) {
    let spec = schema.entry("spec").or_insert_with(|| json!({}));
    if let Some(spec) = spec.as_object_mut() {
        set_number(spec, "matchingPrecedence", USUAL_PRECEDENCE, true);
    }
}

fn check(schema: &Field<'_>, errors: &mut Errors) {
    let (name, spec) = (schema.walk(["metadata", "name"]), schema.get("spec"));
    let precedence = spec.get("matchingPrecedence");
    match precedence.int().unwrap_or(0) {
        ..=0 => precedence.invalid(errors, "must be a positive value"),
        1 if name.text() != EXEMPT => {
            precedence.invalid(errors, "only the schema named 'exempt' may have matchingPrecedence 1");
        }
        1..=LAST_PRECEDENCE => {}
        _ => precedence.invalid(errors, format!("must not be greater than {LAST_PRECEDENCE}")),
    }
    let (method, known) = (spec.get("distinguisherMethod"), ["ByNamespace", "ByUser"]);
    if method.is_set() && !known.contains(&method.get("type").text()) {
        method.get("type").not_supported_as(errors, METHOD.shown(method.value), &known);
    }
    let level = spec.walk(["priorityLevelConfiguration", "name"]);
    match level.text() {
        "" => level.required(errors, "must reference a priority level"),
        text => level.faulty(errors, format::subdomain(text)),
    }
    spec.get("rules").items().for_each(|rule| check_rule(&rule, errors));
    if let Some(fixed) = fixed("FlowSchema", name.text())
        && !same(spec.value, fixed)
    {
        spec.invalid_as(
            errors,
            SPEC.shown(spec.value),
            format!("spec of '{}' must equal the fixed value", name.text()),
        );
    }
}

fn check_rule(rule: &Field<'_>, errors: &mut Errors) {
    let (subjects, resources, paths) = (rule.get("subjects"), rule.get("resourceRules"), rule.get("nonResourceRules"));
    if subjects.is_empty() {
        subjects.required(errors, "subjects must contain at least one value");
    }
    subjects.items().for_each(|subject| check_subject(&subject, errors));
    if resources.is_empty() && paths.is_empty() {
        rule.required(errors, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    resources.items().for_each(|rule| check_resources(&rule, errors));
    paths.items().for_each(|rule| check_paths(&rule, errors));
}

fn check_subject(subject: &Field<'_>, errors: &mut Errors) {
    const KINDS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = subject.get("kind");
    let Some((is, field)) = KINDS.iter().find(|(is, _)| *is == kind.text()) else {
        return kind.not_supported(errors, &["Group", "ServiceAccount", "User"]);
    };
    let who = subject.get(field);
    if who.is_set() {
        check_name(&who.get("name"), *is == "ServiceAccount", errors);
        if *is == "ServiceAccount" {
            let namespace = who.get("namespace");
            match namespace.text() {
                "" => namespace.required(errors, "must specify namespace for service account"),
                text => namespace.faulty(errors, format::label(text)),
            }
        }
    } else {
        who.required(errors, &format!("{field} is required when subject kind is '{is}'"));
    }
    for (of, other) in KINDS.iter().filter(|(of, _)| of != is) {
        let other_field = subject.get(other);
        if other_field.is_set() {
            other_field.forbidden(errors, format!("{other} is forbidden when subject kind is not '{of}'"));
        }
    }
}

/// Any account of a namespace is `*`; other names are anybody's.
fn check_name(name: &Field<'_>, is_account: bool, errors: &mut Errors) {
    match name.text() {
        "" => name.required(errors, ""),
        text if is_account && text != "*" => name.faulty(errors, format::subdomain(text)),
        _ => {}
    }
}

fn check_verbs(verbs: &Field<'_>, errors: &mut Errors) {
    if verbs.is_empty() {
        verbs.required(errors, "verbs must contain at least one value");
    } else if !is_all(verbs, "verbs", errors) && !verbs.items().all(|verb| VERBS.contains(&verb.text())) {
        verbs.not_supported_as(errors, shown(verbs.value), VERBS);
    }
}

fn check_resources(rule: &Field<'_>, errors: &mut Errors) {
    check_verbs(&rule.get("verbs"), errors);
    for (field, what, one) in [("apiGroups", "api groups", "api group"), ("resources", "resources", "resource")] {
        let list = rule.get(field);
        if list.is_empty() {
            list.required(errors, &format!("resource rules must supply at least one {one}"));
        }
        is_all(&list, what, errors);
    }
    let namespaces = rule.get("namespaces");
    if namespaces.is_empty() && !rule.get("clusterScope").is_true() {
        let why = "resource rules that are not cluster scoped must supply at least one namespace";
        namespaces.required(errors, why);
    } else if !is_all(&namespaces, "namespaces", errors) {
        for namespace in namespaces.items() {
            let faults = format::label(namespace.text()).into_iter();
            let faults =
                faults.map(|fault| format!("each member of this list must be '*' or a DNS-1123 label; {fault}"));
            namespace.faulty(errors, faults);
        }
    }
}

fn check_paths(rule: &Field<'_>, errors: &mut Errors) {
    check_verbs(&rule.get("verbs"), errors);
    let paths = rule.get("nonResourceURLs");
    if paths.is_empty() {
        paths.required(errors, "nonResourceURLs must contain at least one value");
    } else if !is_all(&paths, "non-resource URLs", errors) {
        for path in paths.items() {
            let why = match path.text() {
                "" => "must not be empty",
                "/" => continue,
                text if !text.starts_with('/') => "must start with slash",
                text if text.contains(' ') => "must not contain white-space",
                text if text.contains("//") => "must not contain double slash",
                text if text.strip_suffix("/*").unwrap_or(text).contains('*') => "wildcard can only do suffix matching",
                _ => continue,
            };
            path.invalid(errors, why);
        }
    }
}
