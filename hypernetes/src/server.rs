//! `hypernetes server`: API server, scheduler, controllers, and the OpenStack façades, over one store.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use hypernetes_api::{AllTenants, Reason, TenantId};
use hypernetes_apiserver::{
    ApiServer, Config, Exemption, KubeletClient,
    audit::{Audit, Policy},
};
use hypernetes_client::Clients;
use hypernetes_controllers::runtime::{Election, Informers};
use hypernetes_identity::{Identity, IdentityConfig};
use hypernetes_network::{NetworkConfig, NetworkService};
use hypernetes_store::{Encryption, Options};
use hypernetes_volume::{Volumes, VolumesConfig};
use tokio_util::sync::CancellationToken;

use crate::{
    lasting::{Lasting, Place},
    leases::{self, Background},
    pki::{self, Authority},
    privileges,
    renewals::Before,
    store::{
        self, StoreArgs,
        further::{self, Token},
    },
};

/// Run the API server, scheduler, controllers, and the identity, network and volume services
///
/// Serves the Kubernetes API at /, Keystone at /identity/v3, Neutron at /networking/v2.0 and Cinder at /volume/v3 on one
/// HTTPS port. When it is ready, DIR has operator.kubeconfig and admin.openrc.
#[derive(clap::Args)]
pub struct Server {
    /// Directory of all its state.
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Where it listens. Port 0 picks one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:6443")]
    bind: SocketAddr,
    /// Directory of volumes' files [default: DIR/volumes].
    #[arg(long, value_name = "DIR")]
    volumes: Option<PathBuf>,
    /// Number of the user to become, who is given the directories: the server needs no root. As `up` runs it.
    #[arg(long, value_name = "UID")]
    user: Option<u32>,
    /// File of the keys that the store is encrypted with, one a line: a number from 1 on, a space, 32 bytes in base64. The
    /// first is used for what is written; with a new one before it the store is encrypted anew, and then needs no other. Of several
    /// servers over one etcd all have to have a new key, behind the first, before any of them has it first.
    #[arg(long, value_name = "FILE")]
    encryption_keys: Option<PathBuf>,
    /// Read from that file, which what it has become may not be able to read.
    #[arg(skip)]
    encryption: Option<Encryption>,
    /// What of requests is recorded: a file with a Policy of audit.k8s.io/v1 [default: who changes what, without the objects].
    #[arg(long, value_name = "FILE")]
    audit_policy: Option<PathBuf>,
    /// What that file says.
    #[arg(skip)]
    policy: Policy,
    /// Whom Pod Security Standards are not for, in no tenant's cluster; can be said several times.
    #[arg(long, value_name = "namespace=NAME|user=NAME|runtimeclass=NAME")]
    pod_security_exempt: Vec<Exemption>,
    #[command(flatten)]
    store: StoreArgs,
    /// File with a token that another server of the etcd has made (`store token create`): at its first start this one gets the installation's authority
    /// and the admin's password by it. Later it is not looked at.
    #[arg(long, value_name = "FILE", requires = "etcd")]
    token_file: Option<PathBuf>,
    /// What that file says.
    #[arg(skip)]
    token: Option<Token>,
    /// What its directory is called outside, once it has entered it.
    #[arg(skip)]
    shown_root: Option<PathBuf>,
}

impl Server {
    /// Reads what only root may, and gives root up where `--user` says so. Before anything else of the process begins.
    ///
    /// # Errors
    /// When it cannot be done: it does not run as root then. When there is no such policy.
    pub fn give_up_root(&mut self) -> Result<()> {
        self.store.settle_paths()?;
        self.encryption = self.encryption_keys.as_deref().map(Encryption::read).transpose()?;
        if let Some(file) = self.token_file.as_deref().filter(|_| !Authority::is_there(&self.root.join("pki"))) {
            self.token = Some(store::read_token(file)?);
        }
        // Later it may not be readable any more.
        if let Some(file) = &self.audit_policy {
            let about = || format!("the audit policy {}", file.display());
            let text = std::fs::read_to_string(file).with_context(about)?;
            self.policy = Policy::parse(&text).with_context(about)?;
        }
        let Some(user) = self.user.filter(|_| nix::unistd::geteuid().is_root()) else { return Ok(()) };
        hypernetes_daemon::notify::connect();
        std::fs::create_dir_all(&self.root).with_context(|| format!("making {}", self.root.display()))?;
        self.shown_root = Some(self.root.canonicalize()?);
        let others: Vec<&Path> = self.volumes.as_deref().into_iter().collect();
        let opened = privileges::become_owner(user, &self.root, &others)?;
        self.root = PathBuf::from(".");
        self.volumes = opened.into_iter().next();
        Ok(())
    }

