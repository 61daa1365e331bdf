//! exec and attach: the subprotocols `v4.channel.k8s.io` and `v5.channel.k8s.io` (KEP-4006).
//!
//! The first byte of each binary message is a channel: 0 stdin, 1 stdout, 2 stderr, 3 error (a Status object when
//! all is over), 4 resize (`{"Width":…,"Height":…}`). In v5, 255 followed by a channel closes that channel.

use std::{future::Future, sync::Arc};

use axum::{
    extract::{
        WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket, close_code},
    },
    response::Response,
};
use bytes::Bytes;
use futures::{SinkExt, StreamExt, future::ready, stream::SplitSink};
use hypernetes_hyperd_api::channel::{CLOSE, ERROR, RESIZE, STDERR, STDIN, STDOUT, V4, V5};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::broadcast::{self, error::RecvError};

use super::Streams;
use crate::{
    budget::Share,
    container::Container,
    error::{Error, Result},
    exec::ProcessHandle,
    logs::Stream,
    runtime::Runtime,
};

/// Largest piece of standard input in one call to the guest.
const STDIN_PIECE: usize = 64 << 10;

pub(super) enum Target {
    Exec(Vec<String>),
    /// With the output as it comes.
    Attach(broadcast::Receiver<(Stream, Bytes)>),
}

pub(super) fn serve(
    runtime: Arc<Runtime>,
    upgrade: WebSocketUpgrade,
    container_id: String,
    target: Target,
    streams: Streams,
    share: Share,
) -> Response {
    upgrade.protocols([V5, V4]).on_upgrade(move |socket| async move {
        let _share = share;
        let (mut to_client, from_client) = socket.split();
        let messages = from_client.take_while(|message| ready(!matches!(message, Err(_) | Ok(Message::Close(_)))));
        let input = messages.filter_map(|message| ready(message.ok().and_then(input_of)));
        let mut output = Channels { to_client: &mut to_client, streams };
        let outcome = run(&runtime, &mut output, input, &container_id, target, streams).await;
        if let Some(status) = status(outcome) {
            let _ = to_client.send(frame(ERROR, status.to_string().as_bytes())).await;
            let close = CloseFrame { code: close_code::NORMAL, reason: "".into() };
            let _ = to_client.send(Message::Close(Some(close))).await;
            let _ = to_client.close().await;
        }
    })
}

/// What a client sends.
pub(super) enum Input {
    Stdin(Bytes),
    CloseStdin,
    /// Columns and rows of the terminal.
    Resize(u16, u16),
}

/// A terminal's size as client-go writes it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Size {
    pub width: u16,
    pub height: u16,
}

/// Where a process' output goes.
pub(super) trait Output: Send {
    /// False: the client is gone.
    fn send(&mut self, stream: Stream, data: &[u8]) -> impl Future<Output = bool> + Send;
}

struct Channels<'a> {
    to_client: &'a mut SplitSink<WebSocket, Message>,
    streams: Streams,
}

impl Output for Channels<'_> {
    async fn send(&mut self, stream: Stream, data: &[u8]) -> bool {
        let (wanted, channel) = match stream {
            Stream::Stdout => (self.streams.stdout, STDOUT),
            Stream::Stderr => (self.streams.stderr, STDERR),
        };
        !wanted || self.to_client.send(frame(channel, data)).await.is_ok()
    }
}

fn input_of(message: Message) -> Option<Input> {
    let mut bytes: Bytes = match message {
        Message::Binary(bytes) => bytes,
        Message::Text(text) => text.into(),
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) => return None,
    };
    if bytes.is_empty() {
        return None;
    }
    match (bytes.split_to(1)[0], &bytes[..]) {
        (STDIN, _) => Some(Input::Stdin(bytes)),
        (CLOSE, [STDIN, ..]) => Some(Input::CloseStdin),
        (RESIZE, data) => serde_json::from_slice(data).ok().map(|Size { width, height }| Input::Resize(width, height)),
        _ => None,
    }
}

pub(super) enum End {
    Exited(i32),
    Disconnected,
}

/// A `metav1.Status` as client-go reads it; none when nobody is there to read it.
pub(super) fn status(outcome: Result<End>) -> Option<serde_json::Value> {
    Some(match outcome {
        Ok(End::Disconnected) => return None,
        Ok(End::Exited(0)) => json!({"metadata": {}, "status": "Success"}),
        Ok(End::Exited(code)) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(error) => json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": error.to_string()}),
    })
}

