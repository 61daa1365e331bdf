//! The installation's certificate authority, which signs for servers, nodes and the operator, and the certificates that it
//! gives out; and the tenants' own, which sign for their tenants' users.
//!
//! Everything is ECDSA P-256. Private keys are written with mode 0600, atomically. A certificate that has less than
//! [`RENEW_BEFORE`] left is made anew when its owner asks for it, at its start and again while it runs (`lasting`).

use std::{
    fs,
    io::Write,
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use hypernetes_api::TenantId;
use hypernetes_apiserver::authentication::authorities::material;
use hypernetes_certificates::issue;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

const AUTHORITY_DAYS: i64 = 3650;
const CERTIFICATE_DAYS: i64 = 365;
const EARLIER_TOKEN_KEY: &str = "sa.key";
const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// What tells the time: in tests, whatever time it shall be.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The system's authority, opened from its directory.
pub struct Authority {
    directory: PathBuf,
    clock: Clock,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, as PEM.
#[derive(Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

/// Whom a client certificate is for.
pub struct Client<'a> {
    pub user: &'a str,
    pub group: &'a str,
}

impl Client<'_> {
    /// `tenant`: the logical cluster that it is bound to.
    fn params(&self, tenant: &TenantId, now: Timestamp, days: i64) -> Result<CertificateParams> {
        let mut params = params(self.user, now, days);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(DnType::OrganizationName, self.group);
        let tenant = format!("{}{tenant}", hypernetes_api::names::CERTIFICATE_TENANT_URI);
        params.subject_alt_names = vec![SanType::URI(tenant.as_str().try_into()?)];
        Ok(params)
    }
}

/// One tenant's authority, as the server keeps it (`hypernetes_apiserver::authentication::authorities`).
pub struct TenantAuthority {
    tenant: TenantId,
    pub issuer: Issuer<'static, KeyPair>,
}

impl TenantAuthority {
    /// # Errors
    /// When the Secret is not one's.
    pub fn open(tenant: TenantId, secret: &Secret) -> Result<Self> {
        let entry = |name: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(name));
            let bytes = bytes.with_context(|| format!("the authority of {tenant} has no {name}"))?;
            std::str::from_utf8(&bytes.0).with_context(|| format!("{name} of the authority of {tenant} is damaged"))
        };
        let key = KeyPair::from_pem(entry(material::CA_KEY)?)?;
        let issuer = Issuer::from_ca_cert_pem(entry(material::CA_CERTIFICATE)?, key)
            .with_context(|| format!("the certificate of the authority of {tenant} is none"))?;
        Ok(Self { tenant, issuer })
    }

    /// A certificate of the tenant, which is not kept, good for so many days, and its serial number in hexadecimal digits.
    pub fn issue(&self, client: &Client<'_>, days: u16) -> Result<(Identity, String)> {
        let mut params = client.params(&self.tenant, Timestamp::now(), days.into())?;
        // The server looks whether it still is this authority's key.
        params.use_authority_key_identifier_extension = true;
        // A positive number in as few octets as DER has it.
        let mut serial = rand::random::<[u8; 16]>();
        serial[0] = serial[0] & 0x7f | 0x40;
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&serial));
        let key = KeyPair::generate()?;
        let identity = Identity { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() };
        Ok((identity, serial.iter().map(|byte| format!("{byte:02x}")).collect()))
    }
}

impl Authority {
    /// Opens the authority in a directory, or makes it.
    pub fn open(directory: &Path) -> Result<Self> {
        Self::open_at(directory, Arc::new(Timestamp::now))
    }

