//! `SelfSubjectAccessReview`, `SubjectAccessReview` and `LocalSubjectAccessReview`: may they?

use std::collections::BTreeMap;

use hypernetes_api::{ApiError, TenantId, auth::UserInfo, error::Cause};
use hypernetes_kinds::{
    field::{MAX_ERRORS, quote},
    format,
};
use serde_json::{Value, json};

use super::texts;
use crate::{
    Call, Inner,
    authorization::{Attributes, Decision},
    request::selectors::Selector,
};

/// What is wrong with a question, as upstream lists it.
#[derive(Default)]
struct Problems(Vec<Cause>);

impl Problems {
    fn say(&mut self, reason: &str, field: &str, message: String) {
        if self.0.len() >= MAX_ERRORS {
            return;
        }
        self.0.push(Cause { reason: reason.into(), message, field: field.into() });
    }

    fn invalid(&mut self, field: &str, value: &str, why: &str) {
        self.say("FieldValueInvalid", field, format!("Invalid value: {value}: {why}"));
    }

    fn required(&mut self, field: &str, why: &str) {
        self.say("FieldValueRequired", field, format!("Required value: {why}"));
    }

    /// Upstream names no kind here.
    fn end(self, call: &Call) -> Result<(), ApiError> {
        if self.0.is_empty() { Ok(()) } else { Err(ApiError::invalid(&call.resource.ty.group, "", "", self.0)) }
    }
}

/// About who asks.
pub async fn own(server: &Inner, tenant: &TenantId, call: &Call, spec: &Value) -> Result<Value, ApiError> {
    let mut problems = Problems::default();
    check(spec, &mut problems);
    problems.end(call)?;
    answer(server, tenant, &call.user, spec).await
}

/// About another user of the tenant.
pub async fn of(server: &Inner, tenant: &TenantId, call: &Call, spec: &Value) -> Result<Value, ApiError> {
    let mut problems = Problems::default();
    let groups = texts(&spec["groups"]);
    let name = spec["user"].as_str().unwrap_or_default();
    check(spec, &mut problems);
    if name.is_empty() && groups.is_empty() {
        problems.invalid("spec.user", "\"\"", "at least one of user or group must be specified");
    }
    if let Some(namespace) = &call.target.namespace {
        let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
        let given = resource["namespace"].as_str().unwrap_or_default();
        if resource.is_object() && given != namespace {
            let field = "spec.resourceAttributes.namespace";
            problems.invalid(field, &format!("{given:?}"), "must match metadata.namespace");
        }
        if path.is_object() {
            problems.invalid("spec.nonResourceAttributes", &shown(path), "disallowed on this kind of request");
        }
    }
    problems.end(call)?;
    let extra = spec["extra"].as_object().into_iter().flatten();
    let user = UserInfo {
        name: name.into(),
        uid: spec["uid"].as_str().unwrap_or_default().into(),
        groups,
        extra: extra.map(|(key, values)| (key.clone(), texts(values))).collect::<BTreeMap<_, _>>(),
        tenant: tenant.clone(),
    };
    answer(server, tenant, &user, spec).await
}

fn shown(path: &Value) -> String {
    let text = |field: &str| path[field].as_str().unwrap_or_default().to_owned();
    json!({"Path": text("path"), "Verb": text("verb")}).to_string()
}

