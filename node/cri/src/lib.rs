//! The Container Runtime Interface (`proto/runtime.proto`), which a kubelet and a container runtime speak.
#![forbid(unsafe_code)]

pub mod v1 {
    tonic::include_proto!("runtime.v1");
}
