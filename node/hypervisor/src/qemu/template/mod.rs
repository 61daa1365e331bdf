//! What a template is made of with QEMU (see [`crate::template`]).

mod build;
#[cfg(test)]
mod tests_with_vms;

use std::{os::fd::OwnedFd, sync::Arc};

use super::{Shared, original::Original};
pub use crate::template::{Key, TemplateLimits};
use crate::{VmSpec, template};

pub type Template = template::Template<Form>;
pub type Templates = template::Templates<Form>;

/// What copies are made of.
pub enum Form {
    /// Two sealed files: the guest's memory, and everything else of the machine.
    Saved { memory: OwnedFd, state: OwnedFd },
    /// A VMM that stands still.
    Standing(Arc<Original>),
}

/// None when VMs like this are not copied.
pub fn key(shared: &Shared, spec: &VmSpec) -> Option<Key> {
    let machine = format!("{} {:?} {} {}", shared.version, shared.accelerator, shared.boot.key, shared.tsc_khz);
    Key::new(shared.templates.limits(), &shared.program, machine, spec)
}

/// Has a template made in the background, unless one is there or under way.
pub fn want(shared: &Arc<Shared>, key: Key) {
    let build_of = shared.clone();
    template::want(&shared.templates, key, |key| async move { build::build(&build_of, &key).await });
}
