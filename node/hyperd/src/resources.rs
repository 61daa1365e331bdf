//! Limits of containers, from CRI's form into that of the guest's control groups.

use std::collections::HashMap;

use hypernetes_guest_protocol::v1;
use hypernetes_hypervisor::VmSpec;
use k8s_cri::v1 as cri;

use crate::error::{Error, Result};

/// The kernel's own bounds (`kernel/sched/core.c`): what lies outside would be refused by the guest later.
const MIN_PERIOD_MICROS: i64 = 1_000;
const MAX_PERIOD_MICROS: i64 = 1_000_000;
const MIN_QUOTA_MICROS: i64 = 1_000;
/// No container starts with less: its first process is hyperstart itself until it becomes what it should.
const MIN_MEMORY_BYTES: i64 = 4 << 20;
const MAX_UNIFIED: usize = 64;
const MAX_UNIFIED_BYTES: usize = 4096;
const IO_LIMIT: &str = "io.max";
/// Of the controllers that a guest has; what names devices of the host means nothing there.
const UNIFIED_PREFIXES: [&str; 5] = ["cpu.", "cpuset.cpus", "memory.", "pids.", "hugetlb."];

/// Limits for the container's control group. What is zero or negative means none, as in CRI.
///
/// # Errors
/// `InvalidArgument` with the reason for what no kernel can do.
pub(crate) fn guest(resources: &cri::LinuxContainerResources) -> Result<v1::Resources> {
    let invalid = |text: String| Err(Error::InvalidArgument(text));
    let r = resources;
    if r.memory_limit_in_bytes > 0 && r.memory_limit_in_bytes < MIN_MEMORY_BYTES {
        return invalid(format!(
            "a memory limit of {} bytes is too small: give the container at least 4 MiB",
            r.memory_limit_in_bytes
        ));
    }
    if r.cpu_period != 0 && !(MIN_PERIOD_MICROS..=MAX_PERIOD_MICROS).contains(&r.cpu_period) {
        return invalid(format!("a CPU period of {} µs is not between 1000 and 1000000", r.cpu_period));
    }
    if r.cpu_quota > 0 && r.cpu_quota < MIN_QUOTA_MICROS {
        return invalid(format!("a CPU quota of {} µs is too small: it has to be at least 1000", r.cpu_quota));
    }
    if !is_cpu_list(&r.cpuset_cpus) {
        return invalid(format!("{:?} is not a list of CPUs", short(&r.cpuset_cpus)));
    }
    if !r.cpuset_mems.is_empty() && r.cpuset_mems != "0" {
        return invalid("cpuset_mems: the pod's virtual machine has one memory node, 0".into());
    }
    let positive = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(v1::Resources {
        memory_bytes: positive(r.memory_limit_in_bytes),
        cpu_quota_micros: r.cpu_quota.max(0),
        cpu_period_micros: positive(r.cpu_period),
        cpu_shares: positive(r.cpu_shares),
        pids: 0,
        cpuset_cpus: r.cpuset_cpus.clone(),
        unified: unified(&r.unified)?,
    })
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

fn unified(wanted: &HashMap<String, String>) -> Result<HashMap<String, String>> {
    let bytes: usize = wanted.iter().map(|(key, value)| key.len() + value.len()).sum();
    if wanted.len() > MAX_UNIFIED || bytes > MAX_UNIFIED_BYTES {
        return Err(Error::InvalidArgument("the unified cgroup settings are too many".into()));
    }
    for (key, value) in wanted {
        if key == IO_LIMIT {
            if value.strip_prefix("default ").is_some_and(is_io_limit) {
                continue;
            }
            return Err(Error::InvalidArgument(
                "io.max: the pod's virtual machine has other devices than the node; write \"default\" for all of them, \
                 and rbps, wbps, riops, wiops with a number or max"
                    .into(),
            ));
        }
        let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._".contains(&b));
        if !plain || !UNIFIED_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
            return Err(Error::InvalidArgument(format!(
                "the cgroup setting {:?} cannot be set in the pod's virtual machine: only those of cpu, cpuset.cpus, \
                 memory, pids and hugetlb can",
                short(key)
            )));
        }
    }
    Ok(wanted.clone())
}

/// `rbps=1048576 wiops=max`
fn is_io_limit(text: &str) -> bool {
    let limit = |word: &str| {
        word.split_once('=').is_some_and(|(name, value)| {
            matches!(name, "rbps" | "wbps" | "riops" | "wiops") && (value == "max" || value.parse::<u64>().is_ok())
        })
    };
    !text.is_empty() && text.split(' ').all(limit)
}

/// `0-2,7`; empty: any.
fn is_cpu_list(text: &str) -> bool {
    let number = |text: &str| text.parse::<u16>().ok();
    let range = |part: &str| match part.split_once('-') {
        Some((from, to)) => matches!((number(from), number(to)), (Some(from), Some(to)) if from <= to),
        None => number(part).is_some(),
    };
    text.is_empty() || (text.len() <= 1024 && text.split(',').all(range))
}

