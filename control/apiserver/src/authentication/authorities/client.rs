//! Client certificates: whose authority signed one, and who it says that its owner is.
//!
//! An authority is known by its name, the issuer of what it signs: `hypernetes:tenant:<id>` is that of the tenant, all else
//! is taken for the system's. The same function picks what a certificate is verified with and how it is read, so that none
//! can be verified as one thing and read as another.

use std::{collections::BTreeMap, sync::Arc};

use hypernetes_api::{TenantId, auth::UserInfo, names};
use hypernetes_store::{Key, ResourceId};
use jiff::Timestamp;
use rustls::{
    CertificateError, DistinguishedName, Error,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    oid_registry::OID_X509_COMMON_NAME,
    prelude::{FromDer, X509Certificate},
    x509::AttributeTypeAndValue,
};

use super::{
    Authorities,
    material::{LONGEST_CLIENT, ROUNDED},
};

/// Who a client's certificate says that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub user: UserInfo,
    /// Lower-case hexadecimal digits.
    pub serial: String,
    pub issuer: Issuer,
    /// When it ends: connections may last longer.
    pub until: Timestamp,
    /// Where it is said that it has been revoked.
    pub(in crate::authentication) revocation: Key,
}

impl Certificate {
    /// None: the serial number is none.
    pub fn new(user: UserInfo, serial: String, issuer: Issuer, until: Timestamp) -> Option<Self> {
        let revocations = ResourceId::new("identity.hypernetes.io", "tokenrevocations");
        let name = format!("{}{serial}", names::CERTIFICATE_REVOCATION_PREFIX);
        let revocation = Key::new(&revocations, &TenantId::system(), "", &name).ok()?;
        Some(Self { user, serial, issuer, until, revocation })
    }
}

/// Whose authority has signed a certificate, by the name that it bears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Issuer {
    System,
    /// The authority of the tenant that the certificate is of, and which of its keys.
    Tenant(Box<[u8]>),
}

/// Who the owner of a certificate is that has been verified: common name, organizations, and the one tenant that it names,
/// the system's own included. One that names none, or two, is nobody's, and so is one of a tenant's authority that names
/// another. What only the system has, names and groups, nobody has in a tenant's name.
pub fn certificate(der: &[u8]) -> Option<Certificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let text = |attribute: &AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
    let name = subject.iter_common_name().next().and_then(text)?;
    let mut groups: Vec<String> = subject.iter_organization().filter_map(text).collect();
    let tenant = named_tenant(&certificate)?;
    let issuer = match issuing_tenant(&certificate) {
        None => Issuer::System,
        Some(of) if of == tenant => Issuer::Tenant(authority_key_id(&certificate)?),
        Some(_) => return None,
    };
    if !tenant.is_system() {
        if names::is_reserved(&name) {
            return None;
        }
        groups.retain(|group| match issuer {
            // As they were issued once: `system:masters` of a tenant is its own cluster's admin, and no more.
            Issuer::System => group != names::GROUP_INFRASTRUCTURE && group != names::GROUP_NODES,
            Issuer::Tenant(_) => !names::is_reserved(group),
        });
    }
    groups.push(names::GROUP_AUTHENTICATED.into());
    // DER puts a zero before what would be negative; nobody writes it.
    let serial = certificate.raw_serial().iter().skip_while(|byte| **byte == 0);
    let serial = serial.map(|byte| format!("{byte:02x}")).collect();
    let user = UserInfo { name, uid: String::new(), groups, extra: BTreeMap::new(), tenant };
    let until = Timestamp::from_second(certificate.validity().not_after.timestamp()).unwrap_or(Timestamp::MAX);
    Certificate::new(user, serial, issuer, until)
}

/// The one tenant that a certificate says that it is of: as a URI, or as it was before, as an organizational unit.
fn named_tenant(certificate: &X509Certificate<'_>) -> Option<TenantId> {
    let names = certificate.subject_alternative_name().ok()?;
    let uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(names::CERTIFICATE_TENANT_URI),
        _ => None,
    });
    let units = certificate.subject().iter_organizational_unit().filter_map(|unit| unit.as_str().ok());
    // The system's own never had one.
    let units = units.filter_map(|unit| {
        unit.strip_prefix(names::CERTIFICATE_TENANT_UNIT).filter(|tenant| *tenant != TenantId::SYSTEM)
    });
    let mut tenants: Vec<&str> = uris.chain(units).collect();
    tenants.sort_unstable();
    tenants.dedup();
    let [tenant] = tenants.as_slice() else { return None };
    tenant.parse().ok()
}

/// The tenant whose authority's name the issuer's is, and has nothing else in it. Whether it is that authority is not said.
fn issuing_tenant(certificate: &X509Certificate<'_>) -> Option<TenantId> {
    let mut attributes = certificate.issuer().iter_attributes();
    let (Some(name), None) = (attributes.next(), attributes.next()) else { return None };
    let name = Some(name).filter(|name| *name.attr_type() == OID_X509_COMMON_NAME)?.as_str().ok()?;
    let tenant: TenantId = name.strip_prefix(names::CERTIFICATE_TENANT_URI)?.parse().ok()?;
    (!tenant.is_system()).then_some(tenant)
}

fn authority_key_id(certificate: &X509Certificate<'_>) -> Option<Box<[u8]>> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.into()),
        _ => None,
    })
}

/// Whether it is good for longer than any that a tenant may have. Whoever has an authority's key could else make one that is
/// still good when the authority has been renewed for that.
fn is_too_long(certificate: &X509Certificate<'_>) -> bool {
    let validity = certificate.validity();
    let seconds = validity.not_after.timestamp().saturating_sub(validity.not_before.timestamp());
    seconds > (LONGEST_CLIENT + ROUNDED).as_secs()
}

