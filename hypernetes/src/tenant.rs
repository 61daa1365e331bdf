//! `hypernetes tenant`: tenants with their first user, and kubeconfigs for them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use hypernetes_api::{
    TenantId, names,
    types::identity::{self, IDENTITY_NAMESPACE},
};
use hypernetes_apiserver::authentication::authorities::material;
use hypernetes_identity::{admin::Administrator, login::Login};
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, Resource, ResourceExt,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::await_condition,
};

use crate::{
    Root, kubeconfig, openrc,
    pki::{self, Authority, Client, TenantAuthority},
    show,
};

/// How long a new tenant may take until its namespaces and its network are there.
const PATIENCE: Duration = Duration::from_secs(30);
/// Certificates of one tenant that are revoked and have not expired.
const MAX_REVOCATIONS: usize = 1000;

/// Make, show and remove tenants
///
/// A tenant is a Keystone project and has a logical cluster of its own. These commands are the operator's, on the machine
/// that `up` runs on; everybody else uses the openstack client.
#[derive(clap::Args)]
pub struct Tenant {
    #[command(flatten)]
    root: Root,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make a tenant, and a user of the same name who is its admin
    ///
    /// Writes NAME.kubeconfig for kubectl and NAME.openrc for the openstack client, both for their owner alone. For a
    /// tenant that is there already it writes them again.
    Create {
        name: String,
        /// Where the two files go, too.
        #[arg(long, value_name = "DIR")]
        directory: Option<PathBuf>,
    },
    /// List the tenants
    List,
    /// Print a kubeconfig for a tenant
    ///
    /// It logs in through `hypernetes login` with the password that `tenant create` has made.
    Kubeconfig {
        name: String,
        /// With a client certificate instead, for machines: it needs no login, and ends after --days, with its tenant, or
        /// by `hypernetes tenant revoke`.
        #[arg(long = "static")]
        fixed: bool,
        /// Whom the certificate names [default: the tenant's name].
        #[arg(long, requires = "fixed")]
        user: Option<String>,
        /// What the user may do in the tenant, as Keystone's role of that name.
        #[arg(long, requires = "fixed", default_value = "admin", value_parser = ["admin", "member", "reader"])]
        role: String,
        /// How long the certificate is good.
        #[arg(long, requires = "fixed", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=366))]
        days: u16,
    },
    /// End a static kubeconfig's certificate before its time
    ///
    /// A tenant can have a thousand of them revoked at a time, until they expire.
    Revoke {
        name: String,
        /// Its serial number, as `tenant kubeconfig --static` has said it.
        serial: String,
    },
    /// Remove a tenant with everything that it has
    Delete {
        name: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

impl Tenant {
    pub async fn run(self) -> Result<()> {
        let installation = Installation::open(&self.root).await?;
        match self.action {
            Action::Create { name, directory } => installation.create(&name, directory.as_deref()).await,
            Action::List => installation.list().await,
            Action::Kubeconfig { name, fixed: false, .. } => installation.kubeconfig(&name).await,
            Action::Kubeconfig { name, user, role, days, .. } => {
                let user = user.unwrap_or_else(|| name.clone());
                installation.certificate(&name, &user, &role, days).await
            }
            Action::Revoke { name, serial } => installation.revoke(&name, &serial).await,
            Action::Delete { name, yes } => installation.delete(&name, yes).await,
        }
    }
}

/// What `up` has made on this machine, as the operator reaches it.
pub(crate) struct Installation {
    pub(crate) server_root: PathBuf,
    /// Credentials of tenants that were made here.
    tenants: PathBuf,
    pub(crate) url: String,
    projects: Api<identity::Project>,
    revocations: Api<identity::TokenRevocation>,
    /// Those of the identity service.
    secrets: Api<Secret>,
}

/// What a tenant's certificate may not be, or not any more.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("{0:?} is no name for a tenant's user")]
    User(String),
    #[error("{0:?} is no serial number: want its hexadecimal digits")]
    Serial(String),
    #[error(
        "{0:?} has {MAX_REVOCATIONS} certificates revoked that have not expired: to end all that it has, delete the Secret \
         {1} in {IDENTITY_NAMESPACE}; the next one is issued by a new authority"
    )]
    TooManyRevocations(String, String),
}

