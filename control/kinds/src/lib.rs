//! What there is: a record for each resource (names, whose its objects are, subresources, columns, what can be selected by, what
//! the server itself sets), and what upstream's API server says of an object's content.
//!
//! Each family's file says everything of its resources, by a [`Resource`] that most of it is left out of; [`registry`] puts the
//! families together, and gives each tenant its view of them. The life of a write, in the order in which the API server calls:
//!
//! | step | create | update | patch | apply |
//! | --- | --- | --- | --- | --- |
//! | 1 | `ObjectType::decode` | the same | `patch::{json_patch, merge_patch, strategic_merge_patch}`, then `ObjectType::check` | `ObjectType::decode`, then `managed::apply` |
//! | 2 | [`Resource::set_defaults`] | the same | the same | the same |
//! | 3 | [`Resource::prepare_create`] | [`Resource::prepare_change`] | as update | as create or update |
//! | 4 | [`Resource::validate_create`] | [`Resource::validate_change`] | as update | as create or update |
//! | 5 | admission, and the rules again for what it changed | the same | the same | the same |
//! | 6 | `managed::track_update` | the same | the same | (done by apply) |
#![forbid(unsafe_code)]

mod admissionregistration;
mod apiextensions;
mod apps;
mod authentication;
mod authorization;
mod autoscaling;
mod batch;
mod cells;
mod certificates;
mod columns;
mod condition;
mod coordination;
mod core;
mod defaults;
mod discovery;
mod documents;
mod dynamic_resources;
pub mod expressions;
mod fault;
pub mod field;
pub mod flowcontrol;
pub mod format;
mod internal;
mod json_path;
pub mod meta;
mod networking;
mod node;
mod own;
mod policy;
mod rbac;
pub mod registry;
mod resource;
mod scale;
mod scheduling;
mod selectable;
pub mod selector;
mod selector_text;
mod sent;
mod storage;
mod strategy;
mod subresource;
mod table;
mod unique;
mod validation;
mod verb;

pub use apiextensions::{Again, CLEANUP, is_established, of_definition};
pub use cells::Cells;
pub use defaults::set_defaults;
pub use documents::{Document, Swagger};
pub use networking::ingress_class::DEFAULT_CLASS as DEFAULT_INGRESS_CLASS;
pub use registry::{Endpoint, Registry, View};
pub use resource::{Change, Check, Home, Resource, Served};
pub use scale::{PodSelector, Scale};
pub use selectable::Selectable;
pub use subresource::{Behaviour, Connection, Subresource};
pub use table::IncludeObject;
pub use unique::{Unique, Within};
pub use verb::Verb;

#[cfg(test)]
mod tests;
