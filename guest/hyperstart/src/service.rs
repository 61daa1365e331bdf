//! The contract's service: each call checked and handed to the part that does it.

use std::{
    io,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::UNIX_EPOCH,
};

use futures::Stream;
use hypernetes_guest_protocol::{
    VERSIONS,
    v1::{self, agent_server::Agent, output_chunk},
};
use tokio::sync::mpsc;
use tokio_stream::{
    StreamExt,
    wrappers::{ReceiverStream, UnboundedReceiverStream},
};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    aside::aside,
    container, dial, files,
    hostfs::HostPaths,
    init, modules, output, process,
    reaper::Reaper,
    sandbox,
    state::{Container, Containers, Process},
    stats, users,
    zygote::Zygote,
};

const CHUNK: usize = 64 << 10;
/// First version of the contract in which the boot id is not said before there was entropy.
const SINCE_SILENT: u32 = 2;
/// The kernel makes it up when it is first read.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

fn read_line(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[derive(Clone)]
pub struct Service {
    containers: Arc<Containers>,
    host_paths: Arc<HostPaths>,
    reaper: Arc<Reaper>,
    zygote: Arc<Zygote>,
    /// Whether this VM was told apart from every other by the host's entropy.
    seeded: Arc<AtomicBool>,
}

impl Service {
    pub fn new(zygote: Zygote) -> io::Result<Self> {
        Ok(Self {
            containers: Arc::default(),
            host_paths: Arc::default(),
            reaper: Reaper::start()?,
            zygote: Arc::new(zygote),
            seeded: Arc::default(),
        })
    }

    fn process(&self, container: &str, exec: &str) -> Result<(Arc<Container>, Arc<Process>), Status> {
        let container = self.containers.get(container)?;
        let process = container.process(exec)?;
        Ok((container, process))
    }
}

/// How long what is not on the disks yet may take to get there before the VM is powered off.
const SYNC_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

type HostPathRequests = Pin<Box<dyn Stream<Item = Result<v1::HostPathRequest, Status>> + Send>>;
type Chunks = Pin<Box<dyn Stream<Item = Result<v1::OutputChunk, Status>> + Send>>;

#[tonic::async_trait]
impl Agent for Service {
    async fn hello(&self, request: Request<v1::HelloRequest>) -> Result<Response<v1::HelloResponse>, Status> {
        let request = request.into_inner();
        let newest = (*VERSIONS.end()).min(request.max_version);
        let version = if newest >= request.min_version && VERSIONS.contains(&newest) { newest } else { 0 };
        // In a VM that is to be copied the identity must not be decided, which reading it does.
        let decided = (1..SINCE_SILENT).contains(&version) || self.seeded.load(Ordering::Acquire);
        Ok(Response::new(v1::HelloResponse {
            version,
            agent_version: env!("CARGO_PKG_VERSION").into(),
            kernel_release: read_line("/proc/sys/kernel/osrelease"),
            boot_id: if decided { read_line(BOOT_ID) } else { String::new() },
        }))
    }

    async fn configure_sandbox(
        &self,
        request: Request<v1::ConfigureSandboxRequest>,
    ) -> Result<Response<v1::ConfigureSandboxResponse>, Status> {
        let mut request = request.into_inner();
        let files = std::mem::take(&mut request.files);
        sandbox::configure(&request, &self.seeded).await?;
        if !request.file_set.is_empty() {
            let mut incoming = files::Incoming::default();
            files.into_iter().try_for_each(|file| incoming.add(file)).map_err(Status::invalid_argument)?;
            let directory = files::directory(&request.file_set).ok_or_else(|| no_set(&request.file_set))?;
            incoming.commit(&directory).map_err(|e| Status::internal(format!("writing files: {e}")))?;
        }
        let boot_id = if self.seeded.load(Ordering::Acquire) { read_line(BOOT_ID) } else { String::new() };
        Ok(Response::new(v1::ConfigureSandboxResponse { boot_id }))
    }

    async fn put_files(
        &self,
        request: Request<Streaming<v1::PutFilesRequest>>,
    ) -> Result<Response<v1::PutFilesResponse>, Status> {
        let mut stream = request.into_inner();
        let mut incoming = files::Incoming::default();
        let mut set = None;
        while let Some(message) = stream.message().await? {
            if set.is_none() {
                let directory = files::directory(&message.set);
                set = Some(directory.ok_or_else(|| no_set(&message.set))?);
            }
            if let Some(file) = message.file {
                incoming.add(file).map_err(Status::invalid_argument)?;
            }
            if let (true, Some(directory)) = (message.commit, &set) {
                incoming.commit(directory).map_err(|e| Status::internal(format!("writing files: {e}")))?;
                if files::directory(modules::SET).as_ref() == Some(directory) {
                    modules::serve().map_err(|e| Status::internal(format!("offering modules to the kernel: {e}")))?;
                }
                return Ok(Response::new(v1::PutFilesResponse {}));
            }
        }
        Err(Status::invalid_argument("the set of files was not committed"))
    }

    async fn read_file(&self, request: Request<v1::ReadFileRequest>) -> Result<Response<v1::ReadFileResponse>, Status> {
        let request = request.into_inner();
        let container = self.containers.get(&request.container_id)?;
        let most = request.max_bytes.min(1 << 20);
        let path = request.path.clone();
        let read = aside(move || container.root.read_tail(Path::new(&path), most)).await?;
        let data = read.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Status::not_found(format!("{}: {error}", request.path)),
            _ => Status::failed_precondition(format!("{}: {error}", request.path)),
        })?;
        Ok(Response::new(v1::ReadFileResponse { data }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Result<Response<v1::CreateContainerResponse>, Status> {
        let containers = self.containers.clone();
        let created = aside(move || container::create(&containers, request.into_inner())).await??;
        let users::Credentials { uid, gid, groups, .. } = created;
        Ok(Response::new(v1::CreateContainerResponse { uid, gid, groups }))
    }

    async fn update_container(
        &self,
        request: Request<v1::UpdateContainerRequest>,
    ) -> Result<Response<v1::UpdateContainerResponse>, Status> {
        let request = request.into_inner();
        container::update(&self.containers, &request.container_id, request.resources.as_ref())?;
        Ok(Response::new(v1::UpdateContainerResponse {}))
    }

    async fn start_process(
        &self,
        request: Request<v1::StartProcessRequest>,
    ) -> Result<Response<v1::StartProcessResponse>, Status> {
        let request = request.into_inner();
        let container = self.containers.get(&request.container_id)?;
        let exec = &request.exec_id;
        if exec.len() > 128 || exec.contains(['/', '.']) {
            return Err(Status::invalid_argument("that is not an exec id"));
        }
        let spec = if exec.is_empty() { container.spec.process.as_ref() } else { request.process.as_ref() };
        let spec = spec.ok_or_else(|| Status::invalid_argument("no process"))?;
        let started = process::start(&self.containers, &container, exec, spec, &self.reaper, &self.zygote).await?;
        Ok(Response::new(v1::StartProcessResponse { pid: started.pid.unsigned_abs() }))
    }

    async fn wait_process(
        &self,
        request: Request<v1::WaitProcessRequest>,
    ) -> Result<Response<v1::WaitProcessResponse>, Status> {
        let request = request.into_inner();
        let (_, process) = self.process(&request.container_id, &request.exec_id)?;
        let mut ended = process.ended.clone();
        let ended = ended.wait_for(Option::is_some).await.map_err(|_| Status::internal("the process was lost"))?;
        let ended = ended.ok_or_else(|| Status::internal("the process was lost"))?;
        let at = ended.exit.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Response::new(v1::WaitProcessResponse {
            exit_code: ended.exit.code,
            signal: ended.exit.signal,
            oom_killed: ended.out_of_memory,
            finished_unix_nanos: u64::try_from(at.as_nanos()).unwrap_or(0),
        }))
    }

    async fn signal_process(
        &self,
        request: Request<v1::SignalProcessRequest>,
    ) -> Result<Response<v1::SignalProcessResponse>, Status> {
        let request = request.into_inner();
        let (container, process) = self.process(&request.container_id, &request.exec_id)?;
        process::signal(&container, &process, request.signal, request.all)?;
        Ok(Response::new(v1::SignalProcessResponse {}))
    }

    async fn remove_process(
        &self,
        request: Request<v1::RemoveProcessRequest>,
    ) -> Result<Response<v1::RemoveProcessResponse>, Status> {
        let request = request.into_inner();
        let freed_slots = if request.exec_id.is_empty() {
            let containers = self.containers.clone();
            aside(move || container::remove(&containers, &request.container_id)).await??
        } else {
            let (container, process) = self.process(&request.container_id, &request.exec_id)?;
            process::signal(&container, &process, nix::libc::SIGKILL as u32, false)?;
            container.remove_process(&request.exec_id);
            Vec::new()
        };
        Ok(Response::new(v1::RemoveProcessResponse { freed_slots }))
    }

    type ReadOutputStream = Chunks;

    async fn read_output(
        &self,
        request: Request<Streaming<v1::ReadOutputRequest>>,
    ) -> Result<Response<Chunks>, Status> {
        let mut incoming = request.into_inner();
        let first = incoming.message().await?.ok_or_else(|| Status::invalid_argument("no process named"))?;
        let (_, process) = self.process(&first.container_id, &first.exec_id)?;
        let (sender, receiver) = mpsc::channel(4);
        use output_chunk::Stream as Kind;
        let streams = [
            (Kind::Stdout, process.stdout.clone(), first.stdout_offset),
            (Kind::Stderr, process.stderr.clone(), first.stderr_offset),
        ];
        for (kind, stream, offset) in streams {
            tokio::spawn(send_output(kind, stream, offset, sender.clone()));
        }
        let (stdout, stderr) = (process.stdout.clone(), process.stderr.clone());
        tokio::spawn(async move {
            while let Some(Ok(acknowledged)) = incoming.next().await {
                stdout.acknowledge(acknowledged.stdout_offset);
                stderr.acknowledge(acknowledged.stderr_offset);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn write_stdin(
        &self,
        request: Request<v1::WriteStdinRequest>,
    ) -> Result<Response<v1::WriteStdinResponse>, Status> {
        let request = request.into_inner();
        let (_, process) = self.process(&request.container_id, &request.exec_id)?;
        process::write_stdin(&process, request.data, request.close).await?;
        Ok(Response::new(v1::WriteStdinResponse {}))
    }

    async fn resize_tty(
        &self,
        request: Request<v1::ResizeTtyRequest>,
    ) -> Result<Response<v1::ResizeTtyResponse>, Status> {
        let request = request.into_inner();
        let (_, process) = self.process(&request.container_id, &request.exec_id)?;
        process::resize(&process, request.width, request.height)?;
        Ok(Response::new(v1::ResizeTtyResponse {}))
    }

    type DialStream = dial::Chunks;

    async fn dial(&self, request: Request<Streaming<v1::DialChunk>>) -> Result<Response<dial::Chunks>, Status> {
        Ok(Response::new(dial::dial(request.into_inner()).await?))
    }

    async fn stats(&self, request: Request<v1::StatsRequest>) -> Result<Response<v1::StatsResponse>, Status> {
        let wanted = request.into_inner().container_id;
        let all = self.containers.all();
        let chosen = all.iter().filter(|container| wanted.is_empty() || container.id == wanted);
        let containers = chosen.map(|c| stats::container(&c.id, &c.directory.join("writable"))).collect();
        let (memory_total_bytes, memory_available_bytes) = stats::memory();
        let interfaces = stats::interfaces();
        Ok(Response::new(v1::StatsResponse { containers, memory_total_bytes, memory_available_bytes, interfaces }))
    }

    type ServeHostPathStream = HostPathRequests;

    async fn serve_host_path(
        &self,
        request: Request<Streaming<v1::HostPathReply>>,
    ) -> Result<Response<HostPathRequests>, Status> {
        let mut answers = request.into_inner();
        let wanted = answers.message().await?.and_then(|first| first.mount);
        let wanted = wanted.ok_or_else(|| Status::invalid_argument("the first message names no host path"))?;
        let (host_paths, name) = (self.host_paths.clone(), wanted.name.clone());
        let served = aside(move || host_paths.serve(&wanted)).await?;
        let (relay, requests) =
            served.map_err(|error| Status::failed_precondition(format!("mounting the host's path: {error}")))?;
        let host_paths = self.host_paths.clone();
        tokio::spawn(async move {
            while let Ok(Some(answer)) = answers.message().await {
                if answer.end {
                    let (host_paths, name) = (host_paths.clone(), name.clone());
                    tokio::spawn(aside(move || host_paths.unmount(&name)));
                } else {
                    relay.answer(answer);
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(requests).map(Ok))))
    }

    async fn shutdown(&self, _: Request<v1::ShutdownRequest>) -> Result<Response<v1::ShutdownResponse>, Status> {
        // What was written through memory goes to the host, too, if it still answers.
        let _ = tokio::time::timeout(SYNC_TIMEOUT, aside(nix::unistd::sync)).await;
        let host_paths = self.host_paths.clone();
        tokio::spawn(async move {
            // Let the answer out first.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            host_paths.abort();
            init::power_off();
        });
        Ok(Response::new(v1::ShutdownResponse {}))
    }
}

fn no_set(name: &str) -> Status {
    Status::invalid_argument(format!("{name:?} is no name of a file set"))
}

async fn send_output(
    kind: output_chunk::Stream,
    stream: Arc<output::Stream>,
    mut offset: u64,
    sender: mpsc::Sender<Result<v1::OutputChunk, Status>>,
) {
    loop {
        let part = tokio::select! {
            part = stream.next(offset, CHUNK) => part,
            () = sender.closed() => return,
        };
        offset = part.offset + part.data.len() as u64;
        let chunk = v1::OutputChunk { stream: kind.into(), offset: part.offset, data: part.data, eof: part.end };
        if sender.send(Ok(chunk)).await.is_err() || part.end {
            return;
        }
    }
}
