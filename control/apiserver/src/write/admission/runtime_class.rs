//! What a pod costs beside its containers is its runtime class's to say.

use futures::{FutureExt, future::BoxFuture};
use hypernetes_api::ApiError;
use serde_json::Value;

use super::{Additions, Plugin, Request, Step, projected, text};

pub(super) const PLUGIN: Plugin =
    Plugin { name: "RuntimeClass", about: |request| request.creates("", "Pod"), step: Step::Validate(validate) };

fn validate<'a>(request: &'a Request<'a>, pod: &'a Value, _: &'a mut Additions) -> BoxFuture<'a, Result<(), ApiError>> {
    check_overhead(request, pod).boxed()
}

async fn check_overhead(request: &Request<'_>, pod: &Value) -> Result<(), ApiError> {
    let (name, overhead) = (text(pod, &["metadata", "name"]), &pod["spec"]["overhead"]);
    if overhead.as_object().is_none_or(serde_json::Map::is_empty) {
        return Ok(());
    }
    let class = text(pod, &["spec", "runtimeClassName"]);
    let class = match class {
        "" => None,
        class => projected(request, "node.k8s.io", "runtimeclasses", class).await?,
    };
    let why = match class.map(|class| class["overhead"]["podFixed"].clone()).filter(|fixed| !fixed.is_null()) {
        None => "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        Some(fixed) if fixed == *overhead => return Ok(()),
        Some(_) => "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
    };
    Err(request.forbidden(name, why))
}
