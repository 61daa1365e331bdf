//! Exec, attach and port-forward: the request is joined with a session of the runtime's streaming server.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Path, Request, State},
    response::Response,
};
use http::{StatusCode, Uri};
use k8s_cri::v1 as cri;

use super::{
    lookup::{container_of, sandbox_of},
    request::{ContainerPath, Refusal, flag, parameters},
};
use crate::node::Shared;

pub(super) async fn exec(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<ContainerPath>,
    request: Request,
) -> Result<Response, Refusal> {
    must_upgrade(&request)?;
    let parameters = parameters(request.uri());
    let command: Vec<String> = parameters.iter().filter(|(key, _)| key == "command").map(|(_, v)| v.clone()).collect();
    if command.is_empty() {
        return Err(Refusal::bad("you must specify at least 1 command for the container"));
    }
    let (_, container) = container_of(&shared, &path, false).await?;
    let wanted = cri::ExecRequest {
        container_id: container.id,
        cmd: command,
        tty: flag(&parameters, "tty"),
        stdin: flag(&parameters, "input"),
        stdout: flag(&parameters, "output"),
        stderr: flag(&parameters, "error"),
    };
    let url = shared.runtime.exec_session(wanted).await.map_err(|status| Refusal::of_runtime(&shared, &status))?;
    stream(request, &url).await
}

pub(super) async fn attach(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<ContainerPath>,
    request: Request,
) -> Result<Response, Refusal> {
    must_upgrade(&request)?;
    let parameters = parameters(request.uri());
    let (_, container) = container_of(&shared, &path, false).await?;
    let wanted = cri::AttachRequest {
        container_id: container.id,
        tty: flag(&parameters, "tty"),
        stdin: flag(&parameters, "input"),
        stdout: flag(&parameters, "output"),
        stderr: flag(&parameters, "error"),
    };
    let url = shared.runtime.attach_session(wanted).await.map_err(|status| Refusal::of_runtime(&shared, &status))?;
    stream(request, &url).await
}

pub(super) async fn port_forward(
    State(shared): State<Arc<Shared>>,
    Path((tenant, namespace, pod)): Path<(String, String, String)>,
    request: Request,
) -> Result<Response, Refusal> {
    must_upgrade(&request)?;
    let sandbox = sandbox_of(&shared, &tenant, &namespace, &pod).await?;
    let ports =
        parameters(request.uri()).iter().filter(|(k, _)| k == "ports").filter_map(|(_, v)| v.parse().ok()).collect();
    let wanted = cri::PortForwardRequest { pod_sandbox_id: sandbox.id, port: ports };
    let url =
        shared.runtime.port_forward_session(wanted).await.map_err(|status| Refusal::of_runtime(&shared, &status))?;
    stream(request, &url).await
}

/// Joins the request with the runtime's session at `url`, which is on this host.
async fn stream(request: Request, url: &str) -> Result<Response, Refusal> {
    let failed = |error: &dyn std::fmt::Display| {
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("reaching the runtime's streaming server: {error}"))
    };
    let url: Uri = url.parse().map_err(|e| failed(&e))?;
    let address = url.authority().ok_or_else(|| failed(&"its URL has no address"))?.to_string();
    let connection = tokio::net::TcpStream::connect(address).await.map_err(|e| failed(&e))?;
    let _ = connection.set_nodelay(true);
    let response = hypernetes_client::forward(request, url, connection, |task| drop(tokio::spawn(task)))
        .await
        .map_err(|e| failed(&e))?;
    Ok(response.map(Body::new))
}

/// A request that is no upgrade is refused before a session is made for it.
fn must_upgrade(request: &Request) -> Result<(), Refusal> {
    if request.headers().contains_key(http::header::UPGRADE) {
        return Ok(());
    }
    Err(Refusal::bad("you must specify an upgrade: the request is not one"))
}
