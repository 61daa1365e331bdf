//! `log`, `exec`, `attach` and `portforward` of pods: handed on to the kubelet that has the pod.

use std::sync::Arc;

use axum::body::Body;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited};
use hypernetes_api::{ApiError, Reason};
use hypernetes_kinds::Connection;
use hypernetes_store::{Key, ResourceId};
use serde_json::{Value, json};

use crate::{
    Call, Inner,
    fairness::{account::Account, background, payer::Payer, places::Place, ticket::Ticket},
    node_channel::{self, Channel, unavailable},
    request::Query,
    stored_form,
    write::{Operation, admission},
};

/// Longest refusal of a kubelet that is passed on.
const MAX_REFUSAL: usize = 16 << 10;

/// Answers one of these requests.
pub(crate) async fn pod(
    server: &Inner,
    call: &Call,
    to: Connection,
    request: Request<Body>,
    ticket: &Ticket,
) -> Result<Response<Body>, ApiError> {
    let (target, query, tenant) = (&call.target, &call.query, &call.tenant()?);
    let name = target.name.as_deref().unwrap_or_default();
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let key = Key::new(&ResourceId::new("", "pods"), tenant, namespace, name)?;
    let entry = server.store.get(&key).await?;
    let pod = stored_form::decode(&entry.ok_or_else(|| ApiError::not_found("", "pods", name))?)?;
    if to != Connection::Logs && !is_upgrade(request.headers()) {
        // The node is not asked: it would keep a session for whoever comes for it, who does not.
        return Err(ApiError::bad_request("Upgrade request required"));
    }
    let container = match to {
        Connection::PortForward => None,
        Connection::Logs | Connection::Exec | Connection::Attach => {
            Some(container(&pod, name, query.get("container"))?)
        }
    };
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    // How the kubelet calls it, and what it cannot do any more for a pod that has ended.
    let (verb, ended) = match to {
        Connection::Logs => ("containerLogs", None),
        Connection::Exec => ("exec", Some("exec into a container")),
        Connection::Attach => ("attach", Some("attach a container")),
        Connection::PortForward => ("portForward", Some("forward ports")),
    };
    if let Some(what) = ended
        && matches!(phase, "Succeeded" | "Failed")
    {
        return Err(ApiError::bad_request(format!("cannot {what} in a completed pod; current phase is {phase}")));
    }
    let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) else {
        // A pod that is nowhere yet has written nothing.
        return if to == Connection::Logs {
            Ok(Response::new(Body::empty()))
        } else {
            Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")))
        };
    };
    let mut path = format!("/clusters/{tenant}/{verb}/{namespace}/{name}");
    if let Some(container) = &container {
        path = format!("{path}/{container}");
    }
    if let Some(query) = request.uri().query() {
        path = format!("{path}?{}", for_kubelet(query));
    }
    if to != Connection::Logs {
        let kind = call.subresource.as_ref().map_or("", |subresource| call.served.kind_of(subresource).2);
        let mut options = options(kind, query);
        admission::admit_use(server, call, Operation::Connect, &pod, &mut options, false).await?;
    }
    // What the two connections that are joined have taken, for as long as they live.
    let session = if to == Connection::Logs { None } else { ticket.session()? };
    let extensions = request.extensions();
    let held = Arc::new((session, extensions.get::<Arc<Place>>().cloned(), extensions.get::<Payer>().cloned()));
    let run = |task| {
        let (held, account) = (held.clone(), ticket.account());
        background::spawn(account.clone(), async move {
            Account::run(account, task).await;
            drop(held);
        });
    };
    let response = ask(server, node, &path, request, run).await?;
    match response.status() {
        code if code.is_client_error() || code.is_server_error() => {
            Err(refusal(response, &pod, container.as_deref().unwrap_or_default()).await)
        }
        _ => Ok(response),
    }
}

/// What is wanted of a connection, as upstream's `PodExecOptions` and so on say it.
fn options(kind: &str, query: &Query) -> Value {
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    for name in ["stdin", "stdout", "stderr", "tty"].into_iter().filter(|name| query.choice(name).is_some()) {
        options[name] = query.flag(name).into();
    }
    for name in ["command", "ports"].into_iter().filter(|name| !query.all(name).is_empty()) {
        options[name] = json!(query.all(name));
    }
    if !query.get("container").is_empty() {
        options["container"] = query.get("container").into();
    }
    options
}

/// Whether the connection is to become a WebSocket or SPDY.
fn is_upgrade(headers: &http::HeaderMap) -> bool {
    let connection = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let asks = connection.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    asks && headers.contains_key(header::UPGRADE)
}

