//! Every request ends: an answer is whole within [`REQUEST`], and a watch is told something every [`SILENCE`].

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::BoxError;

use crate::{AnyBody, path};

/// From a request to the last byte of its answer; for a watch, to the answer's head.
pub const REQUEST: Duration = Duration::from_secs(30);
/// A watch that says nothing for this long has ended, and is begun again where it was. The API server sends a bookmark
/// every 45 seconds, so that of a watch that is merely quiet this is not said.
pub const SILENCE: Duration = Duration::from_secs(60);

/// How long a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    pub whole: Duration,
    /// Of a watch: between one piece of its body and the next.
    pub silence: Option<Duration>,
}

impl Limit {
    pub fn of(uri: &Uri) -> Self {
        Self { whole: REQUEST, silence: path::watches(uri).then_some(SILENCE) }
    }
}

/// Nothing came in time.
#[derive(Debug, thiserror::Error)]
#[error("the API server has not answered within {} s", .0.as_secs())]
pub struct Elapsed(Duration);

/// Waits for an answer, and has its body end in time, too.
pub(crate) async fn hold(
    limit: Limit,
    answer: impl Future<Output = Result<Response<AnyBody>, BoxError>>,
) -> Result<Response<AnyBody>, BoxError> {
    let until = Instant::now() + limit.whole;
    let response = tokio::time::timeout_at(until, answer).await.map_err(|_| Elapsed(limit.whole))??;
    let timer = Box::pin(sleep_until(limit.silence.map_or(until, |silence| Instant::now() + silence)));
    Ok(response.map(|body| Held { body, limit, timer, ended: false }.boxed_unsync()))
}

struct Held {
    body: AnyBody,
    limit: Limit,
    timer: Pin<Box<Sleep>>,
    ended: bool,
}

impl Body for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            if let (Some(silence), Some(Ok(_))) = (self.limit.silence, &frame) {
                self.timer.as_mut().reset(Instant::now() + silence);
            }
            return Poll::Ready(frame);
        }
        std::task::ready!(self.timer.as_mut().poll(context));
        self.ended = true;
        Poll::Ready(match self.limit.silence {
            // The end of the stream, as when the server ends it: no error, and nothing is listed anew.
            Some(_) => None,
            None => Some(Err(Box::new(Elapsed(self.limit.whole)))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use http_body_util::StreamBody;

    use super::*;

    /// A body of these pieces, each after a while, that never ends by itself.
    fn body(pieces: Vec<(u64, &'static str)>) -> AnyBody {
        let pieces = futures::stream::iter(pieces).then(|(wait, text)| async move {
            tokio::time::sleep(Duration::from_secs(wait)).await;
            Ok::<_, BoxError>(Frame::data(Bytes::from(text)))
        });
        StreamBody::new(pieces.chain(futures::stream::pending())).boxed_unsync()
    }

    async fn read(path: &str, answer: AnyBody) -> Result<Bytes, BoxError> {
        let limit = Limit::of(&path.parse().unwrap());
        Ok(hold(limit, async { Ok(Response::new(answer)) }).await?.into_body().collect().await?.to_bytes())
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_watch_ends_and_one_that_is_told_something_goes_on() {
        let began = Instant::now();
        let told = read("/api/v1/pods?limit=1&watch=true", body(vec![(1, "a"), (59, "b"), (59, "c")])).await;
        assert_eq!(told.unwrap(), "abc");
        assert_eq!(began.elapsed().as_secs(), 1 + 59 + 59 + SILENCE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_come_or_does_not_end_is_an_error() {
        let began = Instant::now();
        let error = read("/api/v1/pods?watchers=true", body(vec![(20, "a")])).await.unwrap_err();
        assert!(error.is::<Elapsed>(), "{error}");
        for path in ["/api/v1/pods", "/api/v1/pods?watch=1"] {
            let limit = Limit::of(&path.parse().unwrap());
            assert!(hold(limit, std::future::pending()).await.err().is_some_and(|error| error.is::<Elapsed>()));
        }
        assert_eq!(began.elapsed().as_secs(), 3 * REQUEST.as_secs());
    }
}
