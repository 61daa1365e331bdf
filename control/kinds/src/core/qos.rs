//! Upstream's quality of service classes.

use hypernetes_schema::{quantity::Quantity, walk};
use serde_json::Value;

/// Upstream's quality of service class of a pod, from its containers' CPU and memory.
pub(crate) fn class(spec: &Value) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    let containers = walk::list(spec, "containers").iter().chain(walk::list(spec, "initContainers"));
    for container in containers {
        for resource in ["cpu", "memory"] {
            let amount = |which: &str| {
                let text = container.get("resources")?.get(which)?.get(resource)?.as_str()?;
                Quantity::parse(text).ok().filter(|q| !q.is_zero())
            };
            let (limit, request) = (amount("limits"), amount("requests"));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
