//! Bodies of requests: they come in time, and those of requests that are answered before they are read are read, too.
//!
//! In HTTP/2 a body that is dropped has its stream reset, and the reset overtakes the answer: the client may see neither
//! status nor reason. So what is left of a body is read and thrown away.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio::time::Sleep;

/// Whoever sends more than this for nothing may lose the answer.
const MAX_BYTES: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(5);

/// A request's body, read to its end in any case, and an error when it has not come by the deadline.
pub(crate) struct ReadToEnd {
    body: Option<Incoming>,
    deadline: Pin<Box<Sleep>>,
}

impl ReadToEnd {
    pub(crate) fn new(body: Incoming, patience: Duration) -> Self {
        Self { body: Some(body), deadline: Box::pin(tokio::time::sleep(patience)) }
    }
}

impl Body for ReadToEnd {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        self.deadline.as_mut().poll(cx).map(|()| {
            // What comes now is not waited for either.
            self.body = None;
            Some(Err("the body has not come in time".into()))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for ReadToEnd {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(PATIENCE, async {
                let mut rest = Limited::new(body, MAX_BYTES);
                while let Some(Ok(_)) = rest.frame().await {}
            }));
        }
    }
}
