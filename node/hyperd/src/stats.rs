//! Usage of containers and pods. The guest's numbers are believed within what its VM can have; what the VM costs its
//! host is the host's own number.

use std::sync::Arc;

use hypernetes_guest_protocol::v1;
use k8s_cri::v1 as cri;
use parking_lot::Mutex;

use crate::{
    agent::{CALL_TIMEOUT, clean},
    container::Container,
    error::Result,
    host_usage::{self, HostUsage},
    runtime::{Runtime, now_nanos},
    sandbox::Sandbox,
};

/// Interfaces that one pod can have: more are not believed.
const MAX_INTERFACES: usize = 16;
/// A rate is measured over at least this.
const RATE_NANOS: i64 = 500_000_000;

/// CPU use per second, from two looks at the sum.
#[derive(Debug, Default)]
pub(crate) struct CpuRate(Mutex<Option<Look>>);

#[derive(Debug, Clone, Copy)]
struct Look {
    at: i64,
    nanos: u64,
    rate: Option<u64>,
}

impl CpuRate {
    /// Nanoseconds of CPU time in a second since an earlier look; none at the first.
    fn measure(&self, at: i64, nanos: u64) -> Option<u64> {
        let mut last = self.0.lock();
        let rate = match *last {
            None => None,
            Some(look) if at - look.at < RATE_NANOS => return look.rate,
            Some(look) => {
                let spent = u128::from(nanos.saturating_sub(look.nanos)) * 1_000_000_000;
                u64::try_from(spent / u128::from((at - look.at).unsigned_abs().max(1))).ok()
            }
        };
        *last = Some(Look { at, nanos, rate });
        rate
    }
}

/// What one pod uses, bounded by what its VM can have.
pub(crate) struct Usage {
    pub containers: Vec<v1::ContainerStats>,
    pub interfaces: Vec<v1::InterfaceStats>,
    pub memory_total_bytes: u64,
    pub memory_available_bytes: u64,
    /// None when the VM has just ended.
    pub host: Option<HostUsage>,
}

impl Usage {
    /// What is believed of a guest's answer.
    pub(crate) fn checked(
        answer: v1::StatsResponse,
        known: &[String],
        bounds: Bounds,
        host: Option<HostUsage>,
    ) -> Self {
        let mut containers = answer.containers;
        containers.retain(|stats| known.contains(&stats.container_id));
        containers.truncate(known.len());
        containers.iter_mut().for_each(|stats| bounds.apply(stats));
        let mut interfaces = answer.interfaces;
        interfaces.truncate(MAX_INTERFACES);
        for interface in &mut interfaces {
            interface.name = clean(&interface.name).chars().take(15).collect();
        }
        let memory_total_bytes = answer.memory_total_bytes.min(bounds.memory);
        Self {
            containers,
            interfaces,
            memory_total_bytes,
            memory_available_bytes: answer.memory_available_bytes.min(memory_total_bytes),
            host,
        }
    }

    pub(crate) fn container(&self, id: &str) -> Option<&v1::ContainerStats> {
        self.containers.iter().find(|stats| stats.container_id == id)
    }
}

impl Runtime {
    /// Usage of the given containers of one sandbox; those that the guest says nothing of are left out.
    pub(crate) async fn container_stats(
        &self,
        sandbox: &Arc<Sandbox>,
        containers: &[Arc<Container>],
    ) -> Result<Vec<cri::ContainerStats>> {
        let usage = self.usage(sandbox).await?;
        Ok(containers.iter().filter_map(|c| Some(container_stats(c, usage.container(&c.id)?))).collect())
    }

    pub(crate) async fn sandbox_stats(&self, sandbox: &Arc<Sandbox>) -> Result<cri::PodSandboxStats> {
        let usage = self.usage(sandbox).await?;
        let containers: Vec<_> = self
            .containers_of(&sandbox.id)
            .iter()
            .filter_map(|c| Some(container_stats(c, usage.container(&c.id)?)))
            .collect();
        let sum = |pick: fn(&v1::ContainerStats) -> u64| usage.containers.iter().map(pick).fold(0, u64::saturating_add);
        let used = usage.memory_total_bytes.saturating_sub(usage.memory_available_bytes);
        // The VM's own share is in the host's number, and not in the sum of the containers'.
        let memory = usage.host.map_or(used, |host| host.memory_bytes);
        let cpu = usage.host.map_or(sum(|c| c.cpu_usage_nanos), |host| host.cpu_nanos);
        let timestamp = now_nanos();
        let record = sandbox.record();
        // The kernel has others that nobody asked for.
        let (pods, others): (Vec<_>, Vec<_>) = usage.interfaces.iter().partition(|i| i.name == crate::cni::INTERFACE);
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
                    usage_core_nano_seconds: value(cpu),
                    usage_nano_cores: sandbox.cpu_rate.measure(timestamp, cpu).and_then(value),
                    psi: None,
                }),
                memory: Some(cri::MemoryUsage {
                    timestamp,
                    usage_bytes: value(memory),
                    available_bytes: value(usage.memory_available_bytes),
                    working_set_bytes: value(memory),
                    rss_bytes: value(sum(|c| c.memory_rss_bytes)),
                    page_faults: value(sum(|c| c.page_faults)),
                    major_page_faults: value(sum(|c| c.major_page_faults)),
                    psi: None,
                }),
                network: Some(cri::NetworkUsage {
                    timestamp,
                    default_interface: pods.first().map(|interface| interface_usage(interface)),
                    interfaces: others.into_iter().map(interface_usage).collect(),
                }),
                process: Some(cri::ProcessUsage { timestamp, process_count: value(sum(|c| c.pids)) }),
                io: None,
                containers,
            }),
            windows: None,
        })
    }

    pub(crate) async fn usage(&self, sandbox: &Arc<Sandbox>) -> Result<Usage> {
        let live = sandbox.live()?;
        let request = v1::StatsRequest { container_id: String::new() };
        let answer = live.agent.call("Stats", CALL_TIMEOUT, |mut c| async move { c.stats(request).await }).await?;
        let vm = live.vm.record();
        let age = now_nanos().saturating_sub(sandbox.record().created_at).unsigned_abs();
        let bounds = Bounds {
            memory: u64::from(vm.spec.memory_mib) << 20,
            cpu_nanos: age.saturating_mul(u64::from(vm.spec.cpus)),
        };
        let known: Vec<String> = self.containers_of(&sandbox.id).iter().map(|c| c.id.clone()).collect();
        Ok(Usage::checked(answer, &known, bounds, host_usage::of(&vm)))
    }
}

