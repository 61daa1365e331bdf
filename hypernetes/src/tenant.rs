//! `hypernetes tenant`: tenants with their first user, and kubeconfigs for them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use hypernetes_api::{names, types::identity};
use hypernetes_identity::{admin::Administrator, login::Login};
use kube::{
    Api,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::await_condition,
};

use crate::{
    Root, kubeconfig, openrc,
    pki::{self, Authority, Client},
};

/// How long a new tenant may take until its namespaces and its network are there.
const PATIENCE: Duration = Duration::from_secs(30);

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
        /// With a client certificate of the tenant's admin instead: it needs no login, is good for a year, and cannot be
        /// revoked before.
        #[arg(long = "static")]
        fixed: bool,
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
            Action::Kubeconfig { name, fixed } => installation.kubeconfig(&name, fixed).await,
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
}

impl Installation {
    pub(crate) async fn open(root: &Root) -> Result<Self> {
        let place = root.directory.display();
        let missing = || format!("nothing is up in {place}: run `hypernetes up` first, or name its --root");
        let server_root = root.server().canonicalize().with_context(missing)?;
        let kubeconfig = Kubeconfig::read_from(server_root.join("operator.kubeconfig")).with_context(missing)?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let projects = Api::all(kube::Client::try_from(config)?);
        Ok(Self { tenants: root.directory.canonicalize()?.join("tenants"), server_root, url, projects })
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
        println!("tenant {name} ({}) is ready", project.id);
        if let Some(directory) = directory {
            std::fs::create_dir_all(directory)?;
            let directory = directory.canonicalize()?;
            let (kubeconfig, openrc) =
                (directory.join(format!("{name}.kubeconfig")), directory.join(format!("{name}.openrc")));
            pki::write_private(&openrc, &std::fs::read(self.openrc(name))?)?;
            pki::write_private(&kubeconfig, self.render(name, &openrc)?.as_bytes())?;
            println!("  kubectl --kubeconfig {}", kubeconfig.display());
            println!("  . {}; openstack …", openrc.display());
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
        println!("{:<24} {:<34} STATUS", "NAME", "ID");
        for project in projects {
            let status = match &project.status {
                _ if !project.spec.enabled => "Disabled",
                Some(status) if !status.phase.is_empty() => status.phase.as_str(),
                _ => "Pending",
            };
            println!("{:<24} {:<34} {status}", project.spec.display_name, project.metadata.name.unwrap_or_default());
        }
        Ok(())
    }

    async fn kubeconfig(&self, name: &str, fixed: bool) -> Result<()> {
        let Some(project) = self.administrator().await?.project(name).await? else {
            bail!("there is no tenant {name:?}: `hypernetes tenant list` shows those that are");
        };
        if !fixed {
            let openrc = self.openrc(name);
            if !openrc.is_file() {
                bail!("the tenant {name:?} was not made by `hypernetes tenant create` here: use --static");
            }
            self.renew(name)?;
            print!("{}", self.render(name, &openrc)?);
            return Ok(());
        }
        let authority = Authority::open(&self.server_root.join("pki"))?;
        let client = Client { user: name, group: names::GROUP_KEYSTONE_ADMIN, tenant: Some(&project.id) };
        let identity = authority.client(&format!("tenant-{}", project.id), &client)?;
        let user = kubeconfig::User::Certificate(&identity);
        print!("{}", kubeconfig::render(name, &self.url, authority.certificate(), &user));
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
