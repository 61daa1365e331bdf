//! Who is let in: the API server, by its certificate.

use std::sync::Arc;

use hypernetes_api::{TenantId, names};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;

use crate::config::ServerTls;

/// Only connections with a certificate of the system's authority come through: the tenants' own are not known here.
pub fn acceptor(tls: &ServerTls) -> Result<TlsAcceptor, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(tls.client_authority.as_bytes()) {
        roots.add(certificate.map_err(|e| text(&e))?).map_err(|e| text(&e))?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().map_err(|e| text(&e))?;
    let serving = Arc::new(tls.serving.clone());
    let mut config = ServerConfig::builder().with_client_cert_verifier(verifier).with_cert_resolver(serving);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Nodes and the operator have certificates of the same authority, and tenants had: the group tells infrastructure from
/// them, and the certificate has to say that it is the system's.
pub(super) fn is_infrastructure(certificate: &CertificateDer<'_>) -> bool {
    use x509_parser::{
        extensions::GeneralName,
        prelude::{FromDer, X509Certificate},
    };
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let mut groups = certificate.subject().iter_organization().filter_map(|group| group.as_str().ok());
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let mut tenants = alternative.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(names::CERTIFICATE_TENANT_URI),
        _ => None,
    });
    groups.any(|group| group == names::GROUP_INFRASTRUCTURE)
        && tenants.next() == Some(TenantId::SYSTEM)
        && tenants.next().is_none()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn only_what_says_that_it_is_the_systems_infrastructure_is() {
        let is = |group: &str, uris: &[&str]| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::OrganizationName, group);
            params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
            is_infrastructure(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
        };
        let (system, tenant) = ("hypernetes:tenant:system", "hypernetes:tenant:0123456789abcdef0123456789abcdef");
        assert!(is(names::GROUP_INFRASTRUCTURE, &[system]));
        for uris in [&[][..], &[tenant], &[system, tenant], &[tenant, system]] {
            assert!(!is(names::GROUP_INFRASTRUCTURE, uris), "{uris:?}");
        }
        for group in [names::GROUP_MASTERS, names::GROUP_NODES] {
            assert!(!is(group, &[system]), "{group}");
        }
    }
}
