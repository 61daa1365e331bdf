//! `hypernetes node join`: a host that has nothing but a token becomes a node.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use hypernetes_certificates::{cluster_info, pem, signer::Signer};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustls::{
    CertificateError, ClientConfig, Error, RootCertStore,
    client::{
        WebPkiServerVerifier,
        danger::{ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    credentials::{self, AUTHORITY, KUBECONFIG},
    host_name, renew,
};
use crate::{kubeconfig, pki};

/// Make this host a node of a server
///
/// Verifies the server by the hash of its authority, asks it for a certificate by the token, waits until it is there, and writes
/// DIR/node.kubeconfig. Then `hypernetes node --root DIR` runs the node. The command with all its parts is printed by
/// `hypernetes node token create`, where the server is. A host whose name a node has already waits for the operator's
/// `kubectl certificate approve`.
#[derive(clap::Args)]
pub struct Join {
    /// The server's URL.
    #[arg(long, value_name = "URL")]
    server: String,
    /// A bootstrap token: ID.SECRET.
    #[arg(long, env = "HYPERNETES_BOOTSTRAP_TOKEN", hide_env_values = true)]
    token: String,
    /// Which authority the server has: sha256:HEX, of its public key.
    #[arg(long, value_name = "sha256:HEX", required_unless_present = "discover")]
    ca_hash: Option<String>,
    /// Take the authority that the server's cluster-info says, which the token has to have signed, as kubeadm does: for a token that no
    /// other host has, as whoever has it can sign, too.
    #[arg(long, conflicts_with = "ca_hash")]
    discover: bool,
    /// The node's directory, which is made.
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Name of the Node object [default: this host's name].
    #[arg(long)]
    name: Option<String>,
}

impl Join {
    pub async fn run(self) -> Result<()> {
        let present = self.root.join(KUBECONFIG);
        if present.exists() {
            bail!("{} is there already: remove it to join anew", present.display());
        }
        std::fs::create_dir_all(&self.root).with_context(|| format!("making {}", self.root.display()))?;
        let name = self.name.map_or_else(host_name, Ok)?;
        let server = self.server.trim_end_matches('/');
        let authority = match &self.ca_hash {
            Some(hash) => authority(server, &hash.to_ascii_lowercase()).await?,
            None => discovered(server, &self.token).await?,
        };
        let config = kubeconfig::render("system", server, &authority, &kubeconfig::User::Token(&self.token));
        let config = Kubeconfig::from_yaml(&config)?;
        let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let client = kube::Client::try_from(config)?;
        let said = |request: &str| println!("asked for a certificate for the node {name}: {request}");
        let identity = renew::ask(&client, &name, Signer::ApiserverClientKubelet, &[], &[], said).await?;
        pki::write_private(&self.root.join(AUTHORITY), authority.as_bytes())?;
        credentials::write_client(&self.root, server, &authority, &identity)?;
        println!("joined: run `hypernetes node --root {} --name {name} --hyperd-root …`", self.root.display());
        Ok(())
    }
}

/// A server's URL, and its host.
fn url_of(server: &str) -> Result<(http::Uri, String)> {
    let url: http::Uri = server.parse().with_context(|| format!("{server:?} is no URL"))?;
    let (Some("https"), Some(host)) = (url.scheme_str(), url.host()) else {
        bail!("{server:?} is no URL of a server: https://ADDRESS:PORT");
    };
    let host = host.trim_matches(['[', ']']).to_owned();
    Ok((url, host))
}

/// The authority, PEM, that a server says it has, signed by the token. Until that is known nothing is sent that is anybody's.
async fn discovered(server: &str, token: &str) -> Result<String> {
    let (id, secret) = token.split_once('.').context("a token is ID.SECRET")?;
    let mut config = kube::Config::new(url_of(server)?.0);
    // Whoever answers: what is answered is verified.
    config.accept_invalid_certs = true;
    let maps: kube::Api<ConfigMap> = kube::Api::namespaced(kube::Client::try_from(config)?, cluster_info::NAMESPACE);
    let said = maps.get(cluster_info::NAME).await.with_context(|| format!("reading {server}'s cluster-info"))?;
    let data = said.data.unwrap_or_default();
    let entry = |name: &str| data.get(name).map(String::as_str).unwrap_or_default();
    let (text, signature) = (entry(cluster_info::KUBECONFIG), entry(&format!("{}{id}", cluster_info::SIGNATURE)));
    if !cluster_info::is_signed(text, signature, id, secret) {
        bail!("{server}'s cluster-info is not signed by this token: it has ended, or it is another server");
    }
    let said = Kubeconfig::from_yaml(text).context("cluster-info")?;
    let cluster = said.clusters.into_iter().next().and_then(|named| named.cluster);
    let authority =
        cluster.and_then(|cluster| cluster.certificate_authority_data).context("cluster-info names no authority")?;
    String::from_utf8(STANDARD.decode(authority)?).context("the authority in cluster-info")
}

/// The authority, PEM, of the server at a URL, which has to be the one of this hash and to have signed for the server. Nothing is sent
/// before that is known.
async fn authority(server: &str, hash: &str) -> Result<String> {
    let (url, host) = url_of(server)?;
    let host = host.as_str();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pinned = Arc::new(Pinned { hash: hash.to_owned(), provider: provider.clone() });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(pinned.clone())
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect((host, url.port_u16().unwrap_or(443)));
    let stream = stream.await.with_context(|| format!("reaching {server}"))?;
    let name = ServerName::try_from(host.to_owned()).with_context(|| format!("{host:?} is no host"))?;
    let connected = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let connected = connected.with_context(|| format!("{server} is not the server of that --ca-hash"))?;
    let shown = connected.get_ref().1.peer_certificates().unwrap_or_default();
    let authority = shown.iter().find(|certificate| pinned.is(certificate));
    let authority = authority.context("the server did not show its authority")?;
    Ok(pem::text("CERTIFICATE", authority))
}

/// Takes a server whose chain has the authority of a hash, and is good by that authority.
#[derive(Debug)]
struct Pinned {
    /// As [`pki::format_hash`].
    hash: String,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn is(&self, certificate: &[u8]) -> bool {
        let parsed = X509Certificate::from_der(certificate);
        parsed.is_ok_and(|(_, parsed)| parsed.is_ca() && pki::format_hash(parsed.public_key().raw) == self.hash)
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates.iter().find(|certificate| self.is(certificate));
        let authority = authority.ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone()).build();
        let verifier = verifier.map_err(|_| CertificateError::UnknownIssuer)?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }

    hypernetes_certificates::signatures_by!(provider);
}
