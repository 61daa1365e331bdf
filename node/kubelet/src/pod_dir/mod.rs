//! The one handle through which a pod's files on this host are made, changed and removed.
//!
//! A [`PodDir`] holds the descriptor of a directory that belongs to one pod. Every path below it is a [`Place`], which is
//! made of parsed names alone, and is opened by `openat2` beneath that descriptor without following links: whatever a
//! pod's specification says, and whatever lies in the directory, nothing outside of it is touched. `clippy.toml` forbids
//! this crate the ways round.

mod descriptor;
mod dir;
mod dirs;
mod place;
#[cfg(test)]
mod tests;

pub use dir::PodDir;
pub use dirs::PodDirs;
pub use place::{InvalidItemPath, ItemPath, Place};
