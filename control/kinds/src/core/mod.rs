//! The core group, and what other groups' kinds share with it: templates of pods.

pub(crate) mod config_map;
mod container;
mod downward;
pub(crate) mod endpoints;
pub(crate) mod limit_range;
pub(crate) mod namespace;
pub(crate) mod node;
pub(crate) mod persistent_volume;
pub(crate) mod persistent_volume_claim;
pub(crate) mod pod;
mod pod_spec;
pub(crate) mod pod_template;
mod probe;
pub(crate) mod replication_controller;
pub(crate) mod resource_quota;
mod resources;
mod scheduling;
pub(crate) mod secret;
mod security;
pub(crate) mod service;
mod volume;

pub(crate) use endpoints::special_address;
