//! What a pod costs on a CRI runtime: time, alone and in a crowd, and memory. Given two runtimes, it measures them in turns, so
//! that whatever else the machine does meets both.
//!
//! `scripts/bench-cri.sh` starts hyperd and containerd with runc and runs this beside them.

mod cost;
mod figures;
mod runtime;

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use clap::Parser;

use crate::{cost::Cost, figures::Figures, runtime::Runtime};

/// Measures what pods cost on one CRI runtime, or on two side by side
#[derive(Parser)]
struct Arguments {
    /// Socket of the first runtime
    #[arg(long)]
    socket: PathBuf,
    /// Socket of the runtime to compare with
    #[arg(long)]
    peer: Option<PathBuf>,
    /// Measure the first runtime with pods that have no network, too (hyperd only): what its VMs cost without a plugin's time
    #[arg(long)]
    unconnected: bool,
    /// Image to run; it has to be there, with `sleep` and `true` in it
    #[arg(long, default_value = "demo/web:1")]
    image: String,
    /// How many pods one after another
    #[arg(long, default_value_t = 30)]
    count: usize,
    /// How many pods at once, and then idle together; 0: none
    #[arg(long, default_value_t = 50)]
    crowd: usize,
    /// How many pods are made and thrown away first, and how long to wait then: templates are made behind the first pods
    #[arg(long, default_value_t = 2)]
    warm_up: usize,
    #[arg(long, default_value_t = 8)]
    warm_up_seconds: u64,
    /// Pause after each pod, in which a pool can fill again
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    /// Memory limit of each pod, MiB; 0: none
    #[arg(long, default_value_t = 0)]
    memory_mib: i64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut runtimes = Vec::new();
    for socket in std::iter::once(&arguments.socket).chain(&arguments.peer) {
        runtimes.push(Runtime::connect(socket, &arguments.image, arguments.memory_mib).await?);
    }
    if arguments.unconnected {
        runtimes.push(runtimes[0].unconnected());
    }
    for runtime in &runtimes {
        for _ in 0..arguments.warm_up {
            runtime.one_pod(&mut Figures::default()).await?;
        }
    }
    tokio::time::sleep(Duration::from_secs(arguments.warm_up_seconds)).await;
    let mut figures: Vec<Figures> = runtimes.iter().map(|_| Figures::default()).collect();
    for _ in 0..arguments.count {
        for (runtime, figures) in runtimes.iter().zip(&mut figures) {
            runtime.one_pod(figures).await?;
            tokio::time::sleep(Duration::from_millis(arguments.pause_ms)).await;
        }
    }
    for (runtime, figures) in runtimes.iter().zip(&figures) {
        println!("\n{} ({} pods one after another)\n{figures}", runtime.name, arguments.count);
    }
    if arguments.crowd > 0 {
        for runtime in runtimes.iter().filter(|runtime| runtime.connected) {
            let (all_running, pods) = runtime.crowd(arguments.crowd).await?;
            println!(
                "\n{}: {} pods at once, all running after {:.2} s",
                runtime.name,
                pods.len(),
                all_running.as_secs_f64()
            );
            println!("{}", Cost::of(runtime, &pods).await?);
            runtime.remove(&pods).await;
        }
    }
    Ok(())
}
