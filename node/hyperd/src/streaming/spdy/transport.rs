//! The two ways in which a session comes: as the whole connection after `Upgrade: SPDY/3.1`, and inside of a
//! WebSocket, whose binary messages carry the session's bytes (KEP-4006).

use std::{future::Future, time::Duration};

use axum::{
    extract::{
        Request,
        ws::{CloseFrame, Message, WebSocket, close_code},
    },
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{SinkExt, StreamExt, future::ready};
use hyper_util::rt::TokioIo;
use tokio_util::{
    codec::{BytesCodec, FramedWrite},
    io::ReaderStream,
};

use super::session::{Session, SessionError};

/// The protocol's name in `Upgrade`.
const NAME: &str = "SPDY/3.1";
/// What is spoken in the streams. The client lists what it knows, the server names its choice.
const VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// Names what the server knows where it knows none of the client's.
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
/// Bytes that are read from a connection at once.
const READ: usize = 32 << 10;
/// Time that the client has to close its side, too.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a request asks for a session.
pub(in crate::streaming) fn is_wanted(headers: &HeaderMap) -> bool {
    let has = |name, token: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|t| t.trim().eq_ignore_ascii_case(token))
    };
    has(header::CONNECTION, "upgrade") && has(header::UPGRADE, NAME)
}

/// The first of the client's protocols that is among ours.
fn negotiate(headers: &HeaderMap, ours: &[&'static str]) -> Option<&'static str> {
    let values = headers.get_all(VERSION).iter().filter_map(|value| value.to_str().ok());
    let mut theirs = values.flat_map(|value| value.split(',')).map(str::trim);
    theirs.find_map(|wanted| ours.iter().find(|name| **name == wanted).copied())
}

/// Answers a request for a session over the connection itself. `serve` gets the session and the protocol that was
/// agreed on, and goes on beside it; the session ends with it.
pub(in crate::streaming) fn upgrade<F>(
    mut request: Request,
    protocols: &[&'static str],
    session: Session,
    serve: impl FnOnce(&'static str) -> F,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let Some(protocol) = negotiate(request.headers(), protocols) else {
        let mut response =
            (StatusCode::FORBIDDEN, format!("none of the stream protocols is known; known are {protocols:?}\n"))
                .into_response();
        for protocol in protocols {
            response.headers_mut().append(ACCEPTED, HeaderValue::from_static(protocol));
        }
        return response;
    };
    let serve = serve(protocol);
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let (read, write) = tokio::io::split(TokioIo::new(upgraded));
        let mut outgoing = FramedWrite::new(write, BytesCodec::new());
        let mut incoming = ReaderStream::with_capacity(read, READ);
        beside(session.run(&mut incoming, &mut outgoing), serve).await;
        // What the client has on its way is read: a connection that is closed over it is reset, and what we said last
        // with it.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, async {
            let _ = SinkExt::<Bytes>::close(&mut outgoing).await;
            while let Some(Ok(_)) = incoming.next().await {}
        })
        .await;
    });
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static(NAME)),
        (VERSION, HeaderValue::from_static(protocol)),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// Speaks SPDY in a WebSocket.
pub(in crate::streaming) async fn tunnel(socket: WebSocket, session: Session, serve: impl Future<Output = ()>) {
    let (to_client, from_client) = socket.split();
    let mut outgoing = to_client.with(|bytes: Bytes| ready(Ok::<_, axum::Error>(Message::Binary(bytes))));
    let mut incoming = from_client
        .take_while(|message| ready(!matches!(message, Ok(Message::Close(_)))))
        .filter_map(|message| ready(binary(message)));
    beside(session.run(&mut incoming, &mut outgoing), serve).await;
    // client-go takes only a normal closure for the end of what it reads.
    let close = Message::Close(Some(CloseFrame { code: close_code::NORMAL, reason: "".into() }));
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, async {
        let mut to_client = outgoing.into_inner();
        let _ = to_client.send(close).await;
        let _ = to_client.close().await;
    })
    .await;
}

fn binary(message: Result<Message, axum::Error>) -> Option<Result<Bytes, String>> {
    match message {
        Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
        Ok(Message::Text(_)) => Some(Err("a message in a tunnel is text".into())),
        Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_)) => None,
        Err(error) => Some(Err(error.to_string())),
    }
}

/// Runs both until the session is over. `serve` may be done before: it has asked for the end then, or the client sees
/// that there is nothing more.
async fn beside(run: impl Future<Output = Result<(), SessionError>>, serve: impl Future<Output = ()>) {
    tokio::pin!(run);
    let outcome = tokio::select! {
        outcome = &mut run => outcome,
        () = serve => run.await,
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a SPDY session");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn what_is_asked_for_is_seen() {
        assert!(is_wanted(&headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "spdy/3.1")])));
        assert!(!is_wanted(&headers(&[("connection", "Upgrade"), ("upgrade", "websocket")])));
        assert!(!is_wanted(&headers(&[("upgrade", "SPDY/3.1")])));
    }

    #[test]
    fn the_clients_first_choice_is_taken() {
        let ours = ["a", "b"];
        assert_eq!(negotiate(&headers(&[("x-stream-protocol-version", "c, b")]), &ours), Some("b"));
        let mut lines = headers(&[("x-stream-protocol-version", "b")]);
        lines.append(VERSION, HeaderValue::from_static("a"));
        assert_eq!(negotiate(&lines, &ours), Some("b"));
        assert_eq!(negotiate(&headers(&[("x-stream-protocol-version", "c")]), &ours), None);
        assert_eq!(negotiate(&headers(&[]), &ours), None);
    }
}
