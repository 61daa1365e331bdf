//! The contract between hyperd on the host and hyperstart in the VM: `proto/agent.proto`.
#![forbid(unsafe_code)]

pub mod v1 {
    tonic::include_proto!("hypernetes.agent.v1");
}

/// The versions of the contract that this build speaks, oldest and newest.
pub const VERSIONS: std::ops::RangeInclusive<u32> = 1..=1;
