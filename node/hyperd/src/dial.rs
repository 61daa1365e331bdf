//! TCP connections to addresses inside a pod.

use hypernetes_guest_protocol::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{
    agent::{Agent, AgentError, CALL_TIMEOUT},
    error::{Error, Result},
};

/// Largest piece that is sent to the guest at once.
pub(crate) const PIECE: usize = 64 << 10;

/// An open connection.
pub(crate) struct Connection {
    to_guest: mpsc::Sender<v1::DialChunk>,
    from_guest: Streaming<v1::DialChunk>,
}

impl Connection {
    /// Connects to `host` (empty: the pod's loopback) and `port`.
    pub(crate) async fn open(agent: &Agent, host: &str, port: u32) -> Result<Self> {
        if !(1..=65535).contains(&port) {
            return Err(Error::InvalidArgument(format!("{port} is not a port")));
        }
        let (to_guest, requests) = mpsc::channel(4);
        let first = v1::DialChunk { host: host.into(), port, ..Default::default() };
        // The channel is empty and open: this cannot fail.
        let _ = to_guest.try_send(first);
        let from_guest = agent
            .call("Dial", CALL_TIMEOUT, |mut c| async move { c.dial(ReceiverStream::new(requests)).await })
            .await?;
        Ok(Self { to_guest, from_guest })
    }

    pub(crate) fn split(self) -> (Writer, Reader) {
        (Writer(self.to_guest), Reader(self.from_guest))
    }
}

pub(crate) struct Writer(mpsc::Sender<v1::DialChunk>);

impl Writer {
    /// False: the connection is closed.
    pub(crate) async fn write(&self, data: &[u8], close: bool) -> bool {
        for piece in data.chunks(PIECE) {
            if self.0.send(v1::DialChunk { data: piece.into(), ..Default::default() }).await.is_err() {
                return false;
            }
        }
        !close || self.0.send(v1::DialChunk { close_write: true, ..Default::default() }).await.is_ok()
    }
}

pub(crate) struct Reader(Streaming<v1::DialChunk>);

impl Reader {
    /// The next piece, and whether it is the last one.
    pub(crate) async fn read(&mut self) -> Result<Option<(Vec<u8>, bool)>, AgentError> {
        match self.0.message().await {
            Ok(chunk) => Ok(chunk.map(|c| (c.data, c.close_write))),
            Err(status) => Err(AgentError::from_status("Dial", &status)),
        }
    }
}
