//! port-forward over SPDY, which kubectl speaks: in a tunnel through a WebSocket (KEP-4006), and over the connection
//! itself where there is none.
//!
//! For each connection the client opens two streams with the same `requestid` and `port`: one with `streamtype: error`,
//! on which it is told in text what went wrong, and then one with `streamtype: data`.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, ws::WebSocket},
    response::Response,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::spdy::{self, Session, Status, Stream};
use crate::{
    budget::Share,
    dial::{Connection, Reader, Writer},
    error::Result,
    runtime::Runtime,
};

/// The WebSocket subprotocol of the tunnel.
pub(super) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// What is spoken in the streams.
const PROTOCOL: &str = "portforward.k8s.io";
/// Time that the second stream of a connection may come after the first, as in the kubelet upstream.
const PAIRING: Duration = Duration::from_secs(30);
/// Time for which one connection that the pod does not read from may hold up the others.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

/// One stream of two.
struct Half {
    stream: Stream,
    kind: Kind,
    request: String,
    port: u16,
    until: Instant,
}

impl Half {
    /// None, and the stream back, when its headers are not those of a connection.
    fn new(stream: Stream) -> std::result::Result<Self, Stream> {
        let get = |name| stream.headers.get(name);
        let kind = match get("streamtype") {
            Some("data") => Kind::Data,
            Some("error") => Kind::Error,
            _ => return Err(stream),
        };
        let port = get("port").and_then(|port| port.parse().ok()).filter(|port| *port != 0);
        match (get("requestid").map(str::to_owned), port) {
            (Some(request), Some(port)) if !request.is_empty() => {
                Ok(Self { stream, kind, request, port, until: Instant::now() + PAIRING })
            }
            _ => Err(stream),
        }
    }
}

/// Forwards over the connection itself.
pub(super) fn upgrade(runtime: Arc<Runtime>, request: Request, sandbox_id: String, share: Share) -> Response {
    let (session, streams) = Session::new(Some(PATIENCE));
    spdy::upgrade(request, &[PROTOCOL], session, |_| async move {
        let _share = share;
        serve(runtime, sandbox_id, streams).await;
    })
}

/// Forwards in a WebSocket whose subprotocol is [`TUNNEL`].
pub(super) async fn tunnel(runtime: Arc<Runtime>, socket: WebSocket, sandbox_id: String) {
    let (session, streams) = Session::new(Some(PATIENCE));
    spdy::tunnel(socket, session, serve(runtime, sandbox_id, streams)).await;
}

/// Forwards what the client opens until it opens nothing more. Connections end with the future.
async fn serve(runtime: Arc<Runtime>, sandbox_id: String, mut streams: mpsc::Receiver<Stream>) {
    // A session has a bounded number of streams, and so has this.
    let mut waiting: Vec<Half> = Vec::new();
    let mut connections = JoinSet::new();
    loop {
        let expiry = waiting.first().map(|half| half.until);
        tokio::select! {
            stream = streams.recv() => {
                let Some(stream) = stream else { return };
                let half = match Half::new(stream) {
                    Ok(half) => half,
                    Err(stream) => {
                        stream.to_client.reset(Status::Protocol).await;
                        continue;
                    }
                };
                let Some(at) = waiting.iter().position(|other| other.request == half.request) else {
                    waiting.push(half);
                    continue;
                };
                let other = waiting.remove(at);
                let (data, errors) = match (half.kind, other.kind) {
                    _ if half.port != other.port => {
                        half.stream.to_client.reset(Status::Protocol).await;
                        other.stream.to_client.reset(Status::Protocol).await;
                        continue;
                    }
                    (Kind::Data, Kind::Error) => (half.stream, other.stream),
                    (Kind::Error, Kind::Data) => (other.stream, half.stream),
                    // The first one goes on waiting.
                    _ => {
                        half.stream.to_client.reset(Status::Protocol).await;
                        waiting.insert(at, other);
                        continue;
                    }
                };
                connections.spawn(connection(runtime.clone(), sandbox_id.clone(), half.port, data, errors));
            }
            Some(_) = connections.join_next() => {}
            () = sleep_until(expiry.unwrap_or_else(Instant::now)), if expiry.is_some() => {
                waiting.remove(0).stream.to_client.reset(Status::Cancel).await;
            }
        }
    }
}

/// Copies between a stream and a port of the pod, and tells on the other stream what went wrong.
async fn connection(runtime: Arc<Runtime>, sandbox_id: String, port: u16, mut data: Stream, errors: Stream) {
    let work = async {
        let agent = runtime.sandbox(&sandbox_id)?.live()?.agent.clone();
        let (writer, reader) = Connection::open(&agent, "", port.into()).await?.split();
        copy(&mut data, writer, reader).await
    };
    if let Err(error) = work.await {
        let message = format!("error forwarding port {port} to pod {sandbox_id}: {error}");
        errors.to_client.write(message.as_bytes()).await;
    }
    // The error first: the client asks for it once its data is over.
    errors.to_client.finish().await;
    data.to_client.finish().await;
    // What the client still sends goes nowhere; it resets the stream when it has read its end.
}

/// Until the pod's side is over, or the client has reset the stream.
async fn copy(data: &mut Stream, writer: Writer, mut reader: Reader) -> Result<()> {
    let Stream { from_client, to_client, .. } = data;
    let to_pod = async {
        while let Some(piece) = from_client.read().await {
            if !writer.write(&piece, false).await {
                break;
            }
        }
        writer.write(&[], true).await;
        // The pod may have more to say.
        std::future::pending().await
    };
    let to_client_side = async {
        while let Some((piece, last)) = reader.read().await? {
            if !to_client.write(&piece).await || last {
                break;
            }
        }
        Ok(())
    };
    tokio::select! {
        outcome = to_client_side => outcome,
        outcome = to_pod => outcome,
        () = to_client.gone() => Ok(()),
    }
}
