//! What an authority is made of, and the Secret that it is kept as.
//!
//! The Secret is `authority-<tenant>` in the namespace `hypernetes-identity` of the operator's cluster, which is read by
//! the operator and the server's own components alone. It belongs to the tenant's Project, with which it is collected. Its
//! entries: `token.key`, P-256 in PKCS #8 PEM; `ca.key`, the same, and `ca.crt`, PEM, which the system's own has not: its
//! certificate authority is that of the installation. One that has been renewed has the certificate of the one before,
//! `earlier-ca.crt`, whose key is gone, and until when that is trusted, `earlier-ca-until`, RFC 3339. The system's has besides
//! what was recorded when there was one key for all tenants until then: `earlier-token.pub`, SPKI PEM, and `earlier-until`.

use std::sync::Arc;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use hypernetes_api::{TenantId, names, types::identity::IDENTITY_NAMESPACE};
use hypernetes_certificates::issue::{IssueError, Issuer};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{DecodingKey, EncodingKey};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use serde_json::{Map, Value, json};
use x509_parser::{
    extensions::ParsedExtension,
    prelude::{FromDer, X509Certificate},
};

const PREFIX: &str = "authority-";
const TYPE: &str = "hypernetes.io/authority";
pub const TOKEN_KEY: &str = "token.key";
/// Entries of a tenant's, for whoever issues certificates.
pub const CA_KEY: &str = "ca.key";
pub const CA_CERTIFICATE: &str = "ca.crt";
const EARLIER_TOKEN_KEY: &str = "earlier-token.pub";
const EARLIER_UNTIL: &str = "earlier-until";
const EARLIER_CA_CERTIFICATE: &str = "earlier-ca.crt";
const EARLIER_CA_UNTIL: &str = "earlier-ca-until";
/// No certificate of a tenant's is good for longer: as long as `hypernetes tenant kubeconfig --static` gives one at most.
pub const LONGEST_CLIENT: SignedDuration = SignedDuration::from_hours(366 * 24);
/// An authority signs for as long as this, and is trusted as long again, until all has ended that it has signed. A week more, in which
/// it is renewed.
const AUTHORITY: SignedDuration = SignedDuration::from_hours((2 * 366 + 7) * 24);
/// From so long ago a certificate is good, and to so much its times are rounded: clocks of hosts differ.
pub(super) const ROUNDED: SignedDuration = SignedDuration::from_hours(2 * 24);

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

/// Whom a tenant's client certificates are trusted by: the authority that signs them, and the one that did before.
pub struct Clients {
    pub current: Trusted,
    earlier: Option<Trusted>,
}

pub struct Trusted {
    pub verifier: Arc<dyn ClientCertVerifier>,
    /// The authority's key, as its certificates name it.
    pub key_id: Box<[u8]>,
    from: Timestamp,
    until: Timestamp,
}

