//! Usage of containers and pods. The guest's numbers are believed within what its VM can have.

use std::sync::Arc;

use hypernetes_guest_protocol::v1;
use k8s_cri::v1 as cri;

use crate::{
    agent::CALL_TIMEOUT,
    container::Container,
    error::Result,
    runtime::{Runtime, now_nanos},
    sandbox::Sandbox,
};

/// Upper bounds of what one VM can have used.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    memory: u64,
    cpu_nanos: u64,
}

impl Runtime {
    /// Usage of the given containers of one sandbox; those that the guest says nothing of are left out.
    pub(crate) async fn container_stats(
        &self,
        sandbox: &Arc<Sandbox>,
        containers: &[Arc<Container>],
    ) -> Result<Vec<cri::ContainerStats>> {
        let (answer, bounds) = self.guest_stats(sandbox).await?;
        let find = |id: &str| answer.containers.iter().find(|s| s.container_id == id);
        Ok(containers.iter().filter_map(|c| Some(container_stats(c, find(&c.id)?, bounds))).collect())
    }

    pub(crate) async fn sandbox_stats(&self, sandbox: &Arc<Sandbox>) -> Result<cri::PodSandboxStats> {
        let (answer, bounds) = self.guest_stats(sandbox).await?;
        let find = |id: &str| answer.containers.iter().find(|s| s.container_id == id);
        let containers: Vec<_> = self
            .containers_of(&sandbox.id)
            .iter()
            .filter_map(|c| Some(container_stats(c, find(&c.id)?, bounds)))
            .collect();
        let sum = |pick: fn(&cri::ContainerStats) -> Option<u64>| {
            containers.iter().filter_map(pick).fold(0, u64::saturating_add)
        };
        let total = answer.memory_total_bytes.min(bounds.memory);
        let available = answer.memory_available_bytes.min(total);
        let record = sandbox.record();
        let timestamp = now_nanos();
        Ok(cri::PodSandboxStats {
            attributes: Some(cri::PodSandboxAttributes {
                id: record.id,
                metadata: record.config.metadata,
                labels: record.config.labels,
                annotations: record.config.annotations,
            }),
            linux: Some(cri::LinuxPodSandboxStats {
                cpu: Some(cri::CpuUsage {
                    timestamp,
                    usage_core_nano_seconds: value(sum(|c| c.cpu.as_ref()?.usage_core_nano_seconds.map(|v| v.value))),
                    usage_nano_cores: None,
                }),
                memory: Some(cri::MemoryUsage {
                    timestamp,
                    usage_bytes: value(total - available),
                    available_bytes: value(available),
                    working_set_bytes: value(sum(|c| c.memory.as_ref()?.working_set_bytes.map(|v| v.value))),
                    ..Default::default()
                }),
                containers,
                ..Default::default()
            }),
            windows: None,
        })
    }

    async fn guest_stats(&self, sandbox: &Arc<Sandbox>) -> Result<(v1::StatsResponse, Bounds)> {
        let live = sandbox.live()?;
        let request = v1::StatsRequest { container_id: String::new() };
        let answer = live.agent.call("Stats", CALL_TIMEOUT, |mut c| async move { c.stats(request).await }).await?;
        let spec = live.vm.record().spec;
        let age = now_nanos().saturating_sub(sandbox.record().created_at).unsigned_abs();
        let bounds =
            Bounds { memory: u64::from(spec.memory_mib) << 20, cpu_nanos: age.saturating_mul(u64::from(spec.cpus)) };
        Ok((answer, bounds))
    }
}

#[allow(clippy::unnecessary_wraps)]
fn value(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

fn container_stats(container: &Container, stats: &v1::ContainerStats, bounds: Bounds) -> cri::ContainerStats {
    let timestamp = now_nanos();
    let record = container.record();
    let usage = stats.memory_usage_bytes.min(bounds.memory);
    cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: record.id,
            metadata: record.config.metadata,
            labels: record.config.labels,
            annotations: record.config.annotations,
        }),
        cpu: Some(cri::CpuUsage {
            timestamp,
            usage_core_nano_seconds: value(stats.cpu_usage_nanos.min(bounds.cpu_nanos)),
            usage_nano_cores: None,
        }),
        memory: Some(cri::MemoryUsage {
            timestamp,
            working_set_bytes: value(stats.memory_working_set_bytes.min(usage)),
            usage_bytes: value(usage),
            ..Default::default()
        }),
        writable_layer: Some(cri::FilesystemUsage {
            timestamp,
            fs_id: None,
            used_bytes: value(stats.writable_bytes_used.min(bounds.memory)),
            inodes_used: value(stats.writable_inodes_used.min(bounds.memory)),
        }),
        swap: None,
    }
}
