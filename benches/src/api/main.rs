//! `bench-api`: puts the same load on one API server or on two, and says what each request costs them.
#![forbid(unsafe_code)]

mod disk;
mod floor;
mod load;
mod objects;
mod processes;
mod report;
mod stage;
mod start;
mod target;
mod wire;
mod workload;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

use crate::{
    objects::Template,
    report::Row,
    stage::Stage,
    target::{Http, Spec, Target},
    workload::{Settings, Workload},
};

/// What requests cost an API server, or two side by side.
///
/// Clients ask in a closed loop, each over a connection of its own, with requests whose bytes are made before. An answer that is
/// not the one that is wanted ends everything. All is made in namespaces of the run's own, which are removed.
#[derive(Parser)]
#[command(max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(Run),
    Start(start::Start),
    Fill(Fill),
    Disk(DiskCost),
    Floor(floor::Floor),
}

/// Put loads on one server, or on two in turn
#[derive(clap::Args)]
struct Run {
    /// NAME=KUBECONFIG[,pid=PID[+PID...]]: where it is and who asks, and the processes that it consists of, whose processor time
    /// and memory are counted.
    #[arg(long = "target", required = true, value_name = "SPEC")]
    targets: Vec<Spec>,
    /// NAME@SIZE of each. SIZE is clients of create, get, update, patch and delete; objects of list and pages; watchers; tenants;
    /// roles and as many bindings.
    #[arg(long, value_delimiter = ',', default_value = workload::USUAL)]
    workloads: Vec<Workload>,
    /// How long each run takes.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// How often each workload is run, on one target and then on the other.
    #[arg(long, default_value_t = 3)]
    pairs: usize,
    /// JSON of an object, about.
    #[arg(long, default_value_t = 1000)]
    object_bytes: usize,
    /// What all clients speak.
    #[arg(long, value_enum, default_value = "2")]
    http: Http,
    /// Of lists.
    #[arg(long, default_value_t = 1)]
    list_clients: usize,
    /// Of tenants and rights.
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// While watchers watch.
    #[arg(long, default_value_t = 5)]
    writes_per_second: u32,
    /// That deletion finds.
    #[arg(long, default_value_t = 10_000)]
    delete_objects: usize,
    /// A directory on the servers' disk: what certainty costs there is measured, and what it allows printed beside creates.
    #[arg(long, value_name = "DIR")]
    disk: Option<PathBuf>,
    /// One line of JSON for each workload and target, instead of a table.
    #[arg(long)]
    json: bool,
}

/// Make objects, and leave them
#[derive(clap::Args)]
struct Fill {
    #[arg(long, value_name = "SPEC")]
    target: Spec,
    /// A namespace that is made.
    #[arg(long)]
    namespace: String,
    #[arg(long, default_value_t = 10_000)]
    objects: usize,
    #[arg(long, default_value_t = 1000)]
    object_bytes: usize,
}

/// What fdatasync costs on a disk
#[derive(clap::Args)]
struct DiskCost {
    directory: PathBuf,
    /// Of a record.
    #[arg(long, default_value_t = 1500)]
    bytes: usize,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

// One thread: what the generator takes of the processors is as little as can be, and no server is asked by more than one core.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Run(run) => run.run().await,
        Command::Start(start) => start.run().await,
        Command::Floor(floor) => floor.run().await,
        Command::Fill(fill) => {
            let target = Target::open(&fill.target, Http::Two)?;
            let stage = Stage { target, template: Template::new(fill.object_bytes), run: String::new() };
            stage.fill(&fill.namespace, fill.objects).await
        }
        Command::Disk(DiskCost { directory, bytes, seconds }) => {
            let disk = disk::measure(&directory, bytes, Duration::from_secs_f64(seconds))?;
            println!("fdatasync of {bytes} bytes: p50 {:.3} ms, p99 {:.3} ms", disk.p50_ms, disk.p99_ms);
            Ok(())
        }
    }
}

/// As many connections as there may be.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

impl Run {
    async fn run(self) -> Result<()> {
        ensure!(self.targets.len() <= 2, "two targets can be compared");
        ensure!(self.pairs > 0 && self.seconds > 0.0 && self.writes_per_second > 0, "nothing would be measured");
        raise_file_limit();
        let run = format!("bench-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let template = Template::new(self.object_bytes);
        let mut stages = Vec::new();
        for spec in &self.targets {
            let target = Target::open(spec, self.http).with_context(|| format!("the target {}", spec.name))?;
            stages.push(Stage { target, template: template.clone(), run: run.clone() });
        }
        let ended = tokio::select! {
            ended = self.all(&stages) => ended,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        };
        if ended.is_err() {
            for stage in &stages {
                if let Err(error) = stage.remove_all().await {
                    eprintln!("{}: {error:#}", stage.target.name);
                }
            }
        }
        ended
    }

    async fn all(&self, stages: &[Stage]) -> Result<()> {
        let settings = Settings {
            lasts: Duration::from_secs_f64(self.seconds),
            list_clients: self.list_clients,
            clients: self.clients,
            writes_per_second: self.writes_per_second,
            delete_objects: self.delete_objects,
        };
        let disk = match &self.disk {
            Some(directory) => Some(disk::measure(directory, self.object_bytes * 3 / 2, Duration::from_secs(3))?),
            None => None,
        };
        if !self.json {
            for stage in stages {
                let Stage { target, .. } = stage;
                println!("{}: {:.0} MiB before anything is asked", target.name, processes::resident(&target.pids));
            }
            if let Some(disk) = disk {
                println!("fdatasync of a record: p50 {:.2} ms, p99 {:.2} ms", disk.p50_ms, disk.p99_ms);
            }
            report::print_head();
        }
        for workload in &self.workloads {
            let mut samples = vec![Vec::new(); stages.len()];
            for stage in stages {
                workload.prepare(stage).await.with_context(|| format!("preparing {workload}"))?;
            }
            for pair in 0..self.pairs {
                // Who is first has a machine that is as quiet as the other's.
                let order: Vec<usize> =
                    if pair % 2 == 0 { (0..stages.len()).collect() } else { (0..stages.len()).rev().collect() };
                for at in order {
                    let sample = workload.run(&stages[at], &settings).await.with_context(|| workload.to_string())?;
                    samples[at].push(sample);
                }
            }
            for stage in stages {
                workload.clean(stage).await.with_context(|| format!("cleaning up behind {workload}"))?;
            }
            let of = stages.iter().zip(samples);
            let rows: Vec<Row> = of.map(|(stage, runs)| Row::new(*workload, &stage.target.name, runs)).collect();
            if self.json {
                for row in &rows {
                    println!("{}", serde_json::to_string(row)?);
                }
            } else {
                report::print(&rows, *workload, disk);
            }
        }
        Ok(())
    }
}
