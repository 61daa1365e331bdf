//! JSON bodies, within bounds.

use axum::{
    body::{Bytes, to_bytes},
    extract::{FromRequest, Request},
};
use http::header::CONTENT_LENGTH;
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;

use crate::{Facade, Fault};

/// A JSON body of the expected form, whatever its `Content-Type`.
///
/// It is refused with [`Fault::TooLarge`] beyond [`Facade::MAX_BODY_BYTES`], with [`Fault::Unreadable`] where it breaks off, and
/// with [`Fault::Malformed`] where it is no such JSON.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<F: Facade, T: DeserializeOwned> FromRequest<F> for Body<T> {
    type Rejection = F::Error;

    async fn from_request(request: Request, _: &F) -> Result<Self, F::Error> {
        let bytes = read(request, F::MAX_BODY_BYTES).await?;
        Ok(Self(serde_json::from_slice(&bytes).map_err(|error| Fault::Malformed(error.to_string()))?))
    }
}

async fn read(request: Request, limit: usize) -> Result<Bytes, Fault> {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > limit) {
        return Err(Fault::TooLarge);
    }
    // A body of unknown length that is too long is cut off here as well.
    to_bytes(request.into_body(), limit).await.map_err(|error| {
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = cause {
            if error.is::<LengthLimitError>() {
                return Fault::TooLarge;
            }
            cause = error.source();
        }
        Fault::Unreadable
    })
}
