//! `apiextensions.k8s.io`: kinds that a tenant defines for itself.

pub(crate) mod columns;
mod custom;
mod definition;
mod names;
pub(crate) mod rules;
mod schema;
mod structural;
#[cfg(test)]
mod tests;

pub use custom::resources as of_definition;
pub use definition::{CLEANUP, is_established};

use crate::resource::Resource;

pub(crate) fn resources() -> Vec<Resource> {
    vec![definition::resource()]
}
