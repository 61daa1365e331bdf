//! `volume.hypernetes.io`: what Cinder's API shows, each tenant's own.

use hypernetes_api::types::volume::{Attachment, Volume};
use serde_json::Value;

use super::pod_reference;
use crate::{
    columns::{Cell, at, between, column, path, path_or},
    resource::Resource,
    subresource::Subresource,
};

const OF: &str = "volume";

pub(crate) fn resources() -> Vec<Resource> {
    vec![
        Resource::own::<Attachment>(OF, "Attachment", "attachments")
            .subresources([Subresource::status()])
            .columns(between([
                column("Node", path("spec.node")),
                column("Pod", Cell::Of(|o| pod_reference(o, "spec.pod"))),
                column("Status", path_or("status.phase", "Pending")),
            ]))
            .immutable(&[&["spec", "volume"]]),
        Resource::own::<Volume>(OF, "Volume", "volumes")
            .short_names(&["vol"])
            .subresources([Subresource::status()])
            .columns(between([
                column("Size", Cell::Of(size)),
                column("Type", path_or("spec.volumeType", "")),
                column("Status", path_or("status.phase", "Creating")),
            ])),
    ]
}

fn size(volume: &Value) -> Value {
    let bytes = at(volume, "spec.sizeBytes").and_then(Value::as_u64).unwrap_or(0);
    if bytes.is_multiple_of(1 << 30) { format!("{}Gi", bytes >> 30).into() } else { bytes.into() }
}