    pub async fn run(self) -> Result<()> {
        std::fs::create_dir_all(&self.root).with_context(|| format!("making {}", self.root.display()))?;
        let shown_root = self.shown_root.map_or_else(|| self.root.canonicalize(), Ok)?;
        let root = self.root;
        let listener = hypernetes_apiserver::listen(self.bind)
            .with_context(|| format!("listening on {}: stop what listens there, or choose --bind", self.bind))?;
        let address = listener.local_addr()?;
        let url = format!("https://{address}");

        remove_leftovers(&root);
        let before = Before::look(&root);
        let (pki, etcd) = (root.join("pki"), self.store.etcd());
        if let Some(etcd) = &etcd {
            let joined = further::join(etcd, self.token.as_ref(), &pki).await;
            if let Some(needed) = joined.with_context(|| format!("starting in {}", shown_root.display()))? {
                // The authority last: with it this is a server that has all that it needs.
                write_openrc(&root, &shown_root, &url, &needed.admin_password)?;
                Authority::keep(&pki, &needed.certificate, &needed.key)?;
            }
        }
        let made = !Authority::is_there(&pki);
        let mut authority = Authority::open(&pki)?;
        if let Err(error) = authority.renew() {
            // There are years left.
            tracing::warn!(error = format!("{error:#}"), "the authority has no new certificate yet");
        }
        let encryption = self.encryption.unwrap_or_default();
        let options = Options { values: hypernetes_apiserver::VALUES, encryption, ..Default::default() };
        let takeover = self.store.takeover();
        let opening = self.store.open(&root, &shown_root, options);
        let store = hypernetes_daemon::allocator::give_back_behind(opening).await?;
        let store_ended = store.ended();
        if let Some(etcd) = &etcd {
            further::agree(etcd, &authority, &pki, made).await?;
        }
        let server = ApiServer::new(Config { store: Arc::new(store), all_tenants: AllTenants::grant() });
        server.complete_store().await.context("bringing the store up to date")?;
        let audit =
            Audit::start(&root.join("audit"), self.policy, Default::default()).context("starting the audit log")?;
        let audit = Arc::new(audit);
        server.set_audit(audit.clone());
        server.set_exemptions(self.pod_security_exempt.into_iter().collect());
        let earlier = authority.earlier_token_key()?;
        match server.authorities().begin(earlier.as_deref()).await {
            Ok(()) => authority.forget_earlier_token_key()?,
            // Until there is, tokens of before are not known.
            Err(error) if error.reason == Reason::InsufficientStorage => {
                tracing::warn!(%error, "the system has no authority of tokens yet");
            }
            Err(error) => return Err(error).context("making the system's authority of tokens"),
        }
        server.authorities().set_system(authority.certificate(), &authority.key())?;
        let authority_pem = authority.certificate().to_owned();
        let place = Place {
            root: root.clone(),
            shown_root: shown_root.clone(),
            url: url.clone(),
            addresses: addresses(address.ip()),
        };
        let lasting = Lasting::open(place, authority)?;
        server.set_kubelet_client(KubeletClient::new(&lasting.to_kubelets())?);
        server.set_reach(Arc::new(server.relay()));
        tokio::spawn(server.follow_tenants());
        let clients = Clients::in_process(server.loopback());
        let identity = Identity::follow(&clients, IdentityConfig::new(&url));
        let password = admin_password(&root.join("admin.openrc"))?;
        // Beside each other: most of either is waiting for the disk.
        tokio::try_join!(
            async { crate::first::objects(&clients).await.context("making the system's first objects") },
            async { identity.bootstrap(&password).await.context("making the first identity objects") },
        )?;
        server.set_token_authority(identity.clone());
        let networks =
            NetworkService::follow(&clients, AllTenants::grant(), identity.clone(), NetworkConfig::new(&url));
        let volumes = self.volumes.unwrap_or_else(|| root.join("volumes"));
        let volumes =
            Volumes::new(&clients, VolumesConfig::new(volumes, &url)).context("preparing the directory of volumes")?;
        let router = server
            .router()
            .nest("/identity", server.observe("/identity", identity.router()))
            .merge(server.observe("/networking", networks.router()))
            .nest("/volume", server.observe("/volume", volumes.router(identity.clone())));
        let tls = lasting.to_clients();
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let mut signal = hypernetes_daemon::stop_signal();
        tokio::spawn(async move {
            let _ = signal.wait_for(|stopped| *stopped).await;
            stopping.cancel();
        });
        let projects = kube::Api::all(clients.tenant(&TenantId::system()));
        let background = Background {
            election: Election::new(&clients, leases::identity(), takeover),
            informers: Informers::new(clients, AllTenants::grant(), stop.clone()),
            cluster_ca_pem: authority_pem,
            api_server: address,
            authorities: Arc::new(server.authorities()),
            identity: identity.clone(),
            networks,
            volumes,
        };
        let background = tokio::spawn(background.run(stop.clone()));
        lasting.write_kubeconfig()?;
        write_openrc(&root, &shown_root, &url, &password)?;
        let authorities = server.authorities();
        tokio::spawn(lasting.keep(move |now| {
            let authorities = authorities.clone();
            async move { authorities.renew_due(now).await }
        }));
        for note in before.notes(&root, &shown_root, &projects).await {
            tracing::warn!("{note}");
            hypernetes_daemon::notify::status(&note);
        }
        tracing::info!(url, "ready");
        hypernetes_daemon::notify::ready();
        let runtimes = [Some(tokio::runtime::Handle::current()), hypernetes_apiserver::background().cloned()];
        tokio::spawn(hypernetes_daemon::allocator::follow_the_load(runtimes.into_iter().flatten().collect()));
        tokio::select! {
            served = hypernetes_apiserver::serve(listener, router, &tls, server.authorities(), stop) => served?,
            why = store_ended => bail!("the store has ended: {why}; the next start reads what there is"),
        }
        let _ = background.await;
        let _ = tokio::task::spawn_blocking(move || audit.flush()).await;
        Ok(())
    }
}