impl Installation {
    pub(crate) async fn open(root: &Root) -> Result<Self> {
        let place = root.directory.display();
        let missing = || format!("nothing is up in {place}: run `hypernetes up` first, or name its --root");
        let server_root = root.server().canonicalize().with_context(missing)?;
        let kubeconfig = Kubeconfig::read_from(server_root.join("operator.kubeconfig")).with_context(missing)?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client = kube::Client::try_from(config)?;
        let (projects, revocations) = (Api::all(client.clone()), Api::all(client.clone()));
        let secrets = Api::namespaced(client, IDENTITY_NAMESPACE);
        let tenants = root.directory.canonicalize()?.join("tenants");
        Ok(Self { tenants, server_root, url, projects, revocations, secrets })
    }

    pub(crate) async fn administrator(&self) -> Result<Administrator> {
        let path = self.server_root.join("admin.openrc");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let settings = openrc::parse(&text);
        Ok(Administrator::login(&Login::from_environment(|name| settings.get(name).cloned())?).await?)
    }

    fn openrc(&self, name: &str) -> PathBuf {
        self.tenants.join(format!("{name}.openrc"))
    }

    fn keep(&self, name: &str, password: &str) -> Result<()> {
        let ca = self.server_root.join("pki/ca.crt");
        let settings = openrc::Settings { url: &self.url, ca: &ca, user: name, password, project: name };
        pki::write_private(&self.openrc(name), openrc::render(&settings).as_bytes())
    }

    /// The server may be served elsewhere than when the tenant was made.
    fn renew(&self, name: &str) -> Result<()> {
        let path = self.openrc(name);
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let password = openrc::parse(&text).remove("OS_PASSWORD");
        self.keep(name, &password.with_context(|| format!("{} has no password", path.display()))?)
    }

    async fn create(&self, name: &str, directory: Option<&Path>) -> Result<()> {
        check_name(name)?;
        std::fs::create_dir_all(&self.tenants)?;
        let administrator = self.administrator().await?;
        let project = match administrator.project(name).await? {
            Some(project) if self.openrc(name).is_file() => {
                self.renew(name)?;
                project
            }
            Some(_) => bail!(
                "the tenant {name:?} is there, but was not made on this machine: its users log in with `openstack`; \
                 `hypernetes tenant kubeconfig --static {name}` makes a kubeconfig for it"
            ),
            None => {
                let password = random_password();
                let project = administrator.create_project(name).await?;
                administrator.create_user(name, &password, &project.id, "admin").await?;
                self.keep(name, &password)?;
                project
            }
        };
        self.until_ready(&project.id).await.with_context(|| format!("the tenant {name:?} was made"))?;
        show(&format!("tenant {name} ({}) is ready\n", project.id))?;
        if let Some(directory) = directory {
            std::fs::create_dir_all(directory)?;
            let directory = directory.canonicalize()?;
            let (kubeconfig, openrc) =
                (directory.join(format!("{name}.kubeconfig")), directory.join(format!("{name}.openrc")));
            pki::write_private(&openrc, &std::fs::read(self.openrc(name))?)?;
            pki::write_private(&kubeconfig, self.render(name, &openrc)?.as_bytes())?;
            let (kubeconfig, openrc) = (kubeconfig.display(), openrc.display());
            show(&format!("  kubectl --kubeconfig {kubeconfig}\n  . {openrc}; openstack …\n"))?;
        }
        Ok(())
    }

