//! One question to one webhook: a connection into the tenant's network, TLS by the authorities that its configuration names, one request, and an
//! answer that is bounded. Nothing is followed anywhere.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use hypernetes_api::TenantId;
use hypernetes_policy::{Destination, Webhook};
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio_rustls::TlsConnector;

use super::trust;
use crate::Inner;

/// Bytes of an answer: an object that is as large as one may be, as a patch, and what is around it.
const LONGEST_ANSWER: usize = 4 << 20;
/// Of what else a server says its user is shown so much.
const SHOWN: usize = 1 << 10;

/// Where a webhook is, as a URL has it.
struct Address {
    host: String,
    port: u16,
    namespace: String,
    service: String,
    path: String,
}

impl Address {
    fn of(webhook: &Webhook) -> Result<Self, String> {
        match &webhook.destination {
            Destination::Service { namespace, name, port, path } => Ok(Self {
                host: format!("{name}.{namespace}.svc"),
                port: *port,
                namespace: namespace.clone(),
                service: name.clone(),
                path: if path.is_empty() { "/".into() } else { path.clone() },
            }),
            Destination::Url(url) => {
                let uri: Uri = url.parse().map_err(|_| format!("Unparsable URL: {url:?}"))?;
                let host = uri.host().unwrap_or_default().to_owned();
                // The server asks nobody what other names mean.
                let inside = host.strip_suffix(".svc").and_then(|rest| rest.split_once('.'));
                let Some((service, namespace)) = inside.filter(|(_, namespace)| !namespace.contains('.')) else {
                    return Err(format!("dial tcp: lookup {host}: the server reaches services of the cluster alone"));
                };
                Ok(Self {
                    port: uri.port_u16().unwrap_or(443),
                    namespace: namespace.to_owned(),
                    service: service.to_owned(),
                    path: uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
                    host,
                })
            }
        }
    }
}

/// Sends a review, and has the answer's body.
///
/// # Errors
/// What went wrong, as it is told to who wrote the object.
pub async fn ask(server: &Inner, tenant: &TenantId, webhook: &Webhook, review: &Value) -> Result<Value, String> {
    let address = Address::of(webhook)?;
    let seconds = webhook.timeout.as_secs();
    let separator = if address.path.contains('?') { '&' } else { '?' };
    let path = format!("{}{separator}timeout={seconds}s", address.path);
    let (host, port) = (&address.host, address.port);
    let url = format!("https://{host}:{port}{path}");
    let failed = |why: String| format!("failed to call webhook: Post {url:?}: {why}");
    let exchange = async {
        let connect = connect(server, tenant, webhook, &address);
        let stream = connect.await.map_err(&failed)?;
        exchange(stream, &address, &path, review).await.map_err(&failed)
    };
    match tokio::time::timeout(webhook.timeout, exchange).await {
        Ok(Ok(Answered { code, body })) => read(code, &body).map_err(|why| format!("failed to call webhook: {why}")),
        Ok(Err(why)) => Err(why),
        Err(_) => Err(failed("context deadline exceeded".into())),
    }
}

async fn connect(
    server: &Inner,
    tenant: &TenantId,
    webhook: &Webhook,
    address: &Address,
) -> Result<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + use<>, String> {
    let way = server.reach.get().ok_or_else(|| "the server has no way into networks".to_owned())?;
    let name = ServerName::try_from(address.host.clone()).map_err(|error| error.to_string())?;
    let config = trust::config(&webhook.authorities)?;
    let stream = way.service(tenant, &address.namespace, &address.service, address.port).await;
    let stream = stream.map_err(|error| error.message)?;
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.map_err(|error| format!("tls: {error}"))
}

struct Answered {
    code: http::StatusCode,
    body: Bytes,
}

async fn exchange(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    address: &Address,
    path: &str,
    review: &Value,
) -> Result<Answered, String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let request = Request::post(path)
        .header(header::HOST, format!("{}:{}", address.host, address.port))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, */*")
        .header(header::USER_AGENT, "kube-apiserver-admission")
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(review.to_string())))
        .map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let code = response.status();
        let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
        let body = body.map_err(|error| format!("the answer cannot be read: {error}"))?;
        Ok(Answered { code, body: body.to_bytes() })
    };
    // The connection lives as long as the question: whoever no longer waits for it takes it along.
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        biased;
        answered = &mut answer => answered,
        // What has come is there, however it ended.
        _ = &mut connection => answer.await,
    }
}

/// An answer's body; what is no success is an error in the words of upstream's client.
fn read(code: http::StatusCode, body: &Bytes) -> Result<Value, String> {
    if code.is_success() {
        return serde_json::from_slice(body).map_err(|_| "the server's answer is no AdmissionReview".to_owned());
    }
    let end = body.len().min(SHOWN);
    let text = String::from_utf8_lossy(&body[..end]).trim().to_owned();
    Err(match code.as_u16() {
        404 => "the server could not find the requested resource".to_owned(),
        code if code >= 500 => format!("an error on the server ({text:?}) has prevented the request from succeeding"),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        code @ 300..=399 => format!("the server answered {code}: redirects are not followed"),
        _ => format!("the server rejected our request for an unknown reason ({text:?})"),
    })
}

/// How long all of a write's webhooks may take together.
pub const LONGEST: Duration = Duration::from_secs(30);
