//! The logs of a container, as `kubectl logs` reads them.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use hypernetes_api::{DnsLabel, DnsSubdomain, PathComponent, Uid};

use super::{
    log_reader::{self, Follow, LogPlace, Options},
    lookup::container_of,
    request::{ContainerPath, Refusal, flag, parameters},
};
use crate::{
    identity::PodId,
    node::{Shared, cri::Container},
};

pub(super) async fn container_logs(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<ContainerPath>,
    request: Request,
) -> Result<Response, Refusal> {
    let parameters = parameters(request.uri());
    let get = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let bad = |name: &str| Refusal::bad(format!("{name} is not valid"));
    let number = |name: &'static str| get(name).map(|n| n.parse::<usize>().map_err(|_| bad(name))).transpose();
    let since = match (get("sinceTime"), number("sinceSeconds")?) {
        (Some(time), _) => Some(time.parse().map_err(|_| bad("sinceTime"))?),
        (None, Some(seconds)) => {
            let seconds = jiff::SignedDuration::from_secs(i64::try_from(seconds).map_err(|_| bad("sinceSeconds"))?);
            Some(jiff::Timestamp::now().checked_sub(seconds).map_err(|_| bad("sinceSeconds"))?)
        }
        (None, None) => None,
    };
    let options = Options {
        tail: number("tailLines")?,
        timestamps: flag(&parameters, "timestamps"),
        since,
        limit_bytes: number("limitBytes")?,
    };
    let (uid, container) = container_of(&shared, &path, flag(&parameters, "previous")).await?;
    let log = log_of(&shared, &path, uid, &container)?;
    let file = log.open().map_err(|error| log_is_gone(&path, &error))?;
    let follow = match flag(&parameters, "follow") {
        true => {
            let changes = log.watch().inspect_err(|error| tracing::warn!(%error, "a log is followed slowly")).ok();
            let (runtime, id) = (shared.runtime.clone(), container.id.clone());
            let running = async move || runtime.is_running(&id).await;
            let events = shared.container_events.subscribe();
            Some(Follow { running, reopen: move || log.open().ok(), changes, events, id: container.id })
        }
        false => None,
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        if let Err(error) = log_reader::send(file, options, follow, sender.clone()).await {
            let _ = sender.send(Err(error)).await;
        }
    });
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
    Ok(([(http::header::CONTENT_TYPE, "text/plain")], body).into_response())
}

/// Where a container's log is, in the pod's own directory of logs.
fn log_of(shared: &Shared, path: &ContainerPath, uid: Uid, container: &Container) -> Result<LogPlace, Refusal> {
    let bad = |error: &dyn std::fmt::Display| Refusal::bad(error.to_string());
    let id = PodId {
        tenant: path.tenant.parse().map_err(|e| bad(&e))?,
        uid,
        namespace: DnsLabel::new(&path.namespace).map_err(|e| bad(&e))?,
        name: DnsSubdomain::new(&path.pod).map_err(|e| bad(&e))?,
    };
    let directory = DnsLabel::new(&path.container).map_err(|e| bad(&e))?;
    let name = PathComponent::new(&format!("{}.log", container.attempt)).map_err(|e| bad(&e))?;
    let logs = shared.logs.find(&id).map_err(|error| log_is_gone(path, &error))?;
    let logs = logs.ok_or_else(|| log_is_gone(path, &std::io::ErrorKind::NotFound.into()))?;
    Ok(LogPlace { logs, directory, name })
}

fn log_is_gone(path: &ContainerPath, error: &std::io::Error) -> Refusal {
    tracing::debug!(%error, "opening a log");
    Refusal(StatusCode::NOT_FOUND, format!("the log of container {:?} is gone", path.container))
}
