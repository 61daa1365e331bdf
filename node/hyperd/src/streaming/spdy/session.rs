//! The server's side of a session: which streams there are, and what becomes of each frame (SPDY/3.1 draft, 2.3).
//!
//! Windows are ignored in both directions, as client-go's implementation does (moby/spdystream). What bounds memory is
//! that a stream whose reader is slow holds up the whole session; after a while it is reset instead, if the session
//! has others to care for.

use std::{collections::HashMap, fmt::Display, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Sink, SinkExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    frame::{Decoder, Frame, FrameError, Goodbye, Status},
    headers::{CompressionError, Deflater, Headers, Inflater},
    stream::{Order, Receiver, Sender, Stream, WAITING_PIECES},
};

/// Streams that are open at once.
pub(super) const MAX_STREAMS: usize = 256;
/// Frames that wait for the client to read.
const WAITING_ORDERS: usize = 16;
/// Time that the last words to a client may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Compression(#[from] CompressionError),
    #[error("the client opened stream {id} after {last}: its ids must be odd and grow")]
    StreamId { id: u32, last: u32 },
    #[error("the client answered stream {0}, which was never opened")]
    Reply(u32),
    #[error("the connection: {0}")]
    Connection(String),
}

impl SessionError {
    fn connection(error: impl Display) -> Self {
        Self::Connection(error.to_string())
    }
}

/// A stream that is not over in both directions.
struct Open {
    /// To the reader; none when the client has finished.
    data: Option<mpsc::Sender<Bytes>>,
    /// We have finished.
    finished: bool,
    gone: CancellationToken,
}

#[derive(Default)]
struct Table {
    open: HashMap<u32, Open>,
    /// The highest id that the client has used.
    last: u32,
}

impl Table {
    /// Notes that one direction is over, and forgets the stream with the second one.
    fn finish(&mut self, id: u32, direction: impl FnOnce(&mut Open)) {
        if let Some(stream) = self.open.get_mut(&id) {
            direction(stream);
            if stream.finished && stream.data.is_none() {
                self.open.remove(&id);
            }
        }
    }

    fn reset(&mut self, id: u32) {
        if let Some(stream) = self.open.remove(&id) {
            stream.gone.cancel();
        }
    }
}

/// Ends the session once all that was written before has been sent.
pub(in crate::streaming) struct Closer(mpsc::Sender<Order>);

impl Closer {
    pub(in crate::streaming) async fn close(self) {
        let _ = self.0.send(Order::Close).await;
    }
}

/// A session that has to be [`run`](Self::run).
pub(in crate::streaming) struct Session {
    table: Arc<Mutex<Table>>,
    orders: mpsc::Sender<Order>,
    waiting: mpsc::Receiver<Order>,
    accepted: mpsc::Sender<Stream>,
    patience: Option<Duration>,
}

impl Session {
    /// The session, and the streams that its client opens.
    ///
    /// `patience` is the time after which a stream that nobody reads from is reset; without one it holds up the others
    /// for as long as it likes.
    pub(in crate::streaming) fn new(patience: Option<Duration>) -> (Self, mpsc::Receiver<Stream>) {
        let (orders, waiting) = mpsc::channel(WAITING_ORDERS);
        let (accepted, streams) = mpsc::channel(1);
        (Self { table: Arc::default(), orders, waiting, accepted, patience }, streams)
    }

    pub(in crate::streaming) fn closer(&self) -> Closer {
        Closer(self.orders.clone())
    }

    /// Speaks with the client until one of both ends it.
    ///
    /// # Errors
    /// When the client breaks the rules, or the connection.
    pub(super) async fn run<I, E, O>(self, incoming: &mut I, outgoing: &mut O) -> Result<(), SessionError>
    where
        I: futures::Stream<Item = Result<Bytes, E>> + Unpin,
        E: Display,
        O: Sink<Bytes> + Unpin,
        O::Error: Display,
    {
        let Self { table, orders, waiting, accepted, patience } = self;
        let reader = Reader { table: table.clone(), orders, accepted, patience, inflater: Inflater::new() };
        let mut writer = Writer { table: table.clone(), deflater: Deflater::new()? };
        let outcome = tokio::select! {
            outcome = reader.run(incoming) => outcome,
            outcome = writer.run(waiting, outgoing) => outcome,
        };
        for (_, stream) in table.lock().open.drain() {
            stream.gone.cancel();
        }
        let status = match &outcome {
            Ok(()) => Goodbye::Ok,
            Err(SessionError::Connection(_)) => return outcome,
            Err(_) => Goodbye::Protocol,
        };
        let last = table.lock().last;
        let goodbye = Frame::GoAway { last, status: status as u32 }.encode();
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, outgoing.send(goodbye)).await;
        outcome
    }
}

struct Reader {
    table: Arc<Mutex<Table>>,
    orders: mpsc::Sender<Order>,
    accepted: mpsc::Sender<Stream>,
    patience: Option<Duration>,
    inflater: Inflater,
}

