//! Where the images of a registry are fetched: containerd's directory of hosts, `DIR/<host[:port]>/hosts.toml`, or
//! Docker's of certificates (`*.crt`, `*.cert` and `*.key`) in the same place. `_default` is for all others.
//!
//! The files are read for each pull: a change needs no restart.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{
    Certificate, Client, Identity, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use serde::Deserialize;

use super::reach::{NO_HOST, PublicOnly, Reach};
use crate::{ImageError, Reference};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Between two pieces of an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 5;
/// The place for registries that have none of their own.
const ALL_OTHERS: &str = "_default";
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_SERVER: &str = "registry-1.docker.io";

/// A server that may have an image: a mirror, or the registry itself.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub client: Client,
    /// Up to and with `/v2`, without a slash at its end.
    pub base: String,
    pub headers: HeaderMap,
    /// Its word is taken for what a tag means.
    pub resolves: bool,
    pub pulls: bool,
    /// The registry that the reference names: the only one that is shown the puller's credentials.
    pub is_origin: bool,
    /// Where it, and what it refers to, may be.
    pub reach: Reach,
}

#[derive(Deserialize)]
struct HostsFile {
    server: Option<String>,
    #[serde(default)]
    host: toml::Table,
    #[serde(flatten)]
    own: HostOptions,
}

#[derive(Deserialize, Default)]
struct HostOptions {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<ClientCertificates>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    header: BTreeMap<String, OneOrMany>,
    #[serde(default)]
    override_path: bool,
    dial_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// Files of a certificate and its key: one file of both, several such, or pairs.
#[derive(Deserialize)]
#[serde(untagged)]
enum ClientCertificates {
    Files(OneOrMany),
    Pairs(Vec<(String, String)>),
}

/// Which servers to ask, in order; the registry itself is the last. Where nobody has configured that, it has to be within
/// `reach`.
pub(crate) fn endpoints(
    directory: Option<&Path>,
    reference: &Reference,
    reach: Reach,
) -> Result<Vec<Endpoint>, ImageError> {
    let registry = reference.registry();
    let server = if registry == DOCKER_HUB { DOCKER_HUB_SERVER } else { registry };
    let scheme = if reference.is_loopback() { "http" } else { "https" };
    let default_server = format!("{scheme}://{server}");
    let Some(place) = directory.and_then(|directory| place(directory, registry)) else {
        return Ok(vec![endpoint(&default_server, &HostOptions::default(), None, true, reach)?]);
    };
    // What is for all registries does not name this one.
    let reach = if place.ends_with(ALL_OTHERS) { reach } else { Reach::Anywhere };
    let path = place.join("hosts.toml");
    let wrong = |reason: String| ImageError::Configuration { path: path.clone(), reason };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let options = docker_certificates(&place).map_err(|error| wrong(error.to_string()))?;
            // Whoever lays certificates down means TLS.
            let server = if options.ca.is_some() { format!("https://{server}") } else { default_server };
            return Ok(vec![endpoint(&server, &options, Some(&place), true, reach)?]);
        }
        Err(error) => return Err(wrong(error.to_string())),
    };
    let file: HostsFile = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let mut endpoints = Vec::new();
    for (name, options) in file.host {
        let options: HostOptions = options.try_into().map_err(|error| wrong(format!("host {name:?}: {error}")))?;
        endpoints.push(endpoint(&name, &options, Some(&place), false, Reach::Anywhere)?);
    }
    let (server, reach) = match file.server.filter(|server| !server.is_empty()) {
        Some(server) => (server, Reach::Anywhere),
        None => (default_server, reach),
    };
    endpoints.push(endpoint(&server, &file.own, Some(&place), true, reach)?);
    Ok(endpoints)
}

/// `host:port` may also be written `host_port_`.
fn place(directory: &Path, registry: &str) -> Option<PathBuf> {
    let safe = registry.rsplit_once(':').map(|(host, port)| format!("{host}_{port}_"));
    [Some(registry.to_owned()), safe, Some(ALL_OTHERS.into())]
        .into_iter()
        .flatten()
        .map(|name| directory.join(name))
        .find(|place| place.is_dir())
}