/// Refuses a VM that its host could never hold.
pub(crate) fn fits_host(memory_mib: u32) -> Result<()> {
    let Some(host_mib) = host_memory_mib() else { return Ok(()) };
    if u64::from(memory_mib) <= host_mib {
        return Ok(());
    }
    Err(Error::Exhausted(format!(
        "the pod needs a virtual machine of {memory_mib} MiB, and this host has {host_mib} MiB: lower its memory limits"
    )))
}

fn host_memory_mib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}

/// Refuses limits that a container's VM, which keeps its size, cannot give.
pub(crate) fn fits_vm(resources: &cri::LinuxContainerResources, vm: &VmSpec) -> Result<()> {
    let too_small = |what: String| {
        Err(Error::FailedPrecondition(format!(
            "the pod's virtual machine has {} CPUs and {} MiB, which is too small for {what}: recreate the pod",
            vm.cpus, vm.memory_mib
        )))
    };
    let memory_mib = u64::try_from(resources.memory_limit_in_bytes).unwrap_or(0) >> 20;
    if memory_mib > u64::from(vm.memory_mib) {
        return too_small(format!("a memory limit of {memory_mib} MiB"));
    }
    let cpus = resources.cpu_quota.checked_div(resources.cpu_period).unwrap_or(0);
    if cpus > i64::from(vm.cpus) {
        return too_small(format!("a limit of {cpus} CPUs"));
    }
    Ok(())
}

/// What is set in `change` over what was set before: zero and empty mean "as it was", as in `UpdateContainerResources`.
pub(crate) fn merge(
    before: cri::LinuxContainerResources,
    change: &cri::LinuxContainerResources,
) -> cri::LinuxContainerResources {
    let number = |before: i64, change: i64| if change == 0 { before } else { change };
    let text = |before: String, change: &String| if change.is_empty() { before } else { change.clone() };
    let mut unified = before.unified;
    unified.extend(change.unified.clone());
    cri::LinuxContainerResources {
        cpu_period: number(before.cpu_period, change.cpu_period),
        cpu_quota: number(before.cpu_quota, change.cpu_quota),
        cpu_shares: number(before.cpu_shares, change.cpu_shares),
        memory_limit_in_bytes: number(before.memory_limit_in_bytes, change.memory_limit_in_bytes),
        memory_swap_limit_in_bytes: number(before.memory_swap_limit_in_bytes, change.memory_swap_limit_in_bytes),
        oom_score_adj: number(before.oom_score_adj, change.oom_score_adj),
        cpuset_cpus: text(before.cpuset_cpus, &change.cpuset_cpus),
        cpuset_mems: text(before.cpuset_mems, &change.cpuset_mems),
        hugepage_limits: if change.hugepage_limits.is_empty() {
            before.hugepage_limits
        } else {
            change.hugepage_limits.clone()
        },
        unified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> cri::LinuxContainerResources {
        cri::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            unified: [("pids.max".to_owned(), "100".to_owned())].into(),
            ..Default::default()
        }
    }

    #[test]
    fn limits_are_passed_on_and_impossible_ones_refused() {
        let made = guest(&limits()).unwrap();
        assert_eq!((made.memory_bytes, made.cpu_quota_micros, made.cpu_shares), (64 << 20, 50_000, 512));
        assert_eq!(made.unified["pids.max"], "100");
        assert_eq!(
            guest(&cri::LinuxContainerResources { cpu_quota: -1, ..Default::default() }).unwrap().cpu_quota_micros,
            0
        );
        type Change = fn(&mut cri::LinuxContainerResources);
        let wrong: [Change; 8] = [
            |r| r.memory_limit_in_bytes = 1,
            |r| r.cpu_period = 1,
            |r| r.cpu_period = i64::MAX,
            |r| r.cpu_quota = 999,
            |r| r.cpuset_cpus = "2-1".into(),
            |r| r.cpuset_mems = "1".into(),
            |r| drop(r.unified.insert("cgroup.procs".into(), "1".into())),
            |r| drop(r.unified.insert("memory./../../x".into(), "1".into())),
        ];
        for change in wrong {
            let mut resources = limits();
            change(&mut resources);
            assert!(matches!(guest(&resources), Err(Error::InvalidArgument(_))), "{resources:?}");
        }
    }

    #[test]
    fn disks_are_limited_all_at_once() {
        let with = |value: &str| {
            let unified = [("io.max".to_owned(), value.to_owned())].into();
            guest(&cri::LinuxContainerResources { unified, ..Default::default() })
        };
        assert!(with("default rbps=1048576 wiops=max").is_ok());
        for wrong in ["8:0 rbps=1", "default", "default ", "default rbps=x", "default rbps=1\n8:0 wbps=1"] {
            assert!(matches!(with(wrong), Err(Error::InvalidArgument(_))), "{wrong}");
        }
    }

    #[test]
    fn a_host_has_an_end() {
        assert!(fits_host(1).is_ok());
        assert!(matches!(fits_host(u32::MAX), Err(Error::Exhausted(_))));
    }

    #[test]
    fn a_change_leaves_the_rest() {
        let change = cri::LinuxContainerResources { memory_limit_in_bytes: 5 << 20, ..Default::default() };
        let merged = merge(limits(), &change);
        assert_eq!(merged, cri::LinuxContainerResources { memory_limit_in_bytes: 5 << 20, ..limits() });
    }
}