impl Reader {
    async fn run<E: Display>(
        mut self,
        incoming: &mut (impl futures::Stream<Item = Result<Bytes, E>> + Unpin),
    ) -> Result<(), SessionError> {
        let mut decoder = Decoder::default();
        while let Some(bytes) = incoming.next().await {
            decoder.put(&bytes.map_err(SessionError::connection)?);
            while let Some(frame) = decoder.next()? {
                self.take(frame).await?;
            }
        }
        Ok(())
    }

    async fn take(&mut self, frame: Frame) -> Result<(), SessionError> {
        match frame {
            Frame::SynStream { id, fin, unidirectional, block } => {
                // A stream that is refused is part of the compressed stream all the same.
                let block = self.inflater.block(&block)?;
                self.open(id, fin, unidirectional, &block).await?;
            }
            Frame::SynReply { id, .. } => return Err(SessionError::Reply(id)),
            Frame::Headers { id, fin, block } => {
                // More headers than a stream began with say nothing to anybody here.
                self.inflater.block(&block)?;
                if fin {
                    self.table.lock().finish(id, |stream| stream.data = None);
                }
            }
            Frame::Reset { id, .. } => self.table.lock().reset(id),
            Frame::Data { id, fin, data } => self.data(id, fin, data).await,
            // Pings of ours would have even ids (draft, 2.6.5); there are none.
            Frame::Ping(id) if id % 2 == 1 => self.order(Order::Pong(id)).await,
            // The client closes the connection when its streams are over.
            Frame::Ping(_) | Frame::GoAway { .. } | Frame::Ignored(_) => {}
        }
        Ok(())
    }

    async fn open(&self, id: u32, fin: bool, unidirectional: bool, block: &[u8]) -> Result<(), SessionError> {
        let (data, from_client) = mpsc::channel(WAITING_PIECES);
        let gone = CancellationToken::new();
        let opened = {
            let mut table = self.table.lock();
            if id.is_multiple_of(2) || id <= table.last {
                return Err(SessionError::StreamId { id, last: table.last });
            }
            table.last = id;
            match Headers::parse(block) {
                Err(_) => Err(Status::Protocol),
                // Nothing could be answered in it.
                Ok(_) if unidirectional => Err(Status::Refused),
                Ok(_) if table.open.len() >= MAX_STREAMS => Err(Status::Refused),
                Ok(headers) => {
                    let data = (!fin).then_some(data);
                    table.open.insert(id, Open { data, finished: false, gone: gone.clone() });
                    Ok(headers)
                }
            }
        };
        match opened {
            Ok(headers) => {
                self.order(Order::Reply(id)).await;
                let to_client = Sender { id, orders: self.orders.clone(), gone };
                let stream = Stream { headers, from_client: Receiver(from_client), to_client };
                if self.accepted.send(stream).await.is_err() {
                    self.reset(id, Status::Refused).await;
                }
            }
            Err(status) => self.reset(id, status).await,
        }
        Ok(())
    }

    async fn data(&self, id: u32, fin: bool, data: Bytes) {
        let to = {
            let table = self.table.lock();
            match table.open.get(&id) {
                Some(stream) => stream.data.clone().ok_or(Status::AlreadyClosed),
                // What was on its way when the stream ended.
                None if id % 2 == 1 && id <= table.last => return,
                None => Err(Status::InvalidStream),
            }
        };
        let reader = match to {
            Ok(reader) => reader,
            Err(status) => return self.reset(id, status).await,
        };
        if !data.is_empty() {
            // A reader that is no longer there lost interest: the rest is dropped.
            match self.patience {
                Some(patience) => {
                    if let Err(mpsc::error::SendTimeoutError::Timeout(_)) = reader.send_timeout(data, patience).await {
                        return self.reset(id, Status::FlowControl).await;
                    }
                }
                None => drop(reader.send(data).await),
            }
        }
        if fin {
            self.table.lock().finish(id, |stream| stream.data = None);
        }
    }

    async fn reset(&self, id: u32, status: Status) {
        self.order(Order::Reset { id, status }).await;
    }

    /// Fails only when the writer is gone, and the session with it.
    async fn order(&self, order: Order) {
        let _ = self.orders.send(order).await;
    }
}

struct Writer {
    table: Arc<Mutex<Table>>,
    deflater: Deflater,
}

impl Writer {
    async fn run<O>(&mut self, mut orders: mpsc::Receiver<Order>, outgoing: &mut O) -> Result<(), SessionError>
    where
        O: Sink<Bytes> + Unpin,
        O::Error: Display,
    {
        while let Some(order) = orders.recv().await {
            let frame = match order {
                Order::Reply(id) => {
                    let block = self.deflater.block(&Headers::default())?.into();
                    Frame::SynReply { id, fin: false, block }
                }
                Order::Data { id, data, fin } => {
                    let mut table = self.table.lock();
                    if table.open.get(&id).is_none_or(|stream| stream.finished) {
                        continue;
                    }
                    if fin {
                        table.finish(id, |stream| stream.finished = true);
                    }
                    Frame::Data { id, fin, data }
                }
                Order::Reset { id, status } => {
                    self.table.lock().reset(id);
                    Frame::Reset { id, status: status as u32 }
                }
                Order::Pong(id) => Frame::Ping(id),
                Order::Close => return Ok(()),
            };
            outgoing.send(frame.encode()).await.map_err(SessionError::connection)?;
        }
        Ok(())
    }
}
