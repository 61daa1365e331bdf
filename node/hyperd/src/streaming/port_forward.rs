//! port-forward over WebSocket: in a tunnel for SPDY where the client asks for one, as kubectl does, or in channels, as
//! the kubelet has always offered them beside SPDY: port number `n` of the request has the channels `2n` (data) and
//! `2n + 1` (errors); the server begins each with the port number in two bytes, the lower one first.

use std::sync::Arc;

use axum::{
    extract::{
        WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures::{SinkExt, StreamExt, future::join_all};
use tokio::sync::mpsc;

use super::port_forward_spdy::{self, TUNNEL};
use crate::{
    budget::Share,
    dial::{Connection, Reader, Writer},
    runtime::Runtime,
};

const PROTOCOL: &str = "v4.channel.k8s.io";
/// Channel numbers fit into a byte.
const MAX_PORTS: usize = 127;

pub(super) fn serve(
    runtime: Arc<Runtime>,
    upgrade: WebSocketUpgrade,
    sandbox_id: String,
    ports: Vec<u16>,
    share: Share,
) -> Response {
    let upgrade = upgrade.protocols([TUNNEL, PROTOCOL]);
    if upgrade.selected_protocol().is_some_and(|protocol| protocol == TUNNEL) {
        // The client names the ports in its streams.
        return upgrade.on_upgrade(move |socket| async move {
            let _share = share;
            port_forward_spdy::tunnel(runtime, socket, sandbox_id).await;
        });
    }
    if ports.is_empty() || ports.len() > MAX_PORTS {
        return (StatusCode::BAD_REQUEST, "between 1 and 127 ports must be named\n").into_response();
    }
    upgrade.on_upgrade(move |socket| async move {
        let _share = share;
        forward(runtime, socket, sandbox_id, ports).await;
    })
}

async fn forward(runtime: Arc<Runtime>, socket: WebSocket, sandbox_id: String, ports: Vec<u16>) {
    let (mut to_client, mut from_client) = socket.split();
    let (frames, mut queued) = mpsc::channel::<Message>(16);
    let sender = async {
        while let Some(message) = queued.recv().await {
            if to_client.send(message).await.is_err() {
                break;
            }
        }
    };
    let work = async {
        let mut writers: Vec<Option<Writer>> = Vec::new();
        let mut readers = Vec::new();
        for (port, channel) in ports.iter().zip((0u8..).step_by(2)) {
            for channel in [channel, channel + 1] {
                let _ = frames.send(frame(channel, &port.to_le_bytes())).await;
            }
            let opened = async {
                let agent = runtime.sandbox(&sandbox_id)?.live()?.agent.clone();
                Connection::open(&agent, "", (*port).into()).await
            };
            match opened.await {
                Ok(connection) => {
                    let (writer, reader) = connection.split();
                    writers.push(Some(writer));
                    readers.push(read(reader, frames.clone(), channel));
                }
                Err(error) => {
                    writers.push(None);
                    let _ = frames.send(frame(channel + 1, error.to_string().as_bytes())).await;
                }
            }
        }
        drop(frames);
        let write = async {
            while let Some(Ok(message)) = from_client.next().await {
                let Message::Binary(bytes) = message else { continue };
                let Some((channel, data)) = bytes.split_first() else { continue };
                let writer = writers.get(usize::from(channel / 2)).and_then(Option::as_ref);
                if let (0, Some(writer)) = (channel % 2, writer) {
                    writer.write(data, false).await;
                }
            }
        };
        tokio::select! {
            () = write => {}
            _ = join_all(readers) => {}
        }
    };
    tokio::join!(work, sender);
    let _ = to_client.close().await;
}

async fn read(mut reader: Reader, frames: mpsc::Sender<Message>, channel: u8) {
    loop {
        match reader.read().await {
            Ok(Some((data, last))) => {
                if !data.is_empty() && frames.send(frame(channel, &data)).await.is_err() || last {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => {
                let _ = frames.send(frame(channel + 1, error.to_string().as_bytes())).await;
                return;
            }
        }
    }
}

fn frame(channel: u8, data: &[u8]) -> Message {
    let mut bytes = Vec::with_capacity(data.len() + 1);
    bytes.push(channel);
    bytes.extend_from_slice(data);
    Message::Binary(bytes.into())
}
