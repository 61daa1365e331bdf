//! A write of somebody who acts under a lease is carried out only while that is theirs ([`Fence`]).

use hypernetes_api::{ApiError, ResourceId, TenantId};
use hypernetes_client::fence::Fence;
use hypernetes_store::{Entry, Guard, Key, Store};
use k8s_openapi::api::coordination::v1::Lease;

use crate::stored_form;

const GROUP: &str = "coordination.k8s.io";
const PLURAL: &str = "leases";

/// Whose term a version of a lease is, read from it once.
struct Term(Option<Fence>);

impl Term {
    fn of(lease: &Entry) -> &Self {
        lease.form(|| {
            let lease = serde_json::from_slice::<Lease>(stored_form::object(lease));
            Self(lease.ok().as_ref().and_then(Fence::of))
        })
    }
}

/// What holds as long as the lease is not written: its holder renews it all the time, so who finds that this does not hold any more
/// asks again.
///
/// # Errors
/// `Conflict` when the term has ended.
pub(super) fn guard(store: &Store, fence: &Fence) -> Result<Guard, ApiError> {
    let ended = || ApiError::conflict(GROUP, PLURAL, &fence.lease, "the term in which this was asked for has ended");
    let id = ResourceId::new(GROUP, PLURAL);
    let key = Key::new(&id, &TenantId::system(), &fence.namespace, &fence.lease).map_err(|_| ended())?;
    // The transaction says whether it is the newest.
    let lease = store.recent(&key).ok_or_else(ended)?;
    if Term::of(&lease).0.as_ref() != Some(fence) {
        return Err(ended());
    }
    Ok(Guard::Unchanged(key, lease.mod_revision))
}