/// What signed for all tenants before each had its own.
pub struct Earlier {
    pub decoding: DecodingKey,
    /// When that ended.
    pub until: Timestamp,
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
    let certificate = certificate(tenant, &key, Timestamp::now())?;
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
pub fn systems(earlier: Option<&str>, now: Timestamp) -> Result<Value, MaterialError> {
    let (key, now) = (KeyPair::generate()?.serialize_pem(), now.to_string());
    let mut entries = vec![(TOKEN_KEY, key.as_str())];
    if let Some(public) = earlier {
        entries.extend([(EARLIER_TOKEN_KEY, public), (EARLIER_UNTIL, &now)]);
    }
    Ok(secret(&TenantId::system(), &entries))
}

/// Gives an authority another key and certificate for those of its clients, if it is time for that. What signed until now is
/// trusted for as long as something that it has signed can be good. The key of tokens stays.
///
/// # Errors
/// When it is none, or there is no randomness to make a key of.
pub fn renew(tenant: &TenantId, secret: &mut Value, now: Timestamp) -> Result<bool, MaterialError> {
    let certificate_now = entry(secret, CA_CERTIFICATE)?.ok_or(MaterialError::Missing(CA_CERTIFICATE))?;
    let (from, until) = validity(&certificate_now)?;
    if !is_due((from, until), now) {
        return Ok(false);
    }
    let trusted = now.saturating_add(LONGEST_CLIENT).unwrap_or(until).min(until);
    let key = KeyPair::generate()?;
    let renewed = certificate(tenant, &key, now)?;
    for (name, text) in [
        (CA_KEY, key.serialize_pem()),
        (CA_CERTIFICATE, renewed),
        (EARLIER_CA_CERTIFICATE, certificate_now),
        (EARLIER_CA_UNTIL, trusted.to_string()),
    ] {
        secret["data"][name] = STANDARD.encode(text).into();
    }
    Ok(true)
}

/// Whether what is good from one time to the other cannot sign for as long as a certificate may be good any more, or was made when
/// authorities lasted for longer. What is good from later on was made by a clock that was wrong: the one before it is still needed,
/// and would be given up for a third one.
fn is_due((from, until): (Timestamp, Timestamp), now: Timestamp) -> bool {
    let left = now.duration_until(until);
    from <= now && (left < LONGEST_CLIENT || left > AUTHORITY + ROUNDED)
}

fn validity(certificate: &str) -> Result<(Timestamp, Timestamp), MaterialError> {
    let validity = hypernetes_certificates::issue::validity(certificate.as_bytes());
    validity.ok_or(MaterialError::Damaged(CA_CERTIFICATE))
}

fn secret(tenant: &TenantId, entries: &[(&str, &str)]) -> Value {
    let data: Map<String, Value> =
        entries.iter().map(|(name, text)| ((*name).to_owned(), STANDARD.encode(text).into())).collect();
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": TYPE, "data": data,
        "metadata": {"name": secret_name(tenant), "namespace": IDENTITY_NAMESPACE},
    })
}

fn certificate(tenant: &TenantId, key: &KeyPair, now: Timestamp) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{}{tenant}", names::CERTIFICATE_TENANT_URI));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let day = |after: SignedDuration| {
        let then = now.saturating_add(after);
        let then = then.unwrap_or(Timestamp::MAX).to_zoned(jiff::tz::TimeZone::UTC);
        rcgen::date_time_ymd(then.year().into(), then.month() as u8, then.day() as u8)
    };
    // Clocks of hosts differ.
    (params.not_before, params.not_after) = (day(SignedDuration::from_hours(-24)), day(AUTHORITY));
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

/// How an authority's certificate names its key.
fn subject_key_id(authority: &[u8]) -> Option<Box<[u8]>> {
    let (_, certificate) = X509Certificate::from_der(authority).ok()?;
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.into()),
        _ => None,
    })
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
            false => Some(Clients::read(secret)?),
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

    /// Whether it is time for another of its clients' certificates.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.clients.as_ref().is_some_and(|clients| is_due((clients.current.from, clients.current.until), now))
    }
}

impl Clients {
    fn read(secret: &Value) -> Result<Self, MaterialError> {
        let certificate = entry(secret, CA_CERTIFICATE)?.ok_or(MaterialError::Missing(CA_CERTIFICATE))?;
        let current = Trusted::read(&certificate, validity(&certificate)?.1)?;
        let earlier = match (entry(secret, EARLIER_CA_CERTIFICATE)?, entry(secret, EARLIER_CA_UNTIL)?) {
            (Some(certificate), Some(until)) => {
                let until = until.parse().map_err(|_| MaterialError::Damaged(EARLIER_CA_UNTIL))?;
                Some(Trusted::read(&certificate, until)?)
            }
            _ => None,
        };
        Ok(Self { current, earlier })
    }

    /// The one with the key that a certificate says it is signed with, if that is trusted now.
    pub fn trusted(&self, key_id: &[u8], now: Timestamp) -> Option<&Trusted> {
        [Some(&self.current), self.earlier.as_ref()]
            .into_iter()
            .flatten()
            .find(|one| *one.key_id == *key_id && now < one.until)
    }
}

