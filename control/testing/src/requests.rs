//! Requests to the API server as they come in, of users who are known already.

use axum::body::Body;
use http::{Request, Response};
use http_body_util::BodyExt;
use hypernetes_api::{auth::UserInfo, names};
use serde_json::Value;
use tower::ServiceExt;

use crate::{
    http::{Answer, request},
    server::InProcess,
};

const JSON: &str = "application/json";

/// An authenticated user.
pub fn user(name: &str, groups: &[&str], tenant: &str) -> UserInfo {
    UserInfo {
        name: name.into(),
        uid: String::new(),
        groups: groups.iter().chain([&names::GROUP_AUTHENTICATED]).map(|group| (*group).to_owned()).collect(),
        extra: Default::default(),
        tenant: tenant.parse().unwrap(),
    }
}

/// Whom no role is missing.
pub fn admin(tenant: &str) -> UserInfo {
    user("admin", &[names::GROUP_MASTERS], tenant)
}

/// The server's own components.
pub fn infrastructure() -> UserInfo {
    user("server", &[names::GROUP_INFRASTRUCTURE], "system")
}

/// A user's request.
pub fn by(user: &UserInfo, mut request: Request<Body>) -> Request<Body> {
    request.extensions_mut().insert(user.clone());
    request
}

pub trait Refused {
    /// The message of a `Status`.
    fn refused(self, code: u16, reason: &str) -> String;

    #[track_caller]
    fn forbidden(self) -> String
    where
        Self: Sized,
    {
        self.refused(403, "Forbidden")
    }
}

impl Refused for Answer {
    #[track_caller]
    fn refused(self, code: u16, reason: &str) -> String {
        assert_eq!((self.status.as_u16(), self.body["reason"].as_str()), (code, Some(reason)), "{}", self.body);
        assert_eq!((self.body["kind"].as_str(), self.body["code"].as_u64()), (Some("Status"), Some(u64::from(code))));
        self.body["message"].as_str().unwrap_or_default().to_owned()
    }
}

impl InProcess {
    /// The response to a request, which says itself whose it is; its body has still to come.
    pub async fn response(&self, request: Request<Body>) -> Response<Body> {
        self.server.router().oneshot(request).await.unwrap()
    }

    /// The whole response.
    pub async fn answer(&self, request: Request<Body>) -> Answer {
        Answer::of(self.response(request).await).await
    }

    /// A response's text, to its end.
    ///
    /// # Panics
    /// When the request was refused.
    pub async fn text(&self, request: Request<Body>) -> String {
        let response = self.response(request).await;
        let status = response.status();
        let text = String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
        assert!(status.is_success(), "{status} {text}");
        text
    }

    /// Sends a user's request.
    pub async fn send_with(
        &self,
        user: &UserInfo,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        self.answer(by(user, request(headers, method, path, body.to_owned()))).await
    }

    /// [`InProcess::send_with`] with a body of this media type.
    pub async fn send(&self, user: &UserInfo, method: &str, path: &str, content: &str, body: &str) -> Answer {
        self.send_with(user, method, path, &[("content-type", content)], body).await
    }

    pub async fn get(&self, user: &UserInfo, path: &str) -> Answer {
        self.send(user, "GET", path, JSON, "").await
    }

    pub async fn post(&self, user: &UserInfo, path: &str, body: Value) -> Answer {
        self.send(user, "POST", path, JSON, &body.to_string()).await
    }

    pub async fn put(&self, user: &UserInfo, path: &str, body: &Value) -> Answer {
        self.send(user, "PUT", path, JSON, &body.to_string()).await
    }

    /// A merge patch (RFC 7386).
    pub async fn merge(&self, user: &UserInfo, path: &str, patch: Value) -> Answer {
        self.send(user, "PATCH", path, "application/merge-patch+json", &patch.to_string()).await
    }

    pub async fn delete(&self, user: &UserInfo, path: &str) -> Answer {
        self.send(user, "DELETE", path, JSON, "").await
    }
}
