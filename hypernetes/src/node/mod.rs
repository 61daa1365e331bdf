//! `hypernetes node`: kubelet, network agent and CSI driver of one host; how it joins, and how it keeps its certificates.

mod credentials;
mod join;
mod relay;
mod renew;
mod token;

use std::{
    collections::BTreeMap,
    fs::DirBuilder,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use clap::Subcommand;
use hypernetes_api::{AllTenants, names};
use hypernetes_csi::CsiConfig;
use hypernetes_kubelet::{KubeletConfig, ServerTls, Serving};
use hypernetes_netagent::{Netagent, NetagentConfig};
use tokio_util::sync::CancellationToken;

pub use self::credentials::{clients, write_credentials};
use crate::{privileges, supervise};

/// Run the node: kubelet, network agent and volume driver of this host
///
/// Its identity is DIR/node.kubeconfig, which `hypernetes up` makes, or `hypernetes node join`; it renews that and its own
/// certificate, DIR/serving.crt, in time. Pods run on when it ends; the next one takes them over.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Node {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    run: Option<Run>,
}

#[derive(Subcommand)]
enum Action {
    Join(join::Join),
    #[command(subcommand)]
    Token(token::Token),
}

#[derive(clap::Args)]
struct Run {
    /// Directory of all its state.
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Where the kubelet is reached by the API server. Port 0 picks one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    bind: SocketAddr,
    /// Name of the Node object [default: that of its credentials].
    #[arg(long)]
    name: Option<String>,
    /// hyperd's directory: its socket, and where it looks for CNI plugins.
    #[arg(long, value_name = "DIR")]
    hyperd_root: PathBuf,
}

impl Node {
    /// Whether it is to run on, and not only to do something for a node.
    pub fn is_role(&self) -> bool {
        self.action.is_none()
    }

    /// What it does not need of root's.
    ///
    /// # Errors
    /// When the host does not give what it needs, or cannot take the rest.
    pub fn give_up(&self) -> Result<()> {
        match (&self.action, &self.run) {
            (None, Some(run)) => {
                // Where hyperd has not been started yet: what is not there now cannot be written in later.
                private_directory(&run.hyperd_root)?;
                Ok(privileges::node::apply(&run.root, &run.hyperd_root)?)
            }
            _ => Ok(()),
        }
    }

    pub async fn run(self) -> Result<()> {
        match (self.action, self.run) {
            (Some(Action::Join(join)), _) => join.run().await,
            (Some(Action::Token(token)), _) => token.run().await,
            (None, Some(run)) => run.run().await,
            (None, None) => anyhow::bail!("--root and --hyperd-root are needed"),
        }
    }
}

fn private_directory(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("making {}", path.display()))
}

impl Run {
    async fn run(self) -> Result<()> {
        let root = self.root.canonicalize().with_context(|| {
            format!(
                "{} is not there: `hypernetes up` makes it, or `hypernetes node join`, with the node's credentials",
                self.root.display()
            )
        })?;
        let name = match (self.name, credentials::Known::read(&root).and_then(|known| known.node())) {
            (Some(wanted), Some(own)) if wanted != own => anyhow::bail!(
                "{} has the credentials of the node {own}, not of {wanted}: leave --name out, or join as {wanted} with a directory of its own",
                root.display()
            ),
            (_, Some(own)) => own,
            (wanted, None) => wanted.map_or_else(host_name, Ok)?,
        };
        let authority = root.join("ca.crt");
        let client_authority = std::fs::read_to_string(&authority);
        let client_authority = client_authority.with_context(|| format!("reading {}", authority.display()))?;
        let serving = Serving::default();
        let (clients, keeper) = renew::Keeper::open(&root, &name, serving.clone()).await?;
        let tls = ServerTls { serving, client_authority };
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
        let agent = Netagent::open(agent).await.context("the network agent")?;
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
            relay: Arc::new(relay::OfNetagent(agent.relay())),
        };
        let kubelet = hypernetes_kubelet::run(kubelet, stop.clone(), hypernetes_daemon::notify::ready);
        tokio::select! {
            ended = kubelet => ended.context("the kubelet"),
            () = agent.run() => Ok(()),
            ended = hypernetes_csi::run(driver, stop) => ended.context("the volume driver"),
            never = keeper.keep() => match never {},
        }
    }
}

/// This host's name as a Node object may have it.
pub fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname()?.to_string_lossy().to_lowercase();
    Ok(if name.is_empty() { "node".to_owned() } else { name })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        node: Node,
    }

    #[test]
    fn a_node_is_run_or_joined() {
        let parse = |line: &str| Command::try_parse_from(line.split(' ')).map(|command| command.node);
        let run = parse("node --root a --hyperd-root b").unwrap();
        assert!(run.is_role() && run.run.is_some());
        let join = parse("node join --server https://a:1 --token a.b --ca-hash sha256:0 --root c").unwrap();
        assert!(matches!(join.action, Some(Action::Join(_))) && !join.is_role());
        let token = parse("node token create --root a --hours 2").unwrap();
        assert!(matches!(token.action, Some(Action::Token(_))));
        for wrong in ["node", "node --root a", "node join --root c", "node token create --hours 0", "node token"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
