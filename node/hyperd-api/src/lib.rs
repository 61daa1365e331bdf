//! The gRPC service that hyperd offers beside CRI on its socket (see `proto/hyperd.proto`):
//! importing images, dialling into a sandbox, and saying how its VMs are.
#![forbid(unsafe_code)]

tonic::include_proto!("hypernetes.hyperd.v1");
