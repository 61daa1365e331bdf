//! `hypernetes login`: client-go's credential plugin protocol (`client.authentication.k8s.io/v1`), with a Keystone
//! token as the credential.
//!
//! The token is kept in a file of the user's own until shortly before it expires, and is asked about before it is used
//! again, because client-go calls the plugin anew when a token has been revoked.

mod connection;
mod issued;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use http::StatusCode;
use serde_json::{Value, json};

pub(crate) use connection::Connection;

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
