//! What any façade may find wrong with a request, whatever it is about.

/// Of what a client sent, in characters.
const EXCERPT: usize = 128;

/// Why a request was refused before, or by, the API server. How it is told is the service's own: [`crate::ServiceError`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There is no token, or not a valid one; which of them is not told.
    #[error("there is no valid token")]
    Unauthorized,
    /// The policy's name of the action.
    #[error("{0} is not allowed")]
    Forbidden(String),
    /// The query cannot be read: why.
    #[error("{0}")]
    Query(String),
    /// The body is not JSON, or not of the expected form: where and why.
    #[error("{0}")]
    Malformed(String),
    /// The body has more than [`crate::Facade::MAX_BODY_BYTES`], or the object is too large to be stored.
    #[error("it is too large")]
    TooLarge,
    /// The body ended before its end.
    #[error("the body could not be read")]
    Unreadable,
    #[error("there is nothing of this path")]
    NoSuchPath,
    #[error("the path does not have this method")]
    MethodNotAllowed,
    /// Somebody whom the service asks does not answer: whoever asks may ask again.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The API server refused the object: why.
    #[error("{0}")]
    Invalid(String),
    /// The API server refused whoever asked: why.
    #[error("{0}")]
    Denied(String),
    /// The API server has no such object: its words.
    #[error("{0}")]
    NotFound(String),
    /// The API server has another object of the name, or another version of it: its words.
    #[error("{0}")]
    Conflict(String),
    /// The tenant's part of the store is full.
    #[error("there is no room left to store this")]
    NoRoom,
}

impl From<kube::Error> for Fault {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => match status.code {
                400 | 422 => Self::Invalid(status.message),
                403 => Self::Denied(status.message),
                404 => Self::NotFound(status.message),
                409 => Self::Conflict(status.message),
                413 => Self::TooLarge,
                507 => Self::NoRoom,
                _ => Self::Unavailable(status.message),
            },
            other => Self::Unavailable(other.to_string()),
        }
    }
}

/// What the client sent comes back in messages, but not without bound: the first 128 characters.
pub fn excerpt(text: &str) -> String {
    text.chars().take(EXCERPT).collect()
}
