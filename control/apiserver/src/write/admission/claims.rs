//! The storage class of claims that name none.

use hypernetes_api::{ApiError, TenantId};
use hypernetes_store::{Prefix, RangeOptions, ResourceId};
use serde_json::Value;

use super::{Operation, Request, fields};
use crate::{Inner, stored_form};

const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

pub(super) async fn admit(request: &Request<'_>, object: &mut Value) -> Result<(), ApiError> {
    let new_claim = request.operation == Operation::Create && request.is("", "PersistentVolumeClaim");
    if !new_claim || object["spec"].get("storageClassName").is_some() {
        return Ok(());
    }
    if let Some(class) = default_class(request.server).await? {
        fields(object, &["spec"]).insert("storageClassName".into(), class.into());
    }
    Ok(())
}

async fn default_class(server: &Inner) -> Result<Option<String>, ApiError> {
    let classes = ResourceId::new("storage.k8s.io", "storageclasses");
    let prefix = Prefix::tenant(&classes, &TenantId::system(), None)?;
    let listing = server.store.range(&prefix, RangeOptions::default()).await?;
    for entry in &listing.entries {
        if stored_form::decode(entry)?["metadata"]["annotations"][DEFAULT_CLASS] == "true" {
            return Ok(Some(entry.key.name().to_owned()));
        }
    }
    Ok(None)
}
