//! The gRPC service that hyperd offers beside CRI on its socket (see `proto/hyperd.proto`):
//! importing images, dialling into a sandbox, and saying how its VMs are. And how clients reach that socket, and
//! number what they stream.
#![forbid(unsafe_code)]

pub mod channel;
mod socket;

pub use socket::{ConnectError, connect, connect_lazily};

tonic::include_proto!("hypernetes.hyperd.v1");
