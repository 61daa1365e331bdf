//! What a request is, by its head: typed, and parsed once, before anything else looks at it.

use http::{Method, request::Parts};
use hypernetes_api::ApiError;
use hypernetes_kinds::Verb;

use super::{Cluster, Query, ResourceTarget, Target, parse, verb};
use crate::health;

/// What a request is.
#[derive(Debug, Clone)]
pub struct RequestInfo {
    pub cluster: Cluster,
    pub asked: Asked,
    pub query: Query,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub enum Asked {
    /// Discovery, health, version, metrics: the path without the cluster, and the method in small letters.
    Path {
        path: String,
        method: String,
    },
    Resource {
        target: ResourceTarget,
        verb: Verb,
    },
}

/// Subresources of pods that go on for as long as both sides want: upstream's.
const LONG: [&str; 4] = ["attach", "exec", "log", "portforward"];

impl RequestInfo {
    /// # Errors
    /// `NotFound` and `BadRequest` for a path that names nothing, `BadRequest` for a query that is not escaped, `MethodNotAllowed`
    /// for a method that means nothing on such a path.
    pub fn of(head: &Parts) -> Result<Self, ApiError> {
        let query = Query::parse(&head.uri)?;
        let (cluster, target) = parse(&head.uri)?;
        let asked = match target {
            Target::Path(path) => Asked::Path { path, method: head.method.as_str().to_ascii_lowercase() },
            Target::Resource(target) => {
                let verb = verb(&head.method, &target, query.flag("watch"))?;
                Asked::Resource { target, verb }
            }
        };
        Ok(Self { cluster, asked, query })
    }

    /// Of what is no resource and in no logical cluster.
    pub fn of_path(path: String, method: &Method) -> Self {
        let asked = Asked::Path { path, method: method.as_str().to_ascii_lowercase() };
        Self { cluster: Cluster::Unnamed, asked, query: Query::default() }
    }

    /// Authorization's word for what is done.
    pub fn verb(&self) -> &str {
        match &self.asked {
            Asked::Path { method, .. } => method,
            Asked::Resource { verb, .. } => verb.as_str(),
        }
    }

    pub fn resource(&self) -> Option<&ResourceTarget> {
        match &self.asked {
            Asked::Path { .. } => None,
            Asked::Resource { target, .. } => Some(target),
        }
    }

    pub fn is_watch(&self) -> bool {
        matches!(self.asked, Asked::Resource { verb: Verb::Watch, .. })
    }

    pub fn is_of_health(&self) -> bool {
        matches!(&self.asked, Asked::Path { path, .. } if health::Asked::of(path).is_some())
    }

    /// A connection to a pod, or its log.
    pub fn is_stream(&self) -> bool {
        let subresource = self.resource().and_then(|target| target.subresource.as_deref());
        subresource.is_some_and(|subresource| LONG.contains(&subresource))
    }

    /// It ends when it is done with, and not by a deadline.
    pub fn is_long_running(&self) -> bool {
        self.is_watch() || self.is_stream()
    }

    pub fn reads(&self) -> bool {
        match &self.asked {
            Asked::Path { method, .. } => {
                [Method::GET, Method::HEAD].iter().any(|m| m.as_str().eq_ignore_ascii_case(method))
            }
            Asked::Resource { verb, .. } => verb.reads(),
        }
    }
}
