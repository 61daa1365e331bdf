//! The core group, and what other groups' kinds share with it: templates of pods.

mod binding;
mod component_status;
pub(crate) mod config_map;
pub(crate) mod container;
mod downward;
pub(crate) mod endpoints;
mod event;
pub(crate) mod limit_range;
mod namespace;
mod node;
pub(crate) mod persistent_volume;
pub(crate) mod persistent_volume_claim;
pub(crate) mod pod;
mod pod_columns;
pub(crate) mod pod_spec;
pub(crate) mod pod_template;
mod probe;
mod qos;
pub(crate) mod replication_controller;
mod resource_quota;
pub(crate) mod resources;
pub(crate) mod scheduling;
mod secret;
mod security;
pub(crate) mod service;
mod service_account;
pub(crate) mod volume;
mod volume_columns;

pub(crate) use endpoints::special_address;

use crate::resource::Resource;

pub(crate) fn resources() -> Vec<Resource> {
    vec![
        binding::resource(),
        component_status::resource(),
        config_map::resource(),
        endpoints::resource(),
        event::resource(),
        limit_range::resource(),
        namespace::resource(),
        node::resource(),
        persistent_volume::resource(),
        persistent_volume_claim::resource(),
        pod::resource(),
        pod_template::resource(),
        replication_controller::resource(),
        resource_quota::resource(),
        secret::resource(),
        service::resource(),
        service_account::resource(),
    ]
}
