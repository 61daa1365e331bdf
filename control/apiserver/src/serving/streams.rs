//! The streams of an HTTP/2 connection.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use crate::fairness::payer::Payer;

/// Streams that are begun where their connection is served, one after the other, until others have a turn.
const AT_ONCE: usize = 8;

/// Runs the streams of a connection for whoever pays for it. What can be answered without waiting is answered by the task that
/// serves the connection: one of its own would cost as much as a small read. What waits goes on beside the others.
#[derive(Clone)]
pub(super) struct Streams {
    payer: Payer,
    /// How many more are begun in the connection's task before it gives way.
    left: Arc<AtomicUsize>,
}

impl Streams {
    pub fn new(payer: Payer) -> Self {
        Self { payer, left: Arc::default() }
    }

    /// The connection whose streams these are.
    pub async fn polled<C: Future + ?Sized>(&self, mut connection: Pin<&mut C>) -> C::Output {
        poll_fn(|cx| {
            self.left.store(AT_ONCE, Ordering::Relaxed);
            connection.as_mut().poll(cx)
        })
        .await
    }

    /// Only the connection's task asks, so that two never count at once.
    fn takes(&self) -> bool {
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(1), Ordering::Relaxed);
        left > 0
    }
}

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let mut stream = Box::pin(stream);
        if self.takes() {
            // Nothing is missed by who wakes nobody: as a task it is asked once more in any case.
            let mut nobody = Context::from_waker(Waker::noop());
            match catch_unwind(AssertUnwindSafe(|| stream.as_mut().poll(&mut nobody).map(drop))) {
                Ok(Poll::Pending) => {}
                // A panic ends the stream, as it would end its task.
                Ok(Poll::Ready(())) | Err(_) => return,
            }
        }
        self.payer.spawn(async move {
            stream.await;
        });
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use hyper::rt::Executor;
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::fairness::payer;

    #[tokio::test]
    async fn what_need_not_wait_is_answered_at_once_and_the_rest_beside() {
        let streams = Streams::new(Payer::source(&payer::source_pace()));
        let (ended, mut ends) = mpsc::unbounded_channel();
        let (go, gone) = oneshot::channel::<()>();
        streams
            .polled(pin!(async {
                let waits = ended.clone();
                streams.execute(async move {
                    gone.await.unwrap();
                    waits.send("waited").unwrap();
                });
                streams.execute(async { panic!("of one stream, and no other's") });
                let at_once = ended.clone();
                streams.execute(async move { at_once.send("at once").unwrap() });
                assert_eq!(ends.try_recv(), Ok("at once"));
                go.send(()).unwrap();
                assert_eq!(ends.recv().await, Some("waited"));
            }))
            .await;
        // Others have a turn in between.
        for _ in 0..=AT_ONCE {
            let ended = ended.clone();
            streams.execute(async move { ended.send("one of many").unwrap() });
        }
        let mut at_once = 0;
        while ends.try_recv().is_ok() {
            at_once += 1;
        }
        assert!(at_once <= AT_ONCE, "{at_once}");
        for _ in at_once..=AT_ONCE {
            assert_eq!(ends.recv().await, Some("one of many"));
        }
    }
}
