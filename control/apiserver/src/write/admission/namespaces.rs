//! New objects come only into namespaces that exist and stay; and every logical cluster keeps its `default`.

use hypernetes_api::ApiError;
use hypernetes_store::{Guard, Key, ResourceId};
use serde_json::Value;

use super::{Operation, Request, text};
use crate::stored_form;

pub(super) async fn admit(request: &Request<'_>, object: &Value, guards: &mut Vec<Guard>) -> Result<(), ApiError> {
    let name = text(object, &["metadata", "name"]);
    match request.operation {
        // Infrastructure clears away what a tenant that is gone has left.
        Operation::Delete if request.is("", "Namespace") && name == "default" && !request.call.is_infrastructure() => {
            Err(request.forbidden(name, "this namespace may not be deleted"))
        }
        Operation::Create => {
            guards.extend(guard(request, name).await?);
            Ok(())
        }
        Operation::Update | Operation::Delete => Ok(()),
    }
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
