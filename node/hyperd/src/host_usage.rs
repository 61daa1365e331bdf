//! What a VM costs its host: the VMM process's memory and processor time, which the guest cannot lie about.

use std::fs;

use hypernetes_hypervisor::VmRecord;
use nix::unistd::{SysconfVar, sysconf};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostUsage {
    /// Resident memory, bytes. Pages that a copy still shares with its template count in full.
    pub memory_bytes: u64,
    pub cpu_nanos: u64,
}

/// Usage of a VM's process; none when it has ended, and its number may be another's.
pub(crate) fn of(vm: &VmRecord) -> Option<HostUsage> {
    let stat = parse_stat(&fs::read_to_string(format!("/proc/{}/stat", vm.pid)).ok()?)?;
    let ticks = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok().filter(|ticks| *ticks > 0)?;
    let page = u64::try_from(sysconf(SysconfVar::PAGE_SIZE).ok()??).ok()?;
    (stat.start_time_ticks == vm.start_time_ticks).then(|| HostUsage {
        memory_bytes: stat.resident_pages.saturating_mul(page),
        cpu_nanos: stat.cpu_ticks.saturating_mul(1_000_000_000 / ticks),
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    start_time_ticks: u64,
    resident_pages: u64,
}

/// See proc(5). The name in parentheses may hold anything.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    // The first of them is field 3.
    let field = |number: usize| fields.get(number - 3)?.trim().parse::<u64>().ok();
    Some(Stat { cpu_ticks: field(14)? + field(15)?, start_time_ticks: field(22)?, resident_pages: field(24)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read() {
        let line = "7 (a) b) S 1 7 7 0 -1 0 1 2 3 4 50 60 0 0 20 0 3 0 1234 999 42 18446744073709551615\n";
        assert_eq!(parse_stat(line), Some(Stat { cpu_ticks: 110, start_time_ticks: 1234, resident_pages: 42 }));
        assert_eq!(parse_stat("7 (a) S 1"), None);
        let own = parse_stat(&fs::read_to_string("/proc/self/stat").unwrap()).unwrap();
        assert!(own.resident_pages > 100);
    }
}
