//! What the kubelet serves to the API server, and to nobody else: logs, exec, attach, port-forward.
//!
//! The paths are upstream's behind the tenant (`/clusters/<tenant>/containerLogs/…`): two tenants' pods may have the same
//! names. Streams are handed on to the runtime's own streaming server, which alone understands what is in them.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use http::{StatusCode, Uri};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use hypernetes_api::{DnsLabel, DnsSubdomain, PathComponent, TenantId, Uid, names};
use k8s_cri::v1 as cri;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{
    ServerTls,
    cri::{Container, POD_NAME, POD_NAMESPACE, POD_UID},
    identity::PodId,
    logs::{self, Follow, LogPlace},
    worker::Shared,
};

const HANDSHAKE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// Only connections with a certificate of the system's authority come through: the tenants' own are not known here.
pub fn acceptor(tls: &ServerTls) -> Result<TlsAcceptor, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(tls.client_authority.as_bytes()) {
        roots.add(certificate.map_err(|e| text(&e))?).map_err(|e| text(&e))?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().map_err(|e| text(&e))?;
    let chain = CertificateDer::pem_slice_iter(tls.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| text(&e))?;
    let key = PrivateKeyDer::from_pem_slice(tls.key.as_bytes()).map_err(|e| text(&e))?;
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| text(&e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Nodes and the operator have certificates of the same authority, and tenants had: the group tells infrastructure from
/// them, and the certificate has to say that it is the system's.
fn is_infrastructure(certificate: &CertificateDer<'_>) -> bool {
    use x509_parser::{
        extensions::GeneralName,
        prelude::{FromDer, X509Certificate},
    };
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let mut groups = certificate.subject().iter_organization().filter_map(|group| group.as_str().ok());
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let mut tenants = alternative.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(names::CERTIFICATE_TENANT_URI),
        _ => None,
    });
    groups.any(|group| group == names::GROUP_INFRASTRUCTURE)
        && tenants.next() == Some(TenantId::SYSTEM)
        && tenants.next().is_none()
}

pub async fn serve(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let router = router(shared);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let (acceptor, router) = (acceptor.clone(), router.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await else { return };
            let chain = stream.get_ref().1.peer_certificates();
            let router = if chain.and_then(<[_]>::first).is_some_and(is_infrastructure) {
                router
            } else {
                Router::new().fallback(async || (StatusCode::FORBIDDEN, "only the API server is answered here"))
            };
            let _ = Builder::new(TokioExecutor::new())
                .serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(router))
                .await;
        });
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/clusters/{tenant}/containerLogs/{namespace}/{pod}/{container}", get(container_logs))
        .route("/clusters/{tenant}/exec/{namespace}/{pod}/{container}", any(exec))
        .route("/clusters/{tenant}/attach/{namespace}/{pod}/{container}", any(attach))
        .route("/clusters/{tenant}/portForward/{namespace}/{pod}", any(port_forward))
        .with_state(shared)
}

/// What went wrong, as plain text; the API server makes a `Status` of it.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

/// A request that is no upgrade is refused before a session is made for it.
fn must_upgrade(request: &Request) -> Result<(), Refusal> {
    if request.headers().contains_key(http::header::UPGRADE) {
        return Ok(());
    }
    Err(Refusal(StatusCode::BAD_REQUEST, "you must specify an upgrade: the request is not one".into()))
}

