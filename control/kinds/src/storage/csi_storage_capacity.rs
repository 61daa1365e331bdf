//! `CSIStorageCapacity`: how much of a class there is where; infrastructure's to say.

use k8s_openapi::api::storage::v1::CSIStorageCapacity;

use crate::{
    columns::{created_at, name},
    core::resources,
    field::{Errors, Field},
    format,
    resource::Resource,
    selector,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<CSIStorageCapacity>("csistoragecapacities")
        .columns(vec![name(), created_at()])
        .check(check)
        .immutable(&[&["nodeTopology"], &["storageClassName"]])
}

fn check(capacity: &Field<'_>, errors: &mut Errors) {
    selector::check(&capacity.get("nodeTopology"), errors);
    let (class, amount) = (capacity.get("storageClassName"), capacity.get("capacity"));
    class.faulty(errors, format::subdomain(class.text()));
    if resources::quantity(amount.value).is_some_and(|amount| amount.is_negative()) {
        amount.invalid(errors, "must be greater than or equal to 0");
    }
}
