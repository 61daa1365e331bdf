//! What this process shows at the other end of TLS: a certificate that can be renewed while it is in use.

use std::{fmt, sync::Arc};

use parking_lot::RwLock;
use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::TlsError;

/// A certificate with its key. Cheap to clone: all clones show the same one.
#[derive(Clone)]
pub struct Shown(Arc<RwLock<Arc<CertifiedKey>>>);

impl Shown {
    /// Of PEM texts; the first certificate is the one that the key is of.
    ///
    /// # Errors
    /// When they are none.
    pub fn new(certificate: &str, key: &str) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(RwLock::new(certified(certificate, key)?))))
    }

    /// Shows another one from now on. Connections that there are go on.
    ///
    /// # Errors
    /// When it is none: then nothing changes.
    pub fn set(&self, certificate: &str, key: &str) -> Result<(), TlsError> {
        *self.0.write() = certified(certificate, key)?;
        Ok(())
    }

    /// The certificate that is shown now, DER.
    pub fn certificate(&self) -> Option<CertificateDer<'static>> {
        self.0.read().cert.first().cloned()
    }
}

fn certified(certificate: &str, key: &str) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())?))
}

/// Its key is not for logs.
impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
