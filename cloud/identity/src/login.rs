//! `hypernetes login`: client-go's credential plugin protocol (`client.authentication.k8s.io/v1`), with a Keystone
//! token as the credential.
//!
//! The token is kept in a file of the user's own until shortly before it expires, and is asked about before it is used
//! again, because client-go calls the plugin anew when a token has been revoked.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use jiff::{SignedDuration, Timestamp};
use kube::client::Body;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A token that expires sooner is not handed out again.
const MARGIN: SignedDuration = SignedDuration::from_mins(2);
const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Where to log in, as whom, and to which project.
#[derive(Debug, Clone)]
pub struct Login {
    /// Of the v3 API, e.g. `https://cloud.example:6443/identity/v3`.
    pub auth_url: String,
    /// PEM file of the authorities to trust; `None`: those of the system.
    pub ca_file: Option<PathBuf>,
    pub user: Name,
    pub password: Password,
    /// `None`: the user's default project.
    pub project: Option<Name>,
    /// Directory of kept tokens; `None`: none are kept.
    pub cache: Option<PathBuf>,
}

/// By id, or by name in a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    Id(String),
    /// The domain by its id (`default`) or its name.
    InDomain {
        name: String,
        domain: DomainName,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DomainName {
    Id(String),
    Name(String),
}

/// Where the password comes from; never from the command line, which everyone on the machine can read.
#[derive(Clone)]
pub enum Password {
    Given(String),
    /// Its first line.
    File(PathBuf),
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Given(_) => f.write_str("Given(..)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("{0} is not set")]
    Missing(&'static str),
    #[error("reading the password from {0}: {1}")]
    PasswordFile(PathBuf, io::Error),
    #[error("{0:?} is not a URL: {1}")]
    Url(String, http::uri::InvalidUri),
    #[error("setting up the connection to {0}: {1}")]
    Setup(String, kube::Error),
    #[error("{0} does not answer: {1}")]
    Unreachable(String, String),
    #[error("{url} refused ({status}): {message}")]
    Refused { url: String, status: StatusCode, message: String },
    #[error("{0} does not answer as a Keystone does: {1}")]
    NotKeystone(String, &'static str),
    #[error("keeping the token in {0}: {1}")]
    Cache(PathBuf, io::Error),
}

impl Login {
    /// From the `OS_*` variables that the openstack client reads, and `OS_PASSWORD_FILE`. `get` looks one up.
    ///
    /// # Errors
    /// [`LoginError::Missing`] names a variable that is needed.
    pub fn from_environment(get: impl Fn(&str) -> Option<String>) -> Result<Self, LoginError> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let domain = |kind: &str| {
            let id = get(&format!("OS_{kind}_DOMAIN_ID")).map(DomainName::Id);
            let name = || get(&format!("OS_{kind}_DOMAIN_NAME")).map(DomainName::Name);
            id.or_else(name).unwrap_or(DomainName::Id("default".into()))
        };
        let user = match (get("OS_USER_ID"), get("OS_USERNAME")) {
            (Some(id), _) => Name::Id(id),
            (None, Some(name)) => Name::InDomain { name, domain: domain("USER") },
            (None, None) => return Err(LoginError::Missing("OS_USERNAME")),
        };
        let project = match (get("OS_PROJECT_ID"), get("OS_PROJECT_NAME")) {
            (Some(id), _) => Some(Name::Id(id)),
            (None, Some(name)) => Some(Name::InDomain { name, domain: domain("PROJECT") }),
            (None, None) => None,
        };
        let password = match (get("OS_PASSWORD"), get("OS_PASSWORD_FILE")) {
            (Some(password), _) => Password::Given(password),
            (None, Some(path)) => Password::File(path.into()),
            (None, None) => return Err(LoginError::Missing("OS_PASSWORD_FILE or OS_PASSWORD")),
        };
        let cache = get("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(Path::new(&get("HOME")?).join(".cache")));
        Ok(Self {
            auth_url: get("OS_AUTH_URL").ok_or(LoginError::Missing("OS_AUTH_URL"))?,
            ca_file: get("OS_CACERT").map(PathBuf::from),
            user,
            password,
            project,
            cache: cache.map(|directory| directory.join("hypernetes/tokens")),
        })
    }

    /// The `ExecCredential` object to print: with the token that is kept, or with a new one.
    ///
    /// # Errors
    /// When no token can be had. That it cannot be kept is only logged.
    pub async fn exec_credential(&self) -> Result<String, LoginError> {
        let connection = Connection::new(self)?;
        if let Some(kept) = self.kept()
            && connection.is_valid(&kept.token).await
        {
            return Ok(kept.to_exec_credential().to_string());
        }
        let password = self.password()?;
        let issued = connection.issue(self, &password).await?;
        if let Err(error) = self.keep(&issued) {
            tracing::warn!(%error, "the next login will ask for a token again");
        }
        Ok(issued.to_exec_credential().to_string())
    }

    pub(crate) fn password(&self) -> Result<String, LoginError> {
        match &self.password {
            Password::Given(password) => Ok(password.clone()),
            Password::File(path) => {
                let text = fs::read_to_string(path).map_err(|e| LoginError::PasswordFile(path.clone(), e))?;
                Ok(text.lines().next().unwrap_or_default().to_owned())
            }
        }
    }

    /// The file for this user at this place in this project.
    fn file(&self) -> Option<PathBuf> {
        let who = format!("{}\0{:?}\0{:?}", self.auth_url, self.user, self.project);
        Some(self.cache.as_ref()?.join(format!("{}.json", hex::encode(Sha256::digest(who)))))
    }

    fn kept(&self) -> Option<Issued> {
        let value: Value = serde_json::from_slice(&fs::read(self.file()?).ok()?).ok()?;
        let issued = Issued::from_exec_credential(&value)?;
        (Timestamp::now().checked_add(MARGIN).ok()? < issued.expires_at).then_some(issued)
    }

    fn keep(&self, issued: &Issued) -> Result<(), LoginError> {
        let Some(file) = self.file() else { return Ok(()) };
        let write = || -> io::Result<()> {
            let directory = file.parent().unwrap_or(Path::new("."));
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            // Under another name first: nobody reads half a file.
            let new = file.with_extension(format!("{}.new", std::process::id()));
            let _ = fs::remove_file(&new);
            let mut options = fs::OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            options.open(&new)?.write_all(issued.to_exec_credential().to_string().as_bytes())?;
            fs::rename(&new, &file)
        };
        write().map_err(|error| LoginError::Cache(file.clone(), error))
    }
}

impl Name {
    fn to_json(&self) -> Value {
        match self {
            Self::Id(id) => json!({"id": id}),
            Self::InDomain { name, domain: DomainName::Id(id) } => json!({"name": name, "domain": {"id": id}}),
            Self::InDomain { name, domain: DomainName::Name(domain) } => {
                json!({"name": name, "domain": {"name": domain}})
            }
        }
    }
}

pub(crate) struct Issued {
    pub token: String,
    expires_at: Timestamp,
}

impl Issued {
    fn to_exec_credential(&self) -> Value {
        json!({
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            // metav1.Time has whole seconds.
            "status": {"token": self.token, "expirationTimestamp": self.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()},
        })
    }

    fn from_exec_credential(value: &Value) -> Option<Self> {
        let status = &value["status"];
        let expires_at = status["expirationTimestamp"].as_str()?.parse().ok()?;
        Some(Self { token: status["token"].as_str()?.to_owned(), expires_at })
    }
}

/// HTTP to the identity service.
pub(crate) struct Connection {
    client: kube::Client,
    url: String,
}

impl Connection {
    pub fn new(login: &Login) -> Result<Self, LoginError> {
        let url = login.auth_url.trim_end_matches('/').to_owned();
        let uri = url.parse().map_err(|error| LoginError::Url(url.clone(), error))?;
        let mut config = kube::Config::new(uri);
        config.root_cert_file.clone_from(&login.ca_file);
        let client = kube::Client::try_from(config).map_err(|error| LoginError::Setup(url.clone(), error))?;
        Ok(Self { client, url })
    }

    pub async fn send(&self, request: Request<Body>) -> Result<(Response<()>, Vec<u8>), LoginError> {
        let unreachable = |error: String| LoginError::Unreachable(self.url.clone(), error);
        let exchange = async {
            let response = self.client.send(request).await.map_err(|error| unreachable(error.to_string()))?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|e| unreachable(e.to_string()))?;
            Ok((Response::from_parts(parts, ()), body.to_bytes().to_vec()))
        };
        tokio::time::timeout(TIMEOUT, exchange).await.map_err(|_| unreachable(format!("nothing in {TIMEOUT:?}")))?
    }

    pub fn not_keystone(&self, what: &'static str) -> LoginError {
        LoginError::NotKeystone(self.url.clone(), what)
    }

    pub fn refused(&self, status: StatusCode, body: &Value) -> LoginError {
        let message = body["error"]["message"].as_str().unwrap_or("no reason given").to_owned();
        LoginError::Refused { url: self.url.clone(), status, message }
    }

    async fn is_valid(&self, token: &str) -> bool {
        let request = Request::builder()
            .method(Method::GET)
            .uri("/auth/tokens?nocatalog")
            .header("x-auth-token", token)
            .header("x-subject-token", token)
            .body(Body::empty());
        match request {
            Ok(request) => self.send(request).await.is_ok_and(|(response, _)| response.status() == StatusCode::OK),
            Err(_) => false,
        }
    }

    pub async fn issue(&self, login: &Login, password: &str) -> Result<Issued, LoginError> {
        let not_keystone = |what| self.not_keystone(what);
        let mut user = login.user.to_json();
        user["password"] = json!(password);
        let mut auth = json!({"identity": {"methods": ["password"], "password": {"user": user}}});
        if let Some(project) = &login.project {
            auth["scope"] = json!({"project": project.to_json()});
        }
        let request = Request::builder()
            .method(Method::POST)
            .uri("/auth/tokens?nocatalog")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Body::from(json!({"auth": auth}).to_string().into_bytes()))
            .map_err(|_| not_keystone("the request cannot be made"))?;
        let (response, body) = self.send(request).await?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if response.status() != StatusCode::CREATED {
            return Err(self.refused(response.status(), &body));
        }
        let token = response.headers().get("x-subject-token").and_then(|token| token.to_str().ok());
        let expires_at = body["token"]["expires_at"].as_str().and_then(|time| time.parse().ok());
        Ok(Issued {
            token: token.ok_or_else(|| not_keystone("no token in the answer"))?.to_owned(),
            expires_at: expires_at.ok_or_else(|| not_keystone("no expiry in the answer"))?,
        })
    }
}