/// What was being written when an earlier process ended.
fn remove_leftovers(root: &Path) {
    for directory in [root.to_owned(), root.join("pki")] {
        let Ok(files) = std::fs::read_dir(directory) else { continue };
        for path in files.flatten().map(|file| file.path()) {
            if path.extension().and_then(|e| e.to_str()).is_some_and(|e| e.starts_with("new-")) {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// Every address that a client may name for the one that is listened on.
fn addresses(ip: IpAddr) -> Vec<IpAddr> {
    let local = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    if ip == local || ip.is_unspecified() { vec![local] } else { vec![ip, local] }
}

/// The admin's password: the one that the openrc file has, or a new one.
fn admin_password(openrc: &Path) -> Result<String> {
    if let Ok(text) = std::fs::read_to_string(openrc)
        && let Some(password) = crate::openrc::parse(&text).remove("OS_PASSWORD")
    {
        return Ok(password);
    }
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    Ok(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 24]>()))
}

/// `shown` is what `root` is called by those who read the files.
fn write_openrc(root: &Path, shown: &Path, url: &str, password: &str) -> Result<()> {
    let openrc = crate::openrc::render(&crate::openrc::Settings {
        url,
        ca: &shown.join("pki/ca.crt"),
        user: "admin",
        password,
        project: "admin",
    });
    pki::write_private(&root.join("admin.openrc"), openrc.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_half_written_is_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let pki = directory.path().join("pki");
        std::fs::create_dir(&pki).unwrap();
        let all = [directory.path().join("operator.new-17"), pki.join("ca.new-1"), pki.join("ca.key")];
        for path in &all {
            std::fs::write(path, "").unwrap();
        }
        remove_leftovers(directory.path());
        assert_eq!(all.map(|path| path.exists()), [false, false, true]);
    }
}
