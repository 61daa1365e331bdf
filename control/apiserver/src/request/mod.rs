//! What a request is about: logical cluster, resource, verb. Parsed once, from method, path and query.

pub mod info;
pub mod options;
pub mod selectors;

use std::{borrow::Cow, collections::HashMap};

use http::{Method, Uri};
use hypernetes_api::{ApiError, Reason, TenantId, error::Details, names};
use hypernetes_kinds::Verb;

/// Which logical cluster a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cluster {
    /// None: the credential's own.
    Unnamed,
    /// By id or by the project's name.
    Named(String),
    All,
}

/// The logical cluster of a request, once it is known who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    Tenant(TenantId),
    All,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Resource(ResourceTarget),
    /// Discovery, health, version: the path without the cluster.
    Path(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResourceTarget {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<String>,
}

/// Splits `/clusters/<name>` off a path, and takes the rest apart.
///
/// # Errors
/// `NotFound` for paths that name nothing, `BadRequest` for such that try to name something else.
pub fn parse(uri: &Uri) -> Result<(Cluster, Target), ApiError> {
    let mut segments = Vec::new();
    for raw in uri.path().split('/').skip(1) {
        let segment = decode(raw)?;
        if segment == ".." || segment == "." || segment.contains('/') {
            return Err(ApiError::bad_request("the path contains a segment that is none"));
        }
        segments.push(segment);
    }
    if segments.last().is_some_and(|segment| segment.is_empty()) {
        segments.pop();
    }
    if segments.iter().any(|segment| segment.is_empty()) {
        return Err(not_found());
    }
    let mut cluster = Cluster::Unnamed;
    if segments.first().is_some_and(|s| s == "clusters") {
        let name = segments.get(1).ok_or_else(not_found)?.to_string();
        cluster = if name == names::ALL_CLUSTERS { Cluster::All } else { Cluster::Named(name) };
        segments.drain(..2);
        if segments.first().is_some_and(|s| s == "clusters") {
            return Err(not_found());
        }
    }
    let rest: Vec<&str> = segments.iter().map(|segment| &**segment).collect();
    let resource = match rest.as_slice() {
        ["api", version, tail @ ..] if !tail.is_empty() => resource("", version, tail)?,
        ["apis", group, version, tail @ ..] if !tail.is_empty() => resource(group, version, tail)?,
        _ => return Ok((cluster, Target::Path(format!("/{}", rest.join("/"))))),
    };
    Ok((cluster, Target::Resource(resource)))
}

fn resource(group: &str, version: &str, tail: &[&str]) -> Result<ResourceTarget, ApiError> {
    let own = |text: &str| Some(text.to_owned());
    let base = ResourceTarget { group: group.into(), version: version.into(), ..Default::default() };
    let of = |plural: &str, namespace: Option<&str>, rest: &[&str]| -> Result<ResourceTarget, ApiError> {
        let (name, subresource) = match rest {
            [] => (None, None),
            [name] => (own(name), None),
            [name, subresource] => (own(name), own(subresource)),
            _ => return Err(not_found()),
        };
        Ok(ResourceTarget {
            plural: plural.into(),
            namespace: namespace.map(str::to_owned),
            name,
            subresource,
            ..base.clone()
        })
    };
    match tail {
        // A namespace itself, and its subresources.
        ["namespaces"] => of("namespaces", None, &[]),
        ["namespaces", name] => of("namespaces", None, &[name]),
        ["namespaces", name, sub @ ("status" | "finalize")] => of("namespaces", None, &[name, sub]),
        ["namespaces", namespace, plural, rest @ ..] => of(plural, Some(namespace), rest),
        [plural, rest @ ..] => of(plural, None, rest),
        [] => Err(not_found()),
    }
}

/// As Kubernetes' clients say it for a path that it does not have. They read details without looking whether there are any.
pub fn not_found() -> ApiError {
    let message = "the server could not find the requested resource";
    ApiError::new(Reason::NotFound, message).with_details(Details::default())
}

fn decode(text: &str) -> Result<Cow<'_, str>, ApiError> {
    if !text.contains(['%', '+']) {
        return Ok(text.into());
    }
    let invalid = || ApiError::bad_request("the path is not properly escaped");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'%' => {
                let (digits, tail) = rest.split_at_checked(2).ok_or_else(invalid)?;
                let digits = std::str::from_utf8(digits).map_err(|_| invalid())?;
                bytes.push(u8::from_str_radix(digits, 16).map_err(|_| invalid())?);
                rest = tail;
            }
            b'+' => bytes.push(b'+'),
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| invalid())
}

/// The text of what may be percent-escaped; what is not properly so stands for itself.
pub fn unescaped(text: &str) -> String {
    decode(text).unwrap_or(text.into()).to_lowercase()
}

/// A query string's parameters. Of one that comes several times the first counts, as upstream reads it, unless it is a list.
#[derive(Debug, Clone, Default)]
pub struct Query(HashMap<String, Vec<String>>);

