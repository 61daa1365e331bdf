//! What containers use, from their control groups and file systems.

use std::{collections::HashMap, fs, path::Path};

use hypernetes_guest_protocol::v1;

use crate::init::CGROUPS;

pub fn container(id: &str, writable: &Path) -> v1::ContainerStats {
    let group = Path::new(CGROUPS).join(id);
    let number =
        |file: &str| fs::read_to_string(group.join(file)).ok().and_then(|t| t.trim().parse::<u64>().ok()).unwrap_or(0);
    let memory = number("memory.current");
    let stat = table(&group.join("memory.stat"));
    let inactive = stat.get("inactive_file").copied().unwrap_or(0);
    let cpu = table(&group.join("cpu.stat")).get("usage_usec").copied().unwrap_or(0);
    let space = nix::sys::statvfs::statvfs(writable).ok();
    let used = space.map_or((0, 0), |s| {
        ((s.blocks() - s.blocks_free()) * s.fragment_size(), s.files().saturating_sub(s.files_free()))
    });
    v1::ContainerStats {
        container_id: id.into(),
        cpu_usage_nanos: cpu.saturating_mul(1000),
        memory_usage_bytes: memory,
        memory_working_set_bytes: memory.saturating_sub(inactive),
        pids: number("pids.current"),
        writable_bytes_used: used.0,
        writable_inodes_used: used.1,
    }
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