    /// Waits until a tenant's namespaces and network are there.
    pub(crate) async fn until_ready(&self, id: &str) -> Result<()> {
        let ready = |project: Option<&identity::Project>| {
            project.and_then(|p| p.status.as_ref()).is_some_and(|status| status.phase == "Ready")
        };
        let wait = await_condition(self.projects.clone(), id, ready);
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(found) => found.map(drop).map_err(Into::into),
            Err(_) => bail!("it is not ready after {PATIENCE:?}: see the server's log"),
        }
    }

    fn render(&self, name: &str, openrc: &Path) -> Result<String> {
        let authority = Authority::open(&self.server_root.join("pki"))?;
        let program = std::env::current_exe()?;
        let user = kubeconfig::User::Login { program: &program, openrc };
        Ok(kubeconfig::render(name, &self.url, authority.certificate(), &user))
    }

    async fn list(&self) -> Result<()> {
        let projects = self.projects.list(&Default::default()).await?;
        let mut text = format!("{:<24} {:<34} STATUS\n", "NAME", "ID");
        for project in projects {
            let status = match &project.status {
                _ if !project.spec.enabled => "Disabled",
                Some(status) if !status.phase.is_empty() => status.phase.as_str(),
                _ => "Pending",
            };
            let (name, id) = (project.spec.display_name, project.metadata.name.unwrap_or_default());
            text += &format!("{name:<24} {id:<34} {status}\n");
        }
        Ok(show(&text)?)
    }

    async fn find(&self, name: &str) -> Result<TenantId> {
        let Some(project) = self.administrator().await?.project(name).await? else {
            bail!("there is no tenant {name:?}: `hypernetes tenant list` shows those that are");
        };
        Ok(project.id.parse()?)
    }

    /// The project's reference as an owner of what is kept for it elsewhere.
    async fn owner(&self, id: &TenantId) -> Result<OwnerReference> {
        let project = self.projects.get(id.as_str()).await?;
        project.controller_owner_ref(&()).context("the project has no uid")
    }

    /// What issues the tenant's certificates: as the server has made it, or made now.
    pub(crate) async fn authority(&self, id: &TenantId) -> Result<TenantAuthority> {
        let name = material::secret_name(id);
        let secret = match self.secrets.get_opt(&name).await? {
            Some(secret) => secret,
            None => {
                let new = serde_json::from_value(material::tenants(id, &self.owner(id).await?.uid)?)?;
                match self.secrets.create(&Default::default(), &new).await {
                    // The server was quicker.
                    Err(kube::Error::Api(status)) if status.code == 409 => self.secrets.get(&name).await?,
                    made => made?,
                }
            }
        };
        TenantAuthority::open(id.clone(), &self.renewed(id, secret).await?)
    }

    /// The authority with a key that signs for as long as a certificate may be good, as the server sees to when it signs.
    async fn renewed(&self, id: &TenantId, secret: Secret) -> Result<Secret> {
        let mut new = serde_json::to_value(&secret)?;
        if !material::renew(id, &mut new, jiff::Timestamp::now())? {
            return Ok(secret);
        }
        let name = material::secret_name(id);
        match self.secrets.replace(&name, &Default::default(), &serde_json::from_value(new)?).await {
            // The server was quicker.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(self.secrets.get(&name).await?),
            made => Ok(made?),
        }
    }

    async fn kubeconfig(&self, name: &str) -> Result<()> {
        self.find(name).await?;
        let openrc = self.openrc(name);
        if !openrc.is_file() {
            bail!("the tenant {name:?} was not made by `hypernetes tenant create` here: use --static");
        }
        self.renew(name)?;
        Ok(show(&self.render(name, &openrc)?)?)
    }

    /// A static kubeconfig: to standard output; what it is good for, to standard error.
    async fn certificate(&self, name: &str, user: &str, role: &str, days: u16) -> Result<()> {
        if user.is_empty() || names::is_reserved(user) {
            bail!(Refusal::User(user.to_owned()));
        }
        let id = self.find(name).await?;
        let group = match role {
            "admin" => names::GROUP_KEYSTONE_ADMIN,
            "member" => names::GROUP_KEYSTONE_MEMBER,
            _ => names::GROUP_KEYSTONE_READER,
        };
        let (certificate, serial) = self.authority(&id).await?.issue(&Client { user, group }, days)?;
        let servers = Authority::open(&self.server_root.join("pki"))?;
        // What was kept here before it had an end.
        for extension in ["crt", "key"] {
            let _ = std::fs::remove_file(self.server_root.join(format!("pki/tenant-{id}.{extension}")));
        }
        let identity = kubeconfig::User::Certificate(&certificate);
        print!("{}", kubeconfig::render(name, &self.url, servers.certificate(), &identity));
        eprintln!("It is for {user:?}, {role} of {name}, and good for {days} days.");
        eprintln!("To end it before: hypernetes tenant revoke {name} {serial}");
        Ok(())
    }

    async fn revoke(&self, name: &str, serial: &str) -> Result<()> {
        let serial = parse_serial(serial)?;
        let id = self.find(name).await?;
        let now = jiff::Timestamp::now();
        let (expired, left) = charged(self.revocations.list(&Default::default()).await?.items, &id, now);
        for revocation in expired {
            let _ = self.revocations.delete(&revocation.name_any(), &Default::default()).await;
        }
        if left >= MAX_REVOCATIONS {
            bail!(Refusal::TooManyRevocations(name.to_owned(), material::secret_name(&id)));
        }
        // No certificate of a client's lasts longer.
        let end = now.checked_add(jiff::SignedDuration::from_hours(367 * 24))?;
        let spec = identity::TokenRevocationSpec {
            certificate: Some(serial.clone()),
            charged_to: Some(id.to_string()),
            issued_before: now.to_string(),
            expires_at: end.to_string(),
            ..Default::default()
        };
        let object = format!("{}{serial}", names::CERTIFICATE_REVOCATION_PREFIX);
        let mut revocation = identity::TokenRevocation::new(&object, spec);
        revocation.metadata.owner_references = Some(vec![self.owner(&id).await?]);
        match self.revocations.create(&Default::default(), &revocation).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => drop(other?),
        }
        println!("the certificate {serial} is revoked");
        Ok(())
    }

    async fn delete(&self, name: &str, yes: bool) -> Result<()> {
        let administrator = self.administrator().await?;
        let Some(project) = administrator.project(name).await? else {
            bail!("there is no tenant {name:?}: `hypernetes tenant list` shows those that are");
        };
        if !yes {
            bail!("this removes all pods and volumes of {name:?} for ever: say so with --yes");
        }
        administrator.delete_project(&project.id).await?;
        let _ = std::fs::remove_file(self.openrc(name));
        println!("tenant {name} ({}) is removed", project.id);
        Ok(())
    }
}

