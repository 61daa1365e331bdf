//! CRI's metrics: the names and meanings that cAdvisor has made usual, and what a VM costs.

use std::sync::Arc;

use hypernetes_guest_protocol::v1;
use k8s_cri::v1 as cri;

use crate::{container::Container, host_usage::HostUsage, records::ContainerState, runtime::Runtime, sandbox::Sandbox};

/// What a value of a container is made of.
struct Sample<'a> {
    guest: &'a v1::ContainerStats,
    limits: &'a cri::LinuxContainerResources,
    started_at_nanos: i64,
    now_nanos: i64,
}

type Kind = cri::MetricType;
type Read = fn(&Sample) -> u64;

/// Label keys of every metric; those that say more add one.
const POD_LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

struct ContainerMetric {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    /// A further label with its values, each with how it is read.
    label: &'static str,
    values: &'static [(&'static str, Read)],
}

const fn metric(
    name: &'static str,
    kind: Kind,
    help: &'static str,
    values: &'static [(&'static str, Read)],
) -> ContainerMetric {
    ContainerMetric { name, help, kind, label: "", values }
}

const fn labelled(
    name: &'static str,
    kind: Kind,
    help: &'static str,
    label: &'static str,
    values: &'static [(&'static str, Read)],
) -> ContainerMetric {
    ContainerMetric { name, help, kind, label, values }
}

/// CRI's values are whole numbers.
fn seconds(nanos: u64) -> u64 {
    nanos / 1_000_000_000
}

fn stalled(pressure: Option<&v1::Pressure>, full: bool) -> u64 {
    let stalls = pressure.and_then(|p| if full { p.full.as_ref() } else { p.some.as_ref() });
    stalls.map_or(0, |s| s.total_micros / 1_000_000)
}

