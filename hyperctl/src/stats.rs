//! `stats`: what containers use, as they run.

use std::{
    collections::HashMap,
    io::{IsTerminal, Write},
    time::Duration,
};

use anyhow::Result;
use hypernetes_hyperd_api::ListVmsRequest;
use serde::Serialize;

use crate::{
    connection::Clients,
    cri, find,
    output::{self, Format, Row},
    units,
};

/// Between two measurements: what was used of a processor is told by two.
const INTERVAL: Duration = Duration::from_secs(1);

/// Show what running containers use
#[derive(clap::Args)]
pub struct Stats {
    /// Once only.
    #[arg(long)]
    no_stream: bool,
    /// These only.
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

#[derive(Serialize)]
struct StatsRow {
    id: String,
    name: String,
    pod: String,
    /// Of one processor.
    cpu_percent: f64,
    memory_bytes: u64,
    /// What the VM has.
    vm_memory_bytes: u64,
    /// Of the VMM on the host.
    vm_resident_bytes: u64,
    writable_layer_bytes: u64,
}

impl Row for StatsRow {
    const COLUMNS: &'static [&'static str] =
        &["CONTAINER ID", "NAME", "POD", "CPU %", "MEMORY / VM", "ON THE HOST", "WRITTEN"];

    fn cells(&self) -> Vec<String> {
        vec![
            units::short_id(&self.id),
            self.name.clone(),
            self.pod.clone(),
            format!("{:.1}", self.cpu_percent),
            format!("{} / {}", units::bytes(self.memory_bytes), units::bytes(self.vm_memory_bytes)),
            units::bytes(self.vm_resident_bytes),
            units::bytes(self.writable_layer_bytes),
        ]
    }
}

/// Nanoseconds of processor time by then (Unix time, ns).
type CpuTimes = HashMap<String, (i64, u64)>;

impl Stats {
    pub async fn run(self, clients: &Clients, format: Format) -> Result<()> {
        let live = !self.no_stream && format == Format::Table && std::io::stdout().is_terminal();
        let mut before = cpu_times(&self.measure(clients).await?);
        loop {
            tokio::time::sleep(INTERVAL).await;
            let stats = self.measure(clients).await?;
            let rows = rows(clients, &stats, &before).await?;
            before = cpu_times(&stats);
            if live {
                let mut out = std::io::stdout();
                // From the top left corner, and nothing below.
                write!(out, "\x1b[H\x1b[J{}", output::table(&rows))?;
                out.flush()?;
            } else {
                output::print(format, &rows)?;
            }
            if self.no_stream {
                return Ok(());
            }
        }
    }

    async fn measure(&self, clients: &Clients) -> Result<Vec<cri::ContainerStats>> {
        let mut runtime = clients.runtime.clone();
        let mut stats =
            runtime.list_container_stats(cri::ListContainerStatsRequest::default()).await?.into_inner().stats;
        if !self.containers.is_empty() {
            let mut wanted = Vec::new();
            for name in &self.containers {
                wanted.push(find::one(clients, name).await?.container.id);
            }
            stats.retain(|one| wanted.contains(&id_of(one)));
        }
        Ok(stats)
    }
}

fn id_of(stats: &cri::ContainerStats) -> String {
    stats.attributes.as_ref().map(|attributes| attributes.id.clone()).unwrap_or_default()
}

fn cpu_times(stats: &[cri::ContainerStats]) -> CpuTimes {
    let time = |one: &cri::ContainerStats| {
        let cpu = one.cpu.as_ref()?;
        Some((id_of(one), (cpu.timestamp, cpu.usage_core_nano_seconds.as_ref()?.value)))
    };
    stats.iter().filter_map(time).collect()
}

async fn rows(clients: &Clients, stats: &[cri::ContainerStats], before: &CpuTimes) -> Result<Vec<StatsRow>> {
    let vms = clients.hyperd.clone().list_vms(ListVmsRequest {}).await?.into_inner().vms;
    let now = cpu_times(stats);
    let all = find::all(clients).await?;
    let mut rows: Vec<StatsRow> = stats
        .iter()
        .filter_map(|one| {
            let id = id_of(one);
            let found = all.iter().find(|found| found.container.id == id)?;
            let vm = vms.iter().find(|vm| vm.sandbox_id == found.pod.id);
            let written = one.writable_layer.as_ref().and_then(|layer| layer.used_bytes.as_ref());
            Some(StatsRow {
                cpu_percent: percent(before.get(&id), now.get(&id)),
                memory_bytes: one.memory.as_ref().and_then(|m| m.working_set_bytes.as_ref()).map_or(0, |v| v.value),
                vm_memory_bytes: vm.map_or(0, |vm| vm.memory_bytes),
                vm_resident_bytes: vm.map_or(0, |vm| vm.resident_bytes),
                writable_layer_bytes: written.map_or(0, |v| v.value),
                name: found.name().into(),
                pod: found.pod_name().into(),
                id,
            })
        })
        .collect();
    rows.sort_by(|one, other| (&one.pod, &one.name).cmp(&(&other.pod, &other.name)));
    Ok(rows)
}

fn percent(before: Option<&(i64, u64)>, now: Option<&(i64, u64)>) -> f64 {
    let (Some((then, used_then)), Some((now, used))) = (before, now) else { return 0.0 };
    let elapsed = now.saturating_sub(*then);
    if elapsed <= 0 { 0.0 } else { used.saturating_sub(*used_then) as f64 / elapsed as f64 * 100.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_processor() {
        assert_eq!(percent(Some(&(0, 0)), Some(&(1_000, 500))), 50.0);
        assert_eq!(percent(None, Some(&(1_000, 500))), 0.0);
        assert_eq!(percent(Some(&(5, 9)), Some(&(5, 9))), 0.0);
        assert_eq!(percent(Some(&(0, 9)), Some(&(5, 0))), 0.0);
    }
}
