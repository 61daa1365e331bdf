//! exec and attach over SPDY, for clients from before WebSocket (kubectl up to 1.30 by default).
//!
//! The client opens one stream for each of what its request asks for, named by `streamtype`, and one for errors. From
//! `v3.channel.k8s.io` on there is a stream with sizes of a terminal (`{"Width":…,"Height":…}` one after the other);
//! in `v4.channel.k8s.io` the stream for errors gets a Status object, before that a text when something went wrong.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{extract::Request, response::Response};
use bytes::Bytes;
use futures::{
    StreamExt,
    future::ready,
    stream::{self, BoxStream},
};
use tokio::sync::mpsc;

use super::{
    Streams,
    remote_command::{self, Input, Output, Size, Target},
    spdy::{self, Closer, Receiver, Sender, Session, Status, Stream},
};
use crate::{budget::Share, logs, runtime::Runtime};

const V4: &str = "v4.channel.k8s.io";
const V3: &str = "v3.channel.k8s.io";
const V2: &str = "v2.channel.k8s.io";
const V1: &str = "channel.k8s.io";
/// Time for a client to open its streams, as in the kubelet upstream.
const OPENING: Duration = Duration::from_secs(30);
/// Longest beginning of a size that is kept until its end comes.
const MAX_SIZE: usize = 1024;

pub(super) fn serve(
    runtime: Arc<Runtime>,
    request: Request,
    container_id: String,
    target: Target,
    streams: Streams,
    share: Share,
) -> Response {
    // A process may read its input slowly, and nothing else is in the session that it would hold up.
    let (session, mut opened) = Session::new(None);
    let closer = session.closer();
    spdy::upgrade(request, &[V4, V3, V2, V1], session, move |protocol| async move {
        let _share = share;
        let wanted = wanted(streams, protocol);
        match tokio::time::timeout(OPENING, gather(&mut opened, &wanted)).await {
            Ok(Some(gathered)) => {
                drop(opened);
                talk(&runtime, gathered, &container_id, target, streams, protocol).await;
            }
            Ok(None) => {}
            Err(_) => tracing::debug!(?wanted, "a client did not open its streams"),
        }
        Closer::close(closer).await;
    })
}

/// Types of the streams that the client has to open.
fn wanted(streams: Streams, protocol: &str) -> Vec<&'static str> {
    let resizes = streams.tty && matches!(protocol, V3 | V4);
    let all = [
        ("error", true),
        ("stdin", streams.stdin),
        ("stdout", streams.stdout),
        ("stderr", streams.stderr),
        ("resize", resizes),
    ];
    all.into_iter().filter(|(_, wanted)| *wanted).map(|(kind, _)| kind).collect()
}

