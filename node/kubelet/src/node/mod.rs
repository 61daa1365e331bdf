//! The node: its object in the API, what it has for all pods together, and what it serves to the API server.

pub mod allocatable;
pub mod api;
pub mod cri;
pub mod csi;
mod host;
mod log_dirs;
mod redact;
pub mod registration;
mod relayed;
pub mod server;
mod shared;
pub mod tenant_limits;

pub use shared::Shared;
