//! What a resource is called.

use std::sync::Arc;

/// A group and plural, e.g. `apps`/`deployments`; the core group is the empty string.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceId {
    pub group: Arc<str>,
    pub plural: Arc<str>,
}

impl ResourceId {
    pub fn new(group: &str, plural: &str) -> Self {
        Self { group: group.into(), plural: plural.into() }
    }
}
