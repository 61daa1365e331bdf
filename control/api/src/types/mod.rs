//! The API groups of Hypernetes' own: what infrastructure has to watch is an API object.
//!
//! All are cluster-scoped within a logical cluster. Fields that only infrastructure may write are in `status`,
//! whose subresource the API server refuses to everyone else. The OpenStack id of an object is its `metadata.uid`
//! (for projects, users, domains and roles its `metadata.name`); its OpenStack name is `spec.displayName`,
//! or `metadata.name` where that is empty.

pub mod identity;
pub mod network;
pub mod volume;
