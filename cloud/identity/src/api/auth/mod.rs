//! `/v3/auth`: tokens, and what their owner can choose between.

mod input;

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use hypernetes_api::auth::{Asking, Source, Spent};
use hypernetes_facade::{Body, Parameters, header};
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::{Value, json};

use input::{Auth, Request, malformed, wanted};

use super::{Shared, caller::Caller, domains, many, projects};
use crate::{
    Error, Identity,
    authentication::{Valid, ValidScope},
    catalog,
    roles::Target,
    token::Method,
};

pub(super) fn routes() -> Router<Arc<Identity>> {
    Router::new()
        .route("/auth/tokens", get(show).post(issue).delete(revoke))
        .route("/auth/catalog", get(show_catalog))
        .route("/auth/projects", get(list_projects))
        .route("/auth/domains", get(list_domains))
        .route("/auth/system", get(show_system))
}

async fn issue(
    State(identity): Shared,
    source: Option<Extension<Source>>,
    asking: Option<Extension<Asking>>,
    filters: Parameters,
    Body(body): Body<Request>,
) -> Result<Response, Error> {
    identity.ready().await?;
    let Auth { identity: input, scope } = body.auth;
    let scope = wanted(scope)?;
    let with_catalog = filters.get("nocatalog").is_none();
    let issued = |(token, valid): (String, Valid)| {
        if let (Some(Extension(asking)), Ok(info)) = (&asking, valid.info()) {
            asking.is_of(&info);
        }
        with_token(StatusCode::CREATED, &token, describe(&identity, &valid, with_catalog))
    };
    match input.methods.as_slice() {
        [method] if method == "password" => {
            let (user, password) = input.password.ok_or_else(|| malformed("password"))?.user.reference()?;
            let source = source.map(|Extension(source)| source);
            let (user, cost) = identity.check_password(source, &user, password).await?;
            // It has been worked for, also where no token comes of it.
            let made = identity.issue(&user, Method::Password, &scope, None).await;
            let project = made.as_ref().ok().and_then(|(_, valid)| valid.project_id());
            let spent = Spent { cost, tenant: project.and_then(|id| id.parse().ok()) };
            let mut response = made.and_then(issued).into_response();
            response.extensions_mut().insert(spent);
            Ok(response)
        }
        [method] if method == "token" => {
            let token = input.token.ok_or_else(|| malformed("token"))?.id;
            let parent = identity.examine(&token).await?.ok_or(Error::Unauthorized)?;
            identity.issue(&parent.claims.user, Method::Token, &scope, Some(&parent.claims)).await.and_then(issued)
        }
        [] => Err(malformed("an authentication method")),
        _ => Err(Error::UnsupportedMethod),
    }
}

/// The token that the request is about. The caller must own it, or be allowed to see everyone's.
async fn subject(identity: &Identity, headers: &HeaderMap) -> Result<(String, Valid), Error> {
    let token = header(headers, "x-subject-token").ok_or_else(|| malformed("the header X-Subject-Token"))?;
    // The text of a token is a secret, even of one that is not valid here.
    let valid = identity.examine(token).await?.ok_or(Error::not_found("token", "the given one"))?;
    Ok((token.to_owned(), valid))
}

async fn show(
    State(identity): Shared,
    caller: Caller,
    filters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let (token, valid) = subject(&identity, &headers).await?;
    caller.reader_or(caller.is_user(valid.user_id()), "identity:validate_token")?;
    with_token(StatusCode::OK, &token, describe(&identity, &valid, filters.get("nocatalog").is_none()))
}

async fn revoke(State(identity): Shared, caller: Caller, headers: HeaderMap) -> Result<StatusCode, Error> {
    let (_, valid) = subject(&identity, &headers).await?;
    caller.allow(caller.is_user(valid.user_id()) || caller.is_admin(), "identity:revoke_token")?;
    identity.revoke_token(&valid.claims).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn with_token(status: StatusCode, token: &str, body: Value) -> Result<Response, Error> {
    let mut response = (status, Json(json!({"token": body}))).into_response();
    let mut value = HeaderValue::from_str(token).map_err(|_| Error::BadRequest("Not a token.".into()))?;
    value.set_sensitive(true);
    response.headers_mut().insert("x-subject-token", value);
    response.headers_mut().insert(http::header::VARY, HeaderValue::from_static("X-Auth-Token"));
    Ok(response)
}

/// With microseconds, which is how Keystone writes times.
fn time(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

fn describe(identity: &Identity, valid: &Valid, with_catalog: bool) -> Value {
    let named = |id: String, name: &str| json!({"id": id, "name": name});
    let claims = &valid.claims;
    let domain = named(valid.user_domain.name_any(), &valid.user_domain.spec.display_name);
    let mut token = json!({
        "methods": claims.methods,
        "user": {
            "id": valid.user_id(), "name": valid.user.spec.display_name, "domain": domain, "password_expires_at": null,
        },
        "audit_ids": claims.audit_ids,
        "issued_at": time(claims.issued()),
        "expires_at": time(claims.expires()),
    });
    match &valid.scope {
        ValidScope::Unscoped => return token,
        ValidScope::System => token["system"] = json!({"all": true}),
        ValidScope::Domain(domain) => token["domain"] = named(domain.name_any(), &domain.spec.display_name),
        ValidScope::Project(project, domain) => {
            token["project"] = named(project.name_any(), &project.spec.display_name);
            token["project"]["domain"] = named(domain.name_any(), &domain.spec.display_name);
            token["is_domain"] = json!(false);
        }
    }
    token["roles"] = valid.roles.iter().map(|role| named(role.name_any(), &role.spec.display_name)).collect();
    if with_catalog {
        token["catalog"] = catalog::catalog(&identity.config, &claims.scope);
    }
    token
}

async fn show_catalog(State(identity): Shared, caller: Caller) -> Json<Value> {
    let catalog = catalog::catalog(&identity.config, &caller.0.claims.scope);
    Json(json!({"catalog": catalog, "links": {"self": catalog::link(&identity.config, "auth/catalog")}}))
}

async fn list_projects(State(identity): Shared, caller: Caller) -> Json<Value> {
    let own = projects::of_user(&identity, caller.0.user_id());
    many(&identity, "projects", "auth/projects", own.iter().map(|p| projects::to_json(&identity, p)).collect())
}

async fn list_domains(State(identity): Shared, caller: Caller) -> Json<Value> {
    let directory = &identity.directory;
    let own = directory.domains.all().into_iter().filter(|domain| {
        domain.spec.enabled && !directory.roles_in(caller.0.user_id(), &Target::Domain(domain.name_any())).is_empty()
    });
    many(&identity, "domains", "auth/domains", own.map(|d| domains::to_json(&identity, &d)).collect())
}

async fn show_system(State(identity): Shared, caller: Caller) -> Json<Value> {
    let some = !identity.directory.roles_in(caller.0.user_id(), &Target::System).is_empty();
    many(&identity, "system", "auth/system", if some { vec![json!({"all": true})] } else { vec![] })
}