    /// [`Authority::open`] at another time.
    pub fn open_at(directory: &Path, clock: Clock) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        let (certificate_path, key_path) = (directory.join("ca.crt"), directory.join("ca.key"));
        if !Self::is_there(directory) {
            let key = KeyPair::generate()?;
            let certificate = own_certificate(&key, clock())?;
            write_authority(directory, &certificate, &key.serialize_pem())?;
        }
        let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("reading {}", path.display()));
        let (certificate, key) = (read(&certificate_path)?, read(&key_path)?);
        let issuer = Issuer::from_ca_cert_pem(&certificate, KeyPair::from_pem(&key)?)
            .with_context(|| format!("{} is not a certificate authority", certificate_path.display()))?;
        Ok(Self { directory: directory.to_owned(), clock, certificate, issuer })
    }

    /// Gives it another certificate of the same key and name, when half of the one that it has is over. What it has signed is
    /// good by the one as by the other, and whoever knows its key by a hash knows it still.
    ///
    /// # Errors
    /// When it cannot be written: then it has the one that it had.
    pub fn renew(&mut self) -> Result<()> {
        let now = self.now();
        let half = SignedDuration::from_hours(AUTHORITY_DAYS / 2 * 24);
        let until = issue::validity(self.certificate.as_bytes()).map(|(_, until)| until);
        if until.is_some_and(|until| now.duration_until(until) > half) {
            return Ok(());
        }
        let certificate = own_certificate(self.issuer.key(), now)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, KeyPair::from_pem(&self.key())?)?;
        write_private(&self.directory.join("ca.crt"), certificate.as_bytes())?;
        tracing::info!("the authority has a new certificate, of the same key");
        (self.certificate, self.issuer) = (certificate, issuer);
        Ok(())
    }

    /// By its clock.
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Whether a directory has one.
    pub fn is_there(directory: &Path) -> bool {
        directory.join("ca.key").exists() && directory.join("ca.crt").exists()
    }

    /// Makes one of others that of a directory that has none.
    pub fn keep(directory: &Path, certificate: &str, key: &str) -> Result<()> {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        write_authority(directory, certificate, key)
    }

    /// Removes one that nothing was signed with.
    pub fn forget(directory: &Path) -> Result<()> {
        let remove = |name: &str| fs::remove_file(directory.join(name));
        remove("ca.crt").and_then(|()| remove("ca.key")).with_context(|| format!("removing {}", directory.display()))
    }

    /// The authority's own certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its private key, PEM, for who signs certificates that are asked for through the API.
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// SHA-256 of its public key (DER, SPKI), as `node join` is told it.
    pub fn hash(&self) -> String {
        hash_of(self.issuer.key())
    }

    /// A server's certificate for addresses and names, kept under `name` and made anew when it does not fit or is old.
    pub fn server(&self, name: &str, addresses: &[IpAddr], names: &[&str]) -> Result<Identity> {
        let mut params = params(name, self.now(), CERTIFICATE_DAYS);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = addresses.iter().map(|a| SanType::IpAddress(*a)).collect();
        for name in names {
            params.subject_alt_names.push(SanType::DnsName((*name).try_into()?));
        }
        self.kept(name, params)
    }

    /// A certificate of one of the system's own, kept under `name`.
    pub fn client(&self, name: &str, client: &Client<'_>) -> Result<Identity> {
        self.kept(name, client.params(&TenantId::system(), self.now(), CERTIFICATE_DAYS)?)
    }

    /// Public half, SPKI PEM, of the key that signed all service account tokens before each tenant had its own; `None` where
    /// there is none (any more).
    pub fn earlier_token_key(&self) -> Result<Option<String>> {
        match fs::read_to_string(self.directory.join(EARLIER_TOKEN_KEY)) {
            Ok(key) => Ok(Some(KeyPair::from_pem(&key)?.public_key_pem())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {EARLIER_TOKEN_KEY}")),
        }
    }

    /// Once the server has recorded what it was: nothing is signed with it any more.
    pub fn forget_earlier_token_key(&self) -> Result<()> {
        match fs::remove_file(self.directory.join(EARLIER_TOKEN_KEY)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {EARLIER_TOKEN_KEY}"))
            }
            _ => Ok(()),
        }
    }

    fn kept(&self, name: &str, params: CertificateParams) -> Result<Identity> {
        let path = |extension: &str| self.directory.join(format!("{name}.{extension}"));
        let existing = (fs::read_to_string(path("crt")), fs::read_to_string(path("key")));
        if let (Ok(certificate), Ok(key)) = existing
            && self.fits(&certificate, &params)
        {
            return Ok(Identity { certificate, key });
        }
        let key = KeyPair::generate()?;
        let identity = Identity { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() };
        write_private(&path("key"), identity.key.as_bytes())?;
        write_private(&path("crt"), identity.certificate.as_bytes())?;
        Ok(identity)
    }

    /// Whether a client's certificate, which may have been asked for through the API, is ours, for this user, and lasts.
    pub fn is_clients(&self, pem: &str, client: &Client<'_>) -> bool {
        let Ok(params) = client.params(&TenantId::system(), self.now(), CERTIFICATE_DAYS) else { return false };
        self.fits(pem, &params) && self.is_ours(pem, |certificate| name_of(certificate) == Some(client.user))
    }

    /// Whether a server's certificate, likewise, is ours, for a host of this name, and lasts.
    pub fn is_servers(&self, pem: &str, name: &str) -> bool {
        self.is_ours(pem, |certificate| {
            let names = certificate.subject_alternative_name().ok().flatten();
            let names = names.iter().flat_map(|names| &names.value.general_names);
            names.into_iter().any(|have| matches!(have, GeneralName::DNSName(have) if *have == name))
        })
    }

    /// Whether a certificate is ours, lasts, and is so.
    fn is_ours(&self, pem: &str, so: impl FnOnce(&X509Certificate<'_>) -> bool) -> bool {
        let parsed = |pem: &str| x509_parser::pem::parse_x509_pem(pem.as_bytes()).map(|(_, pem)| pem.contents);
        let (Ok(ours), Ok(authority)) = (parsed(pem), parsed(&self.certificate)) else { return false };
        let (Ok((_, ours)), Ok((_, authority))) =
            (X509Certificate::from_der(&ours), X509Certificate::from_der(&authority))
        else {
            return false;
        };
        let (now, validity) = (self.now().as_second(), ours.validity());
        // A clock that was wrong may have made it.
        let good = validity.not_before.timestamp() <= now;
        let left = validity.not_after.timestamp() - now;
        good && left > RENEW_BEFORE.as_secs()
            && ours.verify_signature(Some(authority.public_key())).is_ok()
            && so(&ours)
    }

    /// The certificate is ours, says what `params` say, and lasts.
    fn fits(&self, pem: &str, params: &CertificateParams) -> bool {
        let names = |certificate: &X509Certificate<'_>| {
            let names = certificate.subject_alternative_name().ok().flatten();
            names.map_or(0, |names| names.value.general_names.len())
        };
        let covered = |ours: &X509Certificate<'_>| {
            params.subject_alt_names.iter().all(|wanted| {
                let names = ours.subject_alternative_name().ok().flatten();
                names.is_some_and(|names| {
                    names.value.general_names.iter().any(|have| match (have, wanted) {
                        (GeneralName::IPAddress(have), SanType::IpAddress(IpAddr::V4(ip))) => *have == ip.octets(),
                        (GeneralName::IPAddress(have), SanType::IpAddress(IpAddr::V6(ip))) => *have == ip.octets(),
                        (GeneralName::DNSName(have), SanType::DnsName(name)) => *have == name.as_str(),
                        (GeneralName::URI(have), SanType::URI(uri)) => *have == uri.as_str(),
                        _ => false,
                    })
                })
            })
        };
        self.is_ours(pem, |ours| names(ours) == params.subject_alt_names.len() && covered(ours))
    }
}

