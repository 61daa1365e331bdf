//! Firecracker's API: HTTP/1.1 over a Unix socket, one request a connection.

use std::{io, path::PathBuf, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

/// Answers are a sentence.
const MAX_ANSWER: usize = 64 << 10;
const MAX_MESSAGE: usize = 512;

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{request}: {source}")]
    Io { request: String, source: io::Error },
    #[error("{request}: {message}")]
    Refused { request: String, message: String },
    #[error("{request}: no answer within {} s", .patience.as_secs())]
    Timeout { request: String, patience: Duration },
    /// What came is not what Firecracker says.
    #[error("{request}: the answer makes no sense: {reason}")]
    Nonsense { request: String, reason: String },
}

#[derive(Deserialize)]
struct Fault {
    fault_message: String,
}

/// One Firecracker's.
pub struct Api {
    pub socket: PathBuf,
    /// For any answer, but to what reads or writes memory.
    pub patience: Duration,
}

impl Api {
    pub async fn put(&self, path: &str, body: &impl Serialize) -> Result<(), ApiError> {
        self.send(Method::PUT, path, body, self.patience).await
    }

    pub async fn patch(&self, path: &str, body: &impl Serialize) -> Result<(), ApiError> {
        self.send(Method::PATCH, path, body, self.patience).await
    }

    pub async fn put_within(&self, path: &str, body: &impl Serialize, patience: Duration) -> Result<(), ApiError> {
        self.send(Method::PUT, path, body, patience).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        patience: Duration,
    ) -> Result<(), ApiError> {
        let request = format!("{method} {path}");
        let nonsense = |error: &dyn std::fmt::Display| ApiError::Nonsense {
            request: request.clone(),
            reason: clean(&error.to_string()),
        };
        let body = serde_json::to_vec(body).map_err(|e| nonsense(&e))?;
        let exchange = async {
            let io_error = |source| ApiError::Io { request: request.clone(), source };
            let stream = UnixStream::connect(&self.socket).await.map_err(io_error)?;
            let broken = |error: hyper::Error| {
                // A VMM that ends, or one that talks something else.
                if error.is_parse() { nonsense(&error) } else { io_error(io::Error::other(error)) }
            };
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
            let http = Request::builder()
                .method(method)
                .uri(path)
                .header(header::HOST, "localhost")
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(Bytes::from(body)))
                .map_err(|e| nonsense(&e))?;
            let receive = async {
                let response = sender.send_request(http).await.map_err(broken)?;
                let status = response.status();
                let text = read(response.into_body()).await.map_err(|e| nonsense(&e))?;
                Ok((status, text))
            };
            // The connection moves nothing unless it is polled, and has nothing to say of its own.
            let answer = async {
                tokio::pin!(receive);
                tokio::select! {
                    answer = &mut receive => answer,
                    _ = connection => receive.await,
                }
            };
            answer.await
        };
        let answer = tokio::time::timeout(patience, exchange).await;
        let (status, text) = answer.map_err(|_| ApiError::Timeout { request: request.clone(), patience })??;
        if status == StatusCode::NO_CONTENT {
            return Ok(());
        }
        match serde_json::from_slice::<Fault>(&text) {
            Ok(fault) => Err(ApiError::Refused { request, message: clean(&fault.fault_message) }),
            Err(error) => Err(nonsense(&format!("{status}, {error}"))),
        }
    }
}

async fn read(body: Incoming) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Limited::new(body, MAX_ANSWER).collect().await?.to_bytes())
}

/// A VMM's text, bounded and without control characters.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MESSAGE).collect()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
    };

    use super::*;

    async fn answered(answer: &'static str) -> Result<(), ApiError> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("api");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            let text = String::from_utf8_lossy(&request[..read]).into_owned();
            assert!(text.starts_with("PATCH /vm HTTP/1.1\r\n") && text.ends_with(r#"{"state":"Paused"}"#), "{text}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        Api { socket, patience: Duration::from_secs(20) }.patch("/vm", &serde_json::json!({"state": "Paused"})).await
    }

    #[tokio::test]
    async fn answers_are_told_apart() {
        answered("HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n").await.unwrap();
        let refused = "HTTP/1.1 400 \r\nContent-Type: application/json\r\nContent-Length: 36\r\n\r\n\
                       {\"fault_message\":\"No. \\u001b[2J No\"}";
        let error = answered(refused).await.unwrap_err();
        assert_eq!(error.to_string(), "PATCH /vm: No.  [2J No");
        assert!(matches!(error, ApiError::Refused { .. }));
        for nonsense in [
            "HTTP/1.1 400 \r\nContent-Length: 3\r\n\r\n{\"f",
            "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/1.1 400 \r\nContent-Length: 99\r\n\r\nshort",
        ] {
            let error = answered(nonsense).await.unwrap_err();
            assert!(matches!(error, ApiError::Nonsense { .. }), "{nonsense}: {error:?}");
        }
        assert!(matches!(answered("").await.unwrap_err(), ApiError::Io { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_without_end() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("api");
        let _listener = UnixListener::bind(&socket).unwrap();
        let error = Api { socket, patience: Duration::from_secs(20) }.put("/actions", &()).await.unwrap_err();
        assert!(matches!(error, ApiError::Timeout { .. }), "{error:?}");
        let nobody = Api { socket: directory.path().join("none"), patience: Duration::from_secs(20) };
        let nobody = nobody.put("/actions", &()).await.unwrap_err();
        assert!(matches!(nobody, ApiError::Io { .. }), "{nobody:?}");
    }
}
