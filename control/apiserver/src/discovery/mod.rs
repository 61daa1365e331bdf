//! What the server has: groups, versions, resources, and their schemas. What is told of a view is made once, and known by its content.

mod aggregated;
mod groups;
mod kept;
mod schemas;

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hypernetes_api::{ApiError, TenantId};
use hypernetes_kinds::View;
use serde_json::{Value, json};

use crate::{
    Inner,
    accept::{self, Offer},
    answer::{bytes_response, json_response},
    request::{self, Query},
};

/// The API that is served, as `kubectl version` shows it.
const VERSION: (&str, &str, &str) = ("1", "36", "v1.36.0+hypernetes");

/// # Errors
/// `NotFound` for versions that a group does not have, `NotAcceptable` for languages that there are not.
pub async fn path(
    server: &Inner,
    tenant: &TenantId,
    path: &str,
    headers: &HeaderMap,
    query: &Query,
) -> Result<Response<Body>, ApiError> {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let view = server.definitions.view(tenant).await?;
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    match segments.as_slice() {
        ["api" | "apis"] if aggregated::is_wanted(accept) => {
            let core = segments == ["api"];
            let make = || aggregated::document(&view, core).to_string().into_bytes();
            let document = view.kept(if core { "api" } else { "apis" }, make);
            return Ok(kept::answer(&document.hash, document.bytes, headers, aggregated::MEDIA_TYPE, "public"));
        }
        ["openapi", "v3"] => return Ok(bytes_response(StatusCode::OK, schemas::index(view).await?.bytes)),
        ["openapi", "v2"] => return schemas::swagger(view, headers).await,
        ["openapi", "v3", "api", version] => return schemas::document(&view, "", version, headers, query),
        ["openapi", "v3", "apis", group, version] => return schemas::document(&view, group, version, headers, query),
        _ => {}
    }
    let answer = match segments.as_slice() {
        ["budgets"] => server.accounts.show(server.store.stored(), tenant),
        ["version"] => version(),
        [""] => json!({"paths": paths(&view)}),
        ["api" | "apis", ..] => {
            accept::negotiate(accept, &Offer::PLAIN)?;
            match group(&view, &segments, headers)? {
                Some(answer) => answer,
                None => return Ok(no_page()),
            }
        }
        _ => return Ok(no_page()),
    };
    Ok(json_response(StatusCode::OK, &answer))
}

fn version() -> Value {
    json!({
        "major": VERSION.0, "minor": VERSION.1, "emulationMajor": VERSION.0, "emulationMinor": VERSION.1,
        "minCompatibilityMajor": VERSION.0, "minCompatibilityMinor": "35", "gitVersion": VERSION.2, "gitCommit": "",
        "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": "linux/amd64",
    })
}

/// None: there is no such group, nor anything else.
fn group(view: &View, segments: &[&str], headers: &HeaderMap) -> Result<Option<Value>, ApiError> {
    Ok(match segments {
        ["api"] => {
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
            let here = json!([{"clientCIDR": "0.0.0.0/0", "serverAddress": host}]);
            Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": here}))
        }
        ["apis"] => {
            let all = groups::all(view);
            let groups: Vec<Value> = all.iter().filter(|group| !group.name.is_empty()).map(groups::group).collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["api", version] => Some(groups::resource_list(view, "", version).ok_or_else(request::not_found)?),
        ["apis", name] => groups::all(view).iter().find(|group| group.name == *name).map(|found| {
            let mut answer = groups::group(found);
            answer["kind"] = "APIGroup".into();
            answer["apiVersion"] = "v1".into();
            answer
        }),
        ["apis", name, version] => match groups::resource_list(view, name, version) {
            None if groups::all(view).iter().any(|group| group.name == *name) => return Err(request::not_found()),
            list => list,
        },
        _ => None,
    })
}

/// All that can be asked for which is no object.
fn paths(view: &View) -> Vec<String> {
    let fixed = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/apis/",
        "/healthz",
        "/healthz/etcd",
        "/healthz/ping",
        "/livez",
        "/livez/etcd",
        "/livez/ping",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/readyz/etcd",
        "/readyz/ping",
        "/version",
    ];
    let mut paths: Vec<String> = fixed.map(str::to_owned).to_vec();
    for group in groups::all(view).into_iter().filter(|group| !group.name.is_empty()) {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(group.versions.iter().map(|version| format!("/apis/{}/{version}", group.name)));
    }
    paths.sort_unstable();
    paths
}

/// What upstream's router says of a path that it does not know.
fn no_page() -> Response<Body> {
    let mut response = bytes_response(StatusCode::NOT_FOUND, "404 page not found\n".into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
