//! An answer of which a layer hears while it is read, and when it is over.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};

/// Hears an answer. It is dropped when that has been read, or given up.
pub trait Listener: Send + Unpin + 'static {
    fn hear(&mut self, data: &Bytes);
}

/// The same answer, of which the listener hears.
pub fn overheard(answer: Response<Body>, listener: impl Listener) -> Response<Body> {
    answer.map(|body| Body::new(Overheard { body, listener }))
}

struct Overheard<L> {
    body: Body,
    listener: L,
}

impl<L: Listener> http_body::Body for Overheard<L> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.listener.hear(data);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
