//! A runtime without VMs, which can be made to hang.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    convert::Infallible,
    path::Path,
    sync::Arc,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hypernetes_hyperd_api::{ForgetTenantRequest, ForgetTenantResponse, ListTenantsResponse};
use k8s_cri::v1 as cri;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Notify;
use tonic::Status;

type Body = UnsyncBoxBody<Bytes, Infallible>;

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, cri::PodSandbox>,
    containers: BTreeMap<String, (cri::Container, cri::ContainerConfig)>,
    /// Methods that do not answer.
    hanging: HashSet<&'static str>,
    /// What has ended: how, and when, in nanoseconds since 1970.
    ended: HashMap<String, (i32, i64)>,
    /// What was done in containers and to them, in order: commands, and `stop`.
    done: Vec<(String, String)>,
    /// Commands that fail.
    failing: HashSet<&'static str>,
    made: usize,
    /// Who has pulled something.
    tenants: BTreeSet<String>,
    /// What was asked for and is refused.
    pulls: Vec<cri::ImageSpec>,
}

#[derive(Default)]
pub struct FakeRuntime(Mutex<State>, Notify);

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, Status> {
    M::decode(bytes).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn encode(message: impl Message) -> Result<Vec<u8>, Status> {
    Ok(message.encode_to_vec())
}

impl FakeRuntime {
    pub fn serve(socket: &Path) -> Arc<Self> {
        let fake = Arc::new(Self::default());
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        let serving = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                let service = hyper::service::service_fn(move |request| {
                    let serving = serving.clone();
                    async move { Ok::<_, Infallible>(serving.answer(request).await) }
                });
                tokio::spawn(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        fake
    }

    pub fn hang(&self, method: &'static str) {
        self.0.lock().hanging.insert(method);
    }

    /// Those that wait are answered.
    pub fn answer_again(&self, method: &'static str) {
        self.0.lock().hanging.remove(method);
        self.1.notify_waiters();
    }

    pub fn fails(&self, command: &'static str) {
        self.0.lock().failing.insert(command);
    }

    /// What was done in a pod's containers and to them, each with the container's name.
    pub fn done(&self, uid: &str) -> Vec<String> {
        let state = self.0.lock();
        let container = |id: &String| state.containers.get(id).map(|(container, _)| container);
        let of_pod = |c: &&cri::Container| c.labels.get(crate::node::cri::POD_UID).is_some_and(|of| of == uid);
        let name = |c: &cri::Container| c.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
        let of = state.done.iter().filter_map(|(id, what)| container(id).filter(of_pod).map(|c| (name(c), what)));
        of.map(|(name, what)| format!("{name}: {what}")).collect()
    }

    /// The tenant has pulled something.
    pub fn has_pulled(&self, tenant: &str) {
        self.0.lock().tenants.insert(tenant.to_owned());
    }

    pub fn keeps_something_of(&self, tenant: &str) -> bool {
        self.0.lock().tenants.contains(tenant)
    }

    /// Whether a container of the pod runs.
    pub fn runs(&self, uid: &str) -> bool {
        self.0.lock().containers.values().any(|(container, _)| {
            container.state() == cri::ContainerState::ContainerRunning
                && container.labels.get(crate::node::cri::POD_UID).is_some_and(|of| of == uid)
        })
    }

    pub fn has_sandbox(&self, uid: &str) -> bool {
        self.0
            .lock()
            .sandboxes
            .values()
            .any(|sandbox| sandbox.labels.get(crate::node::cri::POD_UID).is_some_and(|of| of == uid))
    }

    /// What was said with a pod's sandbox.
    pub fn annotations(&self, uid: &str) -> HashMap<String, String> {
        let state = self.0.lock();
        let of_pod = |s: &&cri::PodSandbox| s.labels.get(crate::node::cri::POD_UID).is_some_and(|of| of == uid);
        state.sandboxes.values().find(of_pod).map(|sandbox| sandbox.annotations.clone()).unwrap_or_default()
    }

    pub fn pulls(&self) -> Vec<cri::ImageSpec> {
        self.0.lock().pulls.clone()
    }

    /// What a pod's containers were made of.
    pub fn configs(&self, uid: &str) -> Vec<cri::ContainerConfig> {
        let state = self.0.lock();
        let of_pod = state
            .containers
            .values()
            .filter(|(container, _)| container.labels.get(crate::node::cri::POD_UID).is_some_and(|of| of == uid));
        of_pod.map(|(_, config)| config.clone()).collect()
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let hangs = || self.0.lock().hanging.contains(&*method);
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        if method == "GetContainerEvents" {
            std::future::pending::<()>().await;
        }
        let message = body.get(5..).unwrap_or_default();
        self.note(&method, message);
        loop {
            let again = self.1.notified();
            tokio::pin!(again);
            again.as_mut().enable();
            if !hangs() {
                break;
            }
            again.await;
        }
        let mut trailers = HeaderMap::new();
        let mut frames = Vec::new();
        match self.call(&method, message) {
            Ok(reply) => {
                let mut framed = BytesMut::new();
                framed.put_u8(0);
                framed.put_u32(u32::try_from(reply.len()).unwrap());
                framed.extend_from_slice(&reply);
                frames.push(Ok(Frame::data(framed.freeze())));
                trailers.insert("grpc-status", 0.into());
            }
            Err(status) => {
                trailers.insert("grpc-status", (status.code() as i32).into());
                trailers.insert("grpc-message", status.message().replace(' ', "%20").parse().unwrap());
            }
        }
        frames.push(Ok(Frame::trailers(trailers)));
        let body = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
        Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    }

    /// Puts down what is done, before it is answered.
    fn note(&self, method: &str, message: &[u8]) {
        let done = match method {
            "ExecSync" => {
                decode::<cri::ExecSyncRequest>(message).map(|asked| (asked.container_id, asked.cmd.join(" ")))
            }
            "StopContainer" => {
                decode::<cri::StopContainerRequest>(message).map(|asked| (asked.container_id, "stop".into()))
            }
            _ => return,
        };
        self.0.lock().done.extend(done);
    }

    fn call(&self, method: &str, message: &[u8]) -> Result<Vec<u8>, Status> {
        let mut state = self.0.lock();
        let labelled = |labels: &HashMap<String, String>, wanted: &HashMap<String, String>| {
            wanted.iter().all(|(label, value)| labels.get(label) == Some(value))
        };
        match method {
            "Version" => encode(cri::VersionResponse { runtime_name: "fake".into(), ..Default::default() }),
            "ListPodSandbox" => {
                let wanted = decode::<cri::ListPodSandboxRequest>(message)?.filter.unwrap_or_default().label_selector;
                let items = state.sandboxes.values().filter(|s| labelled(&s.labels, &wanted)).cloned().collect();
                encode(cri::ListPodSandboxResponse { items })
            }
            "RunPodSandbox" => {
                let config = decode::<cri::RunPodSandboxRequest>(message)?.config.unwrap_or_default();
                state.made += 1;
                let id = format!("sandbox-{}", state.made);
                let sandbox = cri::PodSandbox {
                    id: id.clone(),
                    metadata: config.metadata,
                    labels: config.labels,
                    annotations: config.annotations,
                    ..Default::default()
                };
                state.sandboxes.insert(id.clone(), sandbox);
                encode(cri::RunPodSandboxResponse { pod_sandbox_id: id })
            }
            "PodSandboxStatus" => encode(cri::PodSandboxStatusResponse::default()),
            "StopPodSandbox" => {
                let id = decode::<cri::StopPodSandboxRequest>(message)?.pod_sandbox_id;
                if let Some(sandbox) = state.sandboxes.get_mut(&id) {
                    sandbox.set_state(cri::PodSandboxState::SandboxNotready);
                }
                for (container, _) in state.containers.values_mut().filter(|(c, _)| c.pod_sandbox_id == id) {
                    container.set_state(cri::ContainerState::ContainerExited);
                }
                encode(cri::StopPodSandboxResponse {})
            }
            "RemovePodSandbox" => {
                let id = decode::<cri::RemovePodSandboxRequest>(message)?.pod_sandbox_id;
                state.sandboxes.remove(&id);
                state.containers.retain(|_, (container, _)| container.pod_sandbox_id != id);
                encode(cri::RemovePodSandboxResponse {})
            }
            "ListContainers" => {
                let wanted = decode::<cri::ListContainersRequest>(message)?.filter.unwrap_or_default().label_selector;
                let all = state.containers.values().map(|(container, _)| container);
                let containers = all.filter(|c| labelled(&c.labels, &wanted)).cloned().collect();
                encode(cri::ListContainersResponse { containers })
            }
            "ContainerStatus" => {
                let id = decode::<cri::ContainerStatusRequest>(message)?.container_id;
                let (container, _) = state.containers.get(&id).ok_or_else(|| Status::not_found("no such container"))?;
                let (exit_code, finished_at) = state.ended.get(&id).copied().unwrap_or_default();
                let status = cri::ContainerStatus {
                    exit_code,
                    finished_at,
                    id: id.clone(),
                    metadata: container.metadata.clone(),
                    state: container.state,
                    labels: container.labels.clone(),
                    ..Default::default()
                };
                encode(cri::ContainerStatusResponse { status: Some(status), ..Default::default() })
            }
            "CreateContainer" => {
                let request = decode::<cri::CreateContainerRequest>(message)?;
                let config = request.config.unwrap_or_default();
                state.made += 1;
                let id = format!("container-{}", state.made);
                let mut container = cri::Container {
                    id: id.clone(),
                    pod_sandbox_id: request.pod_sandbox_id,
                    metadata: config.metadata.clone(),
                    labels: config.labels.clone(),
                    ..Default::default()
                };
                container.set_state(cri::ContainerState::ContainerCreated);
                state.containers.insert(id.clone(), (container, config));
                encode(cri::CreateContainerResponse { container_id: id })
            }
            "StartContainer" => {
                let id = decode::<cri::StartContainerRequest>(message)?.container_id;
                if let Some((container, _)) = state.containers.get_mut(&id) {
                    container.set_state(cri::ContainerState::ContainerRunning);
                }
                encode(cri::StartContainerResponse {})
            }
            "StopContainer" => {
                let id = decode::<cri::StopContainerRequest>(message)?.container_id;
                if let Some((container, _)) = state.containers.get_mut(&id) {
                    container.set_state(cri::ContainerState::ContainerExited);
                    let now = jiff::Timestamp::now().as_nanosecond();
                    state.ended.insert(id, (137, i64::try_from(now).unwrap()));
                }
                encode(cri::StopContainerResponse {})
            }
            "ExecSync" => {
                let command = decode::<cri::ExecSyncRequest>(message)?.cmd.join(" ");
                let exit_code = i32::from(state.failing.contains(&*command));
                encode(cri::ExecSyncResponse { exit_code, ..Default::default() })
            }
            "ListTenants" => encode(ListTenantsResponse { tenants: state.tenants.iter().cloned().collect() }),
            "ForgetTenant" => {
                state.tenants.remove(&decode::<ForgetTenantRequest>(message)?.tenant);
                encode(ForgetTenantResponse {})
            }
            // An image whose user is root.
            "ImageStatus" => {
                let image = Some(cri::Image { id: "image".into(), ..Default::default() });
                encode(cri::ImageStatusResponse { image, ..Default::default() })
            }
            "PullImage" => {
                state.pulls.extend(decode::<cri::PullImageRequest>(message)?.image);
                Err(Status::resource_exhausted("exceeded quota"))
            }
            other => Err(Status::unimplemented(other)),
        }
    }
}
