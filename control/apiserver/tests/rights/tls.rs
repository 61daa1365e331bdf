//! The server behind TLS, and certificates of all kinds for its clients.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hypernetes_apiserver::{ApiServer, Shown, TlsConfig, serve};
use hypernetes_testing::server::InProcess;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::bench::operator;

pub type Authority = Issuer<'static, KeyPair>;

pub struct Tls {
    address: std::net::SocketAddr,
    roots: rustls::RootCertStore,
    /// The system's.
    pub authority: Authority,
    shown: Shown,
    _stop: DropGuard,
}

pub struct Client(tokio_rustls::client::TlsStream<TcpStream>);

/// One that anybody can make, of any name.
pub fn authority(name: &str) -> (Authority, String) {
    named(name, CertificateParams::default())
}

/// One that lasts for ten years.
pub fn long_authority(name: &str) -> (Authority, String) {
    let mut params = CertificateParams::default();
    params.not_after = (SystemTime::now() + Duration::from_secs(3650 * 86_400)).into();
    named(name, params)
}

fn named(name: &str, mut params: CertificateParams) -> (Authority, String) {
    let key = KeyPair::generate().unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), certificate)
}

/// A server's certificate and its key.
fn serving(authority: &Authority) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

/// The Secret of a tenant's authority, as the operator has it.
pub async fn secret(bench: &InProcess, tenant: &str, name: &str) -> String {
    bench.server.authorities().of(&tenant.parse().unwrap()).await.unwrap();
    let path = format!("/clusters/system/api/v1/namespaces/hypernetes-identity/secrets/authority-{tenant}");
    let secret = bench.get(&operator(), &path).await.ok();
    String::from_utf8(STANDARD.decode(secret["data"][name].as_str().unwrap()).unwrap()).unwrap()
}

/// A tenant's authority, with which nobody but the operator can sign.
pub async fn tenants(bench: &InProcess, tenant: &str) -> Authority {
    let key = KeyPair::from_pem(&secret(bench, tenant, "ca.key").await).unwrap();
    Issuer::from_ca_cert_pem(&secret(bench, tenant, "ca.crt").await, key).unwrap()
}

impl Tls {
    pub async fn start(server: &ApiServer) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (authority, client_authority) = authority("hypernetes");
        let (certificate, key) = serving(&authority);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(client_authority.as_bytes()).unwrap()).unwrap();
        let shown = Shown::new(&certificate, &key).unwrap();
        let tls = TlsConfig { shown: shown.clone(), authority: client_authority };
        let (stop, router, authorities) = (CancellationToken::new(), server.router(), server.authorities());
        let stopping = stop.clone();
        tokio::spawn(async move { serve(listener, router, &tls, authorities, stopping).await.unwrap() });
        Self { address, roots, authority, shown, _stop: stop.drop_guard() }
    }

    /// Gives the server another certificate, while it runs.
    pub fn renew(&self) {
        let (certificate, key) = serving(&self.authority);
        self.shown.set(&certificate, &key).unwrap();
    }

    /// With a certificate of this authority, for a group, which names these tenants.
    pub async fn connect(&self, by: &Authority, group: &str, tenants: &[&str]) -> std::io::Result<Client> {
        self.connect_for(Duration::from_secs(86_400), by, group, tenants).await
    }

    /// [`Self::connect`] with a certificate that is good for so long.
    pub async fn connect_for(
        &self,
        lifetime: Duration,
        by: &Authority,
        group: &str,
        tenants: &[&str],
    ) -> std::io::Result<Client> {
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
        let now = SystemTime::now();
        (params.not_before, params.not_after) = (now.into(), (now + lifetime).into());
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "ann");
        params.distinguished_name.push(DnType::OrganizationName, group);
        let uri = |tenant: &&str| SanType::URI(format!("hypernetes:tenant:{tenant}").try_into().unwrap());
        params.subject_alt_names = tenants.iter().map(uri).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, by).unwrap().der().clone();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let config = rustls::ClientConfig::builder()
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(vec![certificate], key)
            .unwrap();
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        Ok(Client(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
    }

    /// The code that a new connection gets; 0 when there is none.
    pub async fn code(&self, by: &Authority, group: &str, tenants: &[&str], path: &str) -> u16 {
        // In TLS 1.3 the client hears what its certificate is worth only when it reads.
        match self.connect(by, group, tenants).await {
            Ok(mut client) => client.get(path).await.unwrap_or(0),
            Err(_) => 0,
        }
    }
}

impl Client {
    /// The server's certificate.
    pub fn shown(&self) -> CertificateDer<'static> {
        self.0.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }

    pub async fn get(&mut self, path: &str) -> std::io::Result<u16> {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        match head.split("content-length: ").nth(1) {
            Some(length) => {
                let length = length.split("\r\n").next().unwrap().parse().unwrap();
                self.0.read_exact(&mut vec![0; length]).await?;
            }
            None => {
                let mut body = Vec::new();
                while !body.ends_with(b"\r\n0\r\n\r\n") {
                    body.push(self.0.read_u8().await?);
                }
            }
        }
        Ok(head[9..12].parse().unwrap())
    }
}
