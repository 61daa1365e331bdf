//! What a further server of one etcd needs of the others: the installation's authority, and the admin's password.
//!
//! ```text
//! `store token create` on a server's host: sealed with a random key ─▶ the etcd, by the token's ID, for an hour
//!                                          ID and that key ─▶ a file, which the operator takes to the further server
//! ```
//!
//! Neither is of use without the other. Beside it the etcd has the hash of the authority, by which servers know that they have the same: two
//! authorities over one store would refuse each other's nodes.

use std::path::Path;

use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hypernetes_store::log::etcd::{Config, Shared};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};

use crate::pki::{self, Authority};

/// What lets a server in.
pub struct Token {
    id: String,
    key: [u8; 32],
}

impl Token {
    fn new() -> Self {
        Self { id: format!("{:016x}", rand::random::<u64>()), key: rand::random() }
    }

    /// # Errors
    /// When it is none. It is not shown.
    pub fn parse(text: &str) -> Result<Self> {
        let parsed = text.trim().split_once('.').and_then(|(id, key)| {
            let key = URL_SAFE_NO_PAD.decode(key).ok()?.try_into().ok()?;
            let known = id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            known.then(|| Self { id: id.to_owned(), key })
        });
        parsed.context("that is no token of `hypernetes store token create`")
    }

    /// As it is in a file.
    pub fn text(&self) -> String {
        format!("{}.{}\n", self.id, URL_SAFE_NO_PAD.encode(self.key))
    }

    /// By which the etcd has what it opens; no secret.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn sealing(&self) -> Result<(LessSafeKey, Nonce, Aad<String>)> {
        let key = UnboundKey::new(&AES_256_GCM, &self.key).ok().context("making a key of the token")?;
        let about = format!("hypernetes: what a further server needs, 1, {}", self.id);
        // The key is the token's own, and seals once.
        Ok((LessSafeKey::new(key), Nonce::assume_unique_for_key([0; NONCE_LEN]), Aad::from(about)))
    }

    fn seal(&self, needed: &Needed) -> Result<Vec<u8>> {
        let (key, nonce, about) = self.sealing()?;
        let mut bytes = serde_json::to_vec(needed)?;
        key.seal_in_place_append_tag(nonce, about, &mut bytes).ok().context("sealing what a further server needs")?;
        Ok(bytes)
    }

    fn open(&self, mut sealed: Vec<u8>) -> Result<Needed> {
        let (key, nonce, about) = self.sealing()?;
        let opened = key.open_in_place(nonce, about, &mut sealed).ok();
        let opened = opened.context("the token is not what the etcd has of its ID: make another one")?;
        Ok(serde_json::from_slice(opened)?)
    }
}

/// What a further server has not.
#[derive(Serialize, Deserialize)]
pub struct Needed {
    /// The authority's, PEM.
    pub certificate: String,
    pub key: String,
    pub admin_password: String,
}

/// Makes a token by which others become servers of the etcd, for so many seconds.
///
/// # Errors
/// When the etcd does not answer, or is not that authority's.
pub async fn invite(config: &Config, authority: &Authority, admin_password: &str, seconds: u32) -> Result<Token> {
    let (shared, token) = (Shared::new(config)?, Token::new());
    match shared.authority().await? {
        Some(hash) if hash == authority.hash() => {}
        Some(_) => bail!("the servers of this etcd have another authority than this one"),
        None => bail!("no server has used {} of this etcd yet", config.prefix),
    }
    let needed = Needed {
        certificate: authority.certificate().to_owned(),
        key: authority.key(),
        admin_password: admin_password.to_owned(),
    };
    shared.offer(token.id(), token.seal(&needed)?, seconds).await?;
    Ok(token)
}

/// Before anything is made in its directory: whether this server, whose authority is in `pki` if it has one, may use the etcd. What it has to keep before
/// it goes on, if it is a further one.
///
/// # Errors
/// When it has another authority than the others, or none and no token that is good.
pub async fn join(config: &Config, token: Option<&Token>, pki: &Path) -> Result<Option<Needed>> {
    let shared = Shared::new(config)?;
    let (hash, own) = (shared.authority().await?, Authority::is_there(pki));
    let hash = match hash {
        Some(hash) if own => {
            if Authority::open(pki)?.hash() == hash {
                return Ok(None);
            }
            bail!(
                "the servers of this etcd have another authority than {}: remove this server's directory, and start it with a \
                 --token-file that one of them made (`hypernetes store token create`); or give it another --etcd-prefix",
                pki.display()
            );
        }
        Some(hash) => hash,
        // Of servers of before, or of a snapshot.
        None if !own && shared.has_store().await? => bail!(
            "this etcd has a store, and no server has said whose authority is its: start one of those that have used it, or copy `pki` and \
             `admin.openrc` from one"
        ),
        None => return Ok(None),
    };
    let Some(token) = token else {
        bail!(
            "this etcd has other servers, whose authority this one does not have: start it with a --token-file that one of them made \
             (`hypernetes store token create`)"
        );
    };
    let Some(sealed) = shared.offered(token.id()).await? else {
        bail!("the token {} is not good any more, or of another etcd: make another one", token.id());
    };
    let needed = token.open(sealed)?;
    if pki::hash_of_key(&needed.key)? != hash {
        bail!("the token {} is of another authority than the servers of this etcd have", token.id());
    }
    Ok(Some(needed))
}

/// Once the store is open: the first server's authority is that of all.
///
/// # Errors
/// When another server has begun at the same time. What this one made is removed if nothing was signed with it yet (`made`).
pub async fn agree(config: &Config, authority: &Authority, pki: &Path, made: bool) -> Result<()> {
    if Shared::new(config)?.claim_authority(&authority.hash()).await? == authority.hash() {
        return Ok(());
    }
    if made {
        Authority::forget(pki)?;
    }
    bail!("another server has begun at the same time: start this one with a --token-file that the other one made")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_is_opened_by_its_token_alone() {
        let token = Token::new();
        let needed =
            Needed { certificate: "c".into(), key: "PRIVATE KEY".into(), admin_password: "secret-of-admin".into() };
        let sealed = token.seal(&needed).unwrap();
        for secret in ["secret-of-admin", "PRIVATE KEY"] {
            assert!(!sealed.windows(secret.len()).any(|part| part == secret.as_bytes()));
        }
        let read = Token::parse(&token.text()).unwrap();
        assert_eq!(read.open(sealed.clone()).unwrap().admin_password, "secret-of-admin");
        let other = Token { id: token.id.clone(), key: rand::random() };
        let of_another = Token { id: Token::new().id, key: token.key };
        for wrong in [other, of_another] {
            assert!(wrong.open(sealed.clone()).is_err());
        }
        for text in ["", "a.b", "0123456789abcdef", "0123456789abcdef.c2hvcnQ", &token.text()[1..]] {
            let error = Token::parse(text).err().expect("it is none").to_string();
            assert!(text.is_empty() || !error.contains(text.trim()), "{error}");
        }
    }
}