/// The API's names of streams in the kubelet's words.
fn for_kubelet(query: &str) -> String {
    let words = [("stdin", "input"), ("stdout", "output"), ("stderr", "error")];
    let translate = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = words.iter().find(|(api, _)| *api == name).map_or(name, |(_, kubelet)| kubelet);
        format!("{name}={value}")
    };
    query.split('&').filter(|pair| !pair.is_empty()).map(translate).collect::<Vec<_>>().join("&")
}

/// Which container is meant; it may be left out where there is one.
fn container(pod: &Value, name: &str, wanted: &str) -> Result<String, ApiError> {
    let names = |field: &str| -> Vec<&str> {
        pod["spec"][field].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect()
    };
    let (containers, inits) = (names("containers"), names("initContainers"));
    if !wanted.is_empty() {
        return if containers.contains(&wanted) || inits.contains(&wanted) {
            Ok(wanted.to_owned())
        } else {
            Err(ApiError::bad_request(format!("container {wanted} is not valid for pod {name}")))
        };
    }
    match containers.as_slice() {
        [one] => Ok((*one).to_owned()),
        _ => {
            let mut message =
                format!("a container name must be specified for pod {name}, choose one of: [{}]", containers.join(" "));
            if !inits.is_empty() {
                message = format!("{message} or one of the init containers: [{}]", inits.join(" "));
            }
            Err(ApiError::bad_request(message))
        }
    }
}

/// `run` has what goes on beside the answer done.
async fn ask(
    server: &Inner,
    node: &str,
    path: &str,
    request: Request<Body>,
    run: impl Fn(BoxFuture<'static, ()>) + Send,
) -> Result<Response<Body>, ApiError> {
    let Channel { stream, authority } = node_channel::connect(server, node).await?;
    let uri: Uri = format!("https://{authority}{path}")
        .parse()
        .map_err(|_| ApiError::bad_request("the query is not properly escaped"))?;
    let response = hypernetes_client::forward(request, uri, stream, run).await;
    Ok(response.map_err(|error| unavailable(node, &error.to_string()))?.map(Body::new))
}

/// A kubelet's plain text as a `Status`, with the reason for which a container is not there that only the pod's status has.
async fn refusal(response: Response<Body>, pod: &Value, container: &str) -> ApiError {
    let code = response.status();
    let body =
        Limited::new(response.into_body(), MAX_REFUSAL).collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let mut message = String::from_utf8_lossy(&body).trim().to_owned();
    if let Some(start) = message.strip_suffix("ContainerCreating") {
        let statuses = ["containerStatuses", "initContainerStatuses"].into_iter();
        let mut statuses = statuses.flat_map(|field| pod["status"][field].as_array().into_iter().flatten());
        let status = statuses.find(|status| status["name"] == container);
        match status.and_then(|status| status["state"]["waiting"]["reason"].as_str()) {
            Some("ErrImagePull") => message = format!("{start}image can't be pulled"),
            Some("ImagePullBackOff") => message = format!("{start}trying and failing to pull image"),
            Some(reason) => message = format!("{start}{reason}"),
            None => {}
        }
    }
    match code {
        StatusCode::NOT_FOUND => ApiError::new(Reason::NotFound, message),
        code if code.is_client_error() => ApiError::bad_request(message),
        _ => ApiError::internal(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_is_named_or_the_only_one() {
        let one = json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(container(&one, "p", "").unwrap(), "a");
        assert_eq!(container(&one, "p", "i").unwrap(), "i");
        assert_eq!(container(&one, "p", "x").unwrap_err().to_string(), "container x is not valid for pod p");
        let two = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        let message = container(&two, "p", "").unwrap_err().to_string();
        assert_eq!(message, "a container name must be specified for pod p, choose one of: [a b]");
    }

    #[test]
    fn only_an_upgrade_is_one() {
        let headers = |pairs: &[(&str, &str)]| -> http::HeaderMap {
            pairs.iter().map(|(k, v)| (k.parse::<http::HeaderName>().unwrap(), v.parse().unwrap())).collect()
        };
        assert!(is_upgrade(&headers(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")])));
        assert!(is_upgrade(&headers(&[("connection", "keep-alive, upgrade"), ("upgrade", "websocket")])));
        assert!(
            !is_upgrade(&headers(&[("upgrade", "websocket")])) && !is_upgrade(&headers(&[("connection", "upgrade")]))
        );
        assert!(!is_upgrade(&headers(&[("connection", "keep-alive"), ("upgrade", "websocket")])));
    }

    #[test]
    fn streams_are_called_as_the_kubelet_does() {
        assert_eq!(for_kubelet("command=a&command=stdin&stdin=true&tty=1"), "command=a&command=stdin&input=true&tty=1");
    }
}