/// [`Authority::hash`] of one with this private key, PEM.
///
/// # Errors
/// When it is no key.
pub fn hash_of_key(key: &str) -> Result<String> {
    Ok(hash_of(&KeyPair::from_pem(key)?))
}

fn hash_of(key: &KeyPair) -> String {
    format_hash(&rcgen::PublicKeyData::subject_public_key_info(key))
}

/// `sha256:` and the digits of a key's digest.
pub fn format_hash(public_key: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, public_key);
    digest.as_ref().iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// The certificate last: without it there is none.
fn write_authority(directory: &Path, certificate: &str, key: &str) -> Result<()> {
    write_private(&directory.join("ca.key"), key.as_bytes())?;
    write_private(&directory.join("ca.crt"), certificate.as_bytes())
}

/// The authority's, of its own key.
fn own_certificate(key: &KeyPair, now: Timestamp) -> Result<String> {
    let mut params = params("hypernetes", now, AUTHORITY_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    Ok(params.self_signed(key)?.pem())
}

fn params(common_name: &str, now: Timestamp, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    // A day back: clocks of hosts differ.
    let now = now.as_second();
    let at = |seconds: i64| {
        let date = Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_zoned(jiff::tz::TimeZone::UTC);
        rcgen::date_time_ymd(date.year().into(), date.month() as u8, date.day() as u8)
    };
    params.not_before = at(now - 24 * 3600);
    params.not_after = at(now + days * 24 * 3600);
    params
}

/// Writes a file that only its owner may read: complete or not at all, and only when it says something else. So a disk
/// that is full is no reason not to start.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let private = fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o777 == 0o600);
    if private && fs::read(path).is_ok_and(|present| present == content) {
        return Ok(());
    }
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let _ = fs::remove_file(&temporary);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        if let Some(directory) = path.parent() {
            crate::privileges::give_to_directory_owner(&file, directory)?;
        }
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write()
        .inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })
        .with_context(|| format!("writing {}", path.display()))
}