fn docker_certificates(place: &Path) -> io::Result<HostOptions> {
    let (mut authorities, mut pairs) = (Vec::new(), Vec::new());
    for file in fs::read_dir(place)? {
        let path = file?.path();
        let text = |path: &Path| path.display().to_string();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => authorities.push(text(&path)),
            Some("cert") => pairs.push((text(&path), text(&path.with_extension("key")))),
            _ => {}
        }
    }
    Ok(HostOptions {
        ca: (!authorities.is_empty()).then_some(OneOrMany::Many(authorities)),
        client: (!pairs.is_empty()).then_some(ClientCertificates::Pairs(pairs)),
        ..HostOptions::default()
    })
}

fn endpoint(
    server: &str,
    options: &HostOptions,
    place: Option<&Path>,
    is_origin: bool,
    reach: Reach,
) -> Result<Endpoint, ImageError> {
    let path = place.map_or_else(|| PathBuf::from(server), Path::to_owned);
    let wrong = |reason: String| ImageError::Configuration { path: path.clone(), reason };
    let with_scheme = if server.contains("://") { server.to_owned() } else { format!("https://{server}") };
    let url: Url = with_scheme.parse().map_err(|error| wrong(format!("{server:?} is no address: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong(format!("{server:?} is neither http nor https")));
    }
    let mut base = url.as_str().trim_end_matches('/').to_owned();
    if !options.override_path && !base.ends_with("/v2") {
        base.push_str("/v2");
    }
    let may = |what: &str| options.capabilities.as_ref().is_none_or(|all| all.iter().any(|found| found == what));
    Ok(Endpoint {
        client: client(options, place, reach).map_err(wrong)?,
        base,
        headers: headers(options).map_err(wrong)?,
        resolves: may("resolve"),
        pulls: may("pull"),
        is_origin,
        reach,
    })
}

fn headers(options: &HostOptions) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, values) in &options.header {
        let name: HeaderName = name.parse().map_err(|_| format!("{name:?} is no header's name"))?;
        for value in values.all() {
            let value: HeaderValue = value.parse().map_err(|_| format!("the value of the header {name} is not one"))?;
            headers.append(&name, value);
        }
    }
    Ok(headers)
}

fn client(options: &HostOptions, place: Option<&Path>, reach: Reach) -> Result<Client, String> {
    // reqwest leaves the choice of cryptography to the process; what another part has chosen already stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let read = |name: &str| {
        let path = place.map_or_else(|| PathBuf::from(name), |place| place.join(name));
        fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let mut builder = Client::builder()
        .user_agent(concat!("hypernetes/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(match &options.dial_timeout {
            Some(text) => duration(text).ok_or_else(|| format!("dial_timeout {text:?} is not like 10s or 500ms"))?,
            None => CONNECT_TIMEOUT,
        })
        .read_timeout(READ_TIMEOUT)
        .redirect(Policy::custom(move |attempt| {
            let secure = attempt.previous().first().is_some_and(|first| first.scheme() == "https");
            if attempt.previous().len() > MAX_REDIRECTS {
                attempt.error("it redirects too often")
            } else if secure && attempt.url().scheme() != "https" {
                attempt.error("it redirects from https to http")
            } else if !reach.allows(attempt.url()) {
                attempt.error(NO_HOST)
            } else {
                attempt.follow()
            }
        }))
        .tls_danger_accept_invalid_certs(options.skip_verify);
    if reach == Reach::Public {
        builder = builder.dns_resolver(PublicOnly::shared());
    }
    for file in options.ca.iter().flat_map(OneOrMany::all) {
        let certificates = Certificate::from_pem_bundle(&read(file)?).map_err(|error| format!("{file}: {error}"))?;
        if certificates.is_empty() {
            return Err(format!("{file}: no certificate is in it"));
        }
        builder = builder.tls_certs_merge(certificates);
    }
    let identity = match &options.client {
        None => None,
        Some(ClientCertificates::Files(files)) => files.all().first().map(|file| read(file)).transpose()?,
        Some(ClientCertificates::Pairs(pairs)) => {
            let join = |(certificate, key): &(String, String)| {
                Ok::<_, String>(
                    [read(certificate)?, vec![b'\n'], if key.is_empty() { Vec::new() } else { read(key)? }].concat(),
                )
            };
            pairs.first().map(join).transpose()?
        }
    };
    if let Some(pem) = identity {
        builder =
            builder.identity(Identity::from_pem(&pem).map_err(|error| format!("the client certificate: {error}"))?);
    }
    builder.build().map_err(|error| super::causes(&error))
}

