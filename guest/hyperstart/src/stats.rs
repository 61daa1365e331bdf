//! What containers use, from their control groups (the kernel's `cgroup-v2.rst`), processes and file systems.

use std::{collections::HashMap, fs, path::Path};

use hypernetes_guest_protocol::v1;

use crate::init::CGROUPS;

/// Processes of one container whose descriptors are counted; a container with more has an incomplete count.
const MAX_COUNTED: usize = 256;

pub fn container(id: &str, writable: &Path) -> v1::ContainerStats {
    let group = Path::new(CGROUPS).join(id);
    let number = |file: &str| {
        // "max" is no limit.
        fs::read_to_string(group.join(file)).ok().and_then(|t| t.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    let memory = number("memory.current");
    let memory_stat = table(&group.join("memory.stat"));
    let cpu_stat = table(&group.join("cpu.stat"));
    let of = |table: &HashMap<String, u64>, name: &str| table.get(name).copied().unwrap_or(0);
    let nanos = |name: &str| of(&cpu_stat, name).saturating_mul(1000);
    let space = nix::sys::statvfs::statvfs(writable).ok();
    let space = space.map(|s| {
        let bytes = |blocks: u64| blocks * s.fragment_size();
        (bytes(s.blocks() - s.blocks_free()), s.files().saturating_sub(s.files_free()), bytes(s.blocks()), s.files())
    });
    let (writable_bytes_used, writable_inodes_used, writable_bytes_limit, writable_inodes_limit) =
        space.unwrap_or_default();
    let processes: Vec<String> =
        fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines().map(str::to_owned).collect();
    let (file_descriptors, sockets) = descriptors(&processes);
    let io = fs::read_to_string(group.join("io.stat")).unwrap_or_default();
    v1::ContainerStats {
        container_id: id.into(),
        cpu_usage_nanos: nanos("usage_usec"),
        cpu_user_nanos: nanos("user_usec"),
        cpu_system_nanos: nanos("system_usec"),
        cpu_periods: of(&cpu_stat, "nr_periods"),
        cpu_throttled_periods: of(&cpu_stat, "nr_throttled"),
        cpu_throttled_nanos: nanos("throttled_usec"),
        memory_usage_bytes: memory,
        memory_working_set_bytes: memory.saturating_sub(of(&memory_stat, "inactive_file")),
        memory_rss_bytes: of(&memory_stat, "anon"),
        memory_cache_bytes: of(&memory_stat, "file"),
        memory_mapped_file_bytes: of(&memory_stat, "file_mapped"),
        memory_kernel_bytes: of(&memory_stat, "kernel")
            .max(of(&memory_stat, "kernel_stack") + of(&memory_stat, "slab")),
        // Linux 6.5 and later have the file.
        memory_max_usage_bytes: number("memory.peak").max(memory),
        memory_swap_bytes: number("memory.swap.current"),
        memory_limit_hits: of(&table(&group.join("memory.events")), "max"),
        page_faults: of(&memory_stat, "pgfault"),
        major_page_faults: of(&memory_stat, "pgmajfault"),
        oom_kills: of(&table(&group.join("memory.events")), "oom_kill"),
        pids: number("pids.current"),
        processes: processes.len() as u64,
        threads: number("pids.current"),
        threads_max: number("pids.max"),
        file_descriptors,
        sockets,
        writable_bytes_used,
        writable_inodes_used,
        writable_bytes_limit,
        writable_inodes_limit,
        read_bytes: io_sum(&io, "rbytes"),
        reads: io_sum(&io, "rios"),
        written_bytes: io_sum(&io, "wbytes"),
        writes: io_sum(&io, "wios"),
        cpu_pressure: pressure(&group.join("cpu.pressure")),
        memory_pressure: pressure(&group.join("memory.pressure")),
        io_pressure: pressure(&group.join("io.pressure")),
    }
}

/// Open descriptors of processes, and how many of them are sockets.
fn descriptors(processes: &[String]) -> (u64, u64) {
    let (mut all, mut sockets) = (0, 0);
    for pid in processes.iter().take(MAX_COUNTED) {
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            all += 1;
            let target = fs::read_link(entry.path());
            sockets +=
                u64::from(target.is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:")));
        }
    }
    (all, sockets)
}

/// `io.stat` has a line `MAJOR:MINOR name=number …` for each device.
fn io_sum(text: &str, name: &str) -> u64 {
    let values = text.split_whitespace().filter_map(|word| {
        let (found, value) = word.split_once('=')?;
        (found == name).then(|| value.parse::<u64>().ok())?
    });
    values.fold(0, u64::saturating_add)
}

/// None when the kernel was built or started without.
fn pressure(path: &Path) -> Option<v1::Pressure> {
    parse_pressure(&fs::read_to_string(path).ok()?)
}

fn parse_pressure(text: &str) -> Option<v1::Pressure> {
    let stalls = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        let value = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let average = |name: &str| value(name).and_then(|v| v.parse().ok()).unwrap_or(0.0);
        Some(v1::Stalls {
            avg10: average("avg10"),
            avg60: average("avg60"),
            avg300: average("avg300"),
            total_micros: value("total").and_then(|v| v.parse().ok()).unwrap_or(0),
        })
    };
    Some(v1::Pressure { some: Some(stalls("some")?), full: stalls("full") })
}

/// `MemTotal` and `MemAvailable`, bytes.
pub fn memory() -> (u64, u64) {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = |name: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(name)?.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok()
            })
            .unwrap_or(0)
    };
    (kibibytes("MemTotal") * 1024, kibibytes("MemAvailable") * 1024)
}

/// Counters of the pod's interfaces, loopback left out.
pub fn interfaces() -> Vec<v1::InterfaceStats> {
    parse_interfaces(&fs::read_to_string("/proc/net/dev").unwrap_or_default())
}

fn parse_interfaces(text: &str) -> Vec<v1::InterfaceStats> {
    let parse = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters.split_whitespace().map_while(|c| c.parse().ok()).collect();
        // bytes, packets, errs, drop, fifo, frame, compressed, multicast; then the same of what was sent.
        let [rx_bytes, rx_packets, rx_errors, rx_dropped, _, _, _, _, tx_bytes, tx_packets, tx_errors, tx_dropped, ..] =
            counters[..]
        else {
            return None;
        };
        let name = name.trim().to_owned();
        Some(v1::InterfaceStats {
            name,
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        })
    };
    text.lines().filter_map(parse).filter(|interface| interface.name != "lo").collect()
}

/// A file of `name number` lines.
pub fn table(path: &Path) -> HashMap<String, u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let io = "254:0 rbytes=10 wbytes=20 rios=1 wios=2\n254:16 rbytes=5 wbytes=x rios=1\n";
        assert_eq!((io_sum(io, "rbytes"), io_sum(io, "wbytes"), io_sum(io, "wios")), (15, 20, 2));
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let pressure = parse_pressure(text).unwrap();
        let some = pressure.some.unwrap();
        assert_eq!((some.avg10, some.avg60, some.total_micros), (1.5, 0.25, 77));
        assert_eq!(pressure.full.unwrap().total_micros, 7);
        assert!(parse_pressure("").is_none());
        let dev = "Inter-|   Receive\n face |bytes packets\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  \
                   eth0: 100 9 1 2 0 0 0 0 200 8 3 4 0 0 0 0\n";
        let interfaces = parse_interfaces(dev);
        assert_eq!(interfaces.len(), 1);
        assert_eq!((interfaces[0].rx_bytes, interfaces[0].tx_bytes, interfaces[0].tx_dropped), (100, 200, 4));
    }
}
