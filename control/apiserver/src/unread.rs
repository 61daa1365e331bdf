//! Bodies of requests that are answered before they are read.
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

/// Whoever sends more than this for nothing may lose the answer.
const MAX_BYTES: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(5);

/// A request's body, read to its end in any case.
pub(crate) struct ReadToEnd(Option<Incoming>);

impl ReadToEnd {
    pub(crate) fn new(body: Incoming) -> Self {
        Self(Some(body))
    }
}

impl Body for ReadToEnd {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for ReadToEnd {
    fn drop(&mut self) {
        let Some(body) = self.0.take().filter(|body| !body.is_end_stream()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(PATIENCE, async {
                let mut rest = Limited::new(body, MAX_BYTES);
                while let Some(Ok(_)) = rest.frame().await {}
            }));
        }
    }
}
