//! Manifests and indexes (OCI image-spec; Docker's schema 2 is the same under other media types).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{Digest, ImageError, error::invalid};

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub digest: Digest,
    /// Old archives leave it out.
    pub size: Option<u64>,
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
    pub platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Platform {
    pub architecture: String,
    pub os: String,
}

/// An index or a manifest; told apart by what is there.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document {
    pub schema_version: Option<u32>,
    pub manifests: Option<Vec<Descriptor>>,
    pub config: Option<Descriptor>,
    pub layers: Option<Vec<Descriptor>>,
}

/// What a manifest says of an image.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub config: Descriptor,
    /// Lowest first.
    pub layers: Vec<Descriptor>,
}

impl Document {
    pub fn parse(bytes: &[u8], what: &str) -> Result<Self, ImageError> {
        serde_json::from_slice(bytes).map_err(|error| invalid(format!("{what}: {error}")))
    }

    pub fn into_manifest(self, max_layers: usize) -> Result<Manifest, ImageError> {
        if self.schema_version == Some(1) {
            return Err(invalid("its manifest is of Docker's schema 1, which is no longer used; push the image anew"));
        }
        let (Some(config), Some(layers)) = (self.config, self.layers) else {
            return Err(invalid("the manifest has no config or no layers"));
        };
        if layers.len() > max_layers {
            return Err(invalid(format!("{} layers; {max_layers} is the limit", layers.len())));
        }
        Ok(Manifest { config, layers })
    }
}

/// An index may hold an index; more levels than that nobody makes.
pub(crate) const MAX_INDEXES: usize = 3;

/// This machine's platform; else what names none; an index of only other platforms is an error.
pub(crate) fn choose(manifests: &[Descriptor]) -> Result<&Descriptor, ImageError> {
    let ours = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == "amd64");
    let unnamed = |d: &&Descriptor| d.platform.is_none();
    manifests
        .iter()
        .find(ours)
        .or_else(|| manifests.iter().find(unnamed))
        .ok_or_else(|| invalid("no match for platform in manifest: none is for linux/amd64"))
}
