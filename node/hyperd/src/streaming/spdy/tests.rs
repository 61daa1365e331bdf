//! Sessions against a client that keeps to the rules, and against one that does not.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures::{SinkExt, StreamExt, channel::mpsc};
use proptest::prelude::*;

use super::{
    Session, Status,
    session::{MAX_STREAMS, SessionError},
    stream::Stream,
    testing::{Client, Heard},
};

type Ended = tokio::task::JoinHandle<Result<(), SessionError>>;
type Peer = Client<mpsc::Receiver<Bytes>, mpsc::Sender<Bytes>>;

fn start(patience: Option<Duration>) -> (Peer, tokio::sync::mpsc::Receiver<Stream>, Ended) {
    let (to_server, from_client) = mpsc::channel(4);
    let (mut to_client, from_server) = mpsc::channel(4);
    let (session, streams) = Session::new(patience);
    let mut incoming = from_client.map(Ok::<Bytes, Infallible>);
    let ended = tokio::spawn(async move { session.run(&mut incoming, &mut to_client).await });
    (Client::new(from_server, to_server), streams, ended)
}

#[tokio::test]
async fn streams_carry_data_in_both_directions() {
    let (mut client, mut streams, ended) = start(None);
    let id = client.open(&[("streamtype", "data")]).await;
    client.data(id, b"ping", true).await;
    let mut stream = streams.recv().await.unwrap();
    assert_eq!(stream.headers.get("streamtype"), Some("data"));
    assert_eq!(stream.from_client.read().await.unwrap(), &b"ping"[..]);
    assert_eq!(stream.from_client.read().await, None);
    let long = vec![7; 100_000];
    let written = tokio::spawn(async move {
        assert!(stream.to_client.write(&long).await);
        stream.to_client.finish().await;
        // After the end nothing is sent; the client checks it.
        stream.to_client.write(b"late").await;
    });
    client.until(|c| c.heard(id).finished).await;
    written.await.unwrap();
    assert_eq!(client.heard(id).data.len(), 100_000);
    client.ping(9).await;
    client.ping(10).await;
    client.ping(11).await;
    client.until(|c| c.pongs.len() == 2).await;
    assert_eq!(client.pongs, [9, 11]);
    drop(client);
    assert!(matches!(ended.await.unwrap(), Ok(()) | Err(SessionError::Connection(_))));
}

#[tokio::test]
async fn a_reset_reaches_the_streams_user() {
    let (mut client, mut streams, _ended) = start(None);
    let id = client.open(&[]).await;
    let mut stream = streams.recv().await.unwrap();
    client.reset(id).await;
    stream.to_client.gone().await;
    assert_eq!(stream.from_client.read().await, None);
    assert!(!stream.to_client.write(b"x").await);
    // What was on its way is no error.
    client.data(id, b"late", false).await;
    let other = client.open(&[]).await;
    let stream = streams.recv().await.unwrap();
    stream.to_client.reset(Status::Cancel).await;
    client.until(|c| c.heard(other).reset == Some(5)).await;
    assert_eq!(client.heard(id).reset, None);
}

#[tokio::test]
async fn a_session_that_is_closed_says_all_before() {
    let (mut client, mut streams, ended) = {
        let (to_server, from_client) = mpsc::channel(4);
        let (mut to_client, from_server) = mpsc::channel(4);
        let (session, streams) = Session::new(None);
        let closer = session.closer();
        let mut incoming = from_client.map(Ok::<Bytes, Infallible>);
        let ended = tokio::spawn(async move { session.run(&mut incoming, &mut to_client).await });
        (Client::new(from_server, to_server), streams, (ended, closer))
    };
    let id = client.open(&[]).await;
    let stream = streams.recv().await.unwrap();
    tokio::spawn(async move {
        stream.to_client.write(&[1; 200_000]).await;
        stream.to_client.finish().await;
        ended.1.close().await;
        stream.to_client.gone().await;
    });
    client.until(|c| c.ended).await;
    assert_eq!((client.heard(id).data.len(), client.heard(id).finished), (200_000, true));
    assert_eq!(client.goodbye, Some(0));
    ended.0.await.unwrap().unwrap();
}

#[tokio::test]
async fn streams_have_limits() {
    let (mut client, mut streams, _ended) = start(None);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Some(stream) = streams.recv().await {
            held.push(stream);
        }
    });
    for _ in 0..MAX_STREAMS {
        let id = client.open(&[]).await;
        client.until(|c| c.heard(id).replied).await;
    }
    let id = client.open(&[]).await;
    client.until(|c| c.heard(id).reset.is_some()).await;
    assert_eq!(client.heard(id).reset, Some(Status::Refused as u32));
    // One that ends makes room for another.
    client.reset(1).await;
    let id = client.open(&[]).await;
    client.until(|c| c.heard(id).replied).await;
}

