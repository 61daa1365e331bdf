//! VMs of QEMU that end with what they are made for (see [`crate::temporary`]).

use super::{
    Shared,
    vm::{Origin, QemuVm},
};
use crate::{HypervisorError, VmSpec};

pub struct Temporary(pub QemuVm);

impl Temporary {
    pub async fn start(shared: &Shared, spec: VmSpec, origin: Origin<'_>) -> Result<Self, HypervisorError> {
        QemuVm::create_with(shared, spec, shared.accelerator, origin).await.map(Self)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        self.0.abandon();
    }
}
