//! What the server has: groups, versions, resources, and their schemas.

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hypernetes_api::{ApiError, TenantId};
use hypernetes_kinds::{Endpoint, Served, Subresource, View};
use hypernetes_schema::openapi;
use serde_json::{Value, json};

use crate::{
    Inner,
    answer::{bytes_response, json_response},
    request,
};

/// The API that is served, as `kubectl version` shows it.
const VERSION: (&str, &str, &str) = ("1", "36", "v1.36.0+hypernetes");

pub fn path(server: &Inner, tenant: &TenantId, path: &str, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let aggregated = accept.contains("as=APIGroupDiscoveryList");
    let view = server.registry.view(tenant);
    let resources: Vec<&Endpoint> = view.all().iter().collect();
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let answer = match segments.as_slice() {
        ["budgets"] => server.accounts.show(server.store.stored(), tenant),
        ["version"] => json!({
            "major": VERSION.0, "minor": VERSION.1, "gitVersion": VERSION.2, "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc", "platform": "linux/amd64",
        }),
        [""] => {
            json!({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v3", "/readyz", "/version"]})
        }
        ["api"] if aggregated => return Ok(typed(&aggregate(&resources, true))),
        ["apis"] if aggregated => return Ok(typed(&aggregate(&resources, false))),
        ["api"] => json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        ["apis"] => {
            let groups: Vec<Value> = groups(&resources).into_iter().filter(|(g, _)| !g.is_empty()).map(group).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["api", version] => resource_list(&resources, "", version)?,
        ["apis", name] => {
            let found = groups(&resources).into_iter().find(|(g, _)| g == name).ok_or_else(request::not_found)?;
            let mut answer = group(found);
            answer["kind"] = "APIGroup".into();
            answer["apiVersion"] = "v1".into();
            answer
        }
        ["apis", group, version] => resource_list(&resources, group, version)?,
        ["openapi", "v3"] => {
            let versions: Vec<(&str, &str)> = groups(&resources)
                .into_iter()
                .flat_map(|(g, versions)| versions.into_iter().map(move |v| (g, v)))
                .collect();
            openapi::index(&versions, VERSION.2)
        }
        ["openapi", "v3", "api", version] => return document(&view, "", version),
        ["openapi", "v3", "apis", group, version] => return document(&view, group, version),
        _ => return Err(request::not_found()),
    };
    Ok(json_response(StatusCode::OK, &answer))
}

fn document(view: &View, group: &str, version: &str) -> Result<Response<Body>, ApiError> {
    let bytes = view.document(group, version).ok_or_else(request::not_found)?;
    Ok(bytes_response(StatusCode::OK, bytes))
}

/// Groups with their versions, in the table's order.
fn groups<'a>(resources: &[&'a Endpoint]) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for resource in resources {
        let (group, version) = (resource.served.ty.group.as_str(), resource.served.ty.version.as_str());
        match groups.iter_mut().find(|(have, _)| *have == group) {
            Some((_, versions)) if versions.contains(&version) => {}
            Some((_, versions)) => versions.push(version),
            None => groups.push((group, vec![version])),
        }
    }
    groups
}

fn group((name, versions): (&str, Vec<&str>)) -> Value {
    let versions: Vec<Value> =
        versions.iter().map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v})).collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions[0]})
}

fn of<'a>(resources: &[&'a Endpoint], group: &str, version: &str) -> Result<Vec<&'a Endpoint>, ApiError> {
    let found: Vec<&Endpoint> =
        resources.iter().copied().filter(|r| r.served.ty.group == group && r.served.ty.version == version).collect();
    if found.is_empty() { Err(request::not_found()) } else { Ok(found) }
}

fn kind_of(served: &Served, subresource: &Subresource) -> Value {
    let (group, version, kind) = served.kind_of(subresource);
    json!({"group": group, "version": version, "kind": kind})
}

fn resource_list(resources: &[&Endpoint], group: &str, version: &str) -> Result<Value, ApiError> {
    let mut list = Vec::new();
    for Endpoint { resource, served } in of(resources, group, version)? {
        let mut one = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": served.ty.namespaced,
            "kind": served.ty.kind, "verbs": resource.shown_verbs(),
        });
        if !resource.short_names.is_empty() {
            one["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            one["categories"] = json!(resource.categories);
        }
        list.push(one);
        for subresource in &resource.subresources {
            let (group, version, kind) = served.kind_of(subresource);
            list.push(json!({
                "name": format!("{}/{}", resource.plural, subresource.name), "singularName": "",
                "namespaced": served.ty.namespaced, "kind": kind, "group": group,
                "version": version, "verbs": subresource.shown_verbs(),
            }));
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}))
}

/// `apidiscovery.k8s.io/v2` (KEP-3352).
fn aggregate(resources: &[&Endpoint], core: bool) -> Value {
    let mut items = Vec::new();
    for (name, versions) in groups(resources).into_iter().filter(|(name, _)| name.is_empty() == core) {
        let versions: Vec<Value> = versions
            .into_iter()
            .map(|version| {
                let list: Vec<Value> =
                    of(resources, name, version).unwrap_or_default().into_iter().map(aggregate_one).collect();
                json!({"version": version, "freshness": "Current", "resources": list})
            })
            .collect();
        items.push(json!({"metadata": {"name": name, "creationTimestamp": null}, "versions": versions}));
    }
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregate_one(Endpoint { resource, served }: &Endpoint) -> Value {
    let ty = &served.ty;
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|one| json!({"subresource": one.name, "responseKind": kind_of(served, one), "verbs": one.shown_verbs()}))
        .collect();
    let mut one = json!({
        "resource": resource.plural, "singularResource": resource.singular, "verbs": resource.shown_verbs(),
        "responseKind": {"group": ty.group, "version": ty.version, "kind": ty.kind},
        "scope": if ty.namespaced { "Namespaced" } else { "Cluster" },
    });
    for (field, list) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
        if !list.is_empty() {
            one[field] = json!(list);
        }
    }
    if !subresources.is_empty() {
        one["subresources"] = json!(subresources);
    }
    one
}

/// Aggregated discovery says in its content type what it is; clients look.
fn typed(answer: &Value) -> Response<Body> {
    let mut response = json_response(StatusCode::OK, answer);
    let kind = HeaderValue::from_static("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
