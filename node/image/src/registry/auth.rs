//! Who pulls: credentials, a registry's challenge, and the token that answers it.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{
    StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;

use super::{Endpoint, Failure, causes, limited, reach::NO_HOST};

/// What a registry is told of who pulls. Its `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    Basic {
        username: String,
        password: String,
    },
    /// A bearer token for the registry itself.
    Token(String),
    /// A refresh token, which the registry's token server exchanges for one.
    Identity(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

const TOKEN_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_TOKEN_BYTES: u64 = 256 << 10;

/// How a registry wants to be asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, parameters: BTreeMap<String, String> },
}

/// The best challenge that a 401 offers: a token before a password in each request.
pub(crate) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = None;
    for value in headers.get_all(WWW_AUTHENTICATE).iter().take(8) {
        let Ok(challenges) = http_auth::parse_challenges(value.to_str().unwrap_or_default()) else { continue };
        for challenge in challenges {
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            } else if challenge.scheme.eq_ignore_ascii_case("bearer") {
                let mut parameters: BTreeMap<String, String> = challenge
                    .params
                    .iter()
                    .map(|(key, value)| (key.to_ascii_lowercase(), value.to_unescaped()))
                    .collect();
                if let Some(realm) = parameters.remove("realm") {
                    return Some(Challenge::Bearer { realm, parameters });
                }
            }
        }
    }
    basic
}

/// The header that is sent before any challenge.
pub(crate) fn in_advance(credentials: Option<&Credentials>) -> Option<HeaderValue> {
    match credentials {
        Some(Credentials::Token(token)) => bearer(token).ok(),
        _ => None,
    }
}

fn secret(text: String) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| Failure::Unauthorized("the credentials have characters that no header may have".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn bearer(token: &str) -> Result<HeaderValue, Failure> {
    secret(format!("Bearer {token}"))
}

fn basic(username: &str, password: &str) -> Result<HeaderValue, Failure> {
    secret(format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
}

/// The header that answers a challenge.
pub(crate) async fn answer(
    endpoint: &Endpoint,
    challenge: Challenge,
    repository: &str,
    credentials: Option<&Credentials>,
) -> Result<HeaderValue, Failure> {
    match (challenge, credentials) {
        (Challenge::Basic, Some(Credentials::Basic { username, password })) => basic(username, password),
        (Challenge::Basic, Some(_)) => Err(Failure::Unauthorized("it asks for a user name and password".into())),
        (Challenge::Basic, None) => {
            Err(Failure::Unauthorized("authorization failed: no basic auth credentials".into()))
        }
        (Challenge::Bearer { realm, mut parameters }, credentials) => {
            let realm = realm_url(endpoint, &realm)?;
            if !endpoint.reach.allows(&realm) {
                return Err(Failure::Unreachable(format!("its token server: {NO_HOST}")));
            }
            parameters.entry("scope".into()).or_insert_with(|| format!("repository:{repository}:pull"));
            parameters.retain(|key, _| matches!(key.as_str(), "service" | "scope"));
            bearer(&token(endpoint, realm, &parameters, credentials).await?)
        }
    }
}

/// Credentials go to the realm: over TLS unless the registry itself is asked without.
fn realm_url(endpoint: &Endpoint, realm: &str) -> Result<Url, Failure> {
    let wrong = || Failure::Broken("its token server's address is not acceptable".into());
    let url: Url = realm.parse().map_err(|_| wrong())?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if endpoint.base.starts_with("http://") => Ok(url),
        _ => Err(wrong()),
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

async fn token(
    endpoint: &Endpoint,
    realm: Url,
    parameters: &BTreeMap<String, String>,
    credentials: Option<&Credentials>,
) -> Result<String, Failure> {
    let request = match credentials {
        Some(Credentials::Identity(refresh_token)) => {
            let mut form = parameters.clone();
            form.insert("grant_type".into(), "refresh_token".into());
            form.insert("refresh_token".into(), refresh_token.clone());
            form.insert("client_id".into(), "hypernetes".into());
            endpoint.client.post(realm).form(&form)
        }
        Some(Credentials::Basic { username, password }) => {
            endpoint.client.get(realm).query(parameters).header(AUTHORIZATION, basic(username, password)?)
        }
        Some(Credentials::Token(_)) => {
            return Err(Failure::Unauthorized("the registry does not accept the token".into()));
        }
        None => endpoint.client.get(realm).query(parameters),
    };
    let answer = request.timeout(TOKEN_TIMEOUT).send().await;
    let answer = answer.map_err(|error| Failure::Unreachable(format!("its token server: {}", causes(&error))))?;
    let status = answer.status();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
            return Err(Failure::Unauthorized(format!("its token server answers {status}")));
        }
        status if status.is_success() => {}
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            return Err(Failure::Unreachable(format!("its token server answers {status}")));
        }
        status => return Err(Failure::Broken(format!("its token server answers {status}"))),
    }
    let body = limited(answer, MAX_TOKEN_BYTES).await?;
    let answer: TokenAnswer = serde_json::from_slice(&body)
        .map_err(|_| Failure::Broken("its token server answers something that is no token".into()))?;
    answer
        .token
        .or(answer.access_token)
        .filter(|token| !token.is_empty())
        .ok_or_else(|| Failure::Unauthorized("its token server gives no token".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_preferred_to_a_password() {
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"x\""));
        assert_eq!(challenge(&headers), Some(Challenge::Basic));
        let bearer =
            "Bearer realm=\"https://auth.example.com/token\",service=\"registry\",scope=\"repository:a/b:pull\"";
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(bearer));
        let Some(Challenge::Bearer { realm, parameters }) = challenge(&headers) else { panic!() };
        assert_eq!((realm.as_str(), parameters["service"].as_str()), ("https://auth.example.com/token", "registry"));
        for garbage in ["", "Bearer", "Bearer realm", "Digest realm=\"x\"", "Bearer =,=,="] {
            let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, HeaderValue::from_static(garbage))]);
            assert_eq!(challenge(&headers), None, "{garbage}");
        }
    }
}
