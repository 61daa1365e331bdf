//! HTTP to the identity service.

use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use serde_json::{Value, json};

use super::{Login, LoginError, issued::Issued};

const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Of nobody in particular: each request brings what shows who asks.
pub(crate) struct Connection {
    client: kube::Client,
    url: String,
}

impl Connection {
    pub fn new(login: &Login) -> Result<Self, LoginError> {
        let url = login.auth_url.trim_end_matches('/').to_owned();
        let uri = url.parse().map_err(|error| LoginError::Url(url.clone(), error))?;
        let mut config = kube::Config::new(uri);
        config.root_cert_file.clone_from(&login.ca_file);
        let client = kube::Client::try_from(config).map_err(|error| LoginError::Setup(url.clone(), error))?;
        Ok(Self { client, url })
    }

    pub async fn send(&self, request: Request<Body>) -> Result<(Response<()>, Vec<u8>), LoginError> {
        let unreachable = |error: String| LoginError::Unreachable(self.url.clone(), error);
        let exchange = async {
            let response = self.client.send(request).await.map_err(|error| unreachable(error.to_string()))?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|e| unreachable(e.to_string()))?;
            Ok((Response::from_parts(parts, ()), body.to_bytes().to_vec()))
        };
        tokio::time::timeout(TIMEOUT, exchange).await.map_err(|_| unreachable(format!("nothing in {TIMEOUT:?}")))?
    }

    pub fn not_keystone(&self, what: &'static str) -> LoginError {
        LoginError::NotKeystone(self.url.clone(), what)
    }

    pub fn refused(&self, status: StatusCode, body: &Value) -> LoginError {
        let message = body["error"]["message"].as_str().unwrap_or("no reason given").to_owned();
        LoginError::Refused { url: self.url.clone(), status, message }
    }

    pub async fn is_valid(&self, token: &str) -> bool {
        let request = Request::builder()
            .method(Method::GET)
            .uri("/auth/tokens?nocatalog")
            .header("x-auth-token", token)
            .header("x-subject-token", token)
            .body(Body::empty());
        match request {
            Ok(request) => self.send(request).await.is_ok_and(|(response, _)| response.status() == StatusCode::OK),
            Err(_) => false,
        }
    }

    pub async fn issue(&self, login: &Login, password: &str) -> Result<Issued, LoginError> {
        let not_keystone = |what| self.not_keystone(what);
        let mut user = login.user.to_json();
        user["password"] = json!(password);
        let mut auth = json!({"identity": {"methods": ["password"], "password": {"user": user}}});
        if let Some(project) = &login.project {
            auth["scope"] = json!({"project": project.to_json()});
        }
        let request = Request::builder()
            .method(Method::POST)
            .uri("/auth/tokens?nocatalog")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Body::from(json!({"auth": auth}).to_string().into_bytes()))
            .map_err(|_| not_keystone("the request cannot be made"))?;
        let (response, body) = self.send(request).await?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if response.status() != StatusCode::CREATED {
            return Err(self.refused(response.status(), &body));
        }
        let token = response.headers().get("x-subject-token").and_then(|token| token.to_str().ok());
        let expires_at = body["token"]["expires_at"].as_str().and_then(|time| time.parse().ok());
        Ok(Issued {
            token: token.ok_or_else(|| not_keystone("no token in the answer"))?.to_owned(),
            expires_at: expires_at.ok_or_else(|| not_keystone("no expiry in the answer"))?,
        })
    }
}
