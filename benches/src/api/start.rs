//! How long a server takes from its start until it is ready, and how much memory it has then.

use std::{os::unix::process::CommandExt, process::Command, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tokio::time::{Instant, sleep};

use crate::{
    processes,
    target::{Http, Spec, Target},
    wire::{Connection, Prepared},
};

/// Start a server again and again, and say how long it takes until /readyz says so
#[derive(clap::Args)]
pub struct Start {
    /// Of the server. It may be the server that writes it.
    #[arg(long, value_name = "FILE")]
    kubeconfig: String,
    /// Run before each start, by sh: to remove what there is, for instance.
    #[arg(long, value_name = "COMMAND")]
    before: Option<String>,
    /// How often.
    #[arg(long, default_value_t = 5)]
    times: usize,
    /// How long after it is ready memory is looked at.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    settle: f64,
    #[arg(long)]
    json: bool,
    /// Run by sh in a process group of its own. Its first process is ended with SIGTERM, and has to end the others.
    #[arg(long, value_name = "COMMAND")]
    start: String,
}

const PATIENCE: Duration = Duration::from_secs(120);
const AGAIN: Duration = Duration::from_millis(1);

/// Processes that end with this.
struct Group(Pid);

impl Group {
    fn processes(&self) -> Vec<i32> {
        processes::group(self.0.as_raw())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Most often there is none any more.
        let _ = killpg(self.0, Signal::SIGKILL);
    }
}

impl Start {
    pub async fn run(self) -> Result<()> {
        let (mut took, mut memory) = (Vec::new(), Vec::new());
        for _ in 0..self.times {
            if let Some(before) = &self.before {
                ensure!(Command::new("sh").args(["-c", before]).status()?.success(), "{before} has failed");
            }
            let (ready, resident) = self.once().await?;
            took.push(ready.as_secs_f64() * 1e3);
            memory.push(resident);
        }
        took.sort_by(f64::total_cmp);
        memory.sort_by(f64::total_cmp);
        let (middle, last) = (self.times / 2, self.times - 1);
        if self.json {
            let figures =
                serde_json::json!({"p50_ms": took[middle], "max_ms": took[last], "resident_mib": memory[middle]});
            println!("{figures}");
        } else {
            println!("ready after {:.0} ms (worst {:.0}), then {:.0} MiB", took[middle], took[last], memory[middle]);
        }
        Ok(())
    }

    async fn once(&self) -> Result<(Duration, f64)> {
        let began = Instant::now();
        let mut child = Command::new("sh").args(["-c", &self.start]).process_group(0).spawn()?;
        let group = Group(Pid::from_raw(i32::try_from(child.id())?));
        while let Err(error) = self.is_ready().await {
            if began.elapsed() > PATIENCE {
                return Err(error).context("it does not get ready");
            }
            if let Some(status) = child.try_wait()? {
                bail!("{} has ended: {status}", self.start);
            }
            sleep(AGAIN).await;
        }
        let ready = began.elapsed();
        sleep(Duration::from_secs_f64(self.settle)).await;
        let resident = processes::resident(&group.processes());
        kill(group.0, Signal::SIGTERM)?;
        child.wait()?;
        // What the shell has started ends by itself.
        let ending = Instant::now();
        while !group.processes().is_empty() {
            if ending.elapsed() > PATIENCE {
                bail!("{} does not end", self.start);
            }
            sleep(AGAIN).await;
        }
        Ok((ready, resident))
    }

    async fn is_ready(&self) -> Result<()> {
        let spec: Spec = format!("server={}", self.kubeconfig).parse()?;
        let target = Target::open(&spec, Http::Two)?;
        let mut connection = Connection::open(&target).await?;
        connection.whole(&Prepared::get(target.uri("/readyz")?)).await.map(drop)
    }
}
