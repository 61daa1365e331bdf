//! Making a certificate of what a signer grants.

use std::{net::IpAddr, time::Duration};

use async_trait::async_trait;
use hypernetes_api::{TenantId, names};
use jiff::Timestamp;
use rcgen::{KeyPair, SigningKey};
use x509_parser::{
    extensions::ParsedExtension,
    prelude::{FromDer, X509Certificate},
};
use yasna::{DERWriter, DERWriterSeq, Tag, models::ObjectIdentifier};

use crate::{pem, signer::Grant};

/// By how many seconds clocks may differ: a certificate is good from so long ago.
const BACKDATED: i64 = 300;
/// No certificate is good for less.
pub const SHORTEST: Duration = Duration::from_secs(600);

/// It could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// What is asked for cannot be in a certificate: it never will be.
    #[error("{0}")]
    Refused(String),
    /// There is no such authority (yet), or it is damaged.
    #[error("the authority of {tenant}: {why}")]
    Authority { tenant: TenantId, why: String },
}

/// Who signs for whom. It has the keys; whoever asks it never sees one.
#[async_trait]
pub trait CertificateAuthorities: Send + Sync + 'static {
    /// A certificate, PEM, of a tenant's authority, or of the system's own, for a public key (DER, SPKI).
    ///
    /// # Errors
    /// [`SignError`]
    async fn sign(
        &self,
        tenant: &TenantId,
        grant: &Grant,
        public_key: &[u8],
        lifetime: Duration,
    ) -> Result<String, SignError>;
}

/// A certificate authority's key: P-256, as all of ours are. There is no text of it: keys are not for logs.
pub struct Issuer {
    key: KeyPair,
    /// The authority's name, DER.
    name: Vec<u8>,
    /// How the authority's certificate names its key.
    key_id: Vec<u8>,
    /// Seconds since 1970.
    until: i64,
}

/// An authority is none, or a certificate cannot be made of what was granted.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error("the certificate of the authority is none")]
    Authority,
    #[error("its key: {0}")]
    Key(#[from] rcgen::Error),
    #[error("its key is not of P-256")]
    OtherKey,
    #[error("{0:?} cannot be a name in a certificate")]
    Name(String),
}

