//! exec and attach over a WebSocket: Kubernetes' subprotocol `v5.channel.k8s.io`.

use std::io::Write;

use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt};
use hypernetes_hyperd_api::channel::{CLOSE, ERROR, RESIZE, STDERR, STDIN, STDOUT, V5};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    signal::unix::{SignalKind, signal},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

use crate::terminal;

/// Ctrl-P, Ctrl-Q: leaves the container running.
const DETACH: [u8; 2] = [0x10, 0x11];

/// A connection to a process in a VM.
pub struct Stream(WebSocketStream<MaybeTlsStream<TcpStream>>);

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Exited(u8),
    /// By the user; the process runs on.
    Detached,
}

impl Stream {
    /// Opens a URL that hyperd handed out.
    pub async fn open(url: &str) -> Result<Self> {
        let url = url.strip_prefix("http").map_or_else(|| url.to_owned(), |rest| format!("ws{rest}"));
        let mut request = url.into_client_request().context("hyperd's address of the stream")?;
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(V5));
        let (socket, _) = connect_async(request).await.context("connecting to hyperd's streams")?;
        Ok(Self(socket))
    }

    /// Brings our input there and the output here until the process ends.
    pub async fn run(mut self, stdin: bool, tty: bool) -> Result<End> {
        let _raw = tty.then(terminal::Raw::enter).transpose()?;
        let mut resized = signal(SignalKind::window_change())?;
        if tty {
            self.resize().await?;
        }
        let mut input = tokio::io::stdin();
        let mut buffer = vec![0; 32 << 10];
        let mut keys = Keys::default();
        let mut open = stdin;
        loop {
            tokio::select! {
                message = self.0.next() => match message {
                    Some(Ok(Message::Binary(bytes))) => {
                        if let Some(end) = output(&bytes)? {
                            return Ok(end);
                        }
                    }
                    Some(Ok(Message::Close(_))) | None => bail!("hyperd ended the connection"),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error).context("the connection to hyperd broke"),
                },
                read = input.read(&mut buffer), if open => match read? {
                    0 => {
                        open = false;
                        self.0.send(Message::Binary(vec![CLOSE, STDIN].into())).await?;
                    }
                    length => {
                        let (bytes, detach) = if tty { keys.press(&buffer[..length]) } else { (buffer[..length].to_vec(), false) };
                        if !bytes.is_empty() {
                            self.0.send(frame(STDIN, &bytes)).await?;
                        }
                        if detach {
                            let _ = self.0.close(None).await;
                            return Ok(End::Detached);
                        }
                    }
                },
                _ = resized.recv(), if tty => self.resize().await?,
            }
        }
    }

    async fn resize(&mut self) -> Result<()> {
        if let Some((width, height)) = terminal::size() {
            let size = json!({"Width": width, "Height": height}).to_string();
            self.0.send(frame(RESIZE, size.as_bytes())).await?;
        }
        Ok(())
    }
}

fn frame(channel: u8, data: &[u8]) -> Message {
    let mut bytes = Vec::with_capacity(data.len() + 1);
    bytes.push(channel);
    bytes.extend_from_slice(data);
    Message::Binary(bytes.into())
}

/// Deals with a message; the end, if it tells it.
fn output(message: &[u8]) -> Result<Option<End>> {
    let Some((channel, data)) = message.split_first() else { return Ok(None) };
    match *channel {
        STDOUT => {
            let mut out = std::io::stdout();
            out.write_all(data)?;
            out.flush()?;
        }
        STDERR => std::io::stderr().write_all(data)?,
        ERROR => return end(data).map(Some),
        _ => {}
    }
    Ok(None)
}

/// What a `metav1.Status` says of the process' end.
fn end(status: &[u8]) -> Result<End> {
    #[derive(Deserialize)]
    struct Status {
        status: String,
        #[serde(default)]
        message: String,
        #[serde(default)]
        details: Details,
    }
    #[derive(Default, Deserialize)]
    struct Details {
        #[serde(default)]
        causes: Vec<Cause>,
    }
    #[derive(Deserialize)]
    struct Cause {
        reason: String,
        message: String,
    }
    let status: Status = serde_json::from_slice(status).context("hyperd's last word")?;
    if status.status == "Success" {
        return Ok(End::Exited(0));
    }
    let code = status.details.causes.iter().find(|cause| cause.reason == "ExitCode");
    match code.and_then(|cause| cause.message.parse::<i32>().ok()) {
        Some(code) => Ok(End::Exited(exit_code(code))),
        None => bail!("{}", status.message),
    }
}

/// A process' exit code as ours.
pub fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Looks for the keys that detach among those that are pressed.
#[derive(Default)]
struct Keys {
    /// The first of them was the last one pressed, and is held back.
    begun: bool,
}

impl Keys {
    /// What is to be sent, and whether to detach then.
    fn press(&mut self, keys: &[u8]) -> (Vec<u8>, bool) {
        let mut sent = Vec::with_capacity(keys.len() + 1);
        for key in keys {
            if self.begun && *key == DETACH[1] {
                return (sent, true);
            }
            if std::mem::take(&mut self.begun) {
                sent.push(DETACH[0]);
            }
            if *key == DETACH[0] {
                self.begun = true;
            } else {
                sent.push(*key);
            }
        }
        (sent, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends() {
        assert_eq!(end(br#"{"metadata":{},"status":"Success"}"#).unwrap(), End::Exited(0));
        let failure =
            br#"{"status":"Failure","message":"m","details":{"causes":[{"reason":"ExitCode","message":"42"}]}}"#;
        assert_eq!(end(failure).unwrap(), End::Exited(42));
        let error = end(br#"{"status":"Failure","message":"no such program"}"#).unwrap_err();
        assert_eq!(error.to_string(), "no such program");
        assert!(end(b"x").is_err());
    }

    #[test]
    fn two_keys_detach_and_no_others_are_lost() {
        let mut keys = Keys::default();
        assert_eq!(keys.press(b"ab"), (b"ab".to_vec(), false));
        assert_eq!(keys.press(b"c\x10"), (b"c".to_vec(), false));
        assert_eq!(keys.press(b"d"), (b"\x10d".to_vec(), false));
        assert_eq!(keys.press(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.press(b"\x11"), (b"".to_vec(), true));
    }
}