/// Who a certificate, in PEM, is of.
pub fn common_name(pem: &str) -> Option<String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    name_of(&pem.parse_x509().ok()?).map(str::to_owned)
}

fn name_of<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    certificate.subject().iter_common_name().next()?.as_str().ok()
}

#[cfg(test)]
mod tests {
    use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_KEY_IDENTIFIER;

    use super::*;

    fn tenant() -> TenantId {
        "0123456789abcdef0123456789abcdef".parse().unwrap()
    }

    fn parsed(pem: &str) -> Vec<u8> {
        x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents
    }

    #[test]
    fn a_clients_certificate_of_before_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::open(directory.path()).unwrap();
        let client = Client { user: "operator", group: "system:masters" };
        // As they were: nothing says whose it is.
        let mut before = client.params(&TenantId::system(), Timestamp::now(), CERTIFICATE_DAYS).unwrap();
        before.subject_alt_names.clear();
        let before = authority.kept("operator", before).unwrap();
        let now = authority.client("operator", &client).unwrap();
        assert_ne!(before.certificate, now.certificate);
        assert_eq!(authority.client("operator", &client).unwrap().certificate, now.certificate);
        let tenants = client.params(&tenant(), Timestamp::now(), CERTIFICATE_DAYS).unwrap();
        assert_ne!(authority.kept("operator", tenants).unwrap().certificate, now.certificate);
    }

    #[test]
    fn a_tenants_certificate_is_its_authoritys_and_can_be_called_by_its_serial() {
        let secret = serde_json::from_value(material::tenants(&tenant(), "1").unwrap()).unwrap();
        let client = Client { user: "ann", group: "keystone:reader" };
        let (identity, serial) = TenantAuthority::open(tenant(), &secret).unwrap().issue(&client, 30).unwrap();
        let der = parsed(&identity.certificate);
        let read = hypernetes_apiserver::authentication::certificate(&der).unwrap();
        assert_eq!((&read.user.tenant, &read.serial, read.user.name.as_str()), (&tenant(), &serial, "ann"));
        assert!(matches!(read.issuer, hypernetes_apiserver::authentication::Issuer::Tenant(_)));
        let authority = String::from_utf8(secret.data.unwrap()[material::CA_CERTIFICATE].0.clone()).unwrap();
        let (authority, (_, certificate)) = (parsed(&authority), X509Certificate::from_der(&der).unwrap());
        let (_, authority) = X509Certificate::from_der(&authority).unwrap();
        certificate.verify_signature(Some(authority.public_key())).unwrap();
        let days = (certificate.validity().not_after.timestamp() - Timestamp::now().as_second()) / 86_400;
        assert!((29..=30).contains(&days), "{days}");
        assert!(TenantAuthority::open(tenant(), &Secret::default()).is_err());
    }

    #[test]
    fn the_key_of_before_is_known_until_it_is_recorded() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::open(directory.path()).unwrap();
        assert!(authority.earlier_token_key().unwrap().is_none(), "a new installation has none");
        let key = KeyPair::generate().unwrap();
        fs::write(directory.path().join("sa.key"), key.serialize_pem()).unwrap();
        assert_eq!(authority.earlier_token_key().unwrap(), Some(key.public_key_pem()));
        authority.forget_earlier_token_key().unwrap();
        authority.forget_earlier_token_key().unwrap();
        assert!(authority.earlier_token_key().unwrap().is_none());
    }

    #[test]
    fn certificates_are_kept_until_they_do_not_fit() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::open(directory.path()).unwrap();
        let local: IpAddr = "127.0.0.1".parse().unwrap();
        let first = authority.server("apiserver", &[local], &["localhost"]).unwrap();
        let again = Authority::open(directory.path()).unwrap().server("apiserver", &[local], &["localhost"]).unwrap();
        assert_eq!(first.certificate, again.certificate);
        let wider = authority.server("apiserver", &[local, "10.0.0.1".parse().unwrap()], &["localhost"]).unwrap();
        assert_ne!(first.certificate, wider.certificate);
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(directory.path().join("apiserver.key")).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        // Another authority's certificate is replaced.
        fs::remove_file(directory.path().join("ca.key")).unwrap();
        let other = Authority::open(directory.path()).unwrap().server("apiserver", &[local], &["localhost"]).unwrap();
        assert_ne!(other.certificate, again.certificate);
    }

    #[test]
    fn an_authority_lasts_and_stays_the_one_that_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let after = |days: i64| -> Clock { Arc::new(move || Timestamp::now() + SignedDuration::from_hours(days * 24)) };
        let first = Authority::open(directory.path()).unwrap();
        let signed = first.server("a", &[], &["a"]).unwrap();
        let mut later = Authority::open_at(directory.path(), after(1820)).unwrap();
        later.renew().unwrap();
        assert_eq!(later.certificate(), first.certificate());
        let mut later = Authority::open_at(directory.path(), after(1830)).unwrap();
        later.renew().unwrap();
        assert_ne!(later.certificate(), first.certificate());
        // What either has signed is good by the other.
        assert_eq!(later.hash(), first.hash());
        let again = Authority::open(directory.path()).unwrap();
        assert_eq!(again.certificate(), later.certificate());
        assert!(again.is_servers(&signed.certificate, "a"));
        let resigned = later.server("b", &[], &["b"]).unwrap();
        assert!(later.is_servers(&resigned.certificate, "b"));
        assert!(!first.is_servers(&resigned.certificate, "b"), "it is not good yet");
        assert_ne!(first.server("b", &[], &["b"]).unwrap().certificate, resigned.certificate);
        let (_, until) = issue::validity(later.certificate().as_bytes()).unwrap();
        assert!(until > after(5400)() && until < after(5500)(), "{until}");
        let certificates = [first.certificate(), later.certificate()].map(parsed);
        let [one, two] = certificates.each_ref().map(|der| X509Certificate::from_der(der).unwrap().1);
        let resigned = parsed(&resigned.certificate);
        let (_, resigned) = X509Certificate::from_der(&resigned).unwrap();
        resigned.verify_signature(Some(one.public_key())).unwrap();
        let key_id = |certificate: &X509Certificate<'_>| {
            certificate
                .extensions()
                .iter()
                .find(|one| one.oid == OID_X509_EXT_SUBJECT_KEY_IDENTIFIER)
                .unwrap()
                .value
                .to_vec()
        };
        assert_eq!((one.subject().as_raw(), key_id(&one)), (two.subject().as_raw(), key_id(&two)));
    }

    #[test]
    fn a_file_is_written_only_when_it_says_something_else() {
        use std::os::unix::fs::MetadataExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("operator.kubeconfig");
        write_private(&path, b"one").unwrap();
        let first = fs::metadata(&path).unwrap().ino();
        write_private(&path, b"one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), first);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        write_private(&path, b"one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        write_private(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
