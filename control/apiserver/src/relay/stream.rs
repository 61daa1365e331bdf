//! A byte stream to a pod: the node's kubelet is asked to relay it.

use std::time::Duration;

use axum::body::Bytes;
use futures::FutureExt;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Incoming, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use hypernetes_api::{ApiError, Reason, TenantId, names::RELAY_PROTOCOL};

use super::address::PodAddress;
use crate::{
    Inner,
    fairness::{account::Account, background},
    node_channel::{self, Channel, unavailable},
};

/// Time for the node's answer: it gives a pod five seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest refusal of a kubelet that is passed on.
const MAX_REFUSAL: usize = 4 << 10;

/// Connects to a port of a tenant's pod. What passes is done at the tenant's pace, and until the tenant is closed.
///
/// # Errors
/// `ServiceUnavailable`, `TooManyRequests`.
pub async fn connect(
    server: &Inner,
    tenant: &TenantId,
    pod: &PodAddress,
    port: u16,
) -> Result<TokioIo<Upgraded>, ApiError> {
    let node = &pod.node;
    let Channel { stream, authority } = node_channel::connect(server, node).await?;
    let account = Some(server.accounts.of(tenant));
    let ask = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = connection.with_upgrades().map(drop);
        background::spawn(account.clone(), Account::run(account, connection).map(drop));
        let request = Request::get(format!("/clusters/{tenant}/relay/{}/{}/{port}", pod.network, pod.address))
            .header(header::HOST, authority.to_string())
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, RELAY_PROTOCOL)
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Err(refusal(response).await));
        }
        Ok::<_, tower::BoxError>(Ok(hyper::upgrade::on(response).await?))
    };
    match tokio::time::timeout(ANSWER_TIMEOUT, ask).await {
        Ok(Ok(answer)) => answer.map(TokioIo::new),
        Ok(Err(error)) => Err(unavailable(node, &error.to_string())),
        Err(_) => Err(unavailable(node, "it does not answer")),
    }
}

/// A kubelet's plain text as a `Status`.
async fn refusal(response: http::Response<Incoming>) -> ApiError {
    let code = response.status();
    let body = Limited::new(response.into_body(), MAX_REFUSAL).collect().await;
    let message = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default();
    match code {
        StatusCode::TOO_MANY_REQUESTS => ApiError::new(Reason::TooManyRequests, message),
        _ => ApiError::new(Reason::ServiceUnavailable, format!("the pod cannot be reached: {message}")),
    }
}
