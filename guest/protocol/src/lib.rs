//! The contract between hyperd on the host and hyperstart in the VM: `proto/agent.proto`, and how one gRPC connection
//! after another goes over the VM's one byte stream ([`session`]).
#![forbid(unsafe_code)]

pub mod session;

pub mod v1 {
    tonic::include_proto!("hypernetes.agent.v1");
}

/// The versions of the contract that this build speaks, oldest and newest.
///
/// Since 2 a guest says nothing of its identity before it was given entropy, so that it can be copied before. Since 3 it
/// installs seccomp filters, changes limits, mounts paths of the host, and knows the other things that `agent.proto` marks so.
pub const VERSIONS: std::ops::RangeInclusive<u32> = 1..=3;

/// First version in which a guest can mount paths of the host.
pub const SINCE_HOST_PATHS: u32 = 3;

/// Most bytes of one read or write of a host path.
pub const MAX_HOST_PATH_DATA: usize = 512 << 10;

/// Name of the virtio serial port that the contract is spoken on.
pub const PORT_NAME: &str = "hypernetes.agent";

/// The port of the guest's vsock that it is spoken on where there is no serial one.
pub const VSOCK_PORT: u32 = 26734;