/// `10s`, `500ms`, `1m`.
fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..split].parse().ok()?;
    match &text[split..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(directory: &Path, reference: &str) -> Vec<Endpoint> {
        endpoints(Some(directory), &Reference::parse(reference).unwrap(), Reach::Public).unwrap()
    }

    #[test]
    fn hosts_are_asked_in_the_order_of_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("docker.io");
        fs::create_dir(&place).unwrap();
        let file = r#"
            server = "https://registry-1.docker.io"
            [host."https://z-mirror.example.com"]
              capabilities = ["pull"]
            [host."http://a-mirror.example.com:5000/prefix"]
              override_path = true
              dial_timeout = "300ms"
              [host."http://a-mirror.example.com:5000/prefix".header]
                x-team = ["one", "two"]
        "#;
        fs::write(place.join("hosts.toml"), file).unwrap();
        let endpoints = found(directory.path(), "busybox");
        let bases: Vec<&str> = endpoints.iter().map(|e| e.base.as_str()).collect();
        let expected = [
            "https://z-mirror.example.com/v2",
            "http://a-mirror.example.com:5000/prefix",
            "https://registry-1.docker.io/v2",
        ];
        assert_eq!(bases, expected);
        assert!(!endpoints[0].resolves && endpoints[0].pulls && endpoints[1].resolves);
        assert_eq!(endpoints[1].headers.get_all("x-team").iter().count(), 2);
        assert!(endpoints[2].is_origin && !endpoints[1].is_origin);
        let other = found(directory.path(), "registry.example.com:5000/a/b:1");
        assert_eq!(other[0].base, "https://registry.example.com:5000/v2");
        assert_eq!(found(directory.path(), "localhost:5000/a")[0].base, "http://localhost:5000/v2");
    }

    #[test]
    fn only_what_is_configured_may_be_anywhere() {
        let directory = tempfile::tempdir().unwrap();
        let reach = |reference: &str| -> Vec<Reach> {
            found(directory.path(), reference).into_iter().map(|endpoint| endpoint.reach).collect()
        };
        assert_eq!(reach("10.0.0.1:5000/a"), [Reach::Public]);
        // Its place alone says that it is meant.
        fs::create_dir(directory.path().join("10.0.0.1:5000")).unwrap();
        assert_eq!(reach("10.0.0.1:5000/a"), [Reach::Anywhere]);
        assert_eq!(reach("10.0.0.1:5001/a"), [Reach::Public]);
        // A mirror of all is, what it mirrors is not.
        let place = directory.path().join("_default");
        fs::create_dir(&place).unwrap();
        assert_eq!(reach("10.0.0.1:5001/a"), [Reach::Public]);
        fs::write(place.join("hosts.toml"), "[host.\"http://10.0.0.9\"]").unwrap();
        assert_eq!(reach("10.0.0.1:5001/a"), [Reach::Anywhere, Reach::Public]);
        fs::write(place.join("hosts.toml"), "server = \"http://10.0.0.9\"").unwrap();
        assert_eq!(reach("10.0.0.1:5001/a"), [Reach::Anywhere]);
    }

    #[test]
    fn a_wrong_file_says_what_is_wrong() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("_default");
        fs::create_dir(&place).unwrap();
        let reference = Reference::parse("registry.example.com/a").unwrap();
        for (file, message) in [
            ("server = 3", "hosts.toml"),
            ("[host.\"ftp://x\"]", "neither http nor https"),
            ("ca = \"missing.pem\"", "missing.pem"),
            ("dial_timeout = \"soon\"", "dial_timeout"),
            ("[host.\"https://x\"]\ncapabilities = 1", "host \"https://x\""),
        ] {
            fs::write(place.join("hosts.toml"), file).unwrap();
            let error = endpoints(Some(directory.path()), &reference, Reach::Public).err().expect(file).to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
