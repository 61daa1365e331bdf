//! Joining two streams for as long as something passes.

use std::{
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio_util::io::InspectReader;

use crate::relay::Stream;

/// Hands on what comes, both ways, until both sides have ended or one has failed, or nothing has come for `limit`: it is noticed
/// within the same time again.
pub async fn join(one: impl Stream, other: impl Stream, limit: Duration) {
    let passed = AtomicU64::new(0);
    let count = |bytes: &[u8]| {
        passed.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    };
    let (mut one, mut other) = (InspectReader::new(one, count), InspectReader::new(other, count));
    let mut passing = pin!(tokio::io::copy_bidirectional(&mut one, &mut other));
    loop {
        let before = passed.load(Ordering::Relaxed);
        tokio::select! {
            _ = &mut passing => return,
            () = tokio::time::sleep(limit) => {
                if passed.load(Ordering::Relaxed) == before {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::{Instant, advance},
    };

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn what_passes_nothing_ends() {
        let ((mut a, one), (other, mut b)) = (duplex(64), duplex(64));
        let joined = tokio::spawn(join(one, other, LIMIT));
        let mut heard = [0; 2];
        for _ in 0..5 {
            advance(LIMIT * 3 / 4).await;
            a.write_all(b"hi").await.unwrap();
            b.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"hi");
        }
        let begun = Instant::now();
        assert_eq!(a.read(&mut heard).await.unwrap(), 0);
        assert!(begun.elapsed() >= LIMIT / 2 && begun.elapsed() <= LIMIT * 2, "{:?}", begun.elapsed());
        joined.await.unwrap();
    }

    #[tokio::test]
    async fn half_of_it_may_end_first() {
        let ((mut a, one), (other, mut b)) = (duplex(64), duplex(64));
        let joined = tokio::spawn(join(one, other, LIMIT));
        a.write_all(b"asked").await.unwrap();
        a.shutdown().await.unwrap();
        let mut heard = String::new();
        b.read_to_string(&mut heard).await.unwrap();
        b.write_all(b"answered").await.unwrap();
        drop(b);
        a.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "askedanswered");
        joined.await.unwrap();
    }
}
