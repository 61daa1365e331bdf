//! What an authority is made of, and the Secret that it is kept as.
//!
//! The Secret is `authority-<tenant>` in the namespace `hypernetes-identity` of the operator's cluster, which is read by
//! the operator and the server's own components alone. It belongs to the tenant's Project, with which it is collected. Its
//! entries: `token.key`, P-256 in PKCS #8 PEM; `ca.key`, the same, and `ca.crt`, PEM, which the system's own has not: its
//! certificate authority is that of the installation. The system's has besides what was recorded when there was one key
//! for all tenants until then: `earlier-token.pub`, SPKI PEM, and `earlier-until`, RFC 3339.

use std::sync::Arc;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use hypernetes_api::{TenantId, names, types::identity::IDENTITY_NAMESPACE};
use hypernetes_certificates::issue::{IssueError, Issuer};
use jsonwebtoken::{DecodingKey, EncodingKey};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use serde_json::{Map, Value, json};

const PREFIX: &str = "authority-";
const TYPE: &str = "hypernetes.io/authority";
pub const TOKEN_KEY: &str = "token.key";
/// Entries of a tenant's, for whoever issues certificates.
pub const CA_KEY: &str = "ca.key";
pub const CA_CERTIFICATE: &str = "ca.crt";
const EARLIER_TOKEN_KEY: &str = "earlier-token.pub";
const EARLIER_UNTIL: &str = "earlier-until";
/// As long as the installation's own.
const AUTHORITY_DAYS: i64 = 3650;

/// It could not be made, or is none.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{0} is damaged")]
    Damaged(&'static str),
    #[error("its key cannot be made: {0}")]
    Key(#[from] rcgen::Error),
    #[error("its key of tokens: {0}")]
    Token(#[from] jsonwebtoken::errors::Error),
    #[error("its certificate: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("its certificate: {0}")]
    Certificate(#[from] rustls::Error),
    #[error(transparent)]
    Issuer(#[from] IssueError),
    #[error("its certificate: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// What signs for one tenant, or for the system. There is no text of it: keys are not for logs.
pub struct Authority {
    pub tenant: TenantId,
    /// Name of the key of tokens: SHA-256 of its public half (DER), base64url, as upstream names them.
    pub kid: String,
    pub encoding: EncodingKey,
    pub decoding: DecodingKey,
    /// The public point of the key of tokens: 32 bytes each, base64url.
    pub point: (String, String),
    /// Of client certificates. The system's own are the installation's authority's.
    pub clients: Option<Clients>,
}

pub struct Clients {
    pub verifier: Arc<dyn ClientCertVerifier>,
    /// The authority's key, as its certificates name it.
    pub key_id: Box<[u8]>,
}

/// What signed for all tenants before each had its own.
pub struct Earlier {
    pub decoding: DecodingKey,
    /// When that ended.
    pub until: jiff::Timestamp,
}

/// Name of the Secret.
pub fn secret_name(tenant: &TenantId) -> String {
    format!("{PREFIX}{tenant}")
}

/// Whose authority a Secret of that name is.
pub fn tenant_of(secret: &str) -> Option<TenantId> {
    secret.strip_prefix(PREFIX)?.parse().ok()
}

/// A new authority, as a Secret that is not stored yet. `project`: the uid of the tenant's Project, which is the owner.
///
/// # Errors
/// When there is no randomness to make keys of.
pub fn tenants(tenant: &TenantId, project: &str) -> Result<Value, MaterialError> {
    let key = KeyPair::generate()?;
    let certificate = certificate(tenant, &key)?;
    let mut secret = secret(
        tenant,
        &[
            (TOKEN_KEY, &KeyPair::generate()?.serialize_pem()),
            (CA_KEY, &key.serialize_pem()),
            (CA_CERTIFICATE, &certificate),
        ],
    );
    secret["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "identity.hypernetes.io/v1alpha1", "kind": "Project", "name": tenant.as_str(), "uid": project,
    }]);
    Ok(secret)
}

/// The system's own, with the public key, SPKI PEM, of what signed all tokens until `now`, if anything did.
///
/// # Errors
/// As [`tenants`].
pub fn systems(earlier: Option<&str>, now: jiff::Timestamp) -> Result<Value, MaterialError> {
    let (key, now) = (KeyPair::generate()?.serialize_pem(), now.to_string());
    let mut entries = vec![(TOKEN_KEY, key.as_str())];
    if let Some(public) = earlier {
        entries.extend([(EARLIER_TOKEN_KEY, public), (EARLIER_UNTIL, &now)]);
    }
    Ok(secret(&TenantId::system(), &entries))
}

fn secret(tenant: &TenantId, entries: &[(&str, &str)]) -> Value {
    let data: Map<String, Value> =
        entries.iter().map(|(name, text)| ((*name).to_owned(), STANDARD.encode(text).into())).collect();
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": TYPE, "data": data,
        "metadata": {"name": secret_name(tenant), "namespace": IDENTITY_NAMESPACE},
    })
}

fn certificate(tenant: &TenantId, key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{}{tenant}", names::CERTIFICATE_TENANT_URI));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let day = |days: i64| {
        let then = jiff::Timestamp::now().saturating_add(jiff::SignedDuration::from_hours(days * 24));
        let then = then.unwrap_or(jiff::Timestamp::MAX).to_zoned(jiff::tz::TimeZone::UTC);
        rcgen::date_time_ymd(then.year().into(), then.month() as u8, then.day() as u8)
    };
    // Clocks of hosts differ.
    (params.not_before, params.not_after) = (day(-1), day(AUTHORITY_DAYS));
    Ok(params.self_signed(key)?.pem())
}

