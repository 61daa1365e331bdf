//! Who takes part: attackers and victims with credentials of their own, and how they speak to the server.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use base64::Engine;
use http::{Method, Request, StatusCode, header};
use hypernetes_api::types::identity::IDENTITY_NAMESPACE;
use hypernetes_identity::login::{DomainName, Login, Name, Password};
use kube::{
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;

use crate::{Root, pki::TenantAuthority, tenant::Installation};

/// How long an answer may take. What takes longer has not been answered.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most of an answer that is kept.
const MAX_ANSWER: usize = 64 << 20;

pub struct Stage {
    installation: Installation,
    pub operator: Caller,
    /// The node's of this machine; none, where there is only a server.
    pub node: Option<Caller>,
    pub anonymous: Caller,
    pub red: Team,
    pub blue: Team,
    /// A tenant that is alone with what it does: floods come from it.
    pub flood: Team,
    /// What pods run: one that is there already, with a shell's programs.
    pub image: String,
    /// Where hyperd asks for images that the attacker serves, if it has been told to.
    pub registry: Option<SocketAddr>,
    /// Of each flood.
    pub seconds: Duration,
    /// `127.0.0.1:6443`, and the authority of its certificate in PEM.
    pub address: String,
    pub authority: String,
    /// The directory of everything.
    pub root: PathBuf,
}

const RED: &str = "red";
const BLUE: &str = "blue";
const FLOOD: &str = "flood";
const COLOURS: [&str; 3] = [RED, BLUE, FLOOD];

/// A tenant, and two of its users.
pub struct Team {
    /// Of its project, and so of its logical cluster.
    pub id: String,
    pub name: String,
    pub password: String,
    pub admin: Caller,
    pub member: Caller,
}

/// One who sends requests.
#[derive(Clone)]
pub struct Caller {
    client: kube::Client,
    /// `Bearer …`; none: who the connection's certificate says it is, or nobody.
    pub authorization: Option<String>,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Of HTTP; 0: none came.
    pub code: u16,
    /// JSON, or null.
    pub body: Value,
    /// Why no answer came.
    failure: String,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.body["reason"].as_str()) {
            (0, _) => write!(f, "no answer ({})", self.failure),
            (code, Some(reason)) => write!(f, "{code} {reason}"),
            (code, None) => write!(f, "{code}"),
        }
    }
}

impl Answer {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// For what an attack builds on: a refusal ends it.
    pub fn needed(self, what: &str) -> Result<Value> {
        if !self.is_success() {
            bail!("{what}: {self}: {}", self.body["message"].as_str().unwrap_or_default());
        }
        Ok(self.body)
    }
}

impl Caller {
    /// Somebody else on the same connections, with a token.
    pub fn with_token(&self, token: &str) -> Self {
        Self { client: self.client.clone(), authorization: Some(format!("Bearer {token}")) }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, Some(("application/json", body.to_string()))).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, Some(("application/json", body.to_string()))).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None).await
    }

    /// A deletion with options in its body.
    pub async fn delete_with(&self, path: &str, options: &Value) -> Answer {
        self.send(Method::DELETE, path, Some(("application/json", options.to_string()))).await
    }

    /// `kind`: `merge`, `apply` and so on.
    pub async fn patch(&self, path: &str, kind: &str, body: &Value) -> Answer {
        let kind = if kind == "apply" {
            "application/apply-patch+yaml".into()
        } else {
            format!("application/{kind}-patch+json")
        };
        self.send(Method::PATCH, path, Some((&kind, body.to_string()))).await
    }

    /// `body`: its content type and its text.
    pub async fn send(&self, method: Method, path: &str, body: Option<(&str, String)>) -> Answer {
        self.send_with(method, path, body, &[]).await
    }

    pub async fn send_with(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, String)>,
        headers: &[(&str, &str)],
    ) -> Answer {
        match tokio::time::timeout(PATIENCE, self.exchange(method, path, body, headers)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer { code: 0, body: Value::Null, failure: format!("{error:#}") },
            Err(_) => Answer { code: 0, body: Value::Null, failure: format!("for {} s", PATIENCE.as_secs()) },
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, String)>,
        headers: &[(&str, &str)],
    ) -> Result<Answer> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let body = match body {
            Some((kind, text)) => {
                request = request.header(header::CONTENT_TYPE, kind);
                Body::from(text.into_bytes())
            }
            None => Body::empty(),
        };
        let response = self.client.send(request.body(body)?).await?;
        let code = response.status().as_u16();
        let bytes = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
        let bytes = http_body_util::BodyExt::collect(bytes).await.map_err(|e| anyhow::anyhow!("{e}"))?.to_bytes();
        Ok(Answer { code, body: serde_json::from_slice(&bytes).unwrap_or_default(), failure: String::new() })
    }
}

