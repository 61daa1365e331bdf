//! `apiextensions.k8s.io`: kinds that a tenant defines for itself.

mod columns;
mod custom;
mod definition;
mod names;
mod rules;
mod schema;
mod structural;

pub use custom::{Again, resources as of_definition};
pub use definition::{CLEANUP, is_established};

use crate::resource::Resource;

/// `others`: the groups of all other kinds that are built in, in which no tenant defines any.
pub(crate) fn resources(others: impl IntoIterator<Item = String>) -> Vec<Resource> {
    let definitions = definition::resource();
    names::reserve(others.into_iter().chain([definitions.ty.group.clone()]).collect());
    vec![definitions]
}