/// The streams by their types; none when the session ended before all were there.
async fn gather(opened: &mut mpsc::Receiver<Stream>, wanted: &[&'static str]) -> Option<HashMap<&'static str, Stream>> {
    let mut gathered = HashMap::new();
    while gathered.len() < wanted.len() {
        let stream = opened.recv().await?;
        let kind = stream.headers.get("streamtype").and_then(|kind| wanted.iter().find(|w| **w == kind).copied());
        match kind {
            Some(kind) if !gathered.contains_key(kind) => {
                gathered.insert(kind, stream);
            }
            _ => stream.to_client.reset(Status::Protocol).await,
        }
    }
    Some(gathered)
}

async fn talk(
    runtime: &Arc<Runtime>,
    mut gathered: HashMap<&'static str, Stream>,
    container_id: &str,
    target: Target,
    streams: Streams,
    protocol: &str,
) {
    // It is always there.
    let Some(Stream { to_client: errors, .. }) = gathered.remove("error") else { return };
    let mut output = Outputs {
        stdout: gathered.remove("stdout").map(|stream| stream.to_client),
        stderr: gathered.remove("stderr").map(|stream| stream.to_client),
    };
    let stdin = gathered.remove("stdin").map(|stream| stdin(stream.from_client));
    let resize = gathered.remove("resize").map(|stream| sizes(stream.from_client));
    let nothing = || stream::pending().boxed();
    let input = stream::select(stdin.unwrap_or_else(nothing), resize.unwrap_or_else(nothing)).take_until(errors.gone());
    let outcome = remote_command::run(runtime, &mut output, input, container_id, target, streams).await;
    let Some(status) = remote_command::status(outcome) else { return };
    for stream in [output.stdout, output.stderr].into_iter().flatten() {
        stream.finish().await;
    }
    let text = match (protocol, status["status"].as_str(), status["message"].as_str()) {
        (V4, ..) => status.to_string(),
        (_, Some("Success"), _) | (.., None) => String::new(),
        (.., Some(message)) => message.to_owned(),
    };
    errors.write(text.as_bytes()).await;
    errors.finish().await;
}

struct Outputs {
    stdout: Option<Sender>,
    stderr: Option<Sender>,
}

impl Output for Outputs {
    async fn send(&mut self, stream: logs::Stream, data: &[u8]) -> bool {
        let to = match stream {
            logs::Stream::Stdout => &self.stdout,
            logs::Stream::Stderr => &self.stderr,
        };
        match to {
            Some(to) => to.write(data).await,
            None => true,
        }
    }
}

fn pieces(from_client: Receiver) -> impl futures::Stream<Item = Bytes> + Send {
    stream::unfold(from_client, async |mut from| from.read().await.map(|piece| (piece, from)))
}

/// Standard input and its end. The end of the session is told by another stream.
fn stdin(from_client: Receiver) -> BoxStream<'static, Input> {
    let end = stream::once(ready(Input::CloseStdin));
    pieces(from_client).map(Input::Stdin).chain(end).chain(stream::pending()).boxed()
}

fn sizes(from_client: Receiver) -> BoxStream<'static, Input> {
    let mut kept = Vec::new();
    let sizes = pieces(from_client).flat_map(move |piece| {
        kept.extend_from_slice(&piece);
        stream::iter(whole_sizes(&mut kept))
    });
    sizes.chain(stream::pending()).boxed()
}

/// Takes the sizes that are whole out of what has come; what is none is dropped.
fn whole_sizes(kept: &mut Vec<u8>) -> Vec<Input> {
    let mut found = Vec::new();
    let mut sizes = serde_json::Deserializer::from_slice(kept).into_iter::<Size>();
    let mut until = 0;
    loop {
        match sizes.next() {
            Some(Ok(Size { width, height })) => {
                found.push(Input::Resize(width, height));
                until = sizes.byte_offset();
            }
            Some(Err(error)) if error.is_eof() && kept.len() - until <= MAX_SIZE => break,
            Some(Err(_)) | None => {
                until = kept.len();
                break;
            }
        }
    }
    kept.drain(..until);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_whole_or_in_pieces() {
        let mut kept = Vec::new();
        let mut put = |text: &str| {
            kept.extend_from_slice(text.as_bytes());
            let size = |input| match input {
                Input::Resize(width, height) => (width, height),
                _ => panic!(),
            };
            let sizes: Vec<_> = whole_sizes(&mut kept).into_iter().map(size).collect();
            (sizes, kept.len())
        };
        assert_eq!(put("{\"Width\":80,\"Height\":24}\n{\"Wid"), (vec![(80, 24)], 6));
        assert_eq!(put("th\":1,\"Height\":2}"), (vec![(1, 2)], 0));
        assert_eq!(put("nonsense"), (vec![], 0));
        assert_eq!(put("{\"Width\":-1,\"Height\":24}").0, []);
        assert_eq!(put("\n{\"Width\":3,\"Height\":4}\n"), (vec![(3, 4)], 0));
        assert_eq!(put(&format!("{{\"{}", "x".repeat(MAX_SIZE))), (vec![], 0));
    }

    #[test]
    fn streams_are_those_of_the_request_and_the_protocol() {
        let streams = Streams { stdin: true, stdout: true, stderr: false, tty: true };
        assert_eq!(wanted(streams, V4), ["error", "stdin", "stdout", "resize"]);
        assert_eq!(wanted(streams, V2), ["error", "stdin", "stdout"]);
    }
}
