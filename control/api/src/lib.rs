//! The words of the control plane: tenants, API errors, well-known names, and the types of Hypernetes' own API groups.
//!
//! Kubernetes' own types come from `k8s-openapi`. Everything here is data and rules about data: no I/O.
#![forbid(unsafe_code)]

pub mod auth;
pub mod error;
pub mod names;
pub mod resource;
pub mod subnet;
pub mod tenant;
pub mod time;
pub mod types;

pub use error::{ApiError, Reason};
/// Parsed names, the only makers of keys, paths and URLs.
pub use hypernetes_names as name;
pub use hypernetes_names::{
    ConfigKey, DnsLabel, DnsSubdomain, InvalidName, ObjectName, PathComponent, PathSegment, Uid,
};
pub use resource::ResourceId;
pub use tenant::{AllTenants, TenantId};
