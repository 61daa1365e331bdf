//! Tokens that carry their own content: what is needed to look everything else up, under authenticated encryption.
//!
//! `base64url(version || key id || salt || AES-256-GCM(claims))`. Every token has an encryption key of its own, derived
//! (HKDF-SHA256) from the key named by the id and from the random salt, so that no nonce is ever used twice however
//! many tokens are issued.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hypernetes_api::types::identity::IDENTITY_NAMESPACE;
use hypernetes_client::Api;
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Client, api::PostParams};
use parking_lot::RwLock;
use rand::TryRngCore;
use ring::{aead, hkdf};
use serde::{Deserialize, Serialize};

use crate::{error::Error, roles::Target};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 8;
const SALT_BYTES: usize = 24;
const KEY_BYTES: usize = 32;
/// Longer texts are not tokens: no reason to decode them.
const MAX_TOKEN_CHARS: usize = 4096;
/// How often at most the keys are read again because a token names one that is not known.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);
/// In the namespace [`IDENTITY_NAMESPACE`]: each entry's name is the second since 1970 at which the key was made, its
/// value the key. The newest one encrypts, all decrypt.
const SECRET: &str = "token-keys";

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    #[serde(rename = "u")]
    pub user: String,
    #[serde(rename = "s")]
    pub scope: Scope,
    #[serde(rename = "m")]
    pub methods: Vec<Method>,
    /// Microseconds since 1970.
    #[serde(rename = "i")]
    pub issued_at: i64,
    /// Microseconds since 1970.
    #[serde(rename = "e")]
    pub expires_at: i64,
    /// Its own audit id, then those of the tokens that it was made from, the first of them last.
    #[serde(rename = "a")]
    pub audit_ids: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Method {
    #[serde(rename = "password")]
    Password,
    #[serde(rename = "token")]
    Token,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Scope {
    #[serde(rename = "u")]
    Unscoped,
    #[serde(rename = "s")]
    System,
    #[serde(rename = "d")]
    Domain(String),
    #[serde(rename = "p")]
    Project(String),
}

impl Scope {
    pub fn target(&self) -> Option<Target> {
        match self {
            Self::Unscoped => None,
            Self::System => Some(Target::System),
            Self::Domain(id) => Some(Target::Domain(id.clone())),
            Self::Project(id) => Some(Target::Project(id.clone())),
        }
    }
}

impl Claims {
    pub fn expires(&self) -> Timestamp {
        Timestamp::from_microsecond(self.expires_at).unwrap_or(Timestamp::MIN)
    }

    pub fn issued(&self) -> Timestamp {
        Timestamp::from_microsecond(self.issued_at).unwrap_or(Timestamp::MIN)
    }
}

/// The keys of tokens.
pub(crate) struct Keyring {
    secrets: Api<Secret>,
    keys: RwLock<BTreeMap<u64, [u8; KEY_BYTES]>>,
    read: tokio::sync::Mutex<Option<Instant>>,
}

impl Keyring {
    pub fn new(system: Client) -> Self {
        Self {
            secrets: Api::namespaced(system, IDENTITY_NAMESPACE),
            keys: RwLock::new(BTreeMap::new()),
            read: tokio::sync::Mutex::new(None),
        }
    }

    /// Makes the first key, unless there is one.
    pub async fn ensure(&self) -> Result<(), Error> {
        let mut secret = Secret::default();
        secret.metadata.name = Some(SECRET.into());
        secret.data = Some(BTreeMap::from([new_key()?]));
        match self.secrets.create(&PostParams::default(), &secret).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error.into()),
        }
        self.reload().await
    }

    /// Puts a new key before the others, through that client, and drops those that no living token can be under.
    ///
    /// # Errors
    /// [`Error::Conflict`] when another server does the same.
    pub async fn rotate(&self, system: &Client, token_lifetime: Duration) -> Result<(), Error> {
        let secrets: Api<Secret> = Api::namespaced(system.clone(), IDENTITY_NAMESPACE);
        let mut secret = secrets.get(SECRET).await?;
        let data = secret.data.get_or_insert_default();
        let (name, key) = new_key()?;
        let made: Vec<u64> = data.keys().filter_map(|name| name.parse().ok()).collect();
        let now = Timestamp::now().as_second().unsigned_abs();
        // A key encrypts until the next one is made; what it encrypted lives for one lifetime more.
        data.retain(|name, _| {
            let successor = made.iter().filter(|other| name.parse().is_ok_and(|own: u64| own < **other)).min();
            successor.is_none_or(|successor| successor.saturating_add(token_lifetime.as_secs()) > now)
        });
        data.insert(name, key);
        secrets.replace(SECRET, &PostParams::default(), &secret).await?;
        self.reload().await
    }

    /// When the newest key was made.
    pub fn newest(&self) -> Option<Timestamp> {
        let newest = *self.keys.read().last_key_value()?.0;
        Timestamp::from_second(i64::try_from(newest).ok()?).ok()
    }

    async fn reload(&self) -> Result<(), Error> {
        let secret = self.secrets.get(SECRET).await?;
        let entries = secret.data.unwrap_or_default().into_iter();
        let keys = entries.filter_map(|(name, value)| Some((name.parse().ok()?, value.0.try_into().ok()?))).collect();
        *self.keys.write() = keys;
        Ok(())
    }

    /// Reads the keys again, not more often than once in [`RELOAD_INTERVAL`].
    async fn refresh(&self) -> Result<(), Error> {
        let mut read = self.read.lock().await;
        if read.is_none_or(|moment| moment.elapsed() >= RELOAD_INTERVAL) {
            *read = Some(Instant::now());
            self.reload().await?;
        }
        Ok(())
    }

    pub async fn seal(&self, claims: &Claims) -> Result<String, Error> {
        if self.keys.read().is_empty() {
            self.refresh().await?;
        }
        let (id, key) = match self.keys.read().last_key_value() {
            Some((id, key)) => (*id, *key),
            None => return Err(Error::Unavailable("there is no key for tokens".into())),
        };
        let mut header = [0; HEADER_BYTES];
        header[0] = VERSION;
        header[1..].copy_from_slice(&id.to_be_bytes());
        let salt = random::<SALT_BYTES>()?;
        let mut content = serde_json::to_vec(claims).map_err(|error| Error::Unavailable(error.to_string()))?;
        cipher(&key, &salt)
            .and_then(|cipher| cipher.seal_in_place_append_tag(nonce(), aead::Aad::from(header), &mut content))
            .map_err(|_| Error::Unavailable("encryption failed".into()))?;
        let mut token = Vec::with_capacity(HEADER_BYTES + SALT_BYTES + content.len());
        token.extend_from_slice(&header);
        token.extend_from_slice(&salt);
        token.extend_from_slice(&content);
        Ok(URL_SAFE_NO_PAD.encode(token))
    }

    /// What the token says, or `None` when it is none of ours. Whether it has expired or been revoked is not looked at.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the keys cannot be read.
    pub async fn open(&self, token: &str) -> Result<Option<Claims>, Error> {
        if token.len() > MAX_TOKEN_CHARS {
            return Ok(None);
        }
        let Ok(bytes) = URL_SAFE_NO_PAD.decode(token) else { return Ok(None) };
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let Some((salt, content)) = rest.split_first_chunk::<SALT_BYTES>() else { return Ok(None) };
        let [VERSION, id @ ..] = *header else { return Ok(None) };
        let id = u64::from_be_bytes(id);
        let known = |keys: &RwLock<BTreeMap<u64, [u8; KEY_BYTES]>>| keys.read().get(&id).copied();
        let mut key = known(&self.keys);
        if key.is_none() {
            // Another server may have made it a moment ago.
            self.refresh().await?;
            key = known(&self.keys);
        }
        let Some(key) = key else { return Ok(None) };
        let mut content = content.to_vec();
        let opened = cipher(&key, salt)
            .and_then(|cipher| Ok(cipher.open_in_place(nonce(), aead::Aad::from(*header), &mut content)?.to_vec()));
        Ok(opened.ok().and_then(|plain| serde_json::from_slice(&plain).ok()))
    }
}

fn cipher(key: &[u8; KEY_BYTES], salt: &[u8; SALT_BYTES]) -> Result<aead::LessSafeKey, ring::error::Unspecified> {
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(key);
    let key = prk.expand(&[b"hypernetes token"], &aead::AES_256_GCM)?;
    Ok(aead::LessSafeKey::new(aead::UnboundKey::from(key)))
}

/// Each derived key encrypts one message only.
fn nonce() -> aead::Nonce {
    aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN])
}

fn new_key() -> Result<(String, ByteString), Error> {
    Ok((Timestamp::now().as_second().to_string(), ByteString(random::<KEY_BYTES>()?.to_vec())))
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(|error| Error::Unavailable(error.to_string()))?;
    Ok(bytes)
}

/// A new audit id: 16 random bytes, as Keystone has them.
pub(crate) fn new_audit_id() -> Result<String, Error> {
    Ok(URL_SAFE_NO_PAD.encode(random::<16>()?))
}
