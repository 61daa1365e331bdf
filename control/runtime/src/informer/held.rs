//! An object as a cache holds it: parsed, or as the text that the API server's cache has anyway.

use std::sync::Arc;

use hypernetes_client::shared::{self, Version};
use kube::Resource;
use serde::de::DeserializeOwned;

/// Whether the objects are kept as the text that the API server's cache has anyway: of kinds of which every cluster has some from its
/// start, which are looked at when they change and seldom else, and of what a cluster has one of in a namespace.
pub(super) fn is_seldom<K: Resource<DynamicType = ()>>(name: Option<&str>) -> bool {
    let of_every_cluster = ["Namespace", "Network", "Project", "ServiceAccount", "Subnet"];
    name.is_some() || of_every_cluster.contains(&&*K::kind(&()))
}

/// An object that is known.
pub(super) enum Held<K> {
    Parsed(Arc<K>),
    /// It was a `K` when it came.
    Text(Arc<dyn Version>),
}

impl<K> Clone for Held<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Parsed(object) => Self::Parsed(object.clone()),
            Self::Text(version) => Self::Text(version.clone()),
        }
    }
}

impl<K: Resource + DeserializeOwned> Held<K> {
    pub fn revision(&self) -> u64 {
        match self {
            Self::Parsed(object) => {
                object.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
            }
            Self::Text(version) => version.revision(),
        }
    }

    pub fn object(&self) -> Option<Arc<K>> {
        match self {
            Self::Parsed(object) => Some(object.clone()),
            Self::Text(version) => shared::parsed(&**version).map(Arc::new),
        }
    }
}
