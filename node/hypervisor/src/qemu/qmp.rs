//! QEMU's monitor protocol (docs/interop/qmp-spec): one command after another over a unix socket.

use std::{
    io::{self, IoSlice},
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// No command that is used here takes longer, on a machine that works at all.
const TIMEOUT: Duration = Duration::from_secs(20);
/// QEMU's answers are short; one that is longer is not one.
const MAX_LINE: u64 = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    #[error("the monitor: {0}")]
    Io(#[from] io::Error),
    #[error("{command}: {description}")]
    Refused { command: String, description: String },
    #[error("{command}: no answer within {} s", TIMEOUT.as_secs())]
    Timeout { command: String },
}

/// One conversation with the monitor. QEMU holds one at a time.
pub struct Qmp {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Qmp {
    pub async fn connect(path: &Path) -> Result<Self, QmpError> {
        Self::greeted(UnixStream::connect(path).await?).await
    }

    /// A conversation that begins.
    pub async fn greeted(stream: UnixStream) -> Result<Self, QmpError> {
        let (reader, writer) = stream.into_split();
        let mut qmp = Self { reader: BufReader::new(reader), writer };
        // A VMM that has been stopped greets nobody.
        let greeting = tokio::time::timeout(TIMEOUT, qmp.message()).await;
        let greeting = greeting.map_err(|_| QmpError::Timeout { command: "the greeting".into() })??;
        if greeting.get("QMP").is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not QEMU").into());
        }
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    pub async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let line = json!({"execute": command, "arguments": arguments}).to_string();
        self.writer.write_all(line.as_bytes()).await?;
        self.answer(command).await
    }

    /// A command that QEMU gets an open file with.
    pub async fn execute_with_fd(&mut self, command: &str, arguments: Value, fd: OwnedFd) -> Result<Value, QmpError> {
        use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
        let line = json!({"execute": command, "arguments": arguments}).to_string();
        let socket: &UnixStream = self.writer.as_ref();
        let sent = socket
            .async_io(Interest::WRITABLE, || {
                let data = [IoSlice::new(line.as_bytes())];
                let fds = [fd.as_raw_fd()];
                let control = [ControlMessage::ScmRights(&fds)];
                Ok(sendmsg::<()>(socket.as_raw_fd(), &data, &control, MsgFlags::empty(), None)?)
            })
            .await?;
        self.writer.write_all(&line.as_bytes()[sent..]).await?;
        self.answer(command).await
    }

    async fn answer(&mut self, command: &str) -> Result<Value, QmpError> {
        let wait = async {
            loop {
                let mut message = self.message().await?;
                if let Some(error) = message.get("error") {
                    let description = error["desc"].as_str().unwrap_or("an error").to_owned();
                    return Err(QmpError::Refused { command: command.to_owned(), description });
                }
                if let Some(result) = message.get_mut("return") {
                    return Ok(result.take());
                }
                // Events come in between.
            }
        };
        tokio::time::timeout(TIMEOUT, wait).await.map_err(|_| QmpError::Timeout { command: command.to_owned() })?
    }

    async fn message(&mut self) -> Result<Value, QmpError> {
        let mut line = Vec::new();
        (&mut self.reader).take(MAX_LINE).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        serde_json::from_slice(&line).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e).into())
    }
}
