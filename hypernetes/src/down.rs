//! `hypernetes down`: the end of everything that `up` started. The data stays.

use std::time::Duration;

use anyhow::Result;
use hypernetes_hypervisor::process::Process;

use crate::{Root, supervise::Supervisor};

/// Stop what `up` started; the data stays, and so do VMs that were made over CRI
#[derive(clap::Args)]
pub struct Down {
    #[command(flatten)]
    root: Root,
}

const PATIENCE: Duration = Duration::from_secs(30);

impl Down {
    pub async fn run(self) -> Result<()> {
        let root = self.root.directory;
        for role in ["up", "node", "hyperd", "server"] {
            if let Some(process) = Process::recall(&Supervisor::record(&root, role)) {
                process.stop(PATIENCE).await;
                println!("  {role} stopped");
            }
        }
        Ok(())
    }
}
