//! The class of ingresses that name none: upstream's DefaultIngressClass.

use futures::{FutureExt, future::BoxFuture};
use hypernetes_api::ApiError;
use hypernetes_kinds::DEFAULT_INGRESS_CLASS;
use hypernetes_store::{Prefix, RangeOptions, ResourceId};
use serde_json::Value;

use super::{Additions, Plugin, Request, Step, fields};
use crate::stored_form;

pub(super) const PLUGIN: Plugin = Plugin {
    name: "DefaultIngressClass",
    about: |request| request.creates("networking.k8s.io", "Ingress"),
    step: Step::Mutate(mutate),
};

/// By which ingresses named their class before there were classes.
const OLD_CLASS: &str = "kubernetes.io/ingress.class";

fn mutate<'a>(
    request: &'a Request<'a>,
    ingress: &'a mut Value,
    _: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    set_class(request, ingress).boxed()
}

async fn set_class(request: &Request<'_>, ingress: &mut Value) -> Result<(), ApiError> {
    let named = ingress["spec"].get("ingressClassName").is_some()
        || ingress["metadata"]["annotations"].get(OLD_CLASS).is_some();
    if named {
        return Ok(());
    }
    if let Some(class) = default_class(request).await? {
        fields(ingress, &["spec"]).insert("ingressClassName".into(), class.into());
    }
    Ok(())
}

/// Of several, the newest; of those, the first by name.
async fn default_class(request: &Request<'_>) -> Result<Option<String>, ApiError> {
    let classes = ResourceId::new("networking.k8s.io", "ingressclasses");
    let prefix = Prefix::tenant(&classes, &request.call.tenant()?, None)?;
    let listing = request.server.store.range(&prefix, RangeOptions::default()).await?;
    let mut newest: Option<(String, String)> = None;
    for entry in &listing.entries {
        let class = stored_form::decode(entry)?;
        if class["metadata"]["annotations"][DEFAULT_INGRESS_CLASS] != "true" {
            continue;
        }
        let created = class["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
        // They come by name.
        if newest.as_ref().is_none_or(|(before, _)| *before < created) {
            newest = Some((created, entry.key.name().to_owned()));
        }
    }
    Ok(newest.map(|(_, name)| name))
}