fn frame(channel: u8, data: &[u8]) -> Message {
    let mut bytes = Vec::with_capacity(data.len() + 1);
    bytes.push(channel);
    bytes.extend_from_slice(data);
    Message::Binary(bytes.into())
}

/// Runs, or joins, the process until it ends or the client's input does, which tells that the client is gone.
pub(super) async fn run(
    runtime: &Arc<Runtime>,
    to_client: &mut impl Output,
    from_client: impl futures::Stream<Item = Input> + Send,
    container_id: &str,
    target: Target,
    streams: Streams,
) -> Result<End> {
    let container = runtime.container(container_id)?;
    match target {
        Target::Exec(command) => {
            let exec = runtime.start_exec(&container, command, streams.tty, streams.stdin).await?;
            // Dropped at the end of this block, also when the client goes away: then the process is killed.
            tokio::select! {
                end = exec_output(to_client, &exec.process, streams.tty) => end,
                () = input(from_client, &exec.process, streams, true) => Ok(End::Disconnected),
            }
        }
        Target::Attach(output) => {
            let process = runtime.process_to_attach(&container)?;
            let config = container.record().config;
            if streams.stdin && !config.stdin {
                return Err(Error::FailedPrecondition("the container has no standard input".into()));
            }
            tokio::select! {
                end = attached_output(to_client, output, &container) => end,
                () = input(from_client, &process, streams, config.stdin_once) => {
                    // Whom the client leaves behind, with stdin_once, has heard the last of it.
                    if streams.stdin && config.stdin_once {
                        let _ = process.write_stdin(Vec::new(), true).await;
                    }
                    Ok(End::Disconnected)
                }
            }
        }
    }
}

async fn exec_output(to_client: &mut impl Output, process: &ProcessHandle, tty: bool) -> Result<End> {
    let mut following = process.follow(tty).await?;
    while let Some(chunk) = following.next().await? {
        if !to_client.send(chunk.stream, &chunk.data).await {
            return Ok(End::Disconnected);
        }
    }
    Ok(End::Exited(following.exit_code().await?))
}

async fn attached_output(
    to_client: &mut impl Output,
    mut output: broadcast::Receiver<(Stream, Bytes)>,
    container: &Container,
) -> Result<End> {
    let ended = container.ended();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            biased;
            chunk = output.recv() => match chunk {
                Ok((stream, data)) => {
                    if !to_client.send(stream, &data).await {
                        return Ok(End::Disconnected);
                    }
                }
                // A client that cannot follow loses output here; the log has all of it.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(End::Exited(0)),
            },
            () = &mut ended => return Ok(End::Exited(0)),
        }
    }
}

/// Brings what the client sends into the guest; returns when the client goes away.
async fn input(
    from_client: impl futures::Stream<Item = Input>,
    process: &ProcessHandle,
    streams: Streams,
    close: bool,
) {
    tokio::pin!(from_client);
    let mut stdin = streams.stdin;
    while let Some(input) = from_client.next().await {
        let done = match input {
            Input::Stdin(data) if stdin => write_stdin(process, &data).await,
            Input::CloseStdin if stdin => {
                stdin = false;
                if close { process.write_stdin(Vec::new(), true).await } else { Ok(()) }
            }
            Input::Resize(width, height) if streams.tty => process.resize(width.into(), height.into()).await,
            _ => Ok(()),
        };
        if let Err(error) = done {
            // The process may have closed its input, or ended; its output tells.
            tracing::debug!(%error, "input for a process in a pod");
            stdin &= !error.is_code(tonic::Code::FailedPrecondition);
        }
    }
}

async fn write_stdin(process: &ProcessHandle, data: &[u8]) -> Result<(), crate::agent::AgentError> {
    for piece in data.chunks(STDIN_PIECE) {
        process.write_stdin(piece.to_vec(), false).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_told_as_client_go_reads_them() {
        let status = |code| status(Ok(End::Exited(code))).unwrap();
        assert_eq!(status(0)["status"], "Success");
        let failure = status(3);
        assert_eq!(failure["reason"], "NonZeroExitCode");
        assert_eq!(failure["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
    }
}
