//! A way to an etcd that looks at what the client sends: HTTP/2, not encrypted.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Types of frames (RFC 9113, section 6).
const DATA: u8 = 0;
pub const RESET: u8 = 3;
/// Of what begins a connection.
const PREFACE: usize = 24;

pub struct CountedFrames {
    at: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    frames: Mutex<BTreeMap<u8, usize>>,
    /// Frames with data.
    data: watch::Sender<usize>,
    held: watch::Sender<bool>,
}

impl CountedFrames {
    pub async fn before(url: &str) -> Self {
        let target: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
        let listener = TcpListener::bind(super::address()).await.unwrap();
        let (at, seen) = (listener.local_addr().unwrap(), Arc::<Seen>::default());
        let counts = seen.clone();
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let (client, client_out) = from.into_split();
                let (server, server_out) = TcpStream::connect(target).await.unwrap().into_split();
                tokio::spawn(requests(client, server_out, counts.clone()));
                tokio::spawn(answers(server, client_out, counts.held.subscribe()));
            }
        });
        Self { at, seen }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    /// Until the opposite is said.
    pub fn hold_answers(&self, hold: bool) {
        self.seen.held.send_replace(hold);
    }

    /// Returns when the next request with something in it has gone to the server.
    pub async fn sent_data(&self) {
        let mut data = self.seen.data.subscribe();
        let before = *data.borrow_and_update();
        data.wait_for(|data| *data > before).await.unwrap();
    }

    /// Frames of one type that the client has sent.
    pub fn of_type(&self, kind: u8) -> usize {
        self.seen.frames.lock().unwrap().get(&kind).copied().unwrap_or_default()
    }
}

async fn requests(mut client: impl AsyncReadExt + Unpin, mut server: impl AsyncWriteExt + Unpin, seen: Arc<Seen>) {
    let mut preface = [0; PREFACE];
    if client.read_exact(&mut preface).await.is_err() || server.write_all(&preface).await.is_err() {
        return;
    }
    let mut head = [0; 9];
    while client.read_exact(&mut head).await.is_ok() {
        let [a, b, c, kind, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        if client.read_exact(&mut payload).await.is_err()
            || server.write_all(&[&head[..], &payload].concat()).await.is_err()
        {
            return;
        }
        *seen.frames.lock().unwrap().entry(kind).or_default() += 1;
        if kind == DATA && !payload.is_empty() {
            seen.data.send_modify(|data| *data += 1);
        }
    }
}

async fn answers(
    mut server: impl AsyncReadExt + Unpin,
    mut client: impl AsyncWriteExt + Unpin,
    mut held: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(read @ 1..) = server.read(&mut bytes).await {
        if held.wait_for(|held| !held).await.is_err() || client.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