/// Verifies a client's certificate with the authority that it names, which is found in memory: there may be a thousand.
pub struct Verifier {
    system: Arc<dyn ClientCertVerifier>,
    tenants: Authorities,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// `system` knows the installation's authority, and lets those without a certificate in.
    pub fn new(system: Arc<dyn ClientCertVerifier>, tenants: Authorities) -> Self {
        Self { system, tenants, provider: Arc::new(rustls::crypto::ring::default_provider()) }
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier")
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.system.client_auth_mandatory()
    }

    /// None: every client shows what it has. Some of the authorities would hide certificates of the others from clients that
    /// go by the list (Go's do), and all of them would tell everybody which tenants there are.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let (_, parsed) = X509Certificate::from_der(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let Some(tenant) = issuing_tenant(&parsed) else {
            return self.system.verify_client_cert(end_entity, intermediates, now);
        };
        let authority = self.tenants.known(&tenant).ok_or(CertificateError::UnknownIssuer)?;
        let clients = authority.clients.as_ref().ok_or(CertificateError::UnknownIssuer)?;
        let key_id = authority_key_id(&parsed).ok_or(CertificateError::UnknownIssuer)?;
        let trusted = clients.trusted(&key_id, Timestamp::now()).ok_or(CertificateError::UnknownIssuer)?;
        if is_too_long(&parsed) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        // It has none below it.
        trusted.verifier.verify_client_cert(end_entity, &[], now)
    }

    hypernetes_certificates::signatures_by!(provider);
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    const ACME: &str = "0123456789abcdef0123456789abcdef";
    const GLOBEX: &str = "fedcba9876543210fedcba9876543210";

    /// A certificate of an authority of that name.
    fn said_by(authority: &str, name: &str, group: &str, units: &[&str], uris: &[&str]) -> Option<Certificate> {
        let (mut params, mut issuer) = (CertificateParams::default(), CertificateParams::default());
        issuer.distinguished_name = DistinguishedName::new();
        issuer.distinguished_name.push(DnType::CommonName, authority);
        let issuer = rcgen::Issuer::new(issuer, KeyPair::generate().unwrap());
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        for unit in units {
            params.distinguished_name.push(DnType::OrganizationalUnitName, *unit);
        }
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.use_authority_key_identifier_extension = true;
        certificate(params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der())
    }

    fn said(name: &str, group: &str, units: &[&str], uris: &[&str]) -> Option<UserInfo> {
        said_by("hypernetes", name, group, units, uris).map(|certificate| {
            assert_eq!(certificate.issuer, Issuer::System);
            certificate.user
        })
    }

    #[test]
    fn a_certificate_that_names_no_tenant_is_nobodys() {
        let (old, new) = (format!("tenant:{ACME}"), format!("hypernetes:tenant:{ACME}"));
        let system = "hypernetes:tenant:system";
        assert_eq!(said("operator", names::GROUP_MASTERS, &[], &[]), None);
        assert_eq!(said("operator", names::GROUP_MASTERS, &["tenant:system"], &[]), None);
        assert_eq!(said("operator", names::GROUP_MASTERS, &["tenant:"], &["hypernetes:tenant:"]), None);
        assert_eq!(said("x", "y", &[], &[&new, system]), None);
        assert_eq!(said("x", "y", &[&old], &[system]), None);
        assert_eq!(said("x", "y", &[], &["hypernetes:tenant:../x"]), None);
        assert!(said("operator", names::GROUP_MASTERS, &[], &[system]).unwrap().tenant.is_system());
        for user in [said("x", "y", &[&old], &[]), said("x", "y", &[], &[&new]), said("x", "y", &[&old], &[&new])] {
            assert_eq!(user.unwrap().tenant.as_str(), ACME);
        }
        // What only the system has.
        assert_eq!(said("system:serviceaccount:a:b", "y", &[], &[&new]), None);
        let groups = said("x", names::GROUP_INFRASTRUCTURE, &[&old], &[]).unwrap().groups;
        assert_eq!(groups, [names::GROUP_AUTHENTICATED]);
        assert!(said("system:node:a", names::GROUP_NODES, &[], &[system]).is_some());
    }

    #[test]
    fn a_tenants_authority_speaks_for_its_own_alone() {
        let (acme, globex) = (format!("hypernetes:tenant:{ACME}"), format!("hypernetes:tenant:{GLOBEX}"));
        let (acme, globex) = (acme.as_str(), globex.as_str());
        let by_acme = |name, group, uris: &[&str]| said_by(acme, name, group, &[], uris);
        let own = by_acme("ann", names::GROUP_KEYSTONE_ADMIN, &[acme]).unwrap();
        assert!(matches!(own.issuer, Issuer::Tenant(_)) && own.user.tenant.as_str() == ACME);
        for uris in [&[][..], &[globex], &["hypernetes:tenant:system"], &[acme, globex]] {
            assert_eq!(by_acme("ann", names::GROUP_KEYSTONE_ADMIN, uris), None, "{uris:?}");
        }
        for group in [names::GROUP_MASTERS, names::GROUP_INFRASTRUCTURE, names::GROUP_NODES, "system:serviceaccounts"] {
            let claimed = by_acme("ann", group, &[acme]).unwrap();
            assert_eq!(claimed.user.groups, [names::GROUP_AUTHENTICATED], "{group}");
        }
        assert_eq!(by_acme("system:node:a", names::GROUP_NODES, &[acme]), None);
        // Nothing but the system's authority is the system's, whatever it is called.
        let system = said_by("hypernetes:tenant:system", "x", "y", &[], &["hypernetes:tenant:system"]);
        assert_eq!(system.unwrap().issuer, Issuer::System, "which is then not verified");
    }
}
