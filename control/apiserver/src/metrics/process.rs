//! What this process takes of its host.

use std::time::{Duration, SystemTime};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};

use super::text::Text;

/// Writes what can be found out; a host may not tell everything.
pub fn write(text: &mut Text, started: SystemTime) {
    let mut one = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            text.family(name, kind, help);
            text.sample(name, &[], value);
        }
    };
    let (cpu, memory, open, most) = (cpu_seconds(), resident_bytes(), open_descriptors(), most_descriptors());
    one("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", cpu);
    one("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", memory);
    one("process_open_fds", "gauge", "Number of open file descriptors.", open);
    one("process_max_fds", "gauge", "Maximum number of open file descriptors.", most);
    let since = started.duration_since(SystemTime::UNIX_EPOCH).ok().as_ref().map(Duration::as_secs_f64);
    one("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.", since);
}

fn cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Some(seconds(usage.user_time()) + seconds(usage.system_time()))
}

fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

fn open_descriptors() -> Option<f64> {
    // The one that looks is not counted.
    Some((std::fs::read_dir("/proc/self/fd").ok()?.count() - 1) as f64)
}

fn most_descriptors() -> Option<f64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft as f64)
}
