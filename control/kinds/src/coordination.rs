//! `coordination.k8s.io`.

use k8s_openapi::api::coordination::v1::Lease;

use crate::{
    columns::{between, column, path_or},
    resource::Resource,
};

pub(crate) fn resources() -> Vec<Resource> {
    let holder = column("Holder", path_or("spec.holderIdentity", ""));
    vec![Resource::kubernetes::<Lease>("leases").columns(between([holder]))]
}
