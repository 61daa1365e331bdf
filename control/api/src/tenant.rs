//! Who owns a thing: the tenant is part of every key, handle and queue entry.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// A tenant: the id of its Keystone project, or [`TenantId::SYSTEM`], the operator's logical cluster.
///
/// Invariant: a DNS label (RFC 1123) of at most 63 bytes, so that it can stand in URLs, paths and labels.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// Name of the operator's logical cluster. No Keystone project can have it: project ids are 32 hex digits.
    pub const SYSTEM: &'static str = "system";

    pub fn system() -> Self {
        Self(Self::SYSTEM.into())
    }

    pub fn is_system(&self) -> bool {
        &*self.0 == Self::SYSTEM
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is not a DNS label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a tenant id: want a DNS label of at most 63 lower-case letters, digits and dashes")]
pub struct InvalidTenantId(String);

impl FromStr for TenantId {
    type Err = InvalidTenantId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text.as_bytes();
        let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let valid = !bytes.is_empty()
            && bytes.len() <= 63
            && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
            && bytes.first().is_some_and(alphanumeric)
            && bytes.last().is_some_and(alphanumeric);
        if valid { Ok(Self(text.into())) } else { Err(InvalidTenantId(text.chars().take(80).collect())) }
    }
}

impl TryFrom<String> for TenantId {
    type Error = InvalidTenantId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TenantId> for String {
    fn from(id: TenantId) -> Self {
        id.0.to_string()
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TenantId({})", self.0)
    }
}

/// The capability to act across tenants.
///
/// Only the wiring of infrastructure components (the binary, and tests) may make one, with [`AllTenants::grant`];
/// whoever reviews a change finds every such place by that name.
#[derive(Debug, Clone)]
pub struct AllTenants(());

impl AllTenants {
    /// For the wiring of infrastructure components only: see the type.
    pub fn grant() -> Self {
        Self(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_dns_labels() {
        for good in ["system", "a", "0cbd49cbf76d405d9c86562e1d579bd3", "a-b"] {
            assert_eq!(good.parse::<TenantId>().unwrap().as_str(), good);
        }
        for bad in ["", "*", "A", "a/b", "a.b", "-a", "a-", "..", &"a".repeat(64)] {
            assert!(bad.parse::<TenantId>().is_err(), "{bad:?}");
        }
    }
}
