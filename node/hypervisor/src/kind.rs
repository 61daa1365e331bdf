//! The VMMs that there are drivers of.

use std::{fmt, str::FromStr};

/// Which VMM runs VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Vmm {
    /// On KVM, and on its own translator where there is none that works.
    #[default]
    Qemu,
    /// On KVM only.
    Firecracker,
}

impl Vmm {
    const ALL: [Self; 2] = [Self::Qemu, Self::Firecracker];
}

impl fmt::Display for Vmm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qemu => "qemu",
            Self::Firecracker => "firecracker",
        })
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the VMM is one of {}", Vmm::ALL.map(|vmm| vmm.to_string()).join(", "))]
pub struct UnknownVmm;

impl FromStr for Vmm {
    type Err = UnknownVmm;

    fn from_str(text: &str) -> Result<Self, UnknownVmm> {
        Self::ALL.into_iter().find(|vmm| vmm.to_string() == text).ok_or(UnknownVmm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name() {
        assert_eq!("firecracker".parse(), Ok(Vmm::Firecracker));
        assert_eq!("xen".parse::<Vmm>().unwrap_err().to_string(), "the VMM is one of qemu, firecracker");
    }
}
