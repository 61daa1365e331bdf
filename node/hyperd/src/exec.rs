//! Further processes in a container.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use hypernetes_guest_protocol::v1;
use tonic::Code;

use crate::{
    agent::{Agent, AgentError, CALL_TIMEOUT},
    budget::Limits,
    container::Container,
    error::{Error, Result},
    logs::Stream,
    output::{Chunk, Output},
    process,
    records::ContainerState,
    runtime::Runtime,
};

/// Most of stdout and stderr together that `ExecSync` returns; the rest is read and thrown away.
const MAX_SYNC_OUTPUT: usize = 16 << 20;
/// Commands whose output is collected at one time.
pub(crate) const COMMANDS: Limits = Limits { pod: 32, tenant: 128, all: 512 };
/// Bytes of their output: what comes when there is no room for it is thrown away, too.
pub(crate) const COLLECTED: Limits = Limits { pod: 32 << 20, tenant: 64 << 20, all: 256 << 20 };
/// How long the agent may hold one `WaitProcess`.
pub(crate) const WAIT_SLICE: Duration = Duration::from_secs(300);
/// How long output may still be silent after the process's end before it is taken to be over.
const LEFT_BEHIND: Duration = Duration::from_secs(1);
const SIGKILL: u32 = 9;

/// A process, the container's first or an exec, as its streams see it.
#[derive(Clone)]
pub(crate) struct ProcessHandle {
    pub agent: Agent,
    pub container_id: String,
    /// Empty: the container's first process.
    pub exec_id: String,
}

impl ProcessHandle {
    pub(crate) async fn write_stdin(&self, data: Vec<u8>, close: bool) -> Result<(), AgentError> {
        let (container_id, exec_id) = (self.container_id.clone(), self.exec_id.clone());
        let request = v1::WriteStdinRequest { container_id, exec_id, data, close };
        // No time limit but the client's patience: a process may read slowly.
        self.agent.call("WriteStdin", WAIT_SLICE, |mut c| async move { c.write_stdin(request).await }).await?;
        Ok(())
    }

    pub(crate) async fn resize(&self, width: u32, height: u32) -> Result<(), AgentError> {
        let (container_id, exec_id) = (self.container_id.clone(), self.exec_id.clone());
        let request = v1::ResizeTtyRequest { container_id, exec_id, width, height };
        self.agent.call("ResizeTty", CALL_TIMEOUT, |mut c| async move { c.resize_tty(request).await }).await?;
        Ok(())
    }

