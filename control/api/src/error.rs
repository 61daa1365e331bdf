//! API errors as Kubernetes says them: a `Status` object with code, reason and details
//! (API conventions, "Response Status Kind").

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::InvalidName;

/// `metav1.StatusReason`; each has one HTTP status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Expired,
    Invalid,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    TooManyRequests,
    Timeout,
    ServerTimeout,
    InternalError,
    ServiceUnavailable,
    /// The store has no room: HTTP 507, which Kubernetes has no reason for.
    InsufficientStorage,
}

impl Reason {
    pub fn code(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::AlreadyExists | Self::Conflict => StatusCode::CONFLICT,
            Self::Gone | Self::Expired => StatusCode::GONE,
            Self::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::RequestEntityTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::ServerTimeout | Self::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
            Self::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::InsufficientStorage => StatusCode::INSUFFICIENT_STORAGE,
        }
    }
}

/// One cause of an `Invalid` (or `BadRequest`) status: `metav1.StatusCause`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// e.g. `FieldValueInvalid`, `FieldValueRequired`, `FieldValueNotSupported`, `FieldValueForbidden`.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub reason: String,
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub field: String,
}

impl Cause {
    /// One of which nothing but the words is known.
    pub fn said(message: impl Into<String>) -> Self {
        Self { reason: String::new(), message: message.into(), field: String::new() }
    }
}

/// `metav1.StatusDetails`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub group: String,
    /// The *resource* (plural) for most reasons, the kind for `Invalid`, as Kubernetes has it.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub causes: Vec<Cause>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retry_after_seconds: Option<u32>,
}

/// An error that an API client is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub reason: Reason,
    pub message: String,
    pub details: Option<Box<Details>>,
    /// Code and reason as a tenant's own admission gives them, instead of what `reason` has: they need not be of one piece.
    pub given: Option<Box<(StatusCode, String)>>,
    /// What the caller is warned of besides, in headers.
    pub warnings: Vec<String>,
}

/// A name that is none: whoever sent it is told so. Where an object is looked for by it, there is none instead.
impl From<InvalidName> for ApiError {
    fn from(error: InvalidName) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl ApiError {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), details: None, given: None, warnings: Vec::new() }
    }

    /// The HTTP status that it is answered with.
    pub fn code(&self) -> StatusCode {
        self.given.as_ref().map_or_else(|| self.reason.code(), |given| given.0)
    }

    pub fn with_details(mut self, details: Details) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Reason::InternalError, message)
    }

    /// `pods "web" not found`, as `errors.NewNotFound` says it.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        Self::new(Reason::NotFound, format!("{} {name:?} not found", qualified(group, resource))).with_details(
            Details { name: name.into(), group: group.into(), kind: resource.into(), ..Details::default() },
        )
    }

    /// `configmaps "a" already exists`.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        Self::new(Reason::AlreadyExists, format!("{} {name:?} already exists", qualified(group, resource)))
            .with_details(Details {
                name: name.into(),
                group: group.into(),
                kind: resource.into(),
                ..Details::default()
            })
    }

    /// `Operation cannot be fulfilled on pods "web": <why>`.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        Self::new(
            Reason::Conflict,
            format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(group, resource)),
        )
        .with_details(Details {
            name: name.into(),
            group: group.into(),
            kind: resource.into(),
            ..Details::default()
        })
    }

    /// `Pod "web" is invalid: <field>: <what>` with one cause per field, as `errors.NewInvalid` says it.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        // What is said of a field several times is one sentence, as upstream's, and several causes.
        let mut seen = std::collections::HashSet::new();
        let said = causes.iter().map(|c| format!("{}: {}", c.field, c.message));
        let list = match said.filter(|words| seen.insert(words.clone())).collect::<Vec<_>>().as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        Self::new(Reason::Invalid, format!("{} {name:?} is invalid: {list}", qualified(group, kind))).with_details(
            Details { name: name.into(), group: group.into(), kind: kind.into(), causes, ..Details::default() },
        )
    }

    /// The `Status` object for the wire.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code().as_u16(),
        });
        if let Some(details) = &self.details {
            status["details"] = json!(details);
        }
        match self.given.as_deref() {
            Some((_, reason)) if reason.is_empty() => {
                drop(status.as_object_mut().map(|status| status.remove("reason")))
            }
            Some((_, reason)) => status["reason"] = reason.as_str().into(),
            None => {}
        }
        status
    }
}

fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}
