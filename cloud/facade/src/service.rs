//! What a façade has to say of itself.

use std::sync::Arc;

use axum::Router;

use crate::{Fault, ServiceError};

/// One service, as the state of its router: what differs between the services in what all of them do.
pub trait Facade: Send + Sync + 'static {
    /// What its clients are told.
    type Error: ServiceError + Send;

    /// Longer bodies are refused, whatever is in them.
    const MAX_BODY_BYTES: usize;
}

impl<F: Facade> Facade for Arc<F> {
    type Error = F::Error;
    const MAX_BODY_BYTES: usize = F::MAX_BODY_BYTES;
}

/// Has what has no route answered as the service answers everything.
pub fn with_fallbacks<F: Facade + Clone>(router: Router<F>) -> Router<F> {
    router
        .fallback(|| async { F::Error::from(Fault::NoSuchPath) })
        .method_not_allowed_fallback(|| async { F::Error::from(Fault::MethodNotAllowed) })
}
