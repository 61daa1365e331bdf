//! `VolumeAttachment`: infrastructure's to make and to end, in the cluster of the tenant whose volume it is.

use k8s_openapi::api::storage::v1::VolumeAttachment;
use serde_json::json;

use crate::{
    columns::{between, boolean, column, path_or},
    core::{persistent_volume, volume},
    field::{Errors, Field},
    format,
    internal::{Internal, NULL, TEXT},
    resource::Resource,
    subresource::Subresource,
};

/// The most bytes of what attaching has told, and of an error's message.
const MAX_METADATA: usize = 256 * 1024;
const MAX_MESSAGE: usize = 1024;

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<VolumeAttachment>("volumeattachments")
        .subresources([Subresource::status()])
        .columns(between([
            column("Attacher", path_or("spec.attacher", "")).named(),
            column("PV", path_or("spec.source.persistentVolumeName", "")),
            column("Node", path_or("spec.nodeName", "")),
            boolean("Attached", "status.attached"),
        ]))
        .first_status(|_| json!({"attached": false}))
        .check(check)
        .on_update(|new, old, errors| SPEC.kept(&new.get("spec"), &old.get("spec"), errors))
        .on_status(|object, _, errors| status(&object.get("status"), errors))
}

const SPEC: Internal = Internal::Struct(&[
    ("attacher", "Attacher", TEXT),
    (
        "source",
        "Source",
        Internal::Struct(&[
            ("persistentVolumeName", "PersistentVolumeName", NULL),
            ("inlineVolumeSpec", "InlineVolumeSpec", NULL),
        ]),
    ),
    ("nodeName", "NodeName", TEXT),
]);

fn check(attachment: &Field<'_>, errors: &mut Errors) {
    let spec = attachment.get("spec");
    volume::driver_name(&spec.get("attacher"), errors);
    let source = spec.get("source");
    let (inline, name) = (source.get("inlineVolumeSpec"), source.get("persistentVolumeName"));
    let one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (inline.is_set(), name.is_set()) {
        (false, false) => source.required(errors, one),
        (true, true) => source.forbidden(errors, one),
        (false, true) if name.is_empty() => name.required(errors, "must specify non empty persistentVolumeName"),
        (false, true) => {}
        (true, false) => persistent_volume::inline(&inline, errors),
    }
    let node = spec.get("nodeName");
    node.faulty(errors, format::subdomain(node.text()));
    status(&attachment.get("status"), errors);
    if name.is_set() {
        name.faulty(errors, format::subdomain(name.text()));
    }
}

fn status(status: &Field<'_>, errors: &mut Errors) {
    let metadata = status.get("attachmentMetadata");
    if metadata.entries().map(|(key, value)| key.len() + value.text().len()).sum::<usize>() > MAX_METADATA {
        metadata.too_long(errors, MAX_METADATA);
    }
    for name in ["attachError", "detachError"] {
        let error = status.get(name);
        if error.get("message").text().len() > MAX_MESSAGE {
            // What upstream says is the other measure.
            error.get("message").too_long(errors, MAX_METADATA);
        }
        error.get("errorCode").in_range(errors, 0, i32::MAX.into());
    }
}
