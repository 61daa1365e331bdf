//! What is asked for, before it is asked who asks: whatever path or method is none gets no further.

use std::sync::Arc;

use axum::body::Body;
use http::{Extensions, HeaderMap, Request, Uri, request::Parts};
use hypernetes_api::ApiError;
use tokio::time::Instant;

use crate::{audit::event::Trail, request::info::RequestInfo};

/// A request whose head has been read.
pub struct Incoming {
    pub info: RequestInfo,
    pub head: Parts,
    /// When it came.
    pub since: Instant,
    /// What the layers inside find out, for those outside.
    pub trail: Arc<Trail>,
}

impl Incoming {
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    pub fn extensions(&self) -> &Extensions {
        &self.head.extensions
    }

    pub fn uri(&self) -> &Uri {
        &self.head.uri
    }
}

/// # Errors
/// As [`RequestInfo::of`].
pub fn parse(request: Request<Body>) -> Result<(Incoming, Body), ApiError> {
    let (head, body) = request.into_parts();
    Ok((Incoming { info: RequestInfo::of(&head)?, head, since: Instant::now(), trail: Arc::default() }, body))
}