impl Issuer {
    /// Of an authority's certificate and key, PEM.
    ///
    /// # Errors
    /// When they are none.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, IssueError> {
        let key = KeyPair::from_pem(key)?;
        if !key.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256) {
            return Err(IssueError::OtherKey);
        }
        let block = pem::blocks(certificate.as_bytes()).next().ok_or(IssueError::Authority)?;
        let (_, parsed) = X509Certificate::from_der(&block.content).map_err(|_| IssueError::Authority)?;
        let key_id = parsed.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        Ok(Self {
            name: parsed.subject().as_raw().to_vec(),
            key_id: key_id.ok_or(IssueError::Authority)?,
            until: parsed.validity().not_after.timestamp(),
            key,
        })
    }

    /// A certificate, PEM. A client's names its tenant. It is good for `lifetime` from now, and no longer than its authority.
    /// `public_key`: DER, SPKI, as a request that was verified has it.
    ///
    /// # Errors
    /// When a name cannot be in a certificate, or the key cannot sign.
    pub fn issue(
        &self,
        tenant: &TenantId,
        grant: &Grant,
        public_key: &[u8],
        lifetime: Duration,
    ) -> Result<String, IssueError> {
        let bad = grant.dns.iter().find(|name| !name.is_ascii() || name.is_empty());
        if let Some(name) = bad {
            return Err(IssueError::Name(name.clone()));
        }
        let now = Timestamp::now().as_second();
        let end = now.saturating_add(i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX)).min(self.until);
        let (from, until) = (instant(now.saturating_sub(BACKDATED)), instant(end));
        let body = yasna::construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_tagged(Tag::context(0), |writer| writer.write_u8(2));
                writer.next().write_bigint_bytes(&serial(), true);
                writer.next().write_sequence(|writer| writer.next().write_oid(&oid(ECDSA_SHA256)));
                writer.next().write_der(&self.name);
                writer.next().write_sequence(|writer| {
                    writer.next().write_der(&from);
                    writer.next().write_der(&until);
                });
                writer.next().write_sequence(|writer| subject(writer, grant));
                writer.next().write_der(public_key);
                writer.next().write_tagged(Tag::context(3), |writer| {
                    writer.write_sequence(|writer| self.extensions(writer, tenant, grant));
                });
            });
        });
        let signature = self.key.sign(&body)?;
        let certificate = yasna::construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_der(&body);
                writer.next().write_sequence(|writer| writer.next().write_oid(&oid(ECDSA_SHA256)));
                writer.next().write_bitvec_bytes(&signature, signature.len() * 8);
            });
        });
        Ok(pem::text("CERTIFICATE", &certificate))
    }

    /// RFC 5280, 4.2.1: what the key is for, whose the certificate is, and whose key signed it, by which the server knows whether
    /// it still is that authority's.
    fn extensions(&self, writer: &mut DERWriterSeq<'_>, tenant: &TenantId, grant: &Grant) {
        extension(writer, KEY_USAGE, true, |writer| {
            // Bits from the first: digital signature, content commitment, key encipherment.
            let (bits, length) = if grant.key_encipherment { (0b1010_0000, 3) } else { (0b1000_0000, 1) };
            writer.write_bitvec_bytes(&[bits], length);
        });
        extension(writer, EXTENDED_KEY_USAGE, false, |writer| {
            let purpose = if grant.server { SERVER_AUTH } else { CLIENT_AUTH };
            writer.write_sequence(|writer| writer.next().write_oid(&oid(purpose)));
        });
        extension(writer, BASIC_CONSTRAINTS, true, |writer| writer.write_sequence(|_| ()));
        extension(writer, AUTHORITY_KEY_ID, false, |writer| {
            writer.write_sequence(|writer| {
                writer.next().write_tagged_implicit(Tag::context(0), |writer| writer.write_bytes(&self.key_id));
            });
        });
        extension(writer, ALTERNATIVE_NAMES, false, |writer| {
            writer.write_sequence(|writer| {
                for name in &grant.dns {
                    writer.next().write_tagged_implicit(Tag::context(2), |writer| writer.write_ia5_string(name));
                }
                for address in &grant.addresses {
                    writer.next().write_tagged_implicit(Tag::context(7), |writer| match address {
                        IpAddr::V4(address) => writer.write_bytes(&address.octets()),
                        IpAddr::V6(address) => writer.write_bytes(&address.octets()),
                    });
                }
                if !grant.server {
                    let uri = format!("{}{tenant}", names::CERTIFICATE_TENANT_URI);
                    writer.next().write_tagged_implicit(Tag::context(6), |writer| writer.write_ia5_string(&uri));
                }
            });
        });
    }
}

const ECDSA_SHA256: &[u64] = &[1, 2, 840, 10045, 4, 3, 2];
const COMMON_NAME: &[u64] = &[2, 5, 4, 3];
const ORGANIZATION: &[u64] = &[2, 5, 4, 10];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const ALTERNATIVE_NAMES: &[u64] = &[2, 5, 29, 17];
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const AUTHORITY_KEY_ID: &[u64] = &[2, 5, 29, 35];
const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];
const SERVER_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 2];

fn oid(components: &[u64]) -> ObjectIdentifier {
    ObjectIdentifier::from_slice(components)
}

/// A positive number in as few octets as DER has it.
fn serial() -> [u8; 16] {
    let mut serial = rand::random::<[u8; 16]>();
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}

/// A time, DER: `UTCTime` until 2049 and `GeneralizedTime` from then on (RFC 5280, 4.1.2.5).
fn instant(seconds: i64) -> Vec<u8> {
    let time = Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_zoned(jiff::tz::TimeZone::UTC);
    let (tag, text) = match time.year() {
        1950..=2049 => (0x17, time.strftime("%y%m%d%H%M%SZ").to_string()),
        _ => (0x18, time.strftime("%Y%m%d%H%M%SZ").to_string()),
    };
    let length = u8::try_from(text.len()).unwrap_or_default();
    [&[tag, length], text.as_bytes()].concat()
}