#[tokio::test]
async fn small_offences_cost_the_stream() {
    let (mut client, mut streams, _ended) = start(None);
    let id = client.open(&[("Upper", "case")]).await;
    client.until(|c| c.heard(id).reset == Some(Status::Protocol as u32)).await;
    client.open_as(id + 2, true, &[]).await;
    client.until(|c| c.heard(id + 2).reset == Some(Status::Refused as u32)).await;
    client.data(99, b"x", false).await;
    client.until(|c| c.heard(99).reset == Some(Status::InvalidStream as u32)).await;
    client.open_as(101, false, &[]).await;
    let _stream = streams.recv().await.unwrap();
    client.data(101, b"", true).await;
    client.data(101, b"x", false).await;
    client.until(|c| c.heard(101).reset == Some(Status::AlreadyClosed as u32)).await;
    // Refused streams leave the compression of later ones intact.
    client.open_as(103, false, &[("port", "1")]).await;
    assert_eq!(streams.recv().await.unwrap().headers.get("port"), Some("1"));
}

#[tokio::test]
async fn large_offences_cost_the_session() {
    for offence in [
        &b"\x80\x02\0\x06\0\0\0\x04\0\0\0\x01"[..],
        b"\x80\x03\0\x01\0\0\0\x0cshort",
        b"\x80\x03\0\x01\0\0\0\x0e\0\0\0\x01\0\0\0\0\0\0rubbish",
        b"\x80\x03\0\x01\x00\xff\xff\xff",
        b"\x80\x03\0\x02\0\0\0\x04\0\0\0\x02",
    ] {
        let (mut client, _streams, ended) = start(None);
        client.raw(offence).await;
        client.raw(&[0xff; 64][..]).await;
        client.until(|c| c.ended).await;
        assert_eq!(client.goodbye, Some(1), "{offence:?}");
        assert!(ended.await.unwrap().is_err());
    }
    for ids in [[2, 1], [3, 3], [5, 3]] {
        let (mut client, mut streams, ended) = start(None);
        tokio::spawn(async move { while streams.recv().await.is_some() {} });
        for id in ids {
            client.open_as(id, false, &[]).await;
        }
        client.until(|c| c.ended).await;
        assert!(matches!(ended.await.unwrap(), Err(SessionError::StreamId { .. })));
    }
}

#[tokio::test]
async fn a_stream_that_nobody_reads_holds_up_others_for_a_while() {
    let (mut client, mut streams, _ended) = start(Some(Duration::from_millis(200)));
    let stalled = client.open(&[]).await;
    let held = streams.recv().await.unwrap();
    let other = client.open(&[]).await;
    let mut stream = streams.recv().await.unwrap();
    let mut to_server = client.clone_outgoing();
    tokio::spawn(async move {
        for _ in 0..20 {
            let frame = super::frame::Frame::Data { id: stalled, fin: false, data: vec![0; 16 << 10].into() };
            to_server.send(frame.encode()).await.unwrap();
        }
        let frame = super::frame::Frame::Data { id: other, fin: false, data: Bytes::from_static(b"hello") };
        to_server.send(frame.encode()).await.unwrap();
    });
    let reading = tokio::spawn(async move { stream.from_client.read().await });
    held.to_client.gone().await;
    assert_eq!(reading.await.unwrap().unwrap(), &b"hello"[..]);
    client.ping(1).await;
    client.until(|c| !c.pongs.is_empty()).await;
    assert_eq!(client.heard(stalled), Heard { replied: true, reset: Some(7), ..Heard::default() });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_end_a_session_or_wait_for_more(parts in prop::collection::vec(frame_like(), 1..20)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (session, mut streams) = Session::new(Some(Duration::from_millis(1)));
            let mut incoming = futures::stream::iter(parts).map(|part| Ok::<Bytes, Infallible>(part.into()));
            let mut outgoing = futures::sink::drain();
            let user = async {
                while let Some(stream) = streams.recv().await {
                    stream.to_client.write(b"x").await;
                }
            };
            let (_, ()) = tokio::join!(session.run(&mut incoming, &mut outgoing), user);
        });
    }
}

/// Bytes that often look like frames.
fn frame_like() -> impl Strategy<Value = Vec<u8>> {
    let control = (0u8..12, any::<u8>(), 0u8..8, prop::collection::vec(any::<u8>(), 0..40)).prop_map(
        |(kind, flags, id, payload)| {
            let length = u8::try_from(payload.len() + 4).unwrap();
            [&[0x80, 3, 0, kind, flags, 0, 0, length, 0, 0, 0, id][..], &payload].concat()
        },
    );
    let opened = (0u8..8, any::<u8>()).prop_map(|(id, flags)| {
        let block = super::headers::Deflater::new().unwrap().block(&[("a", "b")].into_iter().collect()).unwrap();
        let length = u8::try_from(block.len() + 10).unwrap();
        [&[0x80, 3, 0, 1, flags, 0, 0, length, 0, 0, 0, id, 0, 0, 0, 0, 0, 0][..], &block].concat()
    });
    let data = (0u8..8, any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(id, flags, data)| {
        let length = u8::try_from(data.len()).unwrap();
        [&[0, 0, 0, id, flags, 0, 0, length][..], &data].concat()
    });
    prop_oneof![control, opened, data, prop::collection::vec(any::<u8>(), 0..100)]
}
