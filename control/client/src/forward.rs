//! Handing one HTTP request on to another server, as the API server does to kubelets and those to the runtime.

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::BoxError;

/// Sends `request` for `path` over a connection of its own. Where the answer switches protocols (WebSocket, SPDY), the
/// two connections are joined for as long as both live.
///
/// Credentials of the one who asked do not go on: the next server trusts the one that forwards.
///
/// `run` has what goes on beside the answer done: the other connection, and what passes between two that are joined.
///
/// # Errors
/// When the other side does not answer in HTTP.
pub async fn forward<B, S>(
    mut request: Request<B>,
    path: Uri,
    stream: S,
    run: impl Fn(BoxFuture<'static, ()>) + Send,
) -> Result<Response<Incoming>, BoxError>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let asked = hyper::upgrade::on(&mut request);
    let (mut head, body) = request.into_parts();
    let host = path.authority().map_or("localhost", |authority| authority.as_str()).parse()?;
    head.uri = path.path_and_query().map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()));
    head.version = http::Version::HTTP_11;
    withhold(&mut head.headers);
    head.headers.insert(header::HOST, host);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    run(Box::pin(connection.with_upgrades().map(drop)));
    // `extensions` hold what is this connection's alone.
    head.extensions = http::Extensions::new();
    let mut response = sender.send_request(Request::from_parts(head, body)).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let given = hyper::upgrade::on(&mut response);
        run(Box::pin(async move {
            if let (Ok(asked), Ok(given)) = tokio::join!(asked, given) {
                let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(asked), &mut TokioIo::new(given)).await;
            }
        }));
    }
    Ok(response)
}

fn withhold(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    headers.remove(header::COOKIE);
    let impersonation: Vec<_> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in impersonation {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Empty};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn credentials_stay_behind() {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let other = tokio::spawn(async move {
            let mut seen = vec![0; 4096];
            let read = theirs.read(&mut seen).await.unwrap();
            theirs.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
            String::from_utf8(seen[..read].to_vec()).unwrap()
        });
        let request = Request::get("/from")
            .header("authorization", "Bearer secret")
            .header("impersonate-user", "root")
            .header("x-else", "kept")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response =
            forward(request, "https://node:1/to?a=b".parse().unwrap(), ours, |task| drop(tokio::spawn(task)))
                .await
                .unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hi");
        let seen = other.await.unwrap();
        assert!(seen.starts_with("GET /to?a=b HTTP/1.1\r\n") && seen.contains("host: node:1"), "{seen}");
        assert!(seen.contains("x-else: kept") && !seen.contains("secret") && !seen.contains("root"), "{seen}");
    }
}
