//! VMs that end with what they are made for: nobody adopts them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    Shared,
    vm::{Origin, QemuVm},
};
use crate::{HypervisorError, VmSpec};

/// What their ids begin with.
pub const ID_PREFIX: &str = "template-";

pub struct Temporary(pub QemuVm);

impl Temporary {
    /// One that no other has.
    pub fn id() -> String {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        format!("{ID_PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
    }

    pub async fn start(shared: &Shared, spec: VmSpec, origin: Origin<'_>) -> Result<Self, HypervisorError> {
        QemuVm::create_with(shared, spec, shared.accelerator, origin).await.map(Self)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        self.0.abandon();
    }
}
