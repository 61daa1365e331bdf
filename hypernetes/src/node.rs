//! `hypernetes node`: kubelet, network agent and CSI driver of one host.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use hypernetes_api::{AllTenants, names};
use hypernetes_client::Clients;
use hypernetes_csi::CsiConfig;
use hypernetes_kubelet::{KubeletConfig, ServerTls};
use hypernetes_netagent::NetagentConfig;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio_util::sync::CancellationToken;

use crate::{
    kubeconfig,
    pki::{self, Authority, Client},
    privileges, supervise,
};

/// Run the node: kubelet, network agent and volume driver of this host
///
/// Its identity is DIR/node.kubeconfig, its own certificate DIR/serving.crt and DIR/serving.key; `hypernetes up` makes
/// them. Pods run on when it ends; the next one takes them over.
#[derive(clap::Args)]
pub struct Node {
    /// Directory of all its state.
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Where the kubelet is reached by the API server. Port 0 picks one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    bind: SocketAddr,
    /// Name of the Node object [default: this host's name].
    #[arg(long)]
    name: Option<String>,
    /// hyperd's directory: its socket, and where it looks for CNI plugins.
    #[arg(long, value_name = "DIR")]
    hyperd_root: PathBuf,
}

impl Node {
    /// What it does not need of root's.
    ///
    /// # Errors
    /// When the host does not give what it needs, or cannot take the rest.
    pub fn give_up(&self) -> Result<()> {
        Ok(privileges::node::apply(&self.root, &self.hyperd_root)?)
    }

    pub async fn run(self) -> Result<()> {
        let root = self.root.canonicalize().with_context(|| {
            format!("{} is not there: `hypernetes up` makes it, with the node's credentials", self.root.display())
        })?;
        let name = self.name.map_or_else(host_name, Ok)?;
        let read = |file: &str| {
            let path = root.join(file);
            std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let clients = clients(&root).await?;
        let tls = ServerTls {
            certificate: read("serving.crt")?,
            key: read("serving.key")?,
            client_authority: read("ca.crt")?,
        };
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let mut signal = hypernetes_daemon::stop_signal();
        tokio::spawn(async move {
            let _ = signal.wait_for(|stopped| *stopped).await;
            stopping.cancel();
        });

        let agent_socket = root.join("netagent.sock");
        let agent =
            NetagentConfig::new(&name, root.join("network"), &agent_socket, clients.clone(), AllTenants::grant());
        let plugin = supervise::program("hypernetes-cni")?;
        hypernetes_netagent::cni::install(&self.hyperd_root.join("cni"), &plugin, &agent_socket)
            .context("installing the CNI plugin")?;
        let csi_socket = root.join("csi.sock");
        let driver = CsiConfig::new(&name, &csi_socket, root.join("pods"), clients.clone());
        let kubelet = KubeletConfig {
            node_name: name,
            root: root.clone(),
            csi_drivers: BTreeMap::from([(names::VOLUME_DRIVER.to_owned(), csi_socket)]),
            clients,
            all: AllTenants::grant(),
            cri_socket: self.hyperd_root.join("hyperd.sock"),
            bind: self.bind,
            tls,
        };
        let kubelet = hypernetes_kubelet::run(kubelet, stop.clone(), hypernetes_daemon::notify::ready);
        tokio::select! {
            ended = kubelet => ended.context("the kubelet"),
            ended = hypernetes_netagent::run(agent) => ended.context("the network agent"),
            ended = hypernetes_csi::run(driver, stop) => ended.context("the volume driver"),
        }
    }
}

/// The API as the node in this directory is known to it. The server need not answer yet.
pub async fn clients(root: &Path) -> Result<Clients> {
    let kubeconfig = Kubeconfig::read_from(root.join("node.kubeconfig")).context("reading the node's credentials")?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Clients::remote(config)?)
}

/// This host's name as a Node object may have it.
pub fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname()?.to_string_lossy().to_lowercase();
    Ok(if name.is_empty() { "node".to_owned() } else { name })
}

/// What a node needs to be known, written into its directory.
pub fn write_credentials(authority: &Authority, directory: &Path, node: &str, server: &str) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let user = format!("{}{node}", names::USER_NODE_PREFIX);
    let client = Client { user: &user, group: names::GROUP_NODES };
    let client = authority.client(&format!("node-{node}"), &client)?;
    let config = kubeconfig::render("system", server, authority.certificate(), &kubeconfig::User::Certificate(&client));
    let local = std::net::Ipv4Addr::LOCALHOST.into();
    let serving = authority.server(&format!("kubelet-{node}"), &[local], &[node, "localhost"])?;
    for (name, content) in [
        ("node.kubeconfig", config.as_str()),
        ("ca.crt", authority.certificate()),
        ("serving.crt", &serving.certificate),
        ("serving.key", &serving.key),
    ] {
        pki::write_private(&directory.join(name), content.as_bytes())?;
    }
    Ok(())
}
