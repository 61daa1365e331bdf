//! What running pods cost the host.

use std::{
    fmt, fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use k8s_cri::v1 as cri;

use crate::runtime::Runtime;

/// What idle pods do is seen over this time, after they have come to rest.
const SETTLE: Duration = Duration::from_secs(10);
const WATCH: Duration = Duration::from_secs(20);
/// Of `/proc/<pid>/stat`; Linux has one value for it on x86-64.
const TICKS_PER_SECOND: f64 = 100.0;

pub struct Cost {
    pods: usize,
    /// Proportional set size of all processes that a pod consists of, MiB, all pods.
    memory: f64,
    /// Of one processor, all pods.
    processor: f64,
    runtime_memory: f64,
}

impl Cost {
    pub async fn of(runtime: &Runtime, pods: &[String]) -> Result<Self> {
        let mut processes = Vec::new();
        for pod in pods {
            processes.extend(processes_of(runtime, pod).await?);
        }
        tokio::time::sleep(SETTLE).await;
        let before = processor_time(&processes);
        let began = Instant::now();
        tokio::time::sleep(WATCH).await;
        let processor = (processor_time(&processes) - before) / began.elapsed().as_secs_f64();
        let memory = processes.iter().map(|pid| memory(*pid, "smaps_rollup", "Pss:")).sum::<f64>();
        let serving = std::os::unix::net::UnixStream::connect(&runtime.socket)?;
        let serving = peer(&serving)?;
        Ok(Self { pods: pods.len(), memory, processor, runtime_memory: memory_of(serving) })
    }
}

fn memory_of(pid: i32) -> f64 {
    memory(pid, "status", "VmRSS:")
}

/// The VM of a pod, or the shim and all that came from it.
async fn processes_of(runtime: &Runtime, pod: &str) -> Result<Vec<i32>> {
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.into(), verbose: true };
    let status = runtime.client().pod_sandbox_status(request).await?.into_inner();
    if let Some(pid) = status.info.get("vm_pid") {
        return Ok(vec![pid.parse().context("vm_pid")?]);
    }
    let shim = all_processes().into_iter().find(|pid| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("shim") && line.contains(pod)
    });
    let mut found: Vec<i32> = shim.into_iter().collect();
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(all_processes().into_iter().filter(|pid| parent_of(*pid) == Some(parent)));
        at += 1;
    }
    Ok(found)
}

fn all_processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The fields of `/proc/<pid>/stat` behind the command's name, from the state (field 3) on.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

fn parent_of(pid: i32) -> Option<i32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// Seconds in user and kernel mode.
fn processor_time(processes: &[i32]) -> f64 {
    let ticks = |pid: &i32| {
        let fields = stat(*pid)?;
        Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
    };
    processes.iter().filter_map(ticks).sum::<f64>() / TICKS_PER_SECOND
}

/// MiB.
fn memory(pid: i32, file: &str, field: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// Who serves a socket.
fn peer(stream: &std::os::unix::net::UnixStream) -> Result<i32> {
    let stream = tokio::net::UnixStream::from_std({
        let stream = stream.try_clone()?;
        stream.set_nonblocking(true)?;
        stream
    })?;
    stream.peer_cred()?.pid().context("the runtime's process is not known")
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pods = self.pods.max(1) as f64;
        write!(
            f,
            "  memory {:.1} MiB a pod (PSS), idle processor time {:.1} % of a core for all, the runtime itself {:.0} MiB",
            self.memory / pods,
            self.processor * 100.0,
            self.runtime_memory
        )
    }
}