impl Shared {
    /// What the runtime says, without where the node keeps what.
    fn refused(&self, status: &tonic::Status) -> Refusal {
        let code = match status.code() {
            tonic::Code::NotFound => StatusCode::NOT_FOUND,
            tonic::Code::InvalidArgument | tonic::Code::FailedPrecondition => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal(code, self.without_paths(status.message()))
    }

    /// Where a container's log is, in the pod's own directory of logs.
    fn log_of(&self, place: &Place, uid: Uid, container: &Container) -> Result<LogPlace, Refusal> {
        let bad = |error: &dyn std::fmt::Display| Refusal(StatusCode::BAD_REQUEST, error.to_string());
        let id = PodId {
            tenant: place.tenant.parse().map_err(|e| bad(&e))?,
            uid,
            namespace: DnsLabel::new(&place.namespace).map_err(|e| bad(&e))?,
            name: DnsSubdomain::new(&place.pod).map_err(|e| bad(&e))?,
        };
        let directory = DnsLabel::new(&place.container).map_err(|e| bad(&e))?;
        let name = PathComponent::new(&format!("{}.log", container.attempt)).map_err(|e| bad(&e))?;
        let find = || {
            let Some(logs) = self.logs.find_below(id.tenant.clone())? else { return Ok(None) };
            logs.find(id.log_name().map_err(std::io::Error::other)?)
        };
        let logs = find().map_err(|error| log_is_gone(place, &error))?;
        let logs = logs.ok_or_else(|| log_is_gone(place, &std::io::ErrorKind::NotFound.into()))?;
        Ok(LogPlace { logs, directory, name })
    }

    /// The newest sandbox of a tenant's pod.
    async fn sandbox_of(&self, tenant: &str, namespace: &str, pod: &str) -> Result<cri::PodSandbox, Refusal> {
        let listed = self.runtime.sandboxes_labelled(vec![(POD_NAME, pod), (POD_NAMESPACE, namespace)]).await;
        let listed = listed.map_err(|status| self.refused(&status))?;
        let own =
            listed.into_iter().filter(|s| s.annotations.get(names::TENANT_ANNOTATION).is_some_and(|t| t == tenant));
        own.max_by_key(|sandbox| sandbox.created_at)
            .ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("pod {pod:?} has not been started on this node")))
    }

    /// The newest container of a name in a pod, or the one before it.
    async fn container_of(&self, place: &Place, previous: bool) -> Result<(Uid, Container), Refusal> {
        let Place { tenant, namespace, pod, container } = place;
        let sandbox = self.sandbox_of(tenant, namespace, pod).await?;
        let uid = Uid::new(sandbox.labels.get(POD_UID).map_or("", String::as_str))
            .map_err(|error| Refusal(StatusCode::NOT_FOUND, error.to_string()))?;
        let found = self.runtime.containers(&uid).await.map_err(|status| self.refused(&status))?;
        let mut found = found.into_iter().filter(|c| c.name == *container);
        let bad = |message| Refusal(StatusCode::BAD_REQUEST, message);
        if previous {
            let missing = format!("previous terminated container {container:?} in pod {pod:?} not found");
            return found.nth(1).map(|container| (uid, container)).ok_or_else(|| bad(missing));
        }
        let waiting = format!("container {container:?} in pod {pod:?} is waiting to start: ContainerCreating");
        found.next().map(|container| (uid, container)).ok_or_else(|| bad(waiting))
    }
}

#[derive(serde::Deserialize)]
struct Place {
    tenant: String,
    namespace: String,
    pod: String,
    container: String,
}

/// A query's parameters in order: `command` comes as often as it has words.
fn parameters(uri: &Uri) -> Vec<(String, String)> {
    form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect()
}

fn flag(parameters: &[(String, String)], name: &str) -> bool {
    parameters.iter().any(|(key, value)| key == name && matches!(value.as_str(), "1" | "true"))
}

fn log_is_gone(place: &Place, error: &std::io::Error) -> Refusal {
    tracing::debug!(%error, "opening a log");
    Refusal(StatusCode::NOT_FOUND, format!("the log of container {:?} is gone", place.container))
}

