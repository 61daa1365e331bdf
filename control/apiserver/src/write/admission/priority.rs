//! A pod's priority is its class's to say.

use futures::{FutureExt, future::BoxFuture};
use hypernetes_api::ApiError;
use serde_json::Value;

use super::{Additions, Plugin, Request, Step, projected, text};

pub(super) const PLUGIN: Plugin =
    Plugin { name: "Priority", about: |request| request.creates("", "Pod"), step: Step::Validate(validate) };

fn validate<'a>(request: &'a Request<'a>, pod: &'a Value, _: &'a mut Additions) -> BoxFuture<'a, Result<(), ApiError>> {
    check_priority(request, pod).boxed()
}

/// Classes of priority that there always are.
const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

/// A priority comes from a class: a pod cannot set one of its own.
async fn check_priority(request: &Request<'_>, pod: &Value) -> Result<(), ApiError> {
    let (name, class) = (text(pod, &["metadata", "name"]), text(pod, &["spec", "priorityClassName"]));
    let value = match SYSTEM_CLASSES.iter().find(|known| known.0 == class) {
        _ if class.is_empty() => 0,
        Some((_, value)) => *value,
        None => match projected(request, "scheduling.k8s.io", "priorityclasses", class).await? {
            Some(found) => found["value"].as_i64().unwrap_or(0),
            None => return Err(request.forbidden(name, &format!("no PriorityClass with name {class} was found"))),
        },
    };
    match pod["spec"]["priority"].as_i64() {
        Some(given) if given != value => {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
            );
            Err(request.forbidden(name, &why))
        }
        _ => Ok(()),
    }
}
