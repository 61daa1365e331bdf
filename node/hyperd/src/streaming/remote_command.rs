//! exec and attach: the subprotocols `v4.channel.k8s.io` and `v5.channel.k8s.io` (KEP-4006).
//!
//! The first byte of each binary message is a channel: 0 stdin, 1 stdout, 2 stderr, 3 error (a Status object when
//! all is over), 4 resize (`{"Width":…,"Height":…}`). In v5, 255 followed by a channel closes that channel.

use std::sync::Arc;

use axum::{
    extract::{
        WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket, close_code},
    },
    response::Response,
};
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use super::Streams;
use crate::{
    container::Container,
    error::{Error, Result},
    exec::ProcessHandle,
    logs::Stream,
    runtime::Runtime,
};

const V4: &str = "v4.channel.k8s.io";
const V5: &str = "v5.channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// Largest piece of standard input in one call to the guest.
const STDIN_PIECE: usize = 64 << 10;

pub(super) enum Target {
    Exec(Vec<String>),
    Attach,
}

pub(super) fn serve(
    runtime: Arc<Runtime>,
    upgrade: WebSocketUpgrade,
    container_id: String,
    target: Target,
    streams: Streams,
) -> Response {
    upgrade.protocols([V5, V4]).on_upgrade(move |socket| async move {
        let (mut to_client, from_client) = socket.split();
        let outcome = run(&runtime, &mut to_client, from_client, &container_id, target, streams).await;
        let status = match outcome {
            Ok(End::Disconnected) => return,
            Ok(End::Exited(code)) => status(code),
            Err(error) => json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
                "message": error.to_string()}),
        };
        let _ = to_client.send(frame(ERROR, status.to_string().as_bytes())).await;
        let close = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        let _ = to_client.send(Message::Close(Some(close))).await;
        let _ = to_client.close().await;
    })
}

enum End {
    Exited(i32),
    Disconnected,
}

/// A `metav1.Status` as client-go reads it.
fn status(exit_code: i32) -> serde_json::Value {
    if exit_code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {exit_code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": exit_code.to_string()}]},
    })
}

fn frame(channel: u8, data: &[u8]) -> Message {
    let mut bytes = Vec::with_capacity(data.len() + 1);
    bytes.push(channel);
    bytes.extend_from_slice(data);
    Message::Binary(bytes.into())
}

type ToClient = SplitSink<WebSocket, Message>;

async fn run(
    runtime: &Arc<Runtime>,
    to_client: &mut ToClient,
    from_client: SplitStream<WebSocket>,
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
                end = exec_output(to_client, &exec.process, streams) => end,
                () = input(from_client, &exec.process, streams, true) => Ok(End::Disconnected),
            }
        }
        Target::Attach => {
            let process = runtime.process_of(&container)?;
            let config = container.record().config;
            if streams.stdin && !config.stdin {
                return Err(Error::FailedPrecondition("the container has no standard input".into()));
            }
            tokio::select! {
                end = attached_output(to_client, &container, streams) => end,
                () = input(from_client, &process, streams, config.stdin_once) => Ok(End::Disconnected),
            }
        }
    }
}

async fn exec_output(to_client: &mut ToClient, process: &ProcessHandle, streams: Streams) -> Result<End> {
    let mut following = process.follow(streams.tty).await?;
    while let Some(chunk) = following.next().await? {
        if !send(to_client, streams, chunk.stream, &chunk.data).await {
            return Ok(End::Disconnected);
        }
    }
    Ok(End::Exited(following.exit_code().await?))
}

async fn attached_output(to_client: &mut ToClient, container: &Container, streams: Streams) -> Result<End> {
    let mut output = container.output.subscribe();
    let ended = container.ended();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            biased;
            chunk = output.recv() => match chunk {
                Ok((stream, data)) => {
                    if !send(to_client, streams, stream, &data).await {
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

/// False: the client is gone.
async fn send(to_client: &mut ToClient, streams: Streams, stream: Stream, data: &[u8]) -> bool {
    let (wanted, channel) = match stream {
        Stream::Stdout => (streams.stdout, STDOUT),
        Stream::Stderr => (streams.stderr, STDERR),
    };
    !wanted || to_client.send(frame(channel, data)).await.is_ok()
}

/// Brings the client's messages into the guest; returns when the client goes away.
async fn input(mut from_client: SplitStream<WebSocket>, process: &ProcessHandle, streams: Streams, close: bool) {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Size {
        width: u16,
        height: u16,
    }
    let mut stdin = streams.stdin;
    while let Some(Ok(message)) = from_client.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Close(_) => break,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        let done = match (bytes.first().copied(), bytes.get(1..).unwrap_or_default()) {
            (Some(STDIN), data) if stdin => write_stdin(process, data).await,
            (Some(CLOSE), [STDIN, ..]) if stdin => {
                stdin = false;
                if close { process.write_stdin(Vec::new(), true).await } else { Ok(()) }
            }
            (Some(RESIZE), data) if streams.tty => match serde_json::from_slice::<Size>(data) {
                Ok(size) => process.resize(size.width.into(), size.height.into()).await,
                Err(_) => Ok(()),
            },
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
        assert_eq!(status(0)["status"], "Success");
        let failure = status(3);
        assert_eq!(failure["reason"], "NonZeroExitCode");
        assert_eq!(failure["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
    }
}