/// What signs a tenant's certificates, read from its Secret when something is signed: it is not kept in memory.
///
/// # Errors
/// When something is missing or damaged.
pub fn issuer(secret: &Value) -> Result<Issuer, MaterialError> {
    let needed = |name| entry(secret, name)?.ok_or(MaterialError::Missing(name));
    Ok(Issuer::from_pem(&needed(CA_CERTIFICATE)?, &needed(CA_KEY)?)?)
}

/// An entry of a Secret's data.
fn entry(secret: &Value, name: &'static str) -> Result<Option<String>, MaterialError> {
    let Some(text) = secret["data"][name].as_str() else { return Ok(None) };
    let bytes = STANDARD.decode(text).map_err(|_| MaterialError::Damaged(name))?;
    String::from_utf8(bytes).map(Some).map_err(|_| MaterialError::Damaged(name))
}

impl Authority {
    /// # Errors
    /// When something is missing or damaged.
    pub fn read(tenant: TenantId, secret: &Value) -> Result<Self, MaterialError> {
        let needed = |name| entry(secret, name)?.ok_or(MaterialError::Missing(name));
        let pem = needed(TOKEN_KEY)?;
        let key = KeyPair::from_pem(&pem)?;
        // An uncompressed point: 4, and twice 32 bytes.
        let point = match key.public_key_raw() {
            [4, point @ ..] if point.len() == 64 => point,
            _ => return Err(MaterialError::Damaged(TOKEN_KEY)),
        };
        let (x, y) = point.split_at(32);
        let public = key.public_key_pem();
        let der = rustls::pki_types::SubjectPublicKeyInfoDer::from_pem_slice(public.as_bytes())?;
        let clients = match tenant.is_system() {
            true => None,
            false => Some(Clients::read(&needed(CA_CERTIFICATE)?)?),
        };
        Ok(Self {
            kid: URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, &der)),
            encoding: EncodingKey::from_ec_pem(pem.as_bytes())?,
            decoding: DecodingKey::from_ec_pem(public.as_bytes())?,
            point: (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y)),
            clients,
            tenant,
        })
    }
}

impl Clients {
    fn read(certificate: &str) -> Result<Self, MaterialError> {
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())?;
        let key_id = super::client::subject_key_id(&certificate).ok_or(MaterialError::Damaged(CA_CERTIFICATE))?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        Ok(Self { verifier, key_id })
    }
}

impl Earlier {
    /// # Errors
    /// When it is damaged.
    pub fn read(secret: &Value) -> Result<Option<Self>, MaterialError> {
        let (Some(public), Some(until)) = (entry(secret, EARLIER_TOKEN_KEY)?, entry(secret, EARLIER_UNTIL)?) else {
            return Ok(None);
        };
        let until = until.parse().map_err(|_| MaterialError::Damaged(EARLIER_UNTIL))?;
        Ok(Some(Self { decoding: DecodingKey::from_ec_pem(public.as_bytes())?, until }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_read_again_and_is_the_tenants() {
        let tenant: TenantId = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let secret = tenants(&tenant, "u-1").unwrap();
        assert_eq!(tenant_of(secret["metadata"]["name"].as_str().unwrap()).as_ref(), Some(&tenant));
        assert_eq!(secret["metadata"]["ownerReferences"][0]["uid"], "u-1");
        let (one, again) =
            (Authority::read(tenant.clone(), &secret).unwrap(), Authority::read(tenant.clone(), &secret).unwrap());
        assert_eq!((&one.kid, &one.point), (&again.kid, &again.point));
        assert_eq!(one.clients.unwrap().key_id, again.clients.unwrap().key_id);
        let other = Authority::read(tenant.clone(), &tenants(&tenant, "u-1").unwrap()).unwrap();
        assert_ne!(one.kid, other.kid);
        for name in [TOKEN_KEY, CA_CERTIFICATE] {
            let mut damaged = secret.clone();
            damaged["data"][name] = "AAAA".into();
            assert!(Authority::read(tenant.clone(), &damaged).is_err(), "{name}");
            damaged["data"].as_object_mut().unwrap().remove(name);
            assert!(Authority::read(tenant.clone(), &damaged).is_err(), "{name}");
        }
    }

    #[test]
    fn the_system_remembers_what_was_before() {
        let now = jiff::Timestamp::now();
        let public = KeyPair::generate().unwrap().public_key_pem();
        let secret = systems(Some(&public), now).unwrap();
        assert_eq!(Earlier::read(&secret).unwrap().unwrap().until, now);
        assert!(Authority::read(TenantId::system(), &secret).unwrap().clients.is_none());
        assert!(Earlier::read(&systems(None, now).unwrap()).unwrap().is_none());
    }
}
