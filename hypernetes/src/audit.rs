//! `hypernetes audit`: whether the audit log is as it was written, and what it says.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use hypernetes_api::TenantId;
use hypernetes_apiserver::audit;

use crate::Root;

/// Check and read the audit log
///
/// The server writes who asked for what, and what came of it, as events of audit.k8s.io/v1, a JSON line each, below `audit` in its
/// directory: a chain of files for each tenant and one for the operator's own cluster (`system`). What is recorded is
/// decided by `server --audit-policy`.
#[derive(clap::Args)]
pub struct Audit {
    #[command(flatten)]
    root: Root,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Name the first line of each chain that was changed, removed or inserted
    ///
    /// Prints where each chain ends. Lines that were removed from its end are only missed by who has noted that before.
    Verify {
        /// The log's directory, or that of one chain [default: that of the server on this machine].
        #[arg(value_name = "DIR")]
        directory: Option<PathBuf>,
    },
    /// Print a tenant's events
    List {
        /// The tenant's id, or `system`.
        #[arg(long, value_name = "ID")]
        tenant: TenantId,
        /// The log's directory [default: that of the server on this machine].
        #[arg(value_name = "DIR")]
        directory: Option<PathBuf>,
    },
}

impl Audit {
    /// # Errors
    /// When a chain is not as it was written, or cannot be read.
    pub fn run(self) -> Result<()> {
        let default = || self.root.server().join("audit");
        match self.action {
            Action::Verify { directory } => verify(&directory.unwrap_or_else(default), &mut io::stdout().lock()),
            Action::List { tenant, directory } => {
                let directory = directory.unwrap_or_else(default).join(tenant.as_str());
                let mut out = io::stdout().lock();
                let listed = audit::each_line(&directory, |line| writeln!(out, "{line}"));
                match listed {
                    // Whoever reads it has seen enough.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                    other => other.with_context(|| format!("reading {}", directory.display())),
                }
            }
        }
    }
}

/// The directories of the chains, or the directory itself if it is one.
fn chains(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut chains = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            chains.push(entry.path());
        }
    }
    chains.sort();
    Ok(if chains.is_empty() { vec![directory.to_owned()] } else { chains })
}

fn verify(directory: &Path, out: &mut impl Write) -> Result<()> {
    let mut broken = 0;
    for chain in chains(directory).with_context(|| format!("reading {}", directory.display()))? {
        let name = chain.file_name().unwrap_or_default().to_string_lossy();
        match audit::verify(&chain) {
            Ok(whole) => {
                let audit::Whole { first, lines, head } = whole;
                writeln!(
                    out,
                    "{name}: {lines} lines from {first} on are whole; line {} has hash {}",
                    head.next.saturating_sub(1),
                    head.hash
                )?;
            }
            Err(error) => {
                broken += 1;
                writeln!(out, "{name}: {error}")?;
            }
        }
    }
    if broken > 0 {
        bail!("{broken} chains are not as they were written");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_was_changed_is_named() {
        let root = tempfile::tempdir().unwrap();
        let chain = root.path().join("system");
        let start = audit::Audit::start(root.path(), audit::Policy::default(), audit::Options::default()).unwrap();
        start.note(&TenantId::system(), "{\"kind\":\"Event\",\"verb\":\"delete\"}");
        start.flush();
        let run = |directory: &Path| {
            let mut out = Vec::new();
            let ended = verify(directory, &mut out);
            (ended.is_ok(), String::from_utf8(out).unwrap())
        };
        let (whole, said) = run(root.path());
        assert!(whole && said.starts_with("system: 2 lines from 0 on are whole; line 1 has hash "), "{said}");
        assert_eq!(run(&chain), (true, said));
        let file = chain.join("audit-0000000000000000.log");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("delete", "get")).unwrap();
        let (whole, said) = run(root.path());
        assert!(!whole && said.contains("audit-0000000000000000.log:2: changed"), "{said}");
    }
}
