//! What processes use: processor time to the nanosecond, and memory.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use nix::{
    time::{ClockId, clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use tokio::time::Instant;

/// What was used up to a moment.
pub struct Meter {
    pids: Vec<i32>,
    began: Instant,
    server: Duration,
    generator: Duration,
}

/// What was used since.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used {
    pub elapsed: Duration,
    /// Of all processes of the server; nothing where they are not known.
    pub server: Duration,
    pub generator: Duration,
}

impl Meter {
    /// # Errors
    /// When one of the processes is no more.
    pub fn start(pids: &[i32]) -> Result<Self> {
        let (server, generator) = (processor_time(pids)?, own()?);
        Ok(Self { pids: pids.to_vec(), began: Instant::now(), server, generator })
    }

    /// # Errors
    /// When one of the processes is no more.
    pub fn stop(self) -> Result<Used> {
        let elapsed = self.began.elapsed();
        let server = processor_time(&self.pids)?.saturating_sub(self.server);
        Ok(Used { elapsed, server, generator: own()?.saturating_sub(self.generator) })
    }
}

/// In user and kernel mode, of all threads, also of those that have ended.
fn processor_time(pids: &[i32]) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for pid in pids {
        let clock = clock_getcpuclockid(Pid::from_raw(*pid)).with_context(|| format!("the process {pid}"))?;
        sum += Duration::from(clock_gettime(clock)?);
    }
    Ok(sum)
}

fn own() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

/// MiB that are in memory now, of all of them.
pub fn resident(pids: &[i32]) -> f64 {
    pids.iter().map(|pid| resident_of(*pid)).sum()
}

fn resident_of(pid: i32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// All processes of a process group.
pub fn group(leader: i32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| group_of(*pid) == Some(leader)).collect()
}

/// By `/proc/<pid>/stat`, whose fields behind the command's name begin with the state.
fn group_of(pid: i32) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.split(' ').nth(2)?.parse().ok()
}

/// How busy the machine is, as it says itself: processes that run or want to, in the last minute.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default()
}
