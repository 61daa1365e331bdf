//! Questions that are answered and not stored: may I, who am I, whose token is this.

mod access;

use axum::body::Body;
use http::{Response, StatusCode};
use hypernetes_api::{ApiError, TenantId, auth::UserInfo};
use hypernetes_schema::walk::fields;
use serde_json::{Value, json};

use crate::{
    Call, Inner,
    answer::json_response,
    authentication::authorities::claims::AUDIENCE,
    authorization::{nodes, rbac::Rule, rights::Grant},
    request::Scope,
};

pub async fn review(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    let mut object = call.resource.ty.decode(&call.body, hypernetes_schema::FieldValidation::Ignore)?.object;
    let tenant = match &call.scope {
        Scope::Tenant(tenant) => tenant.clone(),
        Scope::All => TenantId::system(),
    };
    if let Some(namespace) = &call.target.namespace {
        let given = object["metadata"]["namespace"].as_str().unwrap_or_default();
        if !given.is_empty() && given != namespace {
            let message = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(ApiError::bad_request(message));
        }
        fields(&mut object, &["metadata"]).insert("namespace".into(), namespace.clone().into());
    }
    let spec = object["spec"].clone();
    object["status"] = match call.resource.ty.kind.as_str() {
        "SelfSubjectAccessReview" => access::own(server, &tenant, call, &spec).await?,
        "SubjectAccessReview" | "LocalSubjectAccessReview" => access::of(server, &tenant, call, &spec).await?,
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
    let grants = authorizer.grants(user, tenant, Some(namespace)).await?;
    let mut errors: Vec<String> = grants.iter().filter_map(Grant::error).collect();
    if nodes::identity(user).is_some() {
        status["incomplete"] = true.into();
        errors.push("node authorizer does not support user rule resolution".into());
    }
    if !errors.is_empty() {
        status["evaluationError"] = errors.join(", ").into();
    }
    Ok(status)
}

fn user_info(user: &UserInfo) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.clone().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

/// A token of another tenant is none here.
async fn token_review(server: &Inner, tenant: &TenantId, spec: &Value) -> Result<Value, ApiError> {
    let token = spec["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let mut audiences = texts(&spec["audiences"]);
    if audiences.is_empty() {
        audiences.push(AUDIENCE.to_owned());
    }
    let found = server.authenticator.review(token, &audiences).await?;
    Ok(match found.filter(|(user, _)| user.tenant == *tenant) {
        Some((user, audiences)) => {
            json!({"authenticated": true, "audiences": audiences, "user": user_info(&user)})
        }
        None => json!({"authenticated": false, "user": {}, "error": "invalid bearer token"}),
    })
}
