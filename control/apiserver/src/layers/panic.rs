//! A handler that panics has made a mistake of its own: its client is told so, and nobody else notices.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt;
use http::Response;
use http_body::{Frame, SizeHint};
use hypernetes_api::ApiError;

use crate::answer::error_response;

/// In upstream's words.
const MESSAGE: &str = "This request caused apiserver to panic. Look in the logs for details.";

/// An answer that is there whatever happens while it is made. What goes wrong while it is read ends it.
pub async fn caught(answer: impl Future<Output = Response<Body>>) -> Response<Body> {
    // What a request alone has is gone with it; what is shared is behind locks that do not know of panics.
    match AssertUnwindSafe(answer).catch_unwind().await {
        Ok(answer) if http_body::Body::size_hint(answer.body()).exact().is_some() => answer,
        Ok(answer) => answer.map(|body| Body::new(Caught(Some(body)))),
        Err(panic) => {
            log(&*panic);
            error_response(&ApiError::internal(MESSAGE))
        }
    }
}

/// The text of a panic was a tenant's, perhaps: it is cut.
fn log(panic: &(dyn Any + Send)) {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text");
    let short: String = text.chars().take(500).collect();
    tracing::error!(panic = short, "a request made its handler panic");
}

/// A body that is made while it is read. None: it has panicked.
struct Caught(Option<Body>);

impl http_body::Body for Caught {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| Pin::new(body).poll_frame(cx)));
        polled.unwrap_or_else(|panic| {
            log(&*panic);
            self.0 = None;
            Poll::Ready(Some(Err(axum::Error::new(MESSAGE))))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(SizeHint::default, http_body::Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn an_answer_that_panics_while_it_is_read_ends() {
        let pieces = stream::iter([1, 2, 3]).map(|piece| {
            assert_ne!(piece, 2, "a mistake");
            Ok::<_, std::convert::Infallible>(Bytes::from_static(b"x"))
        });
        let mut body = caught(async { Response::new(Body::from_stream(pieces)) }).await.into_body();
        body.frame().await.unwrap().unwrap();
        body.frame().await.unwrap().unwrap_err();
        assert!(body.frame().await.is_none());
    }

    use futures::StreamExt;
}