fn positive(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

use cri::MetricType::{Counter, Gauge};

#[rustfmt::skip]
const CONTAINER: [ContainerMetric; 45] = [
    labelled("container_blkio_device_usage_total", Counter, "Bytes read from and written to block devices", "operation",
        &[("Read", |s| s.guest.read_bytes), ("Write", |s| s.guest.written_bytes)]),
    metric("container_cpu_cfs_periods_total", Counter, "Elapsed periods of the CPU quota", &[("", |s| s.guest.cpu_periods)]),
    metric("container_cpu_cfs_throttled_periods_total", Counter, "Throttled periods of the CPU quota",
        &[("", |s| s.guest.cpu_throttled_periods)]),
    metric("container_cpu_cfs_throttled_seconds_total", Counter, "Time throttled by the CPU quota, in seconds",
        &[("", |s| seconds(s.guest.cpu_throttled_nanos))]),
    metric("container_cpu_system_seconds_total", Counter, "CPU time in the kernel, in seconds",
        &[("", |s| seconds(s.guest.cpu_system_nanos))]),
    labelled("container_cpu_usage_seconds_total", Counter, "CPU time, in seconds", "cpu",
        &[("total", |s| seconds(s.guest.cpu_usage_nanos))]),
    metric("container_cpu_user_seconds_total", Counter, "CPU time in user space, in seconds",
        &[("", |s| seconds(s.guest.cpu_user_nanos))]),
    metric("container_file_descriptors", Gauge, "Open file descriptors", &[("", |s| s.guest.file_descriptors)]),
    metric("container_fs_inodes_free", Gauge, "Free inodes of the writable layer",
        &[("", |s| s.guest.writable_inodes_limit.saturating_sub(s.guest.writable_inodes_used))]),
    metric("container_fs_inodes_total", Gauge, "Inodes of the writable layer", &[("", |s| s.guest.writable_inodes_limit)]),
    metric("container_fs_limit_bytes", Gauge, "Size of the writable layer, in bytes",
        &[("", |s| s.guest.writable_bytes_limit)]),
    metric("container_fs_reads_bytes_total", Counter, "Bytes read from block devices", &[("", |s| s.guest.read_bytes)]),
    metric("container_fs_reads_total", Counter, "Reads from block devices", &[("", |s| s.guest.reads)]),
    metric("container_fs_usage_bytes", Gauge, "Bytes used in the writable layer",
        &[("", |s| s.guest.writable_bytes_used)]),
    metric("container_fs_writes_bytes_total", Counter, "Bytes written to block devices",
        &[("", |s| s.guest.written_bytes)]),
    metric("container_fs_writes_total", Counter, "Writes to block devices", &[("", |s| s.guest.writes)]),
    metric("container_last_seen", Gauge, "When the container was last seen, Unix time in seconds",
        &[("", |s| seconds(positive(s.now_nanos)))]),
    metric("container_memory_cache", Gauge, "Page cache, in bytes", &[("", |s| s.guest.memory_cache_bytes)]),
    metric("container_memory_failcnt", Counter, "How often the memory limit was hit", &[("", |s| s.guest.memory_limit_hits)]),
    labelled("container_memory_failures_total", Counter, "Page faults", "failure_type",
        &[("pgfault", |s| s.guest.page_faults), ("pgmajfault", |s| s.guest.major_page_faults)]),
    metric("container_memory_kernel_usage", Gauge, "Memory of the kernel for the container, in bytes",
        &[("", |s| s.guest.memory_kernel_bytes)]),
    metric("container_memory_mapped_file", Gauge, "Memory-mapped files, in bytes",
        &[("", |s| s.guest.memory_mapped_file_bytes)]),
    metric("container_memory_max_usage_bytes", Gauge, "Most memory that was used, in bytes",
        &[("", |s| s.guest.memory_max_usage_bytes)]),
    metric("container_memory_rss", Gauge, "Anonymous memory, in bytes", &[("", |s| s.guest.memory_rss_bytes)]),
    metric("container_memory_swap", Gauge, "Swapped memory, in bytes", &[("", |s| s.guest.memory_swap_bytes)]),
    metric("container_memory_usage_bytes", Gauge, "Memory, caches included, in bytes",
        &[("", |s| s.guest.memory_usage_bytes)]),
    metric("container_memory_working_set_bytes", Gauge, "Memory without what can be given back at once, in bytes",
        &[("", |s| s.guest.memory_working_set_bytes)]),
    metric("container_oom_events_total", Counter, "Processes ended for want of memory", &[("", |s| s.guest.oom_kills)]),
    metric("container_pressure_cpu_stalled_seconds_total", Counter, "Time in which all tasks waited for a CPU, in seconds",
        &[("", |s| stalled(s.guest.cpu_pressure.as_ref(), true))]),
    metric("container_pressure_cpu_waiting_seconds_total", Counter, "Time in which tasks waited for a CPU, in seconds",
        &[("", |s| stalled(s.guest.cpu_pressure.as_ref(), false))]),
    metric("container_pressure_io_stalled_seconds_total", Counter, "Time in which all tasks waited for I/O, in seconds",
        &[("", |s| stalled(s.guest.io_pressure.as_ref(), true))]),
    metric("container_pressure_io_waiting_seconds_total", Counter, "Time in which tasks waited for I/O, in seconds",
        &[("", |s| stalled(s.guest.io_pressure.as_ref(), false))]),
    metric("container_pressure_memory_stalled_seconds_total", Counter, "Time in which all tasks waited for memory, in seconds",
        &[("", |s| stalled(s.guest.memory_pressure.as_ref(), true))]),
    metric("container_pressure_memory_waiting_seconds_total", Counter, "Time in which tasks waited for memory, in seconds",
        &[("", |s| stalled(s.guest.memory_pressure.as_ref(), false))]),
    metric("container_processes", Gauge, "Processes", &[("", |s| s.guest.processes)]),
    metric("container_sockets", Gauge, "Open sockets", &[("", |s| s.guest.sockets)]),
    metric("container_spec_cpu_period", Gauge, "Period of the CPU quota, in microseconds",
        &[("", |s| positive(s.limits.cpu_period))]),
    metric("container_spec_cpu_quota", Gauge, "CPU quota, in microseconds in each period; 0: none",
        &[("", |s| positive(s.limits.cpu_quota))]),
    metric("container_spec_cpu_shares", Gauge, "CPU shares", &[("", |s| positive(s.limits.cpu_shares))]),
    metric("container_spec_memory_limit_bytes", Gauge, "Memory limit, in bytes; 0: none",
        &[("", |s| positive(s.limits.memory_limit_in_bytes))]),
    metric("container_spec_memory_reservation_limit_bytes", Gauge, "Memory that is kept for the container, in bytes; 0: none",
        &[("", |s| s.limits.unified.get("memory.min").and_then(|v| v.parse().ok()).unwrap_or(0))]),
    metric("container_spec_memory_swap_limit_bytes", Gauge, "Limit of memory and swap together, in bytes; 0: none",
        &[("", |s| positive(s.limits.memory_swap_limit_in_bytes))]),
    metric("container_start_time_seconds", Gauge, "When the container was started, Unix time in seconds",
        &[("", |s| seconds(positive(s.started_at_nanos)))]),
    metric("container_threads", Gauge, "Threads", &[("", |s| s.guest.threads)]),
    metric("container_threads_max", Gauge, "Most threads that are allowed; 0: no limit", &[("", |s| s.guest.threads_max)]),
];

type ReadInterface = fn(&v1::InterfaceStats) -> u64;

#[rustfmt::skip]
const NETWORK: [(&str, &str, ReadInterface); 8] = [
    ("container_network_receive_bytes_total", "Bytes received", |i| i.rx_bytes),
    ("container_network_receive_errors_total", "Errors of receiving", |i| i.rx_errors),
    ("container_network_receive_packets_dropped_total", "Received packets that were dropped", |i| i.rx_dropped),
    ("container_network_receive_packets_total", "Packets received", |i| i.rx_packets),
    ("container_network_transmit_bytes_total", "Bytes sent", |i| i.tx_bytes),
    ("container_network_transmit_errors_total", "Errors of sending", |i| i.tx_errors),
    ("container_network_transmit_packets_dropped_total", "Packets dropped instead of sent", |i| i.tx_dropped),
    ("container_network_transmit_packets_total", "Packets sent", |i| i.tx_packets),
];

/// What is the pod's VM's: (used by the VMM, memory of the guest's containers).
type ReadVm = fn(HostUsage, u64) -> u64;

#[rustfmt::skip]
const VM: [(&str, Kind, &str, ReadVm); 3] = [
    ("hypernetes_vm_cpu_seconds_total", Counter, "CPU time of the pod's VM on its host, in seconds",
        |host, _| seconds(host.cpu_nanos)),
    ("hypernetes_vm_memory_bytes", Gauge, "Memory of the pod's VM on its host, in bytes", |host, _| host.memory_bytes),
    ("hypernetes_vm_memory_overhead_bytes", Gauge, "Memory of the VM that is not its containers', in bytes",
        |host, containers| host.memory_bytes.saturating_sub(containers)),
];

/// Every metric that [`Runtime::metrics`] may have.
pub(crate) fn descriptors() -> Vec<cri::MetricDescriptor> {
    let descriptor = |name: &str, help: &str, label: &str| cri::MetricDescriptor {
        name: name.into(),
        help: help.into(),
        label_keys: POD_LABELS.into_iter().chain((!label.is_empty()).then_some(label)).map(str::to_owned).collect(),
    };
    let containers = CONTAINER.iter().map(|m| descriptor(m.name, m.help, m.label));
    let network = NETWORK.iter().map(|(name, help, _)| descriptor(name, help, "interface"));
    let vm = VM.iter().map(|(name, _, help, _)| descriptor(name, help, ""));
    containers.chain(network).chain(vm).collect()
}

fn sample(name: &str, kind: Kind, labels: &[String], label: &str, value: u64) -> cri::Metric {
    let label = (!label.is_empty()).then(|| label.to_owned());
    cri::Metric {
        name: name.into(),
        timestamp: 0,
        metric_type: kind as i32,
        label_values: labels.iter().cloned().chain(label).collect(),
        value: Some(cri::UInt64Value { value }),
    }
}

fn of_container(container: &Container, guest: &v1::ContainerStats, labels: &[String]) -> cri::ContainerMetrics {
    let record = container.record();
    let limits = record.config.linux.and_then(|l| l.resources).unwrap_or_default();
    let started_at_nanos = match record.state {
        ContainerState::Running { started_at } => started_at,
        _ => 0,
    };
    let now_nanos = crate::runtime::now_nanos();
    let values = Sample { guest, limits: &limits, started_at_nanos, now_nanos };
    let metrics = CONTAINER.iter().flat_map(|metric| {
        let read = |(label, read): &(&str, Read)| sample(metric.name, metric.kind, labels, label, read(&values));
        metric.values.iter().map(read)
    });
    cri::ContainerMetrics { container_id: container.id.clone(), metrics: metrics.collect() }
}

impl Runtime {
    /// Metrics of a sandbox and its running containers; none when its guest does not answer.
    pub(crate) async fn metrics(&self, sandbox: &Arc<Sandbox>) -> Option<cri::PodSandboxMetrics> {
        let usage = self.usage(sandbox).await.ok()?;
        let pod = sandbox.record().config.metadata.unwrap_or_default();
        let labels = |container: &str, id: &str, image: &str, name: &str| {
            [container, id, image, name, &pod.namespace, &pod.name].map(str::to_owned)
        };
        let mut containers = Vec::new();
        for container in self.containers_of(&sandbox.id).into_iter().filter(|c| c.is_running()) {
            let Some(guest) = usage.container(&container.id) else { continue };
            let record = container.record();
            let name = record.config.metadata.map(|m| m.name).unwrap_or_default();
            let labels = labels(&name, &container.id, &record.image_name, &container.id);
            containers.push(of_container(&container, guest, &labels));
        }
        let own = labels("", &sandbox.id, "", &sandbox.id);
        let mut metrics = Vec::new();
        for interface in &usage.interfaces {
            for (name, _, read) in NETWORK {
                metrics.push(sample(name, Counter, &own, &interface.name, read(interface)));
            }
        }
        if let Some(host) = usage.host {
            let inside = usage.containers.iter().map(|c| c.memory_usage_bytes).fold(0, u64::saturating_add);
            metrics.extend(VM.iter().map(|(name, kind, _, read)| sample(name, *kind, &own, "", read(host, inside))));
        }
        Some(cri::PodSandboxMetrics { pod_sandbox_id: sandbox.id.clone(), metrics, container_metrics: containers })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn metrics_have_one_descriptor_and_as_many_labels() {
        let descriptors = descriptors();
        let names: HashSet<_> = descriptors.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names.len(), descriptors.len());
        assert!(descriptors.iter().all(|d| !d.help.is_empty()));
        for metric in &CONTAINER {
            let keys = descriptors.iter().find(|d| d.name == metric.name).unwrap().label_keys.len();
            for (label, _) in metric.values {
                assert_eq!(
                    sample(metric.name, metric.kind, &POD_LABELS.map(str::to_owned), label, 1).label_values.len(),
                    keys
                );
            }
        }
    }
}