    /// Sends a signal; to a process that is gone is no error.
    pub(crate) async fn signal(&self, signal: u32, all: bool) -> Result<(), AgentError> {
        let (container_id, exec_id) = (self.container_id.clone(), self.exec_id.clone());
        let request = v1::SignalProcessRequest { container_id, exec_id, signal, all };
        match self
            .agent
            .call("SignalProcess", CALL_TIMEOUT, |mut c| async move { c.signal_process(request).await })
            .await
        {
            Err(error) if error.is_code(Code::NotFound) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Waits as long as the process runs and the connection holds.
    pub(crate) async fn wait(&self) -> Result<v1::WaitProcessResponse, AgentError> {
        loop {
            let (container_id, exec_id) = (self.container_id.clone(), self.exec_id.clone());
            let request = v1::WaitProcessRequest { container_id, exec_id };
            match self.agent.call("WaitProcess", WAIT_SLICE, |mut c| async move { c.wait_process(request).await }).await
            {
                Err(AgentError::Timeout { .. }) => {}
                other => return other,
            }
        }
    }

    /// Follows the process to its end.
    pub(crate) async fn follow(&self, tty: bool) -> Result<Following, AgentError> {
        let process = self.clone();
        Ok(Following {
            output: Output::open(&self.agent, &self.container_id, &self.exec_id, (0, 0)).await?,
            offsets: [0; 2],
            // With a terminal there is one stream.
            open: [true, !tty],
            exited: async move { process.wait().await }.boxed(),
            exit_code: None,
        })
    }
}

/// A process's output, and its end. A child that was left behind and holds the output open does not put off the end.
pub(crate) struct Following {
    output: Output,
    offsets: [u64; 2],
    open: [bool; 2],
    exited: BoxFuture<'static, Result<v1::WaitProcessResponse, AgentError>>,
    exit_code: Option<i32>,
}

impl Following {
    /// The next piece of output; none when all is over. What was returned before counts as dealt with.
    pub(crate) async fn next(&mut self) -> Result<Option<Chunk>, AgentError> {
        self.output.acknowledge((self.offsets[0], self.offsets[1])).await;
        while self.open.contains(&true) {
            let patience = if self.exit_code.is_some() { LEFT_BEHIND } else { Duration::MAX };
            let chunk = tokio::select! {
                chunk = tokio::time::timeout(patience, self.output.next()) => match chunk {
                    Ok(chunk) => chunk?,
                    Err(_) => return Ok(None),
                },
                exit = &mut self.exited, if self.exit_code.is_none() => {
                    self.exit_code = Some(exit?.exit_code);
                    continue;
                }
            };
            let Some(chunk) = chunk else { return Ok(None) };
            let stream = chunk.stream as usize;
            self.offsets[stream] = self.offsets[stream].max(chunk.offset + chunk.data.len() as u64);
            self.open[stream] &= !chunk.eof;
            if !chunk.data.is_empty() {
                return Ok(Some(chunk));
            }
        }
        Ok(None)
    }

    pub(crate) async fn exit_code(self) -> Result<i32, AgentError> {
        match self.exit_code {
            Some(code) => Ok(code),
            None => Ok(self.exited.await?.exit_code),
        }
    }
}

/// A running exec. Dropped, it is killed and forgotten in the guest.
pub(crate) struct Exec {
    pub process: ProcessHandle,
}

impl Drop for Exec {
    fn drop(&mut self) {
        let process = self.process.clone();
        tokio::spawn(async move {
            // It has ended in most cases; then this does nothing.
            let _ = process.signal(SIGKILL, false).await;
            let ProcessHandle { agent, container_id, exec_id } = process;
            let request = v1::RemoveProcessRequest { container_id, exec_id };
            let removed =
                agent.call("RemoveProcess", CALL_TIMEOUT, |mut c| async move { c.remove_process(request).await }).await;
            if let Err(error) = removed {
                tracing::debug!(%error, "forgetting an exec failed");
            }
        });
    }
}

#[derive(Debug, Default)]
pub(crate) struct Captured {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

impl Runtime {
    /// Starts a process in a running container.
    pub(crate) async fn start_exec(
        &self,
        container: &Arc<Container>,
        command: Vec<String>,
        tty: bool,
        stdin: bool,
    ) -> Result<Exec> {
        let process = self.process_of(container)?;
        let spec = process::exec(&container.record().process, command, tty, stdin)?;
        let exec_id = uuid::Uuid::new_v4().simple().to_string();
        let request = v1::StartProcessRequest {
            container_id: container.id.clone(),
            exec_id: exec_id.clone(),
            process: Some(spec),
        };
        let exec = Exec { process: ProcessHandle { exec_id, ..process } };
        let agent = &exec.process.agent;
        agent.call("StartProcess", CALL_TIMEOUT, |mut c| async move { c.start_process(request).await }).await?;
        Ok(exec)
    }

    /// The first process of a running container.
    pub(crate) fn process_of(&self, container: &Arc<Container>) -> Result<ProcessHandle> {
        if !container.is_running() {
            return Err(Error::FailedPrecondition(format!("the container {} is not running", container.id)));
        }
        self.process_to_attach(container)
    }

    /// The first process of a container that runs or has yet to: who attaches before the start misses nothing.
    pub(crate) fn process_to_attach(&self, container: &Arc<Container>) -> Result<ProcessHandle> {
        if matches!(container.record().state, ContainerState::Exited(_)) {
            return Err(Error::FailedPrecondition(format!("the container {} has ended", container.id)));
        }
        let agent = self.sandbox(&container.sandbox_id)?.live()?.agent.clone();
        Ok(ProcessHandle { agent, container_id: container.id.clone(), exec_id: String::new() })
    }

    /// Runs a command and collects its output. `limit` of zero: none.
    pub(crate) async fn exec_sync(
        &self,
        container: &Arc<Container>,
        command: Vec<String>,
        limit: Duration,
    ) -> Result<Captured> {
        let owner = self.owner(&container.sandbox_id)?;
        let _command = self.commands.take(owner.clone(), 1)?;
        let mut room = self.collected.take(owner, 0)?;
        let work = async {
            let exec = self.start_exec(container, command, false, false).await?;
            let mut captured = Captured::default();
            let mut following = exec.process.follow(false).await?;
            while let Some(chunk) = following.next().await? {
                let left = MAX_SYNC_OUTPUT - captured.stdout.len() - captured.stderr.len();
                let kept = &chunk.data[..chunk.data.len().min(left)];
                let kept = if room.grow(kept.len()).is_ok() { kept } else { &[] };
                match chunk.stream {
                    Stream::Stdout => captured.stdout.extend_from_slice(kept),
                    Stream::Stderr => captured.stderr.extend_from_slice(kept),
                }
            }
            captured.exit_code = following.exit_code().await?;
            Ok(captured)
        };
        if limit.is_zero() {
            return work.await;
        }
        tokio::time::timeout(limit, work)
            .await
            .map_err(|_| Error::Timeout { what: "the command", seconds: limit.as_secs() })?
    }
}
