//! What the node has to give to pods.

use super::host;
use crate::quantity::Amount;

/// As upstream's default.
const MAX_PODS: usize = 110;

/// What a node has to give.
#[derive(Debug, Clone, Copy)]
pub struct Allocatable {
    pub cpu: Amount,
    /// Bytes.
    pub memory: Amount,
    pub pods: usize,
}

impl Allocatable {
    /// All of this host.
    pub fn of_host() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { cpu: Amount::from_units(cpus as u64), memory: Amount::from_units(memory_kib() << 10), pods: MAX_PODS }
    }
}

fn memory_kib() -> u64 {
    let text = host::read("/proc/meminfo");
    text.lines().find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
