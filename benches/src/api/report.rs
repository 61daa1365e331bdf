//! Medians of all runs of a workload, beside each other.

use serde::Serialize;

use crate::{disk::Disk, load::Sample, workload::Workload};

/// All runs of one workload on one target.
#[derive(Serialize)]
pub struct Row {
    pub workload: String,
    pub target: String,
    pub median: Sample,
    pub runs: Vec<Sample>,
}

impl Row {
    pub fn new(workload: Workload, target: &str, runs: Vec<Sample>) -> Self {
        Self { workload: workload.to_string(), target: target.to_owned(), median: median(&runs), runs }
    }
}

/// Of each figure by itself.
fn median(runs: &[Sample]) -> Sample {
    let of = |figure: &dyn Fn(&Sample) -> f64| {
        let mut figures: Vec<f64> = runs.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied().unwrap_or_default()
    };
    Sample {
        requests: of(&|run| run.requests as f64) as u64,
        seconds: of(&|run| run.seconds),
        per_second: of(&|run| run.per_second),
        p50_ms: of(&|run| run.p50_ms),
        p99_ms: of(&|run| run.p99_ms),
        server_us: of(&|run| run.server_us),
        generator_us: of(&|run| run.generator_us),
        bytes: of(&|run| run.bytes),
        resident_mib: of(&|run| run.resident_mib),
        load_average: of(&|run| run.load_average),
        answer_p50_ms: runs
            .first()
            .and_then(|run| run.answer_p50_ms)
            .map(|_| of(&|run| run.answer_p50_ms.unwrap_or(0.0))),
        answer_p99_ms: runs
            .first()
            .and_then(|run| run.answer_p99_ms)
            .map(|_| of(&|run| run.answer_p99_ms.unwrap_or(0.0))),
    }
}

/// What the columns are.
pub fn print_head() {
    println!(
        "{:<12} {:<12} {:>9} {:>9} {:>9} {:>11} {:>11} {:>10} {:>8} {:>5}",
        "workload", "target", "/s", "p50 ms", "p99 ms", "server µs", "client µs", "bytes", "MiB", "load"
    );
}

/// One workload's rows; with two targets, what the first is of the second.
pub fn print(rows: &[Row], workload: Workload, disk: Option<Disk>) {
    for row in rows {
        let Sample { per_second, p50_ms, p99_ms, server_us, generator_us, bytes, resident_mib, load_average, .. } =
            row.median;
        println!(
            "{:<12} {:<12} {per_second:>9.0} {p50_ms:>9.2} {p99_ms:>9.2} {server_us:>11.1} {generator_us:>11.1} \
             {bytes:>10.0} {resident_mib:>8.0} {load_average:>5.1}",
            row.workload, row.target
        );
        if let (Some(p50), Some(p99)) = (row.median.answer_p50_ms, row.median.answer_p99_ms) {
            println!("{:<25} from the write's answer on: p50 {p50:.2} ms, p99 {p99:.2} ms", "");
        }
    }
    if let [ours, peer] = rows {
        let ratio = |figure: fn(&Sample) -> f64| figure(&ours.median) / figure(&peer.median);
        println!(
            "{:<25} {:>9.2} {:>9.2} {:>9.2} {:>11.3}    of the second's",
            "",
            ratio(|sample| sample.per_second),
            ratio(|sample| sample.p50_ms),
            ratio(|sample| sample.p99_ms),
            ratio(|sample| sample.server_us)
        );
    }
    if let (Some(disk), crate::workload::Kind::Create) = (disk, workload.kind) {
        for row in rows {
            let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
            let clients = workload.size as f64;
            let each = (row.median.server_us + row.median.generator_us) / 1e6;
            let allowed = clients / (disk.p50_ms / 1e3 + clients * each / cores);
            println!(
                "{:<25} {} does {:.2} of the {allowed:.0}/s that one fdatasync a round and the processors allow",
                "",
                row.target,
                row.median.per_second / allowed
            );
        }
    }
}
