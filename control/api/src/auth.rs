//! Who asks: the identity that authentication yields, and the contract of the identity service with the API server
//! and the OpenStack façades.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;

use crate::TenantId;

/// An authenticated requester, as `authentication.k8s.io` `UserInfo`, with the logical cluster its credential is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserInfo {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: std::collections::BTreeMap<String, Vec<String>>,
    /// The credential's own logical cluster; requests for another one are refused unless the user is infrastructure.
    pub tenant: TenantId,
}

/// What a valid Keystone token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    pub user_id: String,
    pub user_name: String,
    pub user_domain_id: String,
    pub user_domain_name: String,
    pub scope: TokenScope,
    /// Names of the roles in that scope, implied ones included (`admin` implies `member` implies `reader`).
    pub roles: Vec<String>,
    pub expires_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenScope {
    Unscoped,
    Project { id: TenantId, name: String, domain_id: String, domain_name: String },
    Domain { id: String, name: String },
    System,
}

impl TokenInfo {
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|r| r == role)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Unknown, malformed, expired or revoked; which of them is not told.
    #[error("the token is not valid")]
    Invalid,
    #[error("the identity service cannot validate tokens now: {0}")]
    Unavailable(String),
}

/// Validates Keystone tokens: the built-in identity service, or an existing Keystone.
#[async_trait]
pub trait TokenAuthority: Send + Sync + 'static {
    async fn validate(&self, token: &str) -> Result<TokenInfo, TokenError>;
}

/// In the extensions of a request to a service that knows its callers itself: where the service says whose request it has turned out to
/// be, for who records and counts it.
#[derive(Debug, Clone, Default)]
pub struct Asking(Arc<OnceLock<TokenInfo>>);

impl Asking {
    /// Says it, where a request is listened to. The first word counts.
    pub fn tell(extensions: &http::Extensions, token: &TokenInfo) {
        if let Some(asking) = extensions.get::<Self>() {
            asking.is_of(token);
        }
    }

    pub fn is_of(&self, token: &TokenInfo) {
        let _ = self.0.set(token.clone());
    }

    /// None: the request is nobody's who is known.
    pub fn token(&self) -> Option<&TokenInfo> {
        self.0.get()
    }
}

/// In the extensions of a response: processor time that was spent for it by threads that do not serve the connection, and that whoever
/// asked is to pay for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spent {
    pub cost: Duration,
    /// Who it turned out to be: it pays beside the source.
    pub tenant: Option<TenantId>,
}

/// Where a connection comes from: an IPv4 address, or the 64 bits of an IPv6 address that name a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl Source {
    /// The address, or the first of the network.
    pub fn address(self) -> IpAddr {
        self.0
    }
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() >> 64 << 64;
                Self(IpAddr::V6(Ipv6Addr::from_bits(network)))
            }
            address => Self(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_address_or_a_network_of_64_bits() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(source("127.0.0.2"), source("::ffff:127.0.0.2"));
        assert_ne!(source("127.0.0.2"), source("127.0.0.3"));
        assert_eq!(source("2001:db8:0:1::1"), source("2001:db8:0:1:ffff::2"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
    }
}