/// It asks about exactly one thing.
fn check(spec: &Value, problems: &mut Problems) {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    match (resource.is_object(), path.is_object()) {
        (true, true) => problems.invalid(
            "spec.nonResourceAttributes",
            &shown(path),
            "cannot be specified in combination with resourceAttributes",
        ),
        (false, false) => problems.invalid(
            "spec.resourceAttributes",
            "null",
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => {}
    }
    for name in ["fieldSelector", "labelSelector"] {
        let selector = &resource[name];
        if !selector.is_object() {
            continue;
        }
        let at = format!("spec.resourceAttributes.{name}");
        let raw = selector["rawSelector"].as_str().unwrap_or_default();
        let requirements = selector["requirements"].as_array().map(Vec::as_slice).unwrap_or_default();
        match (raw.is_empty(), requirements) {
            (true, []) => {
                let why = format!("when {at} is specified, requirements or rawSelector is required");
                problems.required(&format!("{at}.requirements"), &why);
            }
            (false, [_, ..]) => {
                let why = "may not specified at the same time as requirements";
                problems.invalid(&format!("{at}.rawSelector"), &format!("{raw:?}"), why);
            }
            _ => {}
        }
        for (index, requirement) in requirements.iter().enumerate() {
            let (key_at, at) =
                (format!("{at}.requirements[{index}].key"), format!("{at}.requirements[{index}].values"));
            let text = |field: &str| requirement[field].as_str().unwrap_or_default();
            let (key, values) = (text("key"), texts(&requirement["values"]));
            if name == "fieldSelector" && key.is_empty() {
                problems.required(&key_at, "must be specified");
            }
            match (text("operator"), values.is_empty()) {
                ("In" | "NotIn", true) => {
                    problems.required(&at, "must be specified when `operator` is 'In' or 'NotIn'");
                }
                ("Exists" | "DoesNotExist", false) => {
                    let why = "Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    problems.say("FieldValueForbidden", &at, why.into());
                }
                _ => {}
            }
            if name == "labelSelector" {
                for fault in format::qualified_name(key) {
                    problems.invalid(&key_at, &quote(key), &fault);
                }
                for (index, value) in values.iter().enumerate() {
                    for fault in format::label_value(value) {
                        problems.invalid(&format!("{at}[{index}]"), &quote(value), &fault);
                    }
                }
            }
        }
    }
}

/// What is asked about is narrowed to, and what of that could not be read: upstream's words. What cannot be read narrows nothing.
fn selected(resource: &Value) -> (Selector, Vec<String>) {
    let (mut all, mut errors) = (Selector::default(), Vec::new());
    for name in ["fieldSelector", "labelSelector"] {
        let asked = &resource[name];
        let raw = asked["rawSelector"].as_str().unwrap_or_default();
        let (mut read, mut unread) = (0, 0);
        if !raw.is_empty() {
            let (labels, fields) = if name == "labelSelector" { (raw, "") } else { ("", raw) };
            match Selector::of_anything(labels, fields) {
                Ok(selector) => all.and(selector),
                Err(_) => unread += 1,
            }
        }
        for requirement in asked["requirements"].as_array().into_iter().flatten() {
            let text = |field: &str| requirement[field].as_str().unwrap_or_default();
            let (key, operator, values) = (text("key"), text("operator"), texts(&requirement["values"]));
            let good = match (name, operator, values.as_slice()) {
                ("labelSelector", ..) => all.and_label(key, operator, &values).is_ok(),
                // Of fields there are no others.
                (_, "In" | "NotIn", [value]) => {
                    all.and_field(key, value, operator == "In");
                    true
                }
                _ => false,
            };
            if good { read += 1 } else { unread += 1 }
        }
        if unread > 0 {
            let part = if read > 0 { "partially ignored" } else { "ignored" };
            errors.push(format!("spec.resourceAttributes.{name} {part} due to parse error"));
        }
    }
    (all, errors)
}

/// Roles do not look at selectors; nodes are let list what is on them alone.
async fn answer(server: &Inner, tenant: &TenantId, user: &UserInfo, spec: &Value) -> Result<Value, ApiError> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let text = |field: &str| resource[field].as_str().unwrap_or_default();
    let some = |field: &str| Some(text(field)).filter(|text| !text.is_empty());
    let (selector, errors) = selected(resource);
    let wanted = if path.is_object() {
        Attributes {
            verb: path["verb"].as_str().unwrap_or_default(),
            path: Some(path["path"].as_str().unwrap_or_default()),
            ..Default::default()
        }
    } else {
        Attributes {
            verb: text("verb"),
            group: text("group"),
            resource: text("resource"),
            subresource: text("subresource"),
            namespace: some("namespace"),
            name: some("name"),
            selected: Some(&selector),
            ..Default::default()
        }
    };
    let decision = server.authorizer().decide(user, tenant, &wanted).await?;
    let mut status = json!({"allowed": decision.is_allowed()});
    if matches!(decision, Decision::Denied(_)) {
        status["denied"] = true.into();
    }
    let reason = decision.reason();
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    if !errors.is_empty() {
        status["evaluationError"] = errors.join("; ").into();
    }
    Ok(status)
}
