//! Whose turn it is to write: what goes with each request of somebody who acts while it holds a lease.
//!
//! A request says it by its extension, which is no part of what is sent: only who is in the server's process can say it, and only
//! against itself. The API server guards the lease in the transaction of the write, so that what was begun in one
//! term is not carried out in the next, however late it comes.

use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;

/// One term of one holder of a lease in the system's cluster: no two are alike. A request's extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    pub namespace: String,
    pub lease: String,
    /// Of the lease: one that was deleted and made anew counts its transitions anew.
    uid: String,
    holder: String,
    transitions: i32,
}

impl Fence {
    /// The term that it is, as the lease has it; nobody's when nobody holds it.
    pub fn of(lease: &Lease) -> Option<Self> {
        let spec = lease.spec.as_ref()?;
        let holder = spec.holder_identity.clone().filter(|holder| !holder.is_empty())?;
        Some(Self {
            namespace: lease.namespace().unwrap_or_default(),
            lease: lease.name_any(),
            uid: lease.uid().unwrap_or_default(),
            holder,
            transitions: spec.lease_transitions.unwrap_or_default(),
        })
    }
}
