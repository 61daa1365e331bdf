//! Ids of objects: made up, or the same in every installation.

use sha2::{Digest, Sha256};

/// A new Keystone id: 32 random hex digits.
pub(crate) fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// Id of the default domain, as in every Keystone.
pub(crate) const DEFAULT_DOMAIN: &str = hypernetes_api::names::DEFAULT_DOMAIN;

/// Id of the project whose admins administer the whole installation, whatever its name is by now.
pub(crate) fn admin_project_id() -> String {
    well_known_id("project/admin")
}

pub(crate) fn admin_user_id() -> String {
    well_known_id("user/admin")
}

/// Id of an object that every installation has: the same in each of several servers that bootstrap at once.
pub(crate) fn well_known_id(what: &str) -> String {
    digest(&["hypernetes", what])
}

/// 32 hex digits of what the parts are together.
pub(crate) fn digest(parts: &[&str]) -> String {
    let digest = Sha256::digest(parts.join("\0"));
    hex::encode(&digest[..16])
}
