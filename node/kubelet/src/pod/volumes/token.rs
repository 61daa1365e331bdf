//! Tokens of service accounts: each is asked for once, and again well before it ends.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccountTokenProjection},
};
use tokio::time::Instant;

use crate::{identity::PodId, node::api::ApiError, pod::objects::Objects};

/// Oldest that a token gets, and how much of its life it is used: upstream's figures.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
const USED_PERCENT: u32 = 80;
/// Soonest that another is asked for.
const LEAST: Duration = Duration::from_secs(10);

pub(super) struct Token {
    pub text: String,
    /// When another takes its place.
    pub renew: Instant,
    expires: Instant,
}

/// A pod's tokens, by what was asked for.
#[derive(Default)]
pub struct Tokens(HashMap<(Option<String>, Option<i64>), Token>);

impl Tokens {
    pub(super) async fn get(
        &mut self,
        objects: &Objects<'_>,
        id: &PodId,
        pod: &Pod,
        wanted: &ServiceAccountTokenProjection,
    ) -> Result<&Token, ApiError> {
        let key = (wanted.audience.clone(), wanted.expiration_seconds);
        let now = Instant::now();
        if self.0.get(&key).is_none_or(|token| token.renew <= now) {
            match ask(objects, id, pod, wanted).await {
                Ok(token) => drop(self.0.insert(key.clone(), token)),
                Err(error) => match self.0.get_mut(&key) {
                    // The old one still opens what it opened.
                    Some(token) if token.expires > now => {
                        tracing::warn!(pod = %id.uid, %error, "renewing a token");
                        token.renew = now + LEAST;
                    }
                    _ => return Err(error),
                },
            }
        }
        self.0.get(&key).ok_or(ApiError::NoToken)
    }
}

async fn ask(
    objects: &Objects<'_>,
    id: &PodId,
    pod: &Pod,
    wanted: &ServiceAccountTokenProjection,
) -> Result<Token, ApiError> {
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    let account = account.filter(|name| !name.is_empty()).unwrap_or("default");
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: wanted.audience.clone().map(|audience| vec![audience]),
            expiration_seconds: wanted.expiration_seconds,
            bound_object_ref: Some(BoundObjectReference {
                kind: Some("Pod".into()),
                api_version: Some("v1".into()),
                name: Some(id.name.to_string()),
                uid: Some(id.uid.to_string()),
            }),
        }),
        ..Default::default()
    };
    let answer = objects.token(account, &request).await?;
    let text = answer.token.filter(|text| !text.is_empty()).ok_or(ApiError::NoToken)?;
    let now = k8s_openapi::jiff::Timestamp::now();
    let left = answer.expiration_timestamp.map_or(0, |end| end.0.as_second() - now.as_second());
    let left = Duration::from_secs(u64::try_from(left).unwrap_or(0)).min(10 * 365 * MAX_AGE);
    let now = Instant::now();
    Ok(Token { text, renew: now + renewal(left), expires: now + left })
}

/// After how long another token is asked for, of a life of `left`.
fn renewal(left: Duration) -> Duration {
    (left * USED_PERCENT / 100).min(MAX_AGE).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_before_they_end() {
        let hour = Duration::from_secs(3600);
        assert_eq!(renewal(hour), hour * 8 / 10);
        assert_eq!(renewal(365 * 24 * hour), 24 * hour);
        assert_eq!(renewal(Duration::ZERO), LEAST);
    }
}
