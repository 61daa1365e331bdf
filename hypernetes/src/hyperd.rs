//! `hypernetes hyperd`: hands over to the program of that name beside this one.

use std::{ffi::OsString, os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result};

use crate::supervise;

/// Run the CRI runtime: each pod sandbox is a virtual machine (`hyperd`, a program of its own)
#[derive(clap::Args)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub struct Hyperd {
    /// hyperd's options: see `hyperd --help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Hyperd {
    /// `log` is what was said in front of the command.
    pub fn run(self, log: Option<&str>) -> Result<()> {
        let program = supervise::program("hyperd")?;
        let log = log.into_iter().flat_map(|log| ["--log", log]);
        let error = Command::new(&program).args(log).args(self.arguments).exec();
        Err(error).with_context(|| format!("running {}", program.display()))
    }
}
