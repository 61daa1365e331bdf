//! `coordination.k8s.io`.

use k8s_openapi::api::coordination::v1::Lease;

use crate::{
    columns::{between, column, path_or},
    field::{Errors, Field},
    resource::Resource,
};

pub(crate) fn resources() -> Vec<Resource> {
    let holder = column("Holder", path_or("spec.holderIdentity", ""));
    vec![Resource::kubernetes::<Lease>("leases").columns(between([holder])).plain_finalizers().check(lease)]
}

/// `Lease`.
fn lease(lease: &Field<'_>, errors: &mut Errors) {
    let spec = lease.get("spec");
    let duration = spec.get("leaseDurationSeconds");
    if duration.int().is_some_and(|seconds| seconds <= 0) {
        duration.invalid(errors, "must be greater than 0");
    }
    spec.get("leaseTransitions").non_negative(errors);
}
