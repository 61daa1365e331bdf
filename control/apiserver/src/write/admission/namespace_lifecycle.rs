//! New objects come only into namespaces that exist and stay; and every logical cluster keeps its `default`.
//!
//! It changes nothing and comes first all the same, as upstream's does: what others look for is in the namespace.

use futures::{FutureExt, future::BoxFuture};
use hypernetes_api::ApiError;
use hypernetes_store::{Guard, Key, ResourceId};
use serde_json::Value;

use super::{Additions, Operation, Plugin, Request, Step, ready, text};
use crate::stored_form;

pub(super) const PLUGIN: Plugin = Plugin { name: "NamespaceLifecycle", about, step: Step::Mutate(mutate) };

fn about(request: &Request<'_>) -> bool {
    match request.operation {
        Operation::Create => request.subresource.is_none() && request.call.target.namespace.is_some(),
        Operation::Delete => request.is("", "Namespace"),
        Operation::Update | Operation::Connect => false,
    }
}

fn mutate<'a>(
    request: &'a Request<'a>,
    object: &'a mut Value,
    added: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    let name = text(object, &["metadata", "name"]);
    if request.operation == Operation::Delete {
        // Infrastructure clears away what a tenant that is gone has left.
        let kept = name == "default" && !request.call.is_infrastructure();
        return ready(if kept { Err(request.forbidden(name, "this namespace may not be deleted")) } else { Ok(()) });
    }
    async move {
        added.guards.extend(guard(request, name).await?);
        Ok(())
    }
    .boxed()
}

/// The namespace as it was seen; a write that it changed beside is tried again.
async fn guard(request: &Request<'_>, name: &str) -> Result<Option<Guard>, ApiError> {
    let call = request.call;
    let Some(namespace) = &call.target.namespace else { return Ok(None) };
    let missing = || ApiError::not_found("", "namespaces", namespace);
    let key = Key::new(&ResourceId::new("", "namespaces"), &call.tenant()?, "", namespace).map_err(|_| missing())?;
    let entry = request.server.store.get(&key).await?.ok_or_else(missing)?;
    let object = stored_form::decode(&entry)?;
    if object["metadata"]["deletionTimestamp"].is_string() && call.resource.plural != "events" {
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        return Err(request.forbidden(name, &why));
    }
    Ok(Some(Guard::Unchanged(key, entry.mod_revision)))
}