async fn container_logs(
    State(shared): State<Arc<Shared>>,
    Path(place): Path<Place>,
    request: Request,
) -> Result<Response, Refusal> {
    let parameters = parameters(request.uri());
    let get = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let bad = |name: &str| Refusal(StatusCode::BAD_REQUEST, format!("{name} is not valid"));
    let number = |name: &'static str| get(name).map(|n| n.parse::<usize>().map_err(|_| bad(name))).transpose();
    let since = match (get("sinceTime"), number("sinceSeconds")?) {
        (Some(time), _) => Some(time.parse().map_err(|_| bad("sinceTime"))?),
        (None, Some(seconds)) => {
            let seconds = jiff::SignedDuration::from_secs(i64::try_from(seconds).map_err(|_| bad("sinceSeconds"))?);
            Some(jiff::Timestamp::now().checked_sub(seconds).map_err(|_| bad("sinceSeconds"))?)
        }
        (None, None) => None,
    };
    let options = logs::Options {
        tail: number("tailLines")?,
        timestamps: flag(&parameters, "timestamps"),
        since,
        limit_bytes: number("limitBytes")?,
    };
    let (uid, container) = shared.container_of(&place, flag(&parameters, "previous")).await?;
    let log = shared.log_of(&place, uid, &container)?;
    let file = log.open().map_err(|error| log_is_gone(&place, &error))?;
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
        if let Err(error) = logs::send(file, options, follow, sender.clone()).await {
            let _ = sender.send(Err(error)).await;
        }
    });
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
    Ok(([(http::header::CONTENT_TYPE, "text/plain")], body).into_response())
}

async fn exec(
    State(shared): State<Arc<Shared>>,
    Path(place): Path<Place>,
    request: Request,
) -> Result<Response, Refusal> {
    must_upgrade(&request)?;
    let parameters = parameters(request.uri());
    let command: Vec<String> = parameters.iter().filter(|(key, _)| key == "command").map(|(_, v)| v.clone()).collect();
    if command.is_empty() {
        return Err(Refusal(StatusCode::BAD_REQUEST, "you must specify at least 1 command for the container".into()));
    }
    let (_, container) = shared.container_of(&place, false).await?;
    let wanted = cri::ExecRequest {
        container_id: container.id,
        cmd: command,
        tty: flag(&parameters, "tty"),
        stdin: flag(&parameters, "input"),
        stdout: flag(&parameters, "output"),
        stderr: flag(&parameters, "error"),
    };
    let url = shared.runtime.exec_session(wanted).await.map_err(|status| shared.refused(&status))?;
    stream(request, &url).await
}

async fn attach(
    State(shared): State<Arc<Shared>>,
    Path(place): Path<Place>,
    request: Request,
) -> Result<Response, Refusal> {
    must_upgrade(&request)?;
    let parameters = parameters(request.uri());
    let (_, container) = shared.container_of(&place, false).await?;
    let wanted = cri::AttachRequest {
        container_id: container.id,
        tty: flag(&parameters, "tty"),
        stdin: flag(&parameters, "input"),
        stdout: flag(&parameters, "output"),
        stderr: flag(&parameters, "error"),
    };
    let url = shared.runtime.attach_session(wanted).await.map_err(|status| shared.refused(&status))?;
    stream(request, &url).await
}

async fn port_forward(
    State(shared): State<Arc<Shared>>,
    Path((tenant, namespace, pod)): Path<(String, String, String)>,
    request: Request,
) -> Result<Response, Refusal> {
    must_upgrade(&request)?;
    let sandbox = shared.sandbox_of(&tenant, &namespace, &pod).await?;
    let ports =
        parameters(request.uri()).iter().filter(|(k, _)| k == "ports").filter_map(|(_, v)| v.parse().ok()).collect();
    let wanted = cri::PortForwardRequest { pod_sandbox_id: sandbox.id, port: ports };
    let url = shared.runtime.port_forward_session(wanted).await.map_err(|status| shared.refused(&status))?;
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

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn only_what_says_that_it_is_the_systems_infrastructure_is() {
        let is = |group: &str, uris: &[&str]| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::OrganizationName, group);
            params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
            is_infrastructure(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
        };
        let (system, tenant) = ("hypernetes:tenant:system", "hypernetes:tenant:0123456789abcdef0123456789abcdef");
        assert!(is(names::GROUP_INFRASTRUCTURE, &[system]));
        for uris in [&[][..], &[tenant], &[system, tenant], &[tenant, system]] {
            assert!(!is(names::GROUP_INFRASTRUCTURE, uris), "{uris:?}");
        }
        for group in [names::GROUP_MASTERS, names::GROUP_NODES] {
            assert!(!is(group, &[system]), "{group}");
        }
    }
}
