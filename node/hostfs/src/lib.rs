//! Serves one directory or file of the host to a pod's VM.
//!
//! ```text
//! Tree     the shared path as a detached copy of its mounts, without devices and links, read-only where it should be
//! Server   answers one request about a path beneath it; keeps nothing that it could not make again
//! Share    a few confined threads that do so
//! ```
//!
//! The requests come from a guest that may send anything (docs/decisions/0016).

mod attributes;
mod confine;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod handles;
mod names;
mod path;
mod server;
mod share;
mod tree;

pub use share::Share;
pub use tree::{Propagation, ReadOnly, Tree, is_mounted, make_directory};
