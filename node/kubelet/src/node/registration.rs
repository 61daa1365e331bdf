//! Registers this host's Node object, and keeps its status and Lease.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hypernetes_api::TenantId;
use hypernetes_client::Api;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::{Shared, api, host};

/// As upstream's defaults.
const LEASE_EVERY: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;

async fn status(shared: &Shared, address: SocketAddr) -> Value {
    let (runtime_version, healthy) = match shared.runtime.version().await {
        Ok(version) => (format!("{}://{}", version.runtime_name, version.runtime_version), true),
        Err(_) => ("unknown".to_owned(), false),
    };
    let has = &shared.allocatable;
    let resources = json!({
        "cpu": has.cpu.units().to_string(), "memory": format!("{}Ki", has.memory.units() >> 10),
        "pods": has.pods.to_string(),
        "ephemeral-storage": "0",
    });
    let os = host::read("/etc/os-release");
    let os = os.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"').to_owned();
    let now = jiff::Timestamp::now().to_string();
    let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
        json!({"type": kind, "status": if holds { "True" } else { "False" }, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now})
    };
    let ready = if healthy {
        condition("Ready", true, "KubeletReady", "kubelet is posting ready status")
    } else {
        condition("Ready", false, "KubeletNotReady", "the container runtime does not answer")
    };
    json!({"status": {
        "capacity": resources, "allocatable": resources,
        "conditions": [
            condition("MemoryPressure", false, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", false, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ready,
        ],
        "addresses": [
            {"type": "InternalIP", "address": address.ip().to_string()},
            {"type": "Hostname", "address": shared.config.node_name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": address.port()}},
        "nodeInfo": {
            "architecture": "amd64", "operatingSystem": "linux", "osImage": os,
            "kernelVersion": host::read("/proc/sys/kernel/osrelease"), "bootID": host::read("/proc/sys/kernel/random/boot_id"),
            "machineID": host::read("/etc/machine-id"), "systemUUID": host::read("/etc/machine-id"),
            "containerRuntimeVersion": runtime_version, "kubeletVersion": "v1.36.0+hypernetes", "kubeProxyVersion": "",
        },
    }})
}

/// Registers the node and says for ever that it lives.
pub async fn keep(shared: Arc<Shared>, address: SocketAddr, ready: impl FnOnce() + Send) {
    let client = shared.config.clients.tenant(&TenantId::system());
    let nodes: Api<Node> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    let name = &shared.config.node_name;
    let labels = json!({"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"});
    let mut ready = Some(ready);
    loop {
        let node = serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "spec": {}}));
        let outcome = api::within(async {
            let known = match (nodes.get_opt(name).await?, node) {
                (None, Ok(node)) => Some(nodes.create(&PostParams::default(), &node).await?),
                (known, _) => known,
            };
            // Its taints say what is taken here.
            shared.node.send_replace(known.map(Arc::new));
            let status = Patch::Merge(status(&shared, address).await);
            nodes.patch_status(name, &PatchParams::default(), &status).await?;
            let renew = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
                "spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS,
                    "renewTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(k8s_openapi::jiff::Timestamp::now())},
            });
            leases.patch(name, &PatchParams::apply("kubelet").force(), &Patch::Apply(renew)).await
        });
        match outcome.await {
            Ok(_) => {
                if let Some(ready) = ready.take() {
                    ready();
                }
            }
            Err(error) => {
                tracing::warn!(%error, "saying that the node lives");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        }
        tokio::time::sleep(LEASE_EVERY).await;
    }
}
