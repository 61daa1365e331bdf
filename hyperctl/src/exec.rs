//! `exec` and `attach`.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::{
    connection::Clients,
    containers, cri, find,
    stream::{End, Stream},
};

/// Run a command in a running container
///
/// Ends with the command's exit code; with 127 when there is no such command, with 125 when something else went wrong.
#[derive(clap::Args)]
pub struct Exec {
    /// Give it our input.
    #[arg(long, short)]
    interactive: bool,
    /// Give it a terminal.
    #[arg(long, short)]
    tty: bool,
    /// By name, POD/NAME, or the beginning of its id.
    container: String,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Exec {
    pub async fn run(self, clients: &Clients) -> Result<u8> {
        let found = find::one(clients, &self.container).await?;
        let request = cri::ExecRequest {
            container_id: found.container.id,
            cmd: self.command,
            tty: self.tty,
            stdin: self.interactive,
            stdout: true,
            stderr: !self.tty,
        };
        let url = clients.runtime.clone().exec(request).await?.into_inner().url;
        match Stream::open(&url).await?.run(self.interactive, self.tty).await? {
            End::Exited(code) => Ok(code),
            End::Detached => Ok(0),
        }
    }
}

/// Join a running container's first process
///
/// Ends with its exit code; Ctrl-P Ctrl-Q leaves it running.
#[derive(clap::Args)]
pub struct Attach {
    /// Give it no input.
    #[arg(long)]
    no_stdin: bool,
    container: String,
}

impl Attach {
    pub async fn run(self, clients: &Clients) -> Result<u8> {
        let found = find::one(clients, &self.container).await?;
        if found.container.state() != cri::ContainerState::ContainerRunning {
            bail!("{} is not running", self.container);
        }
        // CRI does not tell how a container was made; `run` does.
        let streams = found.pod.annotations.get(crate::run::STREAMS_ANNOTATION).map(String::as_str).unwrap_or_default();
        let (stdin, tty) = (streams.contains('i') && !self.no_stdin, streams.contains('t'));
        let stream = attach(clients, &found.container.id, stdin, tty).await?;
        match stream.run(stdin, tty).await? {
            End::Exited(_) => ended(clients, &found.container.id).await,
            End::Detached => Ok(0),
        }
    }
}

/// Connects to the first process; from then on no output is missed.
pub async fn attach(clients: &Clients, id: &str, stdin: bool, tty: bool) -> Result<Stream> {
    let request = cri::AttachRequest { container_id: id.into(), stdin, tty, stdout: true, stderr: !tty };
    let url = clients.runtime.clone().attach(request).await?.into_inner().url;
    Stream::open(&url).await
}

/// Waits for the container's end. Its exit code.
pub async fn ended(clients: &Clients, id: &str) -> Result<u8> {
    while containers::status(clients, id).await?.state() != cri::ContainerState::ContainerExited {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    containers::exit_code(clients, id).await
}
