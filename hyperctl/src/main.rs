//! `hyperctl`: containers in virtual machines, by hand. A client of hyperd's socket, as crictl is one.
#![forbid(unsafe_code)]

mod connection;
mod containers;
mod credentials;
mod exec;
mod find;
mod hibernation;
mod images;
mod logs;
mod machines;
mod output;
mod run;
mod stats;
mod stream;
mod terminal;
mod units;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
pub(crate) use k8s_cri::v1 as cri;

use crate::{connection::Target, output::Format};

/// What containers' own commands rarely end with: something went wrong before or beside them.
const OWN_FAILURE: u8 = 125;
/// Shells' words for a command that is there and cannot be run, and for one that is not there.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Containers in virtual machines: run, look at and end them
///
/// Every container that `hyperctl run` starts is a pod of its own, and so has a virtual machine of its own. Pods that a
/// kubelet started on the same host are seen, too.
///
/// hyperd is found by --socket, else by --root, else where it usually is.
#[derive(Parser)]
#[command(version, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    target: Target,
    /// How lists are printed.
    #[arg(long, short, global = true, value_enum, default_value = "table", help_heading = "Every command")]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  hyperctl load -i web.tar --name web:1            an image from `docker save`, skopeo or buildah
  hyperctl run --rm -it web:1 sh                   a shell in a new VM
  hyperctl run -d --name web -p 8080:80 web:1      a server; -p needs a network with host ports
  hyperctl exec -it web sh                         another shell in the same VM
  hyperctl logs -f --tail 10 web
  hyperctl rm -f web

crictl works with the same socket: crictl --runtime-endpoint unix://DIR/hyperd.sock ps";

#[derive(Subcommand)]
enum Command {
    Run(Box<run::Run>),
    Ps(containers::Ps),
    Exec(exec::Exec),
    Attach(exec::Attach),
    Logs(logs::Logs),
    Stats(stats::Stats),
    Stop(containers::Stop),
    Rm(containers::Rm),
    Hibernate(hibernation::Hibernate),
    Resume(hibernation::Resume),
    Images(images::List),
    Pull(images::Pull),
    Load(images::Load),
    Rmi(images::Remove),
    /// The virtual machines
    #[command(subcommand)]
    Vm(machines::Vms),
    /// The booted virtual machines that new ones are copies of
    #[command(subcommand)]
    Template(machines::Templates),
    Info(machines::Info),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runs_command = matches!(cli.command, Command::Run(_) | Command::Exec(_) | Command::Attach(_));
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("hyperctl: starting the runtime: {error}");
            return ExitCode::from(OWN_FAILURE);
        }
    };
    let outcome = runtime.block_on(run(cli));
    // A read from the terminal that nobody waits for any more does not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => ExitCode::from(code),
        // Whoever read the output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let text = describe(&error);
            eprintln!("hyperctl: {text}");
            if runs_command { ExitCode::from(failure_code(&text)) } else { ExitCode::FAILURE }
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<u8> {
    let clients = cli.target.connect().await?;
    let format = cli.output;
    match cli.command {
        Command::Run(command) => return command.run(&clients).await,
        Command::Exec(command) => return command.run(&clients).await,
        Command::Attach(command) => return command.run(&clients).await,
        Command::Ps(command) => command.run(&clients, format).await?,
        Command::Logs(command) => command.run(&clients).await?,
        Command::Stats(command) => command.run(&clients, format).await?,
        Command::Stop(command) => command.run(&clients).await?,
        Command::Rm(command) => command.run(&clients).await?,
        Command::Hibernate(command) => command.run(&clients).await?,
        Command::Resume(command) => command.run(&clients).await?,
        Command::Images(command) => command.run(&clients, format).await?,
        Command::Pull(command) => command.run(&clients).await?,
        Command::Load(command) => command.run(&clients).await?,
        Command::Rmi(command) => command.run(&clients).await?,
        Command::Vm(command) => command.run(&clients, format).await?,
        Command::Template(command) => command.run(&clients, format).await?,
        Command::Info(command) => command.run(&clients, format).await?,
    }
    Ok(0)
}

/// The agent words it as other runtimes do.
fn failure_code(text: &str) -> u8 {
    match text {
        _ if text.contains("executable file not found") => NOT_FOUND,
        _ if text.contains("exec: ") && text.contains("ermission denied") => NOT_EXECUTABLE,
        _ => OWN_FAILURE,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe))
}

/// The error and its causes; of hyperd's answers the message, not how it came here.
fn describe(error: &anyhow::Error) -> String {
    let cause = |cause: &(dyn std::error::Error + 'static)| match cause.downcast_ref::<tonic::Status>() {
        Some(status) => status.message().to_owned(),
        None => cause.to_string(),
    };
    let mut text = Vec::new();
    for each in error.chain() {
        text.push(cause(each));
        // What is below is the transport's.
        if each.is::<tonic::Status>() || each.is::<hypernetes_hyperd_api::ConnectError>() {
            break;
        }
    }
    text.join(": ")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn errors_are_hyperds_own_words() {
        use anyhow::Context;
        let refused: Result<(), _> = Err(tonic::Status::not_found("container \"x\" not found"));
        let error = refused.context("stopping x").unwrap_err();
        assert_eq!(describe(&error), "stopping x: container \"x\" not found");
        assert_eq!(failure_code(&describe(&error)), OWN_FAILURE);
        assert_eq!(failure_code("starting: exec: \"x\": executable file not found in $PATH"), NOT_FOUND);
    }
}
