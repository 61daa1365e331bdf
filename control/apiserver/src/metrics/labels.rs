//! What requests are counted by: only what the server itself has names for, so that whatever is asked for there are no more labels than
//! that.

use std::{collections::HashMap, sync::LazyLock};

use http::{HeaderMap, header};
use hypernetes_kinds::{Subresource, Verb, registry};

use crate::request::{
    Query, ResourceTarget,
    info::{Asked, RequestInfo},
};

/// Upstream's labels of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Labels {
    pub verb: &'static str,
    pub group: &'static str,
    pub version: &'static str,
    pub resource: &'static str,
    pub subresource: &'static str,
    pub scope: &'static str,
    pub dry_run: &'static str,
}

/// A resource that is not built in: one label for all of them, custom ones too.
const UNKNOWN: &str = "unknown";

/// Of requests whose head is none, and of those for which there is no more room.
pub const OTHER: Labels =
    Labels { verb: "other", group: "", version: "", resource: UNKNOWN, subresource: "", scope: "", dry_run: "" };

/// What is no resource and is told apart; upstream says it where subresources are.
const PATHS: [&str; 12] = [
    "/api",
    "/apis",
    "/openapi",
    "/healthz",
    "/livez",
    "/readyz",
    "/version",
    "/metrics",
    "/budgets",
    "/identity",
    "/networking",
    "/volume",
];

type Names = (&'static str, &'static str, &'static str);

static BUILTIN: LazyLock<HashMap<Names, Names>> = LazyLock::new(|| {
    let of = |resource: &'static std::sync::Arc<hypernetes_kinds::Resource>| {
        resource.served.iter().map(|served| {
            let names: Names = (&served.ty.group, &served.ty.version, &resource.plural);
            (names, names)
        })
    };
    registry::builtin().iter().flat_map(of).collect()
});

/// By name: who has one that is called as another's has one that is alike.
static SUBRESOURCES: LazyLock<HashMap<&'static str, &'static Subresource>> = LazyLock::new(|| {
    let all = registry::builtin().iter().flat_map(|resource| &resource.subresources);
    all.map(|subresource| (subresource.name, subresource)).collect()
});

impl Labels {
    pub fn of(info: &RequestInfo, headers: &HeaderMap) -> Self {
        match &info.asked {
            Asked::Path { path, method } => Self::of_path(method, path),
            Asked::Resource { target, verb } => Self::of_resource(target, *verb, &info.query, headers),
        }
    }

    /// The first part of a path decides.
    pub fn of_path(method: &str, path: &str) -> Self {
        let known = |known: &&&'static str| {
            path.strip_prefix(**known).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let verb = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
        let verb = verb.into_iter().find(|verb| verb.eq_ignore_ascii_case(method)).unwrap_or(OTHER.verb);
        Self { verb, resource: "", subresource: PATHS.iter().find(known).copied().unwrap_or("/"), ..OTHER }
    }

    fn of_resource(target: &ResourceTarget, verb: Verb, query: &Query, headers: &HeaderMap) -> Self {
        let names = (target.group.as_str(), target.version.as_str(), target.plural.as_str());
        let (group, version, resource) = BUILTIN.get(&names).copied().unwrap_or(("", "", UNKNOWN));
        let subresource = target.subresource.as_deref();
        let known = subresource.and_then(|name| SUBRESOURCES.get(name).copied());
        Self {
            verb: method(verb, known, headers),
            group,
            version,
            resource,
            subresource: subresource.map_or("", |_| known.map_or(UNKNOWN, |one| one.name)),
            scope: match (&target.name, &target.namespace) {
                _ if verb == Verb::Create => "resource",
                (Some(_), _) => "resource",
                (None, Some(_)) => "namespace",
                (None, None) => "cluster",
            },
            dry_run: match query.all("dryRun") {
                [] => "",
                given if given.iter().all(|one| one == "All") => "All",
                _ => "invalid",
            },
        }
    }
}

/// The verb as metrics have it.
fn method(verb: Verb, subresource: Option<&Subresource>, headers: &HeaderMap) -> &'static str {
    let apply = || {
        headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|content| content.as_bytes().starts_with(b"application/apply-patch"))
    };
    match verb {
        _ if subresource.is_some_and(|one| one.behaviour.is_stream()) => "CONNECT",
        Verb::Get => "GET",
        Verb::List => "LIST",
        Verb::Watch => "WATCH",
        Verb::Create => "POST",
        Verb::Update => "PUT",
        Verb::Patch if apply() => "APPLY",
        Verb::Patch => "PATCH",
        Verb::Delete => "DELETE",
        Verb::DeleteCollection => "DELETECOLLECTION",
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn labels(method: &str, uri: &str) -> [&'static str; 7] {
        let (head, ()) = Request::builder().method(method).uri(uri).body(()).unwrap().into_parts();
        let labels = Labels::of(&RequestInfo::of(&head).unwrap(), &head.headers);
        let Labels { verb, group, version, resource, subresource, scope, dry_run } = labels;
        [verb, group, version, resource, subresource, scope, dry_run]
    }

    #[test]
    fn labels_are_upstreams() {
        for (method, uri, expected) in [
            ("GET", "/api/v1/pods", ["LIST", "", "v1", "pods", "", "cluster", ""]),
            ("GET", "/api/v1/namespaces/a/pods?watch=1", ["WATCH", "", "v1", "pods", "", "namespace", ""]),
            ("POST", "/api/v1/namespaces/a/pods?dryRun=All", ["POST", "", "v1", "pods", "", "resource", "All"]),
            ("POST", "/api/v1/namespaces/a/pods/b/exec", ["CONNECT", "", "v1", "pods", "exec", "resource", ""]),
            (
                "PUT",
                "/apis/apps/v1/namespaces/a/deployments/b/scale",
                ["PUT", "apps", "v1", "deployments", "scale", "resource", ""],
            ),
            ("GET", "/readyz", ["GET", "", "", "", "/readyz", "", ""]),
            ("GET", "/clusters/a/openapi/v3/api/v1", ["GET", "", "", "", "/openapi", "", ""]),
        ] {
            assert_eq!(labels(method, uri), expected, "{uri}");
        }
    }

    #[test]
    fn what_a_client_makes_up_is_no_label() {
        for uri in ["/api/v1/made/up", "/apis/made/up/it", "/api/v9/pods/a"] {
            assert_eq!(labels("GET", uri)[3], UNKNOWN, "{uri}");
        }
        assert_eq!(labels("GET", "/api/v1/namespaces/a/pods/b/made")[4], UNKNOWN);
        assert_eq!(labels("PURGE", "/made/up"), ["other", "", "", "", "/", "", ""]);
        assert_eq!(labels("GET", "/apisandmore")[4], "/");
    }
}
