//! What a VM costs its host: the VMM process's memory and processor time, which the guest cannot lie about.

use std::fs;

use hypernetes_hypervisor::VmRecord;
use nix::unistd::{SysconfVar, sysconf};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostUsage {
    /// Memory, bytes: pages that it shares with others, as a copy does with its template, count as its part of them (PSS).
    pub memory_bytes: u64,
    pub cpu_nanos: u64,
}

/// Usage of a VM's process; none when it has ended, and its number may be another's.
pub(crate) fn of(vm: &VmRecord) -> Option<HostUsage> {
    let stat = parse_stat(&fs::read_to_string(format!("/proc/{}/stat", vm.pid)).ok()?)?;
    if stat.start_time_ticks != vm.start_time_ticks {
        return None;
    }
    let ticks = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok().filter(|ticks| *ticks > 0)?;
    let cpu_nanos = stat.cpu_ticks.saturating_mul(1_000_000_000 / ticks);
    Some(HostUsage { memory_bytes: memory_bytes(vm.pid)?, cpu_nanos })
}

/// What a process has of the host's memory, with its part of what it shares.
pub(crate) fn memory_bytes(pid: i32) -> Option<u64> {
    parse_rollup(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)
}

fn parse_rollup(text: &str) -> Option<u64> {
    let kib = text.lines().find_map(|line| line.strip_prefix("Pss:"))?.trim().strip_suffix(" kB")?;
    kib.parse::<u64>().ok()?.checked_mul(1024)
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    start_time_ticks: u64,
}

/// See proc(5). The name in parentheses may hold anything.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    // The first of them is field 3.
    let field = |number: usize| fields.get(number - 3)?.trim().parse::<u64>().ok();
    Some(Stat { cpu_ticks: field(14)? + field(15)?, start_time_ticks: field(22)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read() {
        let line = "7 (a) b) S 1 7 7 0 -1 0 1 2 3 4 50 60 0 0 20 0 3 0 1234 999 42 18446744073709551615\n";
        assert_eq!(parse_stat(line), Some(Stat { cpu_ticks: 110, start_time_ticks: 1234 }));
        assert_eq!(parse_stat("7 (a) S 1"), None);
        assert!(parse_stat(&fs::read_to_string("/proc/self/stat").unwrap()).is_some());
    }

    #[test]
    fn shared_memory_counts_in_part() {
        let text = "55d0-7ffd ---p 00000000 00:00 0  [rollup]\nRss:  900 kB\nPss:   321 kB\nPss_Dirty:  5 kB\n";
        assert_eq!(parse_rollup(text), Some(321 << 10));
        assert_eq!(parse_rollup("Rss: 1 kB\n"), None);
        assert!(memory_bytes(std::process::id().cast_signed()).unwrap() > 100 << 10);
    }
}