impl Stage {
    pub async fn set(root: &Root, seconds: Duration, image: String, registry: Option<SocketAddr>) -> Result<Self> {
        let installation = Installation::open(root).await?;
        let kubeconfig = Kubeconfig::read_from(installation.server_root.join("operator.kubeconfig"))?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let address = config.cluster_url.authority().context("the server has no address")?.to_string();
        let mut nobody = config.clone();
        nobody.auth_info = Default::default();
        let caller = |config: kube::Config| -> Result<Caller> {
            Ok(Caller { client: kube::Client::try_from(config)?, authorization: None })
        };
        let anonymous = caller(nobody)?;
        let node = root.directory.join("node/node.kubeconfig");
        let node = if node.exists() {
            let kubeconfig = Kubeconfig::read_from(node)?;
            Some(caller(kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)?)
        } else {
            None
        };
        let authority = installation.server_root.join("pki/ca.crt");
        let authority =
            std::fs::read_to_string(&authority).with_context(|| format!("reading {}", authority.display()))?;
        let team = async |colour: &str| {
            installation.team(colour, &anonymous).await.with_context(|| format!("making the tenant {colour}"))
        };
        let (red, blue, flood) = (team(RED).await?, team(BLUE).await?, team(FLOOD).await?);
        Ok(Self {
            operator: caller(config)?,
            node,
            red,
            blue,
            flood,
            image,
            registry,
            seconds,
            address,
            authority,
            root: root.directory.clone(),
            anonymous,
            installation,
        })
    }

    pub fn server_root(&self) -> &Path {
        &self.installation.server_root
    }

    /// Removes the tenants.
    pub async fn clear(self) -> Result<()> {
        let administrator = self.installation.administrator().await?;
        for team in [&self.red, &self.blue, &self.flood] {
            administrator
                .delete_project(&team.id)
                .await
                .with_context(|| format!("removing the tenant {}", team.name))?;
        }
        Ok(())
    }
}

/// Removes the tenants of all attacks: whichever of them goes on loses its own.
pub async fn clear_all(root: &Root) -> Result<()> {
    let administrator = Installation::open(root).await?.administrator().await?;
    for project in administrator.projects().await? {
        if is_of_an_attack(&project.name) {
            administrator.delete_project(&project.id).await?;
            println!("removed the tenant {}", project.name);
        }
    }
    Ok(())
}

/// `attack-<colour>-<eight hexadecimal digits>`.
fn is_of_an_attack(name: &str) -> bool {
    let parts: Vec<&str> = name.split('-').collect();
    matches!(parts[..], ["attack", colour, number] if COLOURS.contains(&colour)
        && number.len() == 8 && number.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl Installation {
    async fn team(&self, colour: &str, anonymous: &Caller) -> Result<Team> {
        let name = format!("attack-{colour}-{:08x}", rand::random::<u32>());
        let administrator = self.administrator().await?;
        let project = administrator.create_project(&name).await?;
        let password = crate::tenant::random_password();
        let caller = async |role: &str| -> Result<Caller> {
            let user = format!("{name}-{role}");
            administrator.create_user(&user, &password, &project.id, role).await?;
            let token = self.token(&user, &password, &name).await?;
            Ok(anonymous.with_token(&token))
        };
        let (admin, member) = (caller("admin").await?, caller("member").await?);
        self.until_ready(&project.id).await?;
        Ok(Team { id: project.id, name, password, admin, member })
    }

    /// A Keystone token for a user of the default domain in a project.
    pub async fn token(&self, user: &str, password: &str, project: &str) -> Result<String> {
        let named = |name: &str| Name::InDomain { name: name.to_owned(), domain: DomainName::Id("default".into()) };
        let login = Login {
            auth_url: format!("{}/identity/v3", self.url),
            ca_file: Some(self.server_root.join("pki/ca.crt")),
            user: named(user),
            password: Password::Given(password.to_owned()),
            project: Some(named(project)),
            cache: None,
        };
        let credential: Value = serde_json::from_str(&login.exec_credential().await?)?;
        credential["status"]["token"].as_str().map(str::to_owned).context("no token was issued")
    }
}

impl Stage {
    /// One more tenant, which whoever makes it removes.
    pub async fn another(&self, colour: &str) -> Result<Team> {
        self.installation.team(colour, &self.anonymous).await
    }

    pub async fn remove(&self, team: &Team) -> Result<()> {
        Ok(self.installation.administrator().await?.delete_project(&team.id).await?)
    }

    /// What signs a tenant's certificates, which only the operator has.
    pub async fn authority_of(&self, team: &Team) -> Result<TenantAuthority> {
        self.installation.authority(&team.id.parse()?).await
    }

    /// One of the entries of the Secret in which it is kept.
    pub async fn authority_entry(&self, team: &Team, name: &str) -> Result<String> {
        let secret = format!("authority-{}", team.id);
        let path = format!("/api/v1/namespaces/{IDENTITY_NAMESPACE}/secrets/{secret}");
        let secret = self.operator.get(&path).await.needed("reading an authority")?;
        let text = secret["data"][name].as_str().with_context(|| format!("the authority has no {name}"))?;
        Ok(String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text)?)?)
    }

    /// The login of a team's member, anew.
    pub async fn login(&self, team: &Team) -> Result<()> {
        self.installation.token(&format!("{}-member", team.name), &team.password, &team.name).await.map(drop)
    }
}

/// What a Kubernetes API answers to a request that it does not allow.
pub const FORBIDDEN: &[u16] = &[StatusCode::FORBIDDEN.as_u16()];
/// What it answers to an object that cannot be.
pub const INVALID: &[u16] =
    &[StatusCode::BAD_REQUEST.as_u16(), StatusCode::FORBIDDEN.as_u16(), StatusCode::UNPROCESSABLE_ENTITY.as_u16()];
