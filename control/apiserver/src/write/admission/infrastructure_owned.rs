//! What of a tenant's objects is infrastructure's: the status of networks, volumes and so on, and the finalizers that keep
//! an object until what it stands for on the hosts is cleared away.

use futures::future::BoxFuture;
use hypernetes_api::ApiError;
use hypernetes_kinds::Behaviour;
use hypernetes_schema::walk;
use serde_json::Value;

use super::{Additions, Operation, Plugin, Request, Step, ready, text};

pub(super) const PLUGIN: Plugin = Plugin {
    name: "InfrastructureOwned",
    // Deletion has marks only.
    about: |request| matches!(request.operation, Operation::Create | Operation::Update),
    step: Step::Validate(validate),
};

/// Finalizers below this domain are added and removed by infrastructure alone, on whatever kind.
const DOMAIN: &str = "hypernetes.io";

fn validate<'a>(
    request: &'a Request<'a>,
    object: &'a Value,
    _: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    ready(check(request, object))
}

fn check(request: &Request<'_>, object: &Value) -> Result<(), ApiError> {
    let call = request.call;
    let name = text(object, &["metadata", "name"]);
    let status = request.call.through() == Some(&Behaviour::Status);
    if call.resource.guarded_status && status && !call.is_infrastructure() {
        return Err(request.forbidden(name, "its status is written by infrastructure only"));
    }
    // A node has no part in them, and the operator may have to mend what components left.
    if call.is_component() || call.is_operator() {
        return Ok(());
    }
    let (wanted, have) = (owned(object), request.old.map(owned).unwrap_or_default());
    match wanted.iter().find(|one| !have.contains(one)).or_else(|| have.iter().find(|one| !wanted.contains(one))) {
        Some(finalizer) => {
            Err(request
                .forbidden(name, &format!("the finalizer {finalizer} is set and removed by infrastructure only")))
        }
        None => Ok(()),
    }
}

/// What a tenant's own rule changed that is not a tenant's to change on a request of infrastructure: which object it is, who made it, where a pod runs, and
/// who has to act before it goes.
pub(super) fn changed(before: &Value, after: &Value) -> Option<&'static str> {
    const FIELDS: [&str; 8] = [
        "apiVersion",
        "kind",
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "metadata.creationTimestamp",
        "metadata.deletionTimestamp",
        "metadata.resourceVersion",
    ];
    if let Some(field) = FIELDS.into_iter().find(|field| walk::get(before, field) != walk::get(after, field)) {
        return Some(field);
    }
    let node = |object: &Value| walk::text(object, "spec.nodeName").to_owned();
    if before["kind"] == "Pod" && node(before) != node(after) {
        return Some("spec.nodeName");
    }
    (owned(before) != owned(after)).then_some("a finalizer of infrastructure")
}

fn owned(object: &Value) -> Vec<&str> {
    let finalizers = object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str);
    finalizers
        .filter(|finalizer| {
            let domain = finalizer.split('/').next().unwrap_or_default();
            domain == DOMAIN || domain.strip_suffix(DOMAIN).is_some_and(|rest| rest.ends_with('.'))
        })
        .collect()
}