impl Query {
    /// # Errors
    /// `BadRequest` for what is not properly escaped.
    pub fn parse(uri: &Uri) -> Result<Self, ApiError> {
        let mut parameters: HashMap<String, Vec<String>> = HashMap::new();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let plain = |text: &str| decode(&text.replace('+', " ")).map(Cow::into_owned);
            parameters.entry(plain(name)?).or_default().push(plain(value)?);
        }
        Ok(Self(parameters))
    }

    /// The text of a parameter, which is empty where there is none.
    pub fn get(&self, name: &str) -> &str {
        self.all(name).first().map_or("", String::as_str)
    }

    /// Every value of a parameter that is a list.
    pub fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// By upstream's conversion: false is what is absent, `false` or `0`; everything else, the empty text too, is true.
    pub fn flag(&self, name: &str) -> bool {
        self.choice(name).unwrap_or(false)
    }

    /// As [`Self::flag`], and whether it is there at all.
    pub fn choice(&self, name: &str) -> Option<bool> {
        self.all(name).first().map(|text| text != "0" && !text.eq_ignore_ascii_case("false"))
    }

    /// # Errors
    /// `BadRequest` for a parameter that is there and is no number of 64 bits, as upstream's.
    pub fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.all(name).first() else { return Ok(None) };
        text.parse().map(Some).map_err(|_| ApiError::bad_request(format!("{name}: {text:?} is not a number")))
    }
}

/// Whether it is the node that a pod runs on who answers. `log` is read, the others need `create`.
pub fn is_for_kubelet(target: &ResourceTarget) -> bool {
    target.group.is_empty()
        && target.plural == "pods"
        && matches!(target.subresource.as_deref(), Some("log" | "exec" | "attach" | "portforward"))
}

/// What a method does on a path.
///
/// # Errors
/// `MethodNotAllowed` for a method that means nothing on such a path.
pub fn verb(method: &Method, target: &ResourceTarget, watch: bool) -> Result<Verb, ApiError> {
    let one = target.name.is_some();
    // A WebSocket begins with GET, but what it does is not reading.
    if is_for_kubelet(target)
        && target.subresource.as_deref() != Some("log")
        && matches!(method, &Method::GET | &Method::POST)
    {
        return Ok(Verb::Create);
    }
    Ok(match (method, one) {
        (&Method::GET | &Method::HEAD, true) => Verb::Get,
        (&Method::GET | &Method::HEAD, false) if watch => Verb::Watch,
        (&Method::GET | &Method::HEAD, false) => Verb::List,
        // A new object's name is in its body.
        (&Method::POST, _) if !one || target.subresource.is_some() => Verb::Create,
        (&Method::PUT, true) => Verb::Update,
        (&Method::PATCH, true) => Verb::Patch,
        (&Method::DELETE, true) => Verb::Delete,
        (&Method::DELETE, false) => Verb::DeleteCollection,
        _ => return Err(not_allowed()),
    })
}

/// As Kubernetes answers for a method that a path does not have.
pub fn not_allowed() -> ApiError {
    let message = "the server does not allow this method on the requested resource";
    ApiError::new(Reason::MethodNotAllowed, message).with_details(Details::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> Result<(Cluster, Target), ApiError> {
        parse(&path.parse().unwrap())
    }

    fn resource_of(path: &str) -> ResourceTarget {
        match target(path).unwrap().1 {
            Target::Resource(target) => target,
            Target::Path(path) => panic!("{path}"),
        }
    }

    #[test]
    fn paths_name_resources() {
        let pod = resource_of("/api/v1/namespaces/default/pods/web/log");
        assert_eq!((pod.plural.as_str(), pod.namespace.as_deref()), ("pods", Some("default")));
        assert_eq!((pod.name.as_deref(), pod.subresource.as_deref()), (Some("web"), Some("log")));
        let role = resource_of("/clusters/acme/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode");
        assert_eq!((role.group.as_str(), role.name.as_deref()), ("rbac.authorization.k8s.io", Some("system:node")));
        let namespace = resource_of("/api/v1/namespaces/a/status");
        assert_eq!((namespace.plural.as_str(), namespace.subresource.as_deref()), ("namespaces", Some("status")));
        assert_eq!(target("/clusters/*/api/v1/pods").unwrap().0, Cluster::All);
        assert_eq!(
            target("/clusters/x/healthz").unwrap(),
            (Cluster::Named("x".into()), Target::Path("/healthz".into()))
        );
    }

    #[test]
    fn paths_that_pretend_are_refused() {
        for path in [
            "/clusters/a/../b/api/v1/pods",
            "/clusters/a/clusters/b/api/v1/pods",
            "/clusters/b%2f..%2fa/api/v1/pods",
            "/clusters//api/v1/pods",
            "/api/v1//pods",
            "/api/v1/pods/%zz",
            "/api/v1/namespaces/a/pods/b/c/d",
        ] {
            assert!(target(path).is_err(), "{path}");
        }
    }
}
