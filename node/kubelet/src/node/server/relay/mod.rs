//! Byte streams into tenants' networks: a request that is upgraded is joined with a connection of the host's relay.

mod idle;

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Path, Request, State},
    response::Response,
};
use http::{HeaderMap, StatusCode, header};
use hyper_util::rt::TokioIo;
use hypernetes_api::names::RELAY_PROTOCOL;

use super::request::Refusal;
use crate::{
    node::Shared,
    relay::{Destination, RelayError},
};

/// How long nothing may pass.
const IDLE: Duration = Duration::from_secs(5 * 60);

pub(super) async fn relay(
    State(shared): State<Arc<Shared>>,
    Path((tenant, network, address, port)): Path<(String, String, String, String)>,
    mut request: Request,
) -> Result<Response, Refusal> {
    if !asks_for_relay(request.headers()) {
        return Err(Refusal::bad(format!("the request is no upgrade to {RELAY_PROTOCOL}")));
    }
    // None of these has anything that is to be escaped.
    let to =
        Some(Destination::parse(&tenant, &network, &address, &port)).filter(|_| !request.uri().path().contains('%'));
    let to = to.flatten().ok_or_else(|| Refusal::bad("a tenant, a network, an address and a port are needed"))?;
    let place = shared.relayed.take(&to.tenant);
    let place = place.map_err(|full| Refusal(StatusCode::TOO_MANY_REQUESTS, full.to_string()))?;
    let stream = shared.config.relay.connect(to).await.map_err(|error| match error {
        RelayError::NoPort(why) => Refusal(StatusCode::NOT_FOUND, why),
        RelayError::Unreachable(why) => Refusal(StatusCode::BAD_GATEWAY, why),
    })?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(Ok(asked)) = tokio::time::timeout(IDLE, upgrade).await {
            idle::join(TokioIo::new(asked), stream, IDLE).await;
        }
        drop(place);
    });
    let switching = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, RELAY_PROTOCOL)
        .body(Body::empty());
    switching.map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// Whether that is what the connection is to become, and nothing else.
fn asks_for_relay(headers: &HeaderMap) -> bool {
    let one = |name| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok())
    };
    one(header::CONNECTION).is_some_and(|value| value.eq_ignore_ascii_case("upgrade"))
        && one(header::UPGRADE) == Some(RELAY_PROTOCOL)
}
