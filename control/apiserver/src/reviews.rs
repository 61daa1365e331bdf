//! Questions that are answered and not stored: may I, who am I; and service account tokens.

use std::collections::BTreeMap;

use axum::body::Body;
use http::{Response, StatusCode};
use hypernetes_api::{ApiError, TenantId, auth::UserInfo};
use hypernetes_store::{Key, ResourceId};
use serde_json::{Value, json};

use crate::{
    Call, Inner,
    authn::{ISSUER, KubernetesClaims, Named, ServiceAccountClaims, is_current},
    authz::{Attributes, Authorizer},
    codec, json_response, read,
    request::Scope,
};

const SHORTEST_TOKEN: i64 = 600;
const LONGEST_TOKEN: i64 = 86_400;

pub async fn review(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    let mut object = call.resource.ty.decode(&call.body, hypernetes_schema::FieldValidation::Ignore)?.object;
    let tenant = match &call.scope {
        Scope::Tenant(tenant) => tenant.clone(),
        Scope::All => TenantId::system(),
    };
    object["status"] = match call.resource.ty.kind.as_str() {
        "SelfSubjectAccessReview" => access(server, &tenant, &call.user, &object["spec"]).await?,
        "SubjectAccessReview" => {
            let texts = |value: &Value| -> Vec<String> {
                value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
            };
            let user = UserInfo {
                name: object["spec"]["user"].as_str().unwrap_or_default().into(),
                uid: String::new(),
                groups: texts(&object["spec"]["groups"]),
                extra: BTreeMap::new(),
                tenant: tenant.clone(),
            };
            access(server, &tenant, &user, &object["spec"]).await?
        }
        "SelfSubjectRulesReview" => {
            json!({"resourceRules": [], "nonResourceRules": [], "incomplete": true,
                "evaluationError": "rules are not listed; ask with SelfSubjectAccessReview"})
        }
        "SelfSubjectReview" => json!({"userInfo": user_info(&call.user)}),
        "TokenReview" => token_review(server, &tenant, object["spec"]["token"].as_str().unwrap_or_default()).await?,
        kind => return Err(ApiError::internal(format!("{kind} has no answer"))),
    };
    Ok(json_response(StatusCode::CREATED, &object))
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
        }
    };
    let allowed = Authorizer { store: &*server.store }.allows(user, tenant, &wanted).await?;
    Ok(json!({"allowed": allowed}))
}

fn user_info(user: &UserInfo) -> Value {
    json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra})
}

async fn token_review(server: &Inner, tenant: &TenantId, token: &str) -> Result<Value, ApiError> {
    let claims = server.authenticator.claims(token).filter(|claims| claims.tenant == *tenant);
    let current = match &claims {
        Some(claims) => is_current(&*server.store, claims).await?,
        None => false,
    };
    Ok(match claims.filter(|_| current) {
        Some(claims) => {
            let account = &claims.kubernetes.serviceaccount;
            let name = format!("system:serviceaccount:{}:{}", claims.kubernetes.namespace, account.name);
            json!({"authenticated": true, "audiences": claims.aud, "user": {
                "username": name, "uid": account.uid, "groups": ["system:serviceaccounts", "system:authenticated"],
            }})
        }
        None => json!({"authenticated": false, "error": "the token is not valid here"}),
    })
}

/// `serviceaccounts/token`: a token for a service account (KEP-1205).
pub async fn token(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    let mut request: Value = serde_json::from_slice(&call.body).map_err(|e| ApiError::bad_request(e.to_string()))?;
    let name = call.target.name.as_deref().unwrap_or_default();
    let namespace = call.target.namespace.as_deref().unwrap_or_default();
    let tenant = call.tenant()?;
    let account = server.store.get(&call.key(name)?).await.map_err(read::read_error)?;
    let account = codec::decode(&account.ok_or_else(|| call.not_found(name))?)?;
    let uid = |object: &Value| object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let spec = &request["spec"];
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(3600).clamp(SHORTEST_TOKEN, LONGEST_TOKEN);
    let pod = match (spec["boundObjectRef"]["kind"].as_str(), spec["boundObjectRef"]["name"].as_str()) {
        (None, _) => None,
        (Some("Pod"), Some(pod)) => {
            let key = Key::new(&ResourceId::new("", "pods"), &tenant, namespace, pod)?;
            let entry = server.store.get(&key).await.map_err(read::read_error)?;
            let entry = entry.ok_or_else(|| ApiError::not_found("", "pods", pod))?;
            Some(Named { name: pod.into(), uid: uid(&codec::decode(&entry)?) })
        }
        _ => return Err(ApiError::bad_request("spec.boundObjectRef: only pods can be bound to")),
    };
    let mut audiences: Vec<String> =
        spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    if audiences.is_empty() {
        audiences.push(ISSUER.into());
    }
    let now = jiff::Timestamp::now();
    let claims = ServiceAccountClaims {
        iss: ISSUER.into(),
        sub: format!("system:serviceaccount:{namespace}:{name}"),
        aud: audiences.clone(),
        exp: now.as_second() + seconds,
        iat: now.as_second(),
        nbf: now.as_second(),
        jti: uuid::Uuid::new_v4().to_string(),
        tenant,
        kubernetes: KubernetesClaims {
            namespace: namespace.into(),
            serviceaccount: Named { name: name.into(), uid: uid(&account) },
            pod,
        },
    };
    let expires = jiff::Timestamp::from_second(claims.exp).unwrap_or(now);
    request["apiVersion"] = "authentication.k8s.io/v1".into();
    request["kind"] = "TokenRequest".into();
    request["metadata"] = json!({"name": name, "namespace": namespace, "creationTimestamp": crate::write::now()});
    request["spec"]["audiences"] = json!(audiences);
    request["spec"]["expirationSeconds"] = seconds.into();
    request["status"] =
        json!({"token": server.authenticator.issue(&claims)?, "expirationTimestamp": expires.to_string()});
    Ok(json_response(StatusCode::CREATED, &request))
}
