//! A client's side of a session, for tests.

use std::collections::HashMap;

use bytes::Bytes;
use futures::{Sink, SinkExt, Stream, StreamExt};

use super::{
    frame::{Decoder, Frame},
    headers::{Deflater, Headers, Inflater},
};

/// What the server has said on one stream.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Heard {
    pub replied: bool,
    pub data: Vec<u8>,
    pub finished: bool,
    /// The status of a RST_STREAM.
    pub reset: Option<u32>,
}

pub(crate) struct Client<I, O> {
    incoming: I,
    outgoing: O,
    deflater: Deflater,
    inflater: Inflater,
    decoder: Decoder,
    next: u32,
    pub heard: HashMap<u32, Heard>,
    pub pongs: Vec<u32>,
    /// The status of a GOAWAY.
    pub goodbye: Option<u32>,
    /// The connection is over.
    pub ended: bool,
}

impl<I, O> Client<I, O>
where
    I: Stream<Item = Bytes> + Unpin,
    O: Sink<Bytes> + Unpin,
{
    pub(crate) fn new(incoming: I, outgoing: O) -> Self {
        Self {
            incoming,
            outgoing,
            deflater: Deflater::new().unwrap(),
            inflater: Inflater::new(),
            decoder: Decoder::default(),
            next: 1,
            heard: HashMap::new(),
            pongs: Vec::new(),
            goodbye: None,
            ended: false,
        }
    }

    pub(crate) async fn raw(&mut self, bytes: impl Into<Bytes>) {
        let _ = self.outgoing.send(bytes.into()).await;
    }

    pub(crate) async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        self.open_as(id, false, headers).await;
        id
    }

    pub(crate) async fn open_as(&mut self, id: u32, unidirectional: bool, headers: &[(&str, &str)]) {
        let headers: Headers = headers.iter().copied().collect();
        let block = self.deflater.block(&headers).unwrap().into();
        self.raw(Frame::SynStream { id, fin: false, unidirectional, block }.encode()).await;
    }

    pub(crate) async fn data(&mut self, id: u32, data: &[u8], fin: bool) {
        self.raw(Frame::Data { id, fin, data: Bytes::copy_from_slice(data) }.encode()).await;
    }

    pub(crate) async fn reset(&mut self, id: u32) {
        self.raw(Frame::Reset { id, status: 5 }.encode()).await;
    }

    pub(crate) async fn ping(&mut self, id: u32) {
        self.raw(Frame::Ping(id).encode()).await;
    }

    /// Another way to the server, for what must not wait for the client.
    pub(crate) fn clone_outgoing(&self) -> O
    where
        O: Clone,
    {
        self.outgoing.clone()
    }

    pub(crate) fn heard(&self, id: u32) -> Heard {
        self.heard.get(&id).cloned().unwrap_or_default()
    }

    /// Reads until something is so, or the connection is over.
    pub(crate) async fn until(&mut self, what: impl Fn(&Self) -> bool) {
        let reading = async {
            while !what(self) && !self.ended {
                match self.incoming.next().await {
                    Some(bytes) => self.take(&bytes),
                    None => self.ended = true,
                }
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), reading).await.expect("the server to say more");
        assert!(what(self) || self.ended);
    }

    fn take(&mut self, bytes: &[u8]) {
        self.decoder.put(bytes);
        while let Some(frame) = self.decoder.next().unwrap() {
            match frame {
                Frame::SynReply { id, block, .. } => {
                    Headers::parse(&self.inflater.block(&block).unwrap()).unwrap();
                    self.heard.entry(id).or_default().replied = true;
                }
                Frame::Data { id, fin, data } => {
                    let heard = self.heard.entry(id).or_default();
                    assert!(heard.replied && !heard.finished && heard.reset.is_none(), "{id}: {heard:?}");
                    heard.data.extend_from_slice(&data);
                    heard.finished = fin;
                }
                Frame::Reset { id, status } => self.heard.entry(id).or_default().reset = Some(status),
                Frame::Ping(id) => self.pongs.push(id),
                Frame::GoAway { status, .. } => self.goodbye = Some(status),
                other => panic!("{other:?}"),
            }
        }
    }
}
