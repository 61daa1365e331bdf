//! `hypernetes`: the command line, and the wiring of the roles.
#![forbid(unsafe_code)]

mod attack;
mod audit;
mod down;
mod first;
mod hyperd;
mod image;
mod kubeconfig;
mod lasting;
mod leases;
mod login;
mod node;
mod openrc;
mod pki;
mod privileges;
mod renewals;
mod server;
mod snapshot;
mod store;
mod supervise;
mod tenant;
mod up;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Secure multi-tenant Kubernetes: each Keystone project is a whole logical cluster, each pod its own VM.
///
/// `hypernetes up` starts everything on this machine. The other roles are for several hosts, or for running one part
/// alone. Every role keeps all its state under --root.
#[derive(Parser)]
#[command(version, propagate_version = true, max_term_width = 110)]
struct Cli {
    /// What to log: a level, or directives such as `info,hypernetes_kubelet=debug` [default: `info` for the roles, nothing
    /// for other commands].
    #[arg(long, global = true, env = "HYPERNETES_LOG")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Attack(attack::Attack),
    /// What `attack --windows` starts.
    #[command(hide = true)]
    Attacker,
    Audit(audit::Audit),
    Up(up::Up),
    Down(down::Down),
    Hyperd(hyperd::Hyperd),
    Image(image::Image),
    Login(login::Login),
    Node(node::Node),
    Server(Box<server::Server>),
    Snapshot(snapshot::Snapshot),
    Store(store::Command),
    Tenant(tenant::Tenant),
}

/// Where `up`, `down`, `attack`, `tenant` and `image` find the installation on this machine.
#[derive(clap::Args, Clone)]
pub struct Root {
    /// Directory of all data.
    #[arg(id = "root", long, value_name = "DIR", default_value = "data", env = "HYPERNETES_ROOT", global = true)]
    pub directory: PathBuf,
}

impl Root {
    /// The server's directory: `up`'s, or that of a server that runs alone in ROOT.
    pub fn server(&self) -> PathBuf {
        self.of_role("server", "operator.kubeconfig")
    }

    /// hyperd's directory, likewise.
    pub fn hyperd(&self) -> PathBuf {
        self.of_role("hyperd", "hyperd.sock")
    }

    fn of_role(&self, role: &str, mark: &str) -> PathBuf {
        if self.directory.join(mark).exists() { self.directory.clone() } else { self.directory.join(role) }
    }
}

/// Prints what may be long. Whoever does not read it to its end has seen enough.
fn show(text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn main() -> std::process::ExitCode {
    let mut cli = Cli::parse();
    let given_up = match &mut cli.command {
        Command::Server(server) => server.give_up_root(),
        Command::Node(node) => node.give_up(),
        Command::Up(_) => {
            privileges::keep_files_private();
            Ok(())
        }
        _ => Ok(()),
    };
    if let Err(error) = given_up {
        eprintln!("hypernetes: {error:#}");
        return std::process::ExitCode::FAILURE;
    }
    let role = match &cli.command {
        Command::Up(_) | Command::Server(_) => true,
        Command::Node(node) => node.is_role(),
        _ => false,
    };
    let log = cli.log.as_deref().unwrap_or(if role { "info" } else { "off" });
    // What a command that has done its work has found out.
    let verdict = std::cell::Cell::new(0);
    let ended = hypernetes_daemon::run("hypernetes", log, async {
        match cli.command {
            Command::Attack(command) => command.run().await.map(|found| verdict.set(found)),
            Command::Attacker => attack::attacker().await,
            Command::Audit(command) => command.run(),
            Command::Up(command) => command.run().await,
            Command::Down(command) => command.run().await,
            Command::Hyperd(command) => command.run(cli.log.as_deref()),
            Command::Image(command) => command.run().await,
            Command::Login(command) => command.run().await,
            Command::Node(command) => command.run().await,
            Command::Server(command) => command.run().await,
            Command::Snapshot(command) => command.run().await,
            Command::Store(command) => command.run().await,
            Command::Tenant(command) => command.run().await,
        }
    });
    if verdict.get() == 0 { ended } else { verdict.get().into() }
}
