//! TCP connections inside the pod, for port-forward and probes.

use std::pin::Pin;

use futures::Stream;
use hypernetes_guest_protocol::v1;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Status, Streaming};

pub type Chunks = Pin<Box<dyn Stream<Item = Result<v1::DialChunk, Status>> + Send>>;

const CHUNK: usize = 32 << 10;
const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

pub async fn dial(mut incoming: Streaming<v1::DialChunk>) -> Result<Chunks, Status> {
    let first = incoming.message().await?.ok_or_else(|| Status::invalid_argument("no target"))?;
    let host = if first.host.is_empty() { "127.0.0.1" } else { &first.host };
    let port = u16::try_from(first.port).map_err(|_| Status::invalid_argument("no such port"))?;
    let connect = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port)));
    let stream = connect
        .await
        .map_err(|_| Status::deadline_exceeded(format!("{host}:{port}: no answer")))?
        .map_err(|error| Status::unavailable(format!("{host}:{port}: {error}")))?;
    let (mut reader, mut writer) = stream.into_split();
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut next = Some(first);
        while let Some(chunk) = next {
            if !chunk.data.is_empty() && writer.write_all(&chunk.data).await.is_err() {
                return;
            }
            if chunk.close_write {
                let _ = writer.shutdown().await;
            }
            next = incoming.next().await.and_then(Result::ok);
        }
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; CHUNK];
        loop {
            let chunk = match reader.read(&mut buffer).await {
                Ok(0) => Ok(v1::DialChunk { close_write: true, ..Default::default() }),
                Ok(read) => Ok(v1::DialChunk { data: buffer[..read].to_vec(), ..Default::default() }),
                Err(error) => Err(Status::unavailable(error.to_string())),
            };
            let last = !matches!(&chunk, Ok(chunk) if !chunk.close_write);
            if sender.send(chunk).await.is_err() || last {
                return;
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}
