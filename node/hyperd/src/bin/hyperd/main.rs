//! `hyperd`: the command line, and the wiring of the runtime with its VMM and its images.
//!
//! A program of its own: it runs as root on every host, beside tenants' VMs, and holds nothing but what it needs for that.
#![forbid(unsafe_code)]

mod command;
mod driver;
mod privileges;

use clap::Parser;

fn main() -> std::process::ExitCode {
    let cli = command::Hyperd::parse();
    if let Err(error) = privileges::apply(&cli.touched()) {
        eprintln!("hyperd: {error}");
        return std::process::ExitCode::FAILURE;
    }
    let log = cli.log.clone();
    hypernetes_daemon::run("hyperd", &log, cli.run())
}
