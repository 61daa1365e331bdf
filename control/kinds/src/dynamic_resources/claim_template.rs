//! `ResourceClaimTemplate`.

use k8s_openapi::api::resource::v1::ResourceClaimTemplate;

use super::devices;
use crate::{
    field::{Errors, Field},
    internal::Internal,
    meta,
    resource::Resource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<ResourceClaimTemplate>("resourceclaimtemplates")
        .check(check)
        .on_update(|new, old, errors| SPEC.kept(&new.get("spec"), &old.get("spec"), errors))
}

/// The metadata has no name of its own there; upstream shows only the labels of it.
const SPEC: Internal = Internal::Struct(&[("spec", "Spec", devices::SPEC)]);

fn check(template: &Field<'_>, errors: &mut Errors) {
    let spec = template.get("spec");
    let metadata = spec.get("metadata");
    meta::template(&metadata, errors);
    devices::claim(&spec.get("spec"), errors);
}
