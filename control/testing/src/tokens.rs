//! An identity service that gives whoever asks what its token says.

use async_trait::async_trait;
use hypernetes_api::auth::{TokenAuthority, TokenError, TokenInfo, TokenScope};
use jiff::Timestamp;

/// Each role implies those before it.
const ROLES: [&str; 3] = ["reader", "member", "admin"];

/// Tokens are `<role>@<project>`; `<role>@system` those of the system's scope, `<role>@` those of none. They never expire.
pub struct Tokens;

#[async_trait]
impl TokenAuthority for Tokens {
    async fn validate(&self, token: &str) -> Result<TokenInfo, TokenError> {
        let (role, project) = token.split_once('@').ok_or(TokenError::Invalid)?;
        let scope = match project {
            "system" => TokenScope::System,
            "" => TokenScope::Unscoped,
            id => TokenScope::Project {
                id: id.parse().map_err(|_| TokenError::Invalid)?,
                name: id.into(),
                domain_id: "default".into(),
                domain_name: "Default".into(),
            },
        };
        let rank = ROLES.iter().position(|other| *other == role).ok_or(TokenError::Invalid)?;
        Ok(TokenInfo {
            user_id: "u".into(),
            user_name: "jane".into(),
            user_domain_id: "default".into(),
            user_domain_name: "Default".into(),
            scope,
            roles: ROLES[..=rank].iter().map(|role| (*role).to_owned()).collect(),
            expires_at: Timestamp::MAX,
        })
    }
}
