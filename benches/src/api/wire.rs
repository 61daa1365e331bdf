//! Connections: one of a client's each, and nothing done for an answer but to count it, unless it is asked for.

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::target::{Http, Target};

pub const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub const MERGE_PATCH: HeaderValue = HeaderValue::from_static("application/merge-patch+json");

/// A request whose bytes are made.
#[derive(Clone)]
pub struct Prepared {
    pub method: Method,
    pub uri: Uri,
    pub body: Bytes,
    pub content_type: HeaderValue,
    /// Any other answer is an error.
    pub status: StatusCode,
    /// But for this one, where somebody else may have been there.
    pub or: Option<StatusCode>,
    /// So much is in the answer at least: a list that is short is an error.
    pub least_bytes: usize,
}

impl Prepared {
    pub fn get(uri: Uri) -> Self {
        let (method, status) = (Method::GET, StatusCode::OK);
        Self { method, uri, body: Bytes::new(), content_type: JSON, status, or: None, least_bytes: 0 }
    }

    pub fn post(uri: Uri, body: impl Into<Bytes>) -> Self {
        Self { method: Method::POST, body: body.into(), status: StatusCode::CREATED, ..Self::get(uri) }
    }

    pub fn put(uri: Uri, body: impl Into<Bytes>) -> Self {
        Self { method: Method::PUT, body: body.into(), ..Self::get(uri) }
    }

    pub fn delete(uri: Uri) -> Self {
        Self { method: Method::DELETE, ..Self::get(uri) }
    }
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

pub struct Connection {
    target: Target,
    sender: Sender,
}

impl Connection {
    pub async fn open(target: &Target) -> Result<Self> {
        let stream =
            TcpStream::connect(&target.address).await.with_context(|| format!("reaching {}", target.address))?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(target.tls.clone()).connect(target.server_name.clone(), stream).await?;
        let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        ensure!(target.tls.alpn_protocols.first() == agreed.as_ref(), "{} speaks another HTTP", target.name);
        let stream = TokioIo::new(stream);
        let sender = match target.http {
            Http::One => {
                let (sender, connection) = http1::handshake(stream).await?;
                tokio::spawn(connection);
                Sender::One(sender)
            }
            Http::Two => {
                // Lists are read as fast as they come, from either server.
                let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                    .initial_stream_window_size(4 << 20)
                    .initial_connection_window_size(4 << 20)
                    .handshake(stream)
                    .await?;
                tokio::spawn(connection);
                Sender::Two(sender)
            }
        };
        Ok(Self { target: target.clone(), sender })
    }

    /// The answer's body, which has the status that is wanted.
    pub async fn send(&mut self, prepared: &Prepared) -> Result<Incoming> {
        let mut request = Request::new(Full::new(prepared.body.clone()));
        *request.method_mut() = prepared.method.clone();
        *request.uri_mut() = prepared.uri.clone();
        *request.headers_mut() = self.target.headers.clone();
        if !prepared.body.is_empty() {
            request.headers_mut().insert(header::CONTENT_TYPE, prepared.content_type.clone());
        }
        let answer = match &mut self.sender {
            Sender::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Two(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        if answer.status() != prepared.status && Some(answer.status()) != prepared.or {
            let (head, body) = answer.into_parts();
            let said = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let Prepared { method, uri, .. } = prepared;
            bail!("{}: {method} {uri}: {}: {}", self.target.name, head.status, String::from_utf8_lossy(&said));
        }
        Ok(answer.into_body())
    }

    /// Sends, reads all of the answer, and says how long it is. Its first bytes, as many as `head` has room for, are kept.
    pub async fn ask(&mut self, prepared: &Prepared, head: &mut Vec<u8>) -> Result<usize> {
        let mut body = self.send(prepared).await?;
        head.clear();
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                let room = head.capacity() - head.len();
                head.extend_from_slice(&data[..room.min(data.len())]);
                read += data.len();
            }
        }
        let Prepared { method, uri, least_bytes, .. } = prepared;
        ensure!(read >= *least_bytes, "{}: {method} {uri}: an answer of {read} bytes only", self.target.name);
        Ok(read)
    }

    /// For what is not measured.
    pub async fn value(&mut self, prepared: &Prepared) -> Result<Value> {
        let body = self.whole(prepared).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Likewise.
    pub async fn whole(&mut self, prepared: &Prepared) -> Result<Bytes> {
        let mut body = self.send(prepared).await?;
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                whole.extend_from_slice(&data);
            }
        }
        Ok(whole.freeze())
    }
}