/// Upper bounds of what one VM can have used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub memory: u64,
    pub cpu_nanos: u64,
}

impl Bounds {
    fn apply(self, stats: &mut v1::ContainerStats) {
        for memory in [
            &mut stats.memory_usage_bytes,
            &mut stats.memory_rss_bytes,
            &mut stats.memory_cache_bytes,
            &mut stats.memory_mapped_file_bytes,
            &mut stats.memory_kernel_bytes,
            &mut stats.memory_max_usage_bytes,
            &mut stats.memory_swap_bytes,
            &mut stats.writable_bytes_used,
            &mut stats.writable_bytes_limit,
            &mut stats.writable_inodes_used,
            &mut stats.writable_inodes_limit,
        ] {
            *memory = (*memory).min(self.memory);
        }
        stats.memory_working_set_bytes = stats.memory_working_set_bytes.min(stats.memory_usage_bytes);
        for cpu in [
            &mut stats.cpu_usage_nanos,
            &mut stats.cpu_user_nanos,
            &mut stats.cpu_system_nanos,
            &mut stats.cpu_throttled_nanos,
        ] {
            *cpu = (*cpu).min(self.cpu_nanos);
        }
    }
}

#[allow(clippy::unnecessary_wraps)]
fn value(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

fn psi(pressure: Option<&v1::Pressure>) -> Option<cri::PsiStats> {
    let data = |stalls: &v1::Stalls| {
        let percent = |value: f64| if value.is_finite() { value.clamp(0.0, 100.0) } else { 0.0 };
        cri::PsiData {
            total: stalls.total_micros.saturating_mul(1000),
            avg10: percent(stalls.avg10),
            avg60: percent(stalls.avg60),
            avg300: percent(stalls.avg300),
        }
    };
    let pressure = pressure?;
    Some(cri::PsiStats { full: pressure.full.as_ref().map(data), some: pressure.some.as_ref().map(data) })
}

pub(crate) fn interface_usage(interface: &v1::InterfaceStats) -> cri::NetworkInterfaceUsage {
    cri::NetworkInterfaceUsage {
        name: interface.name.clone(),
        rx_bytes: value(interface.rx_bytes),
        rx_errors: value(interface.rx_errors),
        tx_bytes: value(interface.tx_bytes),
        tx_errors: value(interface.tx_errors),
    }
}

pub(crate) fn container_stats(container: &Container, stats: &v1::ContainerStats) -> cri::ContainerStats {
    let timestamp = now_nanos();
    let record = container.record();
    let limit = record.config.linux.and_then(|l| l.resources).map_or(0, |r| r.memory_limit_in_bytes);
    let available = u64::try_from(limit).ok().filter(|limit| *limit > 0);
    cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: record.id,
            metadata: record.config.metadata,
            labels: record.config.labels,
            annotations: record.config.annotations,
        }),
        cpu: Some(cri::CpuUsage {
            timestamp,
            usage_core_nano_seconds: value(stats.cpu_usage_nanos),
            usage_nano_cores: container.cpu_rate.measure(timestamp, stats.cpu_usage_nanos).and_then(value),
            psi: psi(stats.cpu_pressure.as_ref()),
        }),
        memory: Some(cri::MemoryUsage {
            timestamp,
            working_set_bytes: value(stats.memory_working_set_bytes),
            available_bytes: available.and_then(|limit| value(limit.saturating_sub(stats.memory_working_set_bytes))),
            usage_bytes: value(stats.memory_usage_bytes),
            rss_bytes: value(stats.memory_rss_bytes),
            page_faults: value(stats.page_faults),
            major_page_faults: value(stats.major_page_faults),
            psi: psi(stats.memory_pressure.as_ref()),
        }),
        writable_layer: Some(cri::FilesystemUsage {
            timestamp,
            fs_id: None,
            used_bytes: value(stats.writable_bytes_used),
            inodes_used: value(stats.writable_inodes_used),
        }),
        swap: Some(cri::SwapUsage {
            timestamp,
            swap_available_bytes: value(0),
            swap_usage_bytes: value(stats.memory_swap_bytes),
        }),
        io: psi(stats.io_pressure.as_ref()).map(|psi| cri::IoUsage { timestamp, psi: Some(psi) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_from_two_looks() {
        let rate = CpuRate::default();
        assert_eq!(rate.measure(0, 100), None);
        assert_eq!(rate.measure(1_000_000, 200), None);
        assert_eq!(rate.measure(2_000_000_000, 1_000_000_100), Some(500_000_000));
        assert_eq!(rate.measure(2_000_000_001, 7_000_000_100), Some(500_000_000));
        // A guest whose sum goes back.
        assert_eq!(rate.measure(4_000_000_000, 5), Some(0));
    }
}
