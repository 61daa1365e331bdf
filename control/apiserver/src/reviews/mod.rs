//! Questions that are answered and not stored: may I, who am I, whose token is this.

use std::collections::BTreeMap;

use axum::body::Body;
use http::{Response, StatusCode};
use hypernetes_api::{ApiError, TenantId, auth::UserInfo, error::Cause};
use serde_json::{Value, json};

use crate::{
    Call, Inner,
    answer::json_response,
    authentication::{authorities::claims::AUDIENCE, is_current, service_account},
    authorization::{Attributes, rbac::Rule},
    request::Scope,
};

pub async fn review(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    let mut object = call.resource.ty.decode(&call.body, hypernetes_schema::FieldValidation::Ignore)?.object;
    let tenant = match &call.scope {
        Scope::Tenant(tenant) => tenant.clone(),
        Scope::All => TenantId::system(),
    };
    let spec = object["spec"].clone();
    let kind = call.resource.ty.kind.as_str();
    if matches!(kind, "SelfSubjectAccessReview" | "SubjectAccessReview") {
        check_access_review(call, &spec)?;
    }
    object["status"] = match kind {
        "SelfSubjectAccessReview" => access(server, &tenant, &call.user, &spec).await?,
        "SubjectAccessReview" => {
            let user = UserInfo {
                name: spec["user"].as_str().unwrap_or_default().into(),
                uid: spec["uid"].as_str().unwrap_or_default().into(),
                groups: texts(&spec["groups"]),
                extra: BTreeMap::new(),
                tenant: tenant.clone(),
            };
            access(server, &tenant, &user, &spec).await?
        }
        "SelfSubjectRulesReview" => rules(server, &tenant, &call.user, &spec).await?,
        "SelfSubjectReview" => json!({"userInfo": user_info(&call.user)}),
        "TokenReview" => token_review(server, &tenant, &spec).await?,
        kind => return Err(ApiError::internal(format!("{kind} has no answer"))),
    };
    Ok(json_response(StatusCode::CREATED, &object))
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// # Errors
/// `Invalid`, unless it asks about exactly one thing, and about someone.
fn check_access_review(call: &Call, spec: &Value) -> Result<(), ApiError> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let mut causes = Vec::new();
    let mut invalid = |field: &str, value: &str, why: &str| {
        let message = format!("Invalid value: {value}: {why}");
        causes.push(Cause { reason: "FieldValueInvalid".into(), message, field: field.into() });
    };
    match (resource.is_object(), path.is_object()) {
        (true, true) => invalid(
            "spec.nonResourceAttributes",
            &path.to_string(),
            "cannot be specified in combination with resourceAttributes",
        ),
        (false, false) => invalid(
            "spec.resourceAttributes",
            "null",
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => {}
    }
    let named = !spec["user"].as_str().unwrap_or_default().is_empty() || !texts(&spec["groups"]).is_empty();
    if call.resource.ty.kind == "SubjectAccessReview" && !named {
        invalid("spec.user", "\"\"", "at least one of user or group must be specified");
    }
    let ty = &call.resource.ty;
    if causes.is_empty() { Ok(()) } else { Err(ApiError::invalid(&ty.group, &ty.kind, "", causes)) }
}

/// What a user may do in a namespace.
async fn rules(server: &Inner, tenant: &TenantId, user: &UserInfo, spec: &Value) -> Result<Value, ApiError> {
    let namespace = spec["namespace"].as_str().filter(|namespace| !namespace.is_empty());
    let Some(namespace) = namespace else {
        return Err(ApiError::bad_request("no namespace on request"));
    };
    let authorizer = server.authorizer();
    let rules = authorizer.rules(user, tenant, Some(namespace)).await?;
    let (paths, resources): (Vec<&Rule>, Vec<&Rule>) = rules.iter().partition(|rule| rule.resources.is_empty());
    let list = |rules: Vec<&Rule>| rules.into_iter().map(Rule::to_json).collect::<Vec<_>>();
    let mut status = json!({"resourceRules": list(resources), "nonResourceRules": list(paths), "incomplete": false});
    if crate::authorization::nodes::identity(user).is_some() {
        status["incomplete"] = true.into();
        status["evaluationError"] = "node authorizer does not support user rule resolution".into();
    }
    Ok(status)
}

async fn access(server: &Inner, tenant: &TenantId, user: &UserInfo, spec: &Value) -> Result<Value, ApiError> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let fields = ["verb", "group", "resource", "subresource", "namespace", "name"].map(|name| text(&resource[name]));
    let [verb, group, plural, subresource, namespace, name] = &fields;
    let wanted = if path.is_object() {
        Attributes {
            verb: path["verb"].as_str().unwrap_or_default(),
            path: path["path"].as_str(),
            ..Default::default()
        }
    } else {
        Attributes {
            verb,
            group,
            resource: plural,
            subresource,
            namespace: Some(namespace.as_str()).filter(|n| !n.is_empty()),
            name: Some(name.as_str()).filter(|n| !n.is_empty()),
            path: None,
            ..Default::default()
        }
    };
    let allowed = server.authorizer().allows(user, tenant, &wanted).await?;
    Ok(json!({"allowed": allowed}))
}

fn user_info(user: &UserInfo) -> Value {
    json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra})
}

async fn token_review(server: &Inner, tenant: &TenantId, spec: &Value) -> Result<Value, ApiError> {
    let token = spec["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let mut audiences = texts(&spec["audiences"]);
    if audiences.is_empty() {
        audiences.push(AUDIENCE.to_owned());
    }
    let claims = server.authenticator.authorities.claims(token, &audiences).await?;
    let claims = claims.filter(|claims| claims.tenant == *tenant);
    let current = match &claims {
        Some(claims) => is_current(&*server.store, claims).await?,
        None => false,
    };
    Ok(match claims.filter(|_| current) {
        Some(claims) => {
            audiences.retain(|audience| claims.aud.contains(audience));
            json!({"authenticated": true, "audiences": audiences, "user": user_info(&service_account(claims))})
        }
        None => json!({"authenticated": false, "error": "the token is not valid here"}),
    })
}
