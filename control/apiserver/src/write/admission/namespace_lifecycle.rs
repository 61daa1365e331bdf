//! New objects come only into namespaces that exist and stay; and every logical cluster keeps its `default`, and those
//! that have roles from the start.
//!
//! It comes first, as upstream's does: what others look for is in the namespace.

use futures::{FutureExt, future::BoxFuture};
use hypernetes_api::ApiError;
use hypernetes_store::{Guard, Key, ResourceId};
use serde_json::Value;

use super::{Additions, Operation, Plugin, Request, Step, ready, text};
use crate::stored_form;

pub(super) const PLUGIN: Plugin = Plugin { name: "NamespaceLifecycle", about, step: Step::First(validate) };

fn about(request: &Request<'_>) -> bool {
    match request.operation {
        Operation::Create => request.call.subresource.is_none() && request.call.target.namespace.is_some(),
        Operation::Delete => request.is("", "Namespace"),
        Operation::Update | Operation::Connect => false,
    }
}

fn validate<'a>(
    request: &'a Request<'a>,
    object: &'a Value,
    added: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    let name = text(object, &["metadata", "name"]);
    if request.operation == Operation::Delete {
        // Infrastructure clears away what a tenant that is gone has left.
        let kept = KEPT.contains(&name) && !request.call.is_infrastructure();
        return ready(if kept { Err(request.forbidden(name, "this namespace may not be deleted")) } else { Ok(()) });
    }
    async move {
        added.guards.extend(guard(request, name).await?);
        Ok(())
    }
    .boxed()
}

/// Upstream's.
const KEPT: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Whether a namespace is being deleted.
struct Ends(bool);

/// The namespace as it was seen; a write that it changed beside is tried again.
async fn guard(request: &Request<'_>, name: &str) -> Result<Option<Guard>, ApiError> {
    let call = request.call;
    let Some(namespace) = &call.target.namespace else { return Ok(None) };
    let missing = || ApiError::not_found("", "namespaces", namespace);
    let key = Key::new(&ResourceId::new("", "namespaces"), &call.tenant()?, "", namespace).map_err(|_| missing())?;
    let entry = request.server.store.get(&key).await?.ok_or_else(missing)?;
    // Asked for each write in it, and answered by each version of it once.
    let ends = entry.form(|| {
        stored_form::decode(&entry).map(|namespace| Ends(namespace["metadata"]["deletionTimestamp"].is_string()))
    });
    if ends.as_ref().map_err(Clone::clone)?.0 && call.resource.plural != "events" {
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        return Err(request.forbidden(name, &why));
    }
    Ok(Some(Guard::Unchanged(key, entry.mod_revision)))
}
