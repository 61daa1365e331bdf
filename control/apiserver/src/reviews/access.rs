//! `SelfSubjectAccessReview`, `SubjectAccessReview` and `LocalSubjectAccessReview`: may they?

use std::collections::BTreeMap;

use hypernetes_api::{ApiError, TenantId, auth::UserInfo, error::Cause};
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
            let at = format!("{at}.requirements[{index}].values");
            match (requirement["operator"].as_str().unwrap_or_default(), texts(&requirement["values"]).is_empty()) {
                ("In" | "NotIn", true) => {
                    problems.required(&at, "must be specified when `operator` is 'In' or 'NotIn'");
                }
                ("Exists" | "DoesNotExist", false) => {
                    let why = "Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    problems.say("FieldValueForbidden", &at, why.into());
                }
                _ => {}
            }
        }
    }
}

/// No role looks at selectors, so that they change nothing but whether they parse.
async fn answer(server: &Inner, tenant: &TenantId, user: &UserInfo, spec: &Value) -> Result<Value, ApiError> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let text = |field: &str| resource[field].as_str().unwrap_or_default();
    let some = |field: &str| Some(text(field)).filter(|text| !text.is_empty());
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
    let raw = resource["labelSelector"]["rawSelector"].as_str().unwrap_or_default();
    if Selector::parse(&[], raw, "").is_err() {
        status["evaluationError"] = "spec.resourceAttributes.labelSelector ignored due to parse error".into();
    }
    Ok(status)
}
