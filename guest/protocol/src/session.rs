//! Sessions on a byte stream that has no connections of its own.
//!
//! A virtio serial port is one stream in each direction for the VM's whole life. When hyperd is killed and its
//! successor opens the port, bytes of the old conversation may still be under way in both directions. So each
//! conversation begins with a preface: the host sends [`HOST_MAGIC`] and a random nonce, again and again until it is
//! answered; the guest skips everything until it sees one, and answers with [`GUEST_MAGIC`] and the same nonce; the
//! host skips everything until it sees the answer to the last one it sent. Then HTTP/2 follows, which the guest ends at the first
//! byte that makes no sense, to wait for the next preface.

use std::{io, time::Duration};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub const HOST_MAGIC: &[u8; 8] = b"\0HNhost1";
pub const GUEST_MAGIC: &[u8; 8] = b"\0HNgues1";
const NONCE: usize = 24;
const PREFACE: usize = 8 + NONCE;
/// After so long without an answer the host sends another preface: an old conversation may have eaten the last one. Then
/// after twice as long, and so on: a guest that is slow would else answer one before the last for ever.
const FIRST_RESEND_AFTER: Duration = Duration::from_millis(25);
const RESEND_AFTER: Duration = Duration::from_millis(250);
/// The host stops looking for an answer after so much of something else. A socket's buffers hold far less.
const MAX_SKIPPED: usize = 16 << 20;

type Preface = [u8; PREFACE];

fn preface(magic: &[u8; 8], nonce: &[u8; NONCE]) -> Preface {
    let mut bytes = [0; PREFACE];
    bytes[..8].copy_from_slice(magic);
    bytes[8..].copy_from_slice(nonce);
    bytes
}

/// Begins a conversation, as the host. Returns when the guest has answered; the caller limits the time.
///
/// # Errors
/// When the stream ends, or the guest sends something else without end.
pub async fn open<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    let mut window = Window::default();
    let mut skipped = 0;
    let mut patience = FIRST_RESEND_AFTER;
    loop {
        let nonce: [u8; NONCE] = rand::random();
        stream.write_all(&preface(HOST_MAGIC, &nonce)).await?;
        stream.flush().await?;
        let wanted = preface(GUEST_MAGIC, &nonce);
        let answered = tokio::time::timeout(patience, async {
            loop {
                // Byte by byte: what comes behind the answer is HTTP/2's.
                if window.push(stream.read_u8().await?) == Some(&wanted) {
                    return Ok(());
                }
                skipped += 1;
                if skipped > MAX_SKIPPED {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the guest does not answer the preface"));
                }
            }
        });
        if let Ok(outcome) = answered.await {
            return outcome;
        }
        patience = (patience * 2).min(RESEND_AFTER);
    }
}

/// Waits for a conversation to begin, as the guest: answers every preface, and returns when what follows is none, with
/// the bytes that were read of it.
///
/// # Errors
/// When the stream ends.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<Vec<u8>> {
    let mut window = Window::default();
    loop {
        if window.push(stream.read_u8().await?).is_some_and(|last| last.starts_with(HOST_MAGIC)) {
            break;
        }
    }
    loop {
        let mut answer = window.last;
        answer[..8].copy_from_slice(GUEST_MAGIC);
        stream.write_all(&answer).await?;
        stream.flush().await?;
        // The host may have sent more than one before it was answered.
        let mut next = vec![0; HOST_MAGIC.len()];
        stream.read_exact(&mut next).await?;
        if next != HOST_MAGIC {
            return Ok(next);
        }
        let mut nonce = [0; NONCE];
        stream.read_exact(&mut nonce).await?;
        window.last = preface(HOST_MAGIC, &nonce);
    }
}

/// The last bytes of a stream, as many as a preface has.
#[derive(Default)]
struct Window {
    last: Preface,
    seen: usize,
}

impl Window {
    /// The last bytes including this one, once there are enough.
    fn push(&mut self, byte: u8) -> Option<&Preface> {
        self.last.rotate_left(1);
        self.last[PREFACE - 1] = byte;
        self.seen = (self.seen + 1).min(PREFACE);
        (self.seen == PREFACE).then_some(&self.last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::duplex;

    use super::*;

    async fn converse(host_stale: Vec<u8>, guest_stale: Vec<u8>) {
        let (mut host, mut guest) = duplex(1 << 16);
        // What an earlier conversation has left in the channel, in both directions.
        host.write_all(&host_stale).await.unwrap();
        guest.write_all(&guest_stale).await.unwrap();
        let guest = tokio::spawn(async move {
            let first = accept(&mut guest).await.unwrap();
            guest.write_all(b"welcome").await.unwrap();
            let mut rest = [0; 8];
            guest.read_exact(&mut rest).await.unwrap();
            [first, rest.to_vec()].concat()
        });
        open(&mut host).await.unwrap();
        host.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
        let mut answer = [0; 7];
        host.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"welcome");
        assert_eq!(guest.await.unwrap(), b"PRI * HTTP/2.0\r\n");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn stale_bytes_do_not_matter(
            host in proptest::collection::vec(any::<u8>(), 0..4000),
            guest in proptest::collection::vec(any::<u8>(), 0..4000),
            cut in 0..PREFACE,
        ) {
            // The worst of stale bytes: a preface that was cut.
            let stale = |mut bytes: Vec<u8>, magic: &[u8; 8]| {
                bytes.extend(&preface(magic, &[7; NONCE])[..cut]);
                bytes.extend(b"then something else, longer than a preface");
                bytes
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(converse(stale(host, b"\0HNhostX"), stale(guest, GUEST_MAGIC)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_wakes_late_is_met() {
        let (mut host, mut guest) = duplex(1 << 16);
        let guest = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(3)).await;
            let first = accept(&mut guest).await.unwrap();
            (first, guest)
        });
        open(&mut host).await.unwrap();
        host.write_all(b"PRI * HTTP/2.0").await.unwrap();
        assert_eq!(guest.await.unwrap().0, b"PRI * HT");
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_talks_without_end_is_given_up() {
        let (mut host, mut guest) = duplex(1 << 16);
        tokio::spawn(async move { while guest.write_all(&[b'x'; 4096]).await.is_ok() {} });
        let error = open(&mut host).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
