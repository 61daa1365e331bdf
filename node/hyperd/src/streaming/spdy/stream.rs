//! One stream of a session, as its user has it.

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    frame::{MAX_PIECE, Status},
    headers::Headers,
};

/// Pieces of a stream that wait for their reader, of [`MAX_PIECE`] bytes each at most.
pub(super) const WAITING_PIECES: usize = 8;

/// What the session's writer is asked for.
#[derive(Debug)]
pub(super) enum Order {
    Reply(u32),
    Data { id: u32, data: Bytes, fin: bool },
    Reset { id: u32, status: Status },
    Pong(u32),
    Close,
}

/// A stream that the client opened, and that has been answered.
#[derive(Debug)]
pub(in crate::streaming) struct Stream {
    pub(in crate::streaming) headers: Headers,
    pub(in crate::streaming) from_client: Receiver,
    pub(in crate::streaming) to_client: Sender,
}

#[derive(Debug)]
pub(in crate::streaming) struct Receiver(pub(super) mpsc::Receiver<Bytes>);

impl Receiver {
    /// The next piece; none when the client has finished, or when the stream was reset.
    pub(in crate::streaming) async fn read(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }
}

#[derive(Debug, Clone)]
pub(in crate::streaming) struct Sender {
    pub(super) id: u32,
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) gone: CancellationToken,
}

impl Sender {
    /// False: the stream was reset, or the session is over.
    pub(in crate::streaming) async fn write(&self, data: &[u8]) -> bool {
        for piece in data.chunks(MAX_PIECE) {
            let order = Order::Data { id: self.id, data: Bytes::copy_from_slice(piece), fin: false };
            if self.gone.is_cancelled() || self.orders.send(order).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Says that nothing more will be written. What is written later is dropped.
    pub(in crate::streaming) async fn finish(&self) {
        let _ = self.orders.send(Order::Data { id: self.id, data: Bytes::new(), fin: true }).await;
    }

    /// Ends the stream in both directions.
    pub(in crate::streaming) async fn reset(&self, status: Status) {
        let _ = self.orders.send(Order::Reset { id: self.id, status }).await;
    }

    /// Waits until the stream was reset by either side, or the session is over.
    pub(in crate::streaming) async fn gone(&self) {
        self.gone.cancelled().await;
    }
}
