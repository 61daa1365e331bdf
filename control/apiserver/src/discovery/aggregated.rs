//! `apidiscovery.k8s.io/v2`: all groups with their resources in one document (KEP-3352).

use hypernetes_kinds::{Endpoint, View};
use serde_json::{Value, json};

use super::groups::{self, body, sorted, subresources};

/// What it says that it is; clients look.
pub const MEDIA_TYPE: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Whether an `Accept` header has it among others. Who can read it gets it.
pub fn is_wanted(accept: &str) -> bool {
    accept.split(',').any(|clause| {
        let mut parts = clause.split(';').map(str::trim);
        let json = matches!(parts.next(), Some("application/json" | "application/*" | "*/*"));
        let parts: Vec<&str> = parts.collect();
        json && ["g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"].iter().all(|part| parts.contains(part))
    })
}

/// Of the core group, or of all others.
pub fn document(view: &View, core: bool) -> Value {
    let groups = groups::all(view).into_iter().filter(|group| group.name.is_empty() == core);
    let items: Vec<Value> = groups
        .map(|group| {
            let versions = group.versions.iter().map(|version| {
                let resources: Vec<Value> =
                    groups::resources(view, group.name, version).into_iter().map(resource).collect();
                json!({"version": version, "resources": resources, "freshness": "Current"})
            });
            let metadata = if core { json!({}) } else { json!({"name": group.name}) };
            json!({"metadata": metadata, "versions": versions.collect::<Vec<_>>()})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn kind((group, version, kind): (&str, &str, &str)) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn resource(endpoint: &Endpoint) -> Value {
    let Endpoint { resource, served } = endpoint;
    let mut one = json!({
        "resource": resource.plural, "singularResource": resource.singular, "verbs": resource.shown_verbs(),
        "responseKind": kind(("", "", &served.ty.kind)),
        "scope": if served.ty.namespaced { "Namespaced" } else { "Cluster" },
    });
    for (field, list) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
        if !list.is_empty() {
            one[field] = json!(list);
        }
    }
    let subresources: Vec<Value> = subresources(endpoint)
        .into_iter()
        .map(|one| {
            let verbs = sorted(one.shown_verbs());
            json!({"subresource": one.name, "responseKind": kind(body(served, one)), "verbs": verbs})
        })
        .collect();
    if !subresources.is_empty() {
        one["subresources"] = json!(subresources);
    }
    one
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_can_read_it_gets_it() {
        for wanted in
            [MEDIA_TYPE, "application/json, application/json;as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io;q=0.1"]
        {
            assert!(is_wanted(wanted), "{wanted}");
        }
        for other in [
            "",
            "*/*",
            "application/json",
            "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
            "application/json;g=other;v=v2;as=APIGroupDiscoveryList",
        ] {
            assert!(!is_wanted(other), "{other}");
        }
    }
}
