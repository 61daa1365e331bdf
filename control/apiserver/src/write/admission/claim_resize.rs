//! A claim grows only where its class's volumes do: upstream's PersistentVolumeClaimResize.

use futures::{FutureExt, future::BoxFuture};
use hypernetes_api::ApiError;
use hypernetes_quota::amounts;
use serde_json::Value;

use super::{Additions, Operation, Plugin, Request, Step, projected, text};

pub(super) const PLUGIN: Plugin = Plugin { name: "PersistentVolumeClaimResize", about, step: Step::Validate(validate) };

fn about(request: &Request<'_>) -> bool {
    request.operation == Operation::Update
        && request.call.subresource.is_none()
        && request.is("", "PersistentVolumeClaim")
}

fn validate<'a>(
    request: &'a Request<'a>,
    claim: &'a Value,
    _: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    check(request, claim).boxed()
}

async fn check(request: &Request<'_>, claim: &Value) -> Result<(), ApiError> {
    let Some(old) = request.old else { return Ok(()) };
    let size = |claim: &Value| amounts::read(&claim["spec"]["resources"]["requests"]).get("storage").copied();
    match (size(old), size(claim)) {
        (Some(old), Some(new)) if new > old => {}
        _ => return Ok(()),
    }
    let refuse = |why: &str| Err(request.forbidden(text(claim, &["metadata", "name"]), why));
    if text(old, &["status", "phase"]) != "Bound" {
        return refuse("Only bound persistent volume claims can be expanded");
    }
    let (class, before) = (text(claim, &["spec", "storageClassName"]), text(old, &["spec", "storageClassName"]));
    let class = match class == before && !class.is_empty() {
        true => projected(request, "storage.k8s.io", "storageclasses", class).await?,
        false => None,
    };
    if class.is_some_and(|class| class["allowVolumeExpansion"] == true) {
        return Ok(());
    }
    refuse(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    )
}
