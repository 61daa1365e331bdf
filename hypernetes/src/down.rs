//! `hypernetes down`: the end of everything that `up` started. The data stays.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use hypernetes_api::AllTenants;
use hypernetes_daemon::confine::mounts;
use hypernetes_hypervisor::{cgroup::Cgroups, process::Process};
use hypernetes_netagent::{Netagent, NetagentConfig};
use k8s_cri::v1::{
    ListPodSandboxRequest, PodSandbox, RemovePodSandboxRequest, StopPodSandboxRequest,
    runtime_service_client::RuntimeServiceClient,
};
use rustix::process::Signal;
use tonic::transport::Channel;

use crate::{
    Root,
    supervise::{self, Supervisor},
};

/// Stop everything that `up` started, VMs and networks included; the data stays
///
/// The next `up` starts the same pods again, in new VMs.
#[derive(clap::Args)]
pub struct Down {
    #[command(flatten)]
    root: Root,
}

const PATIENCE: Duration = Duration::from_secs(30);
/// VMs that are stopped at once.
const AT_ONCE: usize = 8;

impl Down {
    pub async fn run(self) -> Result<()> {
        let root = std::path::absolute(&self.root.directory)?;
        let recall = |role: &str| Process::recall(&Supervisor::record(&root, role));
        // First those that would start something again. The supervisor would take hyperd with it, which is needed.
        if let Some(supervisor) = recall("up") {
            let _ = supervisor.signal(Signal::KILL);
            stop("up", Some(supervisor)).await;
        }
        for role in ["node", "server"] {
            stop(role, recall(role)).await;
            forget_group(&root, role);
        }
        if let Some(hyperd) = recall("hyperd") {
            let stopped = stop_vms(&root).await;
            stop("hyperd", Some(hyperd)).await;
            forget_group(&root, "hyperd");
            stopped?;
        }
        if root.join("node/node.kubeconfig").exists() {
            // No VM has them open any more.
            hypernetes_kubelet::drop_memory(&root.join("node"))?;
            hypernetes_netagent::leave_unused(&network_agent(&root).await?).await?;
        }
        if root.is_dir() {
            mounts::unshared(&root).with_context(|| format!("unmounting {}", root.display()))?;
        }
        Ok(())
    }
}

fn forget_group(root: &Path, role: &str) {
    if let (Some(cgroups), Some(group)) = (Cgroups::find(), supervise::group_of(root, role)) {
        cgroups.remove_role(&group);
    }
}

/// One of our own: the node's has gone.
async fn network_agent(root: &Path) -> Result<NetagentConfig> {
    let node = root.join("node");
    let clients = crate::node::clients(&node).await?;
    let (state, socket) = (node.join("network"), node.join("netagent.sock"));
    Ok(NetagentConfig::new("down", state, socket, clients, AllTenants::grant()))
}

async fn stop(role: &str, process: Option<Process>) {
    if let Some(process) = process {
        process.stop(PATIENCE).await;
        println!("  {role} stopped");
    }
}

/// Stops all sandboxes. They are disconnected by a network agent of our own: with the node's, the kubelet would start them
/// again.
async fn stop_vms(root: &Path) -> Result<()> {
    let channel = hypernetes_hyperd_api::connect(&root.join("hyperd/hyperd.sock")).await?;
    let mut runtime = RuntimeServiceClient::new(channel.clone());
    let sandboxes = runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items;
    if sandboxes.is_empty() {
        return Ok(());
    }
    let agent = Netagent::open(network_agent(root).await?).await?;
    let count = sandboxes.len();
    let stopping = futures::stream::iter(sandboxes).map(|sandbox| remove(&channel, sandbox)).buffer_unordered(AT_ONCE);
    let failures = stopping.filter_map(|outcome| async { outcome.err() }).collect::<Vec<_>>();
    let failures = tokio::select! {
        failures = failures => failures,
        () = agent.run() => return Ok(()),
    };
    for failure in &failures {
        eprintln!("  {failure:#}");
    }
    println!("  {} VMs stopped", count - failures.len());
    if !failures.is_empty() {
        bail!("{} VMs could not be stopped: try again, and see {}", failures.len(), root.join("log").display());
    }
    Ok(())
}

async fn remove(channel: &Channel, sandbox: PodSandbox) -> Result<()> {
    let mut runtime = RuntimeServiceClient::new(channel.clone());
    let name = sandbox.metadata.map(|metadata| format!("{}/{}", metadata.namespace, metadata.name)).unwrap_or_default();
    let id = sandbox.id;
    let stop = StopPodSandboxRequest { pod_sandbox_id: id.clone() };
    runtime.stop_pod_sandbox(stop).await.with_context(|| format!("stopping the VM of {name} ({id})"))?;
    let remove = RemovePodSandboxRequest { pod_sandbox_id: id.clone() };
    runtime.remove_pod_sandbox(remove).await.with_context(|| format!("removing the VM of {name} ({id})"))?;
    Ok(())
}