/// Each name by itself, whatever others of its kind there are.
fn subject(writer: &mut DERWriterSeq<'_>, grant: &Grant) {
    let groups = grant.organizations.iter().map(|name| (ORGANIZATION, name));
    for (kind, name) in groups.chain([(COMMON_NAME, &grant.common_name)]) {
        writer.next().write_set(|writer| {
            writer.next().write_sequence(|writer| {
                writer.next().write_oid(&oid(kind));
                writer.next().write_utf8_string(name);
            });
        });
    }
}

fn extension(writer: &mut DERWriterSeq<'_>, kind: &[u64], critical: bool, content: impl FnOnce(DERWriter<'_>)) {
    let content = yasna::construct_der(content);
    writer.next().write_sequence(|writer| {
        writer.next().write_oid(&oid(kind));
        if critical {
            writer.next().write_bool(true);
        }
        writer.next().write_bytes(&content);
    });
}

/// From when until when the first certificate of a text (PEM) is good; `None` where there is none.
pub fn validity(text: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let block = pem::blocks(text).next()?;
    let (_, certificate) = X509Certificate::from_der(&block.content).ok()?;
    let validity = certificate.validity();
    let at = |seconds| Timestamp::from_second(seconds).ok();
    Some((at(validity.not_before.timestamp())?, at(validity.not_after.timestamp())?))
}

/// For how long a certificate is good: as asked for, between [`SHORTEST`] and the longest, which is what one gets who does
/// not ask.
pub fn lifetime(asked: Option<i32>, longest: Duration) -> Duration {
    let asked = asked.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or_default()));
    asked.map_or(longest, |asked| asked.max(SHORTEST).min(longest))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa};

    use super::*;
    use crate::request::{self, SigningRequest};

    #[test]
    fn a_certificate_has_what_was_granted_and_ends_with_its_authority() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let now = jiff::Timestamp::now().as_second();
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs((now + 7200) as u64);
        let authority = params.self_signed(&key).unwrap();
        let issuer = Issuer::from_pem(&authority.pem(), &key.serialize_pem()).unwrap();
        let asked = SigningRequest::parse(request::make("ann", "dev", &[], &[]).unwrap().1.as_bytes()).unwrap();
        let grant = Grant {
            common_name: "ann".into(),
            organizations: vec!["dev".into(), "ops".into()],
            dns: vec![],
            addresses: vec![],
            server: false,
            key_encipherment: false,
        };
        let tenant: TenantId = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let root = pem::blocks(authority.pem().as_bytes()).next().unwrap();
        let (_, root) = X509Certificate::from_der(&root.content).unwrap();
        for (wanted, seconds) in [(3600, 3600), (36_000, 7200)] {
            let made = issuer.issue(&tenant, &grant, &asked.public_key, Duration::from_secs(wanted)).unwrap();
            let block = pem::blocks(made.as_bytes()).next().unwrap();
            let (_, made) = X509Certificate::from_der(&block.content).unwrap();
            assert_eq!(made.public_key().raw, asked.public_key);
            made.verify_signature(Some(root.public_key())).unwrap();
            assert_eq!(made.issuer(), root.subject());
            assert!(!made.is_ca());
            let groups: Vec<_> = made.subject().iter_organization().map(|group| group.as_str().unwrap()).collect();
            assert_eq!(groups, ["dev", "ops"]);
            let left = made.validity().not_after.timestamp() - now;
            assert!((seconds..seconds + 60).contains(&left), "{left}");
            let names = made.subject_alternative_name().unwrap().unwrap();
            assert_eq!(format!("{}", names.value.general_names[0]), format!("URI(hypernetes:tenant:{tenant})"));
        }
    }

    #[test]
    fn a_lifetime_is_as_asked_for_within_bounds() {
        let longest = Duration::from_secs(86_400);
        for (asked, seconds) in
            [(None, 86_400), (Some(3600), 3600), (Some(1), 600), (Some(-1), 600), (Some(i32::MAX), 86_400)]
        {
            assert_eq!(lifetime(asked, longest).as_secs(), seconds, "{asked:?}");
        }
    }
}