/// Of the certificates of a tenant that are revoked: those that have expired, and how many have not.
fn charged(
    all: Vec<identity::TokenRevocation>,
    id: &TenantId,
    now: jiff::Timestamp,
) -> (Vec<identity::TokenRevocation>, usize) {
    let own = all.into_iter().filter(|revocation| {
        revocation.spec.certificate.is_some() && revocation.spec.charged_to.as_deref() == Some(id.as_str())
    });
    let (expired, left): (Vec<_>, Vec<_>) =
        own.partition(|revocation| revocation.spec.expires_at.parse::<jiff::Timestamp>().is_ok_and(|end| end < now));
    (expired, left.len())
}

/// In lower case.
fn parse_serial(text: &str) -> Result<String, Refusal> {
    let serial = text.to_ascii_lowercase();
    let valid = !serial.is_empty() && serial.len() <= 40 && serial.bytes().all(|b| b.is_ascii_hexdigit());
    if valid { Ok(serial) } else { Err(Refusal::Serial(text.to_owned())) }
}

/// It becomes a file's name.
fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty()
        || name.len() > 63
        || !name.chars().all(plain)
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        bail!("{name:?} cannot be the name of a tenant made here: letters, digits, '-', '_' and '.', 63 at most");
    }
    Ok(())
}

pub(crate) fn random_password() -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 24]>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_is_digits() {
        assert_eq!(parse_serial("4A01").as_deref(), Ok("4a01"));
        for text in ["", "4a 01", "x", "../4a", &"a".repeat(41)] {
            assert_eq!(parse_serial(text), Err(Refusal::Serial(text.into())));
        }
    }

    #[test]
    fn what_counts_is_a_tenants_own_and_has_not_expired() {
        let [acme, globex] = ["0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"];
        let revocation = |name: &str, certificate: bool, of: &str, end: &str| {
            let spec = identity::TokenRevocationSpec {
                certificate: certificate.then(|| name.to_owned()),
                charged_to: (!of.is_empty()).then(|| of.to_owned()),
                expires_at: end.to_owned(),
                ..Default::default()
            };
            identity::TokenRevocation::new(name, spec)
        };
        let (past, future) = ("2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z");
        let all = vec![
            revocation("1", true, acme, future),
            revocation("2", true, acme, past),
            revocation("3", true, globex, future),
            revocation("4", false, acme, future),
            revocation("5", true, "", future),
            revocation("6", true, acme, "never"),
        ];
        let (expired, left) = charged(all, &acme.parse().unwrap(), "2026-02-01T00:00:00Z".parse().unwrap());
        assert_eq!((expired.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), left), (vec!["2".to_owned()], 2));
    }
}
