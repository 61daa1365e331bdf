//! The storage class of claims that name none.

use futures::{FutureExt, future::BoxFuture};
use hypernetes_api::{ApiError, TenantId};
use hypernetes_store::{Prefix, RangeOptions, ResourceId};
use serde_json::Value;

use super::{Additions, Plugin, Request, Step, fields};
use crate::{Inner, stored_form};

pub(super) const PLUGIN: Plugin = Plugin {
    name: "DefaultStorageClass",
    about: |request| request.creates("", "PersistentVolumeClaim"),
    step: Step::Mutate(mutate),
};

const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

fn mutate<'a>(
    request: &'a Request<'a>,
    claim: &'a mut Value,
    _: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    set_class(request, claim).boxed()
}

async fn set_class(request: &Request<'_>, claim: &mut Value) -> Result<(), ApiError> {
    if claim["spec"].get("storageClassName").is_some() {
        return Ok(());
    }
    if let Some(class) = default_class(request.server).await? {
        fields(claim, &["spec"]).insert("storageClassName".into(), class.into());
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
