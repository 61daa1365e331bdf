//! A server that is measured: where it is, who asks, and which processes it consists of.

use std::{fs, path::Path, str::FromStr, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, Uri, header};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde::{Deserialize, de::DeserializeOwned};

/// `NAME=KUBECONFIG[,pid=PID[+PID...]]`
#[derive(Debug, Clone)]
pub struct Spec {
    pub name: String,
    pub kubeconfig: String,
    pub pids: Vec<i32>,
}

impl FromStr for Spec {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, rest) = text.split_once('=').context("NAME=KUBECONFIG[,pid=PID[+PID...]] is wanted")?;
        let (kubeconfig, pids) = match rest.split_once(",pid=") {
            Some((kubeconfig, pids)) => (kubeconfig, pids.split('+').map(str::parse).collect::<Result<_, _>>()?),
            None => (rest, Vec::new()),
        };
        Ok(Self { name: name.into(), kubeconfig: kubeconfig.into(), pids })
    }
}

/// The protocol that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Http {
    #[value(name = "1")]
    One,
    #[value(name = "2")]
    Two,
}

#[derive(Clone)]
pub struct Target {
    pub name: String,
    pub pids: Vec<i32>,
    pub http: Http,
    /// `ADDRESS:PORT`
    pub address: String,
    pub server_name: ServerName<'static>,
    pub tls: Arc<ClientConfig>,
    /// Of every request.
    pub headers: HeaderMap,
    /// Before every path: that of the kubeconfig's URL.
    prefix: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    #[serde(default)]
    current_context: String,
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
    contexts: Vec<NamedContext>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: ContextNames,
}

#[derive(Deserialize)]
struct ContextNames {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    tls_server_name: Option<String>,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<String>,
    client_certificate_data: Option<String>,
    client_key: Option<String>,
    client_key_data: Option<String>,
    token: Option<String>,
}

/// A file's content, named or given in base64.
fn content(beside: &Path, file: Option<&String>, data: Option<&String>) -> Result<Option<Vec<u8>>> {
    Ok(match (data, file) {
        (Some(data), _) => Some(STANDARD.decode(data.trim())?),
        (None, Some(file)) => Some(fs::read(beside.join(file)).with_context(|| format!("reading {file}"))?),
        (None, None) => None,
    })
}

fn read<T: DeserializeOwned>(path: &str) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    serde_saphyr::from_str(&text).with_context(|| format!("reading {path}"))
}

impl Target {
    /// # Errors
    /// When the kubeconfig has no certificate and no token in it: a credential plugin is not run.
    pub fn open(spec: &Spec, http: Http) -> Result<Self> {
        let config: Kubeconfig = read(&spec.kubeconfig)?;
        let beside = Path::new(&spec.kubeconfig).parent().unwrap_or(Path::new("."));
        let context = config.contexts.iter().find(|c| c.name == config.current_context || config.contexts.len() == 1);
        let context = &context.context("the kubeconfig has no current context")?.context;
        let cluster = config.clusters.iter().find(|c| c.name == context.cluster).context("no such cluster")?;
        let user = &config.users.iter().find(|u| u.name == context.user).context("no such user")?.user;
        let cluster = &cluster.cluster;

        let url: Uri = cluster.server.parse().context("the server's URL")?;
        ensure!(url.scheme_str() == Some("https"), "{} is not https://", cluster.server);
        let (host, port) = (url.host().context("a URL without a host")?, url.port_u16().unwrap_or(443));
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let server_name = cluster.tls_server_name.clone().unwrap_or_else(|| bare.to_owned());

        let mut roots = RootCertStore::empty();
        let authority = cluster.certificate_authority.as_ref();
        let authority = content(beside, authority, cluster.certificate_authority_data.as_ref())?;
        for certificate in CertificateDer::pem_slice_iter(&authority.context("no certificate authority")?) {
            roots.add(certificate?)?;
        }
        let tls = ClientConfig::builder().with_root_certificates(roots);
        let certificate = content(beside, user.client_certificate.as_ref(), user.client_certificate_data.as_ref())?;
        let key = content(beside, user.client_key.as_ref(), user.client_key_data.as_ref())?;
        let mut tls = match (&certificate, &key) {
            (Some(certificate), Some(key)) => {
                let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
                tls.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?
            }
            _ => tls.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![match http {
            Http::One => b"http/1.1".to_vec(),
            Http::Two => b"h2".to_vec(),
        }];
        let address = format!("{host}:{port}");
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static("bench-api"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if http == Http::One {
            headers.insert(header::HOST, address.parse()?);
        }
        match &user.token {
            Some(token) => {
                let mut token: HeaderValue = format!("Bearer {token}").parse()?;
                token.set_sensitive(true);
                headers.insert(header::AUTHORIZATION, token);
            }
            None if certificate.is_none() => {
                bail!("{} has neither a client certificate nor a token in it", spec.kubeconfig)
            }
            None => {}
        }
        Ok(Self {
            name: spec.name.clone(),
            pids: spec.pids.clone(),
            http,
            server_name: ServerName::try_from(server_name)?,
            tls: Arc::new(tls),
            headers,
            prefix: url.path().trim_end_matches('/').to_owned(),
            address,
        })
    }

    /// One that asks nobody who they are.
    pub fn bare(
        name: &str,
        pid: i32,
        address: String,
        server_name: ServerName<'static>,
        tls: Arc<ClientConfig>,
    ) -> Self {
        let (headers, prefix) = (HeaderMap::new(), String::new());
        Self { name: name.into(), pids: vec![pid], http: Http::Two, address, server_name, tls, headers, prefix }
    }

    /// Of a path that begins with a slash, with its query.
    ///
    /// # Errors
    /// When it is none.
    pub fn uri(&self, path: &str) -> Result<Uri> {
        let whole = match self.http {
            Http::One => format!("{}{path}", self.prefix),
            Http::Two => format!("https://{}{}{path}", self.address, self.prefix),
        };
        Ok(whole.parse()?)
    }
}
