//! What a certificate signing request (PKCS #10, RFC 2986) says.

use std::net::IpAddr;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME},
    prelude::FromDer,
};

use crate::pem;

/// What stands around a request in PEM.
pub const LABEL: &str = "CERTIFICATE REQUEST";

/// Whom a certificate is asked for, and for which key. Everything that the request says is here, if only as that there is
/// something: what a signer does not know it does not copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SigningRequest {
    pub common_names: Vec<String>,
    pub organizations: Vec<String>,
    /// The subject has something else, or something that is no text.
    pub more_subject: bool,
    pub dns: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub uris: Vec<String>,
    pub emails: Vec<String>,
    /// There are names of other kinds.
    pub more_names: bool,
    /// DER, SPKI. The request is signed by its private half.
    pub public_key: Vec<u8>,
}

/// It is none. The words are upstream's where Go's libraries have one sentence for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    Label,
    #[error("asn1: structure error: it is no certificate signing request")]
    Malformed,
    #[error("x509: ECDSA verification failure")]
    Signature,
}

/// A name that is asked for could not be written, or there was no key to be made.
#[derive(Debug, thiserror::Error)]
#[error("making a certificate signing request: {0}")]
pub struct MakingError(#[from] rcgen::Error);

impl SigningRequest {
    /// Reads the first block of a text.
    ///
    /// # Errors
    /// When it is no request, or not signed by the key that it is for.
    pub fn parse(text: &[u8]) -> Result<Self, RequestError> {
        let block = pem::blocks(text).next().filter(|block| block.label == LABEL).ok_or(RequestError::Label)?;
        let (rest, request) =
            X509CertificationRequest::from_der(&block.content).map_err(|_| RequestError::Malformed)?;
        if !rest.is_empty() {
            return Err(RequestError::Malformed);
        }
        request.verify_signature().map_err(|_| RequestError::Signature)?;
        let info = &request.certification_request_info;
        let mut read = Self { public_key: info.subject_pki.raw.to_vec(), ..Self::default() };
        for attribute in info.subject.iter_attributes() {
            let kind = attribute.attr_type();
            match attribute.as_str() {
                Ok(name) if *kind == OID_X509_COMMON_NAME => read.common_names.push(name.to_owned()),
                Ok(name) if *kind == OID_X509_ORGANIZATION_NAME => read.organizations.push(name.to_owned()),
                _ => read.more_subject = true,
            }
        }
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                names.general_names.iter().for_each(|name| read.add(name));
            }
        }
        Ok(read)
    }

    fn add(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => self.dns.push((*name).to_owned()),
            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
            GeneralName::RFC822Name(name) => self.emails.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
                (Ok(bytes), _) => self.addresses.push(bytes.into()),
                (_, Ok(bytes)) => self.addresses.push(bytes.into()),
                _ => self.more_names = true,
            },
            _ => self.more_names = true,
        }
    }
}

/// A new key and a request for a certificate of it, both PEM.
///
/// # Errors
/// When there is no randomness to make a key of, or a name cannot be in a certificate.
pub fn make(
    common_name: &str,
    organization: &str,
    dns: &[&str],
    addresses: &[IpAddr],
) -> Result<(String, String), MakingError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.subject_alt_names = addresses.iter().map(|address| SanType::IpAddress(*address)).collect();
    for name in dns {
        params.subject_alt_names.push(SanType::DnsName((*name).try_into()?));
    }
    let request = params.serialize_request(&key)?.pem()?;
    Ok((key.serialize_pem(), request))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_read_again() {
        let (key, request) =
            make("system:node:a", "system:nodes", &["a"], &["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()])
                .unwrap();
        let read = SigningRequest::parse(request.as_bytes()).unwrap();
        assert_eq!(
            (read.common_names.as_slice(), read.organizations.as_slice()),
            (&["system:node:a".to_owned()][..], &["system:nodes".to_owned()][..])
        );
        assert_eq!((read.dns.len(), read.addresses.len()), (1, 2));
        assert!(!read.more_subject && !read.more_names && read.uris.is_empty() && read.emails.is_empty());
        let public = KeyPair::from_pem(&key).unwrap();
        assert_eq!(read.public_key, rcgen::PublicKeyData::subject_public_key_info(&public));
    }

    #[test]
    fn what_is_no_request_is_told_so() {
        let parse = |text: &str| SigningRequest::parse(text.as_bytes()).unwrap_err();
        assert_eq!(parse(""), RequestError::Label);
        assert_eq!(parse("-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----"), RequestError::Label);
        assert_eq!(
            parse("-----BEGIN CERTIFICATE REQUEST-----\nYWJj\n-----END CERTIFICATE REQUEST-----"),
            RequestError::Malformed
        );
        let (_, good) = make("a", "b", &[], &[]).unwrap();
        let block = pem::blocks(good.as_bytes()).next().unwrap();
        let whole = SigningRequest::parse(good.as_bytes()).unwrap();
        // Any bit of it that is another: never a panic, and never another request.
        for at in 0..block.content.len() {
            let mut content = block.content.clone();
            content[at] ^= 1;
            let text = {
                use base64::Engine;
                let body = base64::engine::general_purpose::STANDARD.encode(&content);
                format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----")
            };
            let read = SigningRequest::parse(text.as_bytes());
            assert!(read.as_ref().is_err() || read == Ok(whole.clone()), "byte {at}");
        }
    }
}
