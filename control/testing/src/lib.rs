//! What tests of several crates share: an API server in process, a fake of it, and doubles of what is around a service.
//!
//! [`server`] is the real one over a store on disk, or in etcd; [`fake_api`] keeps what it is told and knows no kind: for what has to
//! start often, or has nothing to do with what the API server makes of objects.
#![forbid(unsafe_code)]
#![allow(clippy::missing_panics_doc, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)] // tests panic
#![allow(clippy::disallowed_types)] // as a stock client

pub mod fake_api;
pub mod hostile;
pub mod http;
pub mod openstack;
pub mod requests;
pub mod server;
mod store;
pub mod tokens;
pub mod wait;