impl Trusted {
    fn read(certificate: &str, until: Timestamp) -> Result<Self, MaterialError> {
        let (from, _) = validity(certificate)?;
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())?;
        let key_id = subject_key_id(&certificate).ok_or(MaterialError::Damaged(CA_CERTIFICATE))?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        Ok(Self { verifier, key_id, from, until })
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
        assert_eq!(one.clients.unwrap().current.key_id, again.clients.unwrap().current.key_id);
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
    fn it_is_renewed_in_time_and_the_one_before_is_trusted_until_what_it_signed_has_ended() {
        let tenant: TenantId = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let after = |days: i64| Timestamp::now().saturating_add(SignedDuration::from_hours(days * 24)).unwrap();
        let mut secret = tenants(&tenant, "u-1").unwrap();
        let key_id = |secret: &Value| Clients::read(secret).unwrap().current.key_id;
        let (first, kid) = (key_id(&secret), Authority::read(tenant.clone(), &secret).unwrap().kid);
        for days in [0, 300, 371] {
            assert!(!renew(&tenant, &mut secret, after(days)).unwrap(), "{days}");
        }
        assert_eq!(key_id(&secret), first);
        let authority = Authority::read(tenant.clone(), &secret).unwrap();
        assert!(!authority.is_due(after(371)) && authority.is_due(after(374)));
        // Whatever it has signed until then lasts until its own end, and no longer.
        assert!(renew(&tenant, &mut secret, after(374)).unwrap());
        let second = key_id(&secret);
        assert_ne!(second, first);
        let clients = Clients::read(&secret).unwrap();
        let trusted = |key: &[u8], days| clients.trusted(key, after(days)).is_some();
        assert!(trusted(&first, 374) && trusted(&first, 737) && !trusted(&first, 741) && trusted(&second, 374));
        assert!(!trusted(b"another", 374));
        assert_eq!(Authority::read(tenant.clone(), &secret).unwrap().kid, kid, "tokens go on");
        // Its key is the new one's: what it signs now is verified by that.
        assert!(issuer(&secret).is_ok());
        // A clock that was wrong has made it: the first one is trusted on.
        for days in [0, 373, 700] {
            assert!(days >= 373 || !renew(&tenant, &mut secret, after(days)).unwrap(), "{days}");
            assert!(trusted(&first, days) && trusted(&second, days), "{days}");
        }

        // One of when they lasted for ten years ends when what it has signed does.
        let mut secret = tenants(&tenant, "u-1").unwrap();
        let long = |key: &KeyPair| {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.not_after = rcgen::date_time_ymd(2036, 1, 1);
            params.self_signed(key).unwrap().pem()
        };
        let key = KeyPair::generate().unwrap();
        secret["data"][CA_CERTIFICATE] = STANDARD.encode(long(&key)).into();
        secret["data"][CA_KEY] = STANDARD.encode(key.serialize_pem()).into();
        let first = key_id(&secret);
        assert!(renew(&tenant, &mut secret, after(0)).unwrap());
        assert!(!renew(&tenant, &mut secret, after(0)).unwrap(), "once");
        let clients = Clients::read(&secret).unwrap();
        assert!(clients.trusted(&first, after(365)).is_some() && clients.trusted(&first, after(367)).is_none());
    }

    #[test]
    fn the_system_remembers_what_was_before() {
        let now = Timestamp::now();
        let public = KeyPair::generate().unwrap().public_key_pem();
        let secret = systems(Some(&public), now).unwrap();
        assert_eq!(Earlier::read(&secret).unwrap().unwrap().until, now);
        assert!(Authority::read(TenantId::system(), &secret).unwrap().clients.is_none());
        assert!(Earlier::read(&systems(None, now).unwrap()).unwrap().is_none());
    }
}
