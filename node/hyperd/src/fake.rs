//! The unit tests' double of a VM: a process-less machine whose agent is a gRPC server in this process that runs the
//! containers' commands as plain processes of the host. It outlives the hyperd under test, and can play a hostile guest.

pub(crate) mod misdeeds;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
    pin::Pin,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use futures::{Stream, StreamExt};
use hypernetes_guest_protocol::{
    session, v1,
    v1::agent_server::{Agent, AgentServer},
};
use hypernetes_hypervisor::{
    Accelerator, AgentAddress, DiskSlot, DiskSource, Hypervisor, HypervisorError, HypervisorInfo, Vm, VmExit, VmRecord,
    VmSpec,
};
use hypernetes_image::{Credentials, Digest, Image, ImageConfig, ImageError, Progress, Puller};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

const SIGKILL: u32 = 9;
const SIGCONT: u32 = 18;
const SIGSTOP: u32 = 19;

/// How the guest misbehaves.
#[derive(Debug, Default)]
pub(crate) struct Mischief {
    /// Never answers Hello.
    pub silent: AtomicBool,
    /// Speaks a version that nobody asked for.
    pub wrong_version: AtomicBool,
    /// Sends output that the contract does not allow.
    pub lying_output: AtomicBool,
    /// Claims absurd usage.
    pub absurd_stats: AtomicBool,
    /// Is of before version 3 of the contract.
    pub old: AtomicBool,
}

pub(crate) struct FakeHypervisor {
    directory: PathBuf,
    machines: Mutex<HashMap<String, Arc<Machine>>>,
    saved: Mutex<HashMap<String, Arc<Guest>>>,
    /// There is no room for what is saved.
    pub disk_full: AtomicBool,
    /// VMs are copies, which a pool keeps ready.
    pub copies: AtomicBool,
    pub mischief: Arc<Mischief>,
    /// Servers of the agents live here, so that they survive the runtime of a hyperd.
    tasks: tokio::runtime::Handle,
}

pub(crate) struct Machine {
    record: Mutex<VmRecord>,
    socket: PathBuf,
    ended: watch::Sender<bool>,
    pub guest: Arc<Guest>,
}

impl FakeHypervisor {
    pub(crate) fn new(directory: &Path, tasks: tokio::runtime::Handle) -> Arc<Self> {
        Arc::new(Self {
            directory: directory.into(),
            machines: Mutex::default(),
            saved: Mutex::default(),
            disk_full: AtomicBool::new(false),
            copies: AtomicBool::new(false),
            mischief: Arc::default(),
            tasks,
        })
    }

    pub(crate) fn machines(&self) -> Vec<Arc<Machine>> {
        self.machines.lock().values().cloned().collect()
    }

    /// Ids of VMs that are saved.
    pub(crate) fn saved(&self) -> Vec<String> {
        self.saved.lock().keys().cloned().collect()
    }

    /// Removes what is saved. What still stands still has no other life.
    pub(crate) fn forget_unless(&self, wanted: impl Fn(&str) -> bool) {
        for (id, guest) in self.saved.lock().extract_if(|id, _| !wanted(id)) {
            let has_vm = self.machines.lock().get(&id).is_some_and(|machine| machine.is_running());
            if !has_vm && guest.stopped.load(Ordering::Relaxed) {
                guest.signal_all(SIGKILL);
            }
        }
    }

    fn run(&self, spec: VmSpec, disks: Vec<Option<DiskSource>>, guest: Arc<Guest>) -> Box<dyn Vm> {
        let directory = guest.directory.clone();
        let socket = directory.join("agent");
        let ended = watch::Sender::new(false);
        let (mut stop, service, path) = (ended.subscribe(), guest.clone(), socket.clone());
        self.tasks.spawn(async move {
            let listener = tokio::net::UnixListener::bind(path).unwrap();
            let (state, over) = (service.clone(), stop.clone());
            let conversations = UnixListenerStream::new(listener).then(move |stream| {
                let (state, mut over) = (state.clone(), over.clone());
                async move {
                    let mut stream = stream?;
                    let (near, mut far) = tokio::io::duplex(64 << 10);
                    tokio::spawn(async move {
                        let converse = async {
                            let first = session::accept(&mut stream).await?;
                            far.write_all(&first).await?;
                            tokio::io::copy_bidirectional(&mut stream, &mut far).await
                        };
                        tokio::select! {
                            () = async { drop(over.wait_for(|over| *over).await) } => {}
                            () = state.or_hang(converse) => {}
                        }
                    });
                    Ok::<_, std::io::Error>(near)
                }
            });
            let server = tonic::transport::Server::builder()
                .add_service(AgentServer::from_arc(Arc::new(GuestService(service))))
                .serve_with_incoming(conversations);
            tokio::select! {
                _ = server => {}
                _ = stop.wait_for(|e| *e) => {}
            }
        });
        let record = VmRecord { pid: 1, start_time_ticks: 0, directory, disks, spec: spec.clone() };
        let machine = Arc::new(Machine { record: Mutex::new(record), socket, ended, guest });
        self.machines.lock().insert(spec.id, machine.clone());
        Box::new(FakeVm(machine))
    }
}

impl Machine {
    pub(crate) fn end(&self) {
        self.ended.send_replace(true);
        // Those of a VM that is saved are not its process's any more.
        if !self.guest.stopped.load(Ordering::Relaxed) {
            self.guest.signal_all(SIGKILL);
        }
        let _ = std::fs::remove_file(&self.socket);
    }

    pub(crate) fn is_running(&self) -> bool {
        !*self.ended.borrow()
    }

    pub(crate) fn record(&self) -> VmRecord {
        self.record.lock().clone()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    pub(crate) fn spec(&self) -> VmSpec {
        self.record.lock().spec.clone()
    }

    pub(crate) fn disks(&self) -> Vec<DiskSource> {
        self.record.lock().disks.iter().flatten().cloned().collect()
    }
}

#[async_trait]
impl Hypervisor for FakeHypervisor {
    fn would_copy(&self, _: &VmSpec) -> bool {
        self.copies.load(Ordering::Relaxed)
    }

    async fn create(&self, spec: VmSpec) -> Result<Box<dyn Vm>, HypervisorError> {
        let directory = self.directory.join(&spec.id[..8]);
        std::fs::create_dir_all(&directory).unwrap();
        let guest = Arc::new(Guest {
            directory,
            boot_id: uuid::Uuid::new_v4().to_string(),
            mischief: self.mischief.clone(),
            ..Default::default()
        });
        let disks = vec![None; spec.disk_slots as usize];
        Ok(self.run(spec, disks, guest))
    }

    async fn sweep(&self, keep: &HashSet<String>, hibernated: &HashSet<String>) {
        self.machines().iter().filter(|machine| !keep.contains(&machine.spec().id)).for_each(|machine| machine.end());
        self.forget_unless(|id| hibernated.contains(id));
    }

    async fn hibernate(&self, vm: &VmRecord) -> Result<(), HypervisorError> {
        let id = vm.spec.id.clone();
        let machine = self.machines.lock()[&id].clone();
        machine.guest.signal_all(SIGSTOP);
        machine.guest.stopped.store(true, Ordering::Relaxed);
        if self.disk_full.load(Ordering::Relaxed) {
            return Err(HypervisorError::NoSpace { id, bytes: 1 << 20 });
        }
        self.saved.lock().insert(id, machine.guest.clone());
        Ok(())
    }

    async fn resume(&self, record: VmRecord) -> Result<Box<dyn Vm>, HypervisorError> {
        let id = record.spec.id.clone();
        let guest = self.saved.lock().get(&id).cloned();
        let guest = guest.ok_or(HypervisorError::Resume { id, reason: "it is not saved".into() })?;
        Ok(self.run(record.spec, record.disks, guest))
    }

    async fn forget(&self, id: &str) {
        self.forget_unless(|saved| saved != id);
    }

    async fn adopt(&self, record: VmRecord) -> Result<Box<dyn Vm>, HypervisorError> {
        match self.machines.lock().get(&record.spec.id) {
            Some(machine) if machine.is_running() => Ok(Box::new(FakeVm(machine.clone()))),
            _ => Err(HypervisorError::Gone { id: record.spec.id }),
        }
    }

    fn describe(&self) -> HypervisorInfo {
        HypervisorInfo {
            vmm: "fake".into(),
            accelerator: Accelerator::Tcg,
            accelerator_reason: "a test".into(),
            kernel: "/none".into(),
            disk_slots: 20,
        }
    }
}

struct FakeVm(Arc<Machine>);

#[async_trait]
impl Vm for FakeVm {
    fn record(&self) -> VmRecord {
        self.0.record.lock().clone()
    }

    fn agent(&self) -> AgentAddress {
        AgentAddress::Unix(self.0.socket.clone())
    }

    async fn attach_disk(&self, source: DiskSource) -> Result<DiskSlot, HypervisorError> {
        let mut record = self.0.record.lock();
        let id = record.spec.id.clone();
        let slots = record.spec.disk_slots;
        let full = HypervisorError::NoFreeSlot { id, slots, writable: slots };
        let slot = record.disks.iter().position(Option::is_none).ok_or(full)?;
        record.disks[slot] = Some(source);
        Ok(DiskSlot(slot as u32))
    }

    async fn detach_disk(&self, slot: DiskSlot) -> Result<(), HypervisorError> {
        self.0.record.lock().disks[slot.0 as usize] = None;
        Ok(())
    }

    async fn go_on(&self) -> Result<(), HypervisorError> {
        self.0.guest.or_hang(async {}).await;
        self.0.guest.stopped.store(false, Ordering::Relaxed);
        self.0.guest.signal_all(SIGCONT);
        Ok(())
    }

    async fn wait(&self) -> VmExit {
        let _ = self.0.ended.subscribe().wait_for(|e| *e).await;
        VmExit { reason: "it was ended".into() }
    }

    async fn kill(&self) -> Result<(), HypervisorError> {
        self.0.end();
        Ok(())
    }

    async fn console_tail(&self) -> String {
        "last words".into()
    }
}

/// State of one fake guest.
#[derive(Default)]
pub(crate) struct Guest {
    directory: PathBuf,
    boot_id: String,
    mischief: Arc<Mischief>,
    /// Its processes stand still.
    stopped: AtomicBool,
    pub configured: Mutex<Vec<v1::ConfigureSandboxRequest>>,
    pub containers: Mutex<HashMap<String, v1::CreateContainerRequest>>,
    pub host_path_requests: Mutex<Vec<v1::HostPathRequest>>,
    pub host_path_replies: Mutex<Vec<v1::HostPathReply>>,
    /// What this one guest does wrong.
    pub misdeed: Mutex<Option<misdeeds::Misdeed>>,
    /// Neither it nor its VMM does anything any more: lines stay open and nothing comes over them, as after a SIGSTOP.
    pub hung: watch::Sender<bool>,
    processes: Mutex<HashMap<(String, String), Arc<Process>>>,
    pids: AtomicU32,
}

#[derive(Default)]
struct Process {
    pid: u32,
    output: [watch::Sender<(Vec<u8>, bool)>; 2],
    exit: watch::Sender<Option<v1::WaitProcessResponse>>,
    stdin: Mutex<Option<mpsc::Sender<Vec<u8>>>>,
}

impl Guest {
    /// Works as long as nothing hangs, and then never ends.
    async fn or_hang<T>(&self, work: impl Future<Output = T>) {
        let mut hung = self.hung.subscribe();
        let hangs = async { drop(hung.wait_for(|hung| *hung).await) };
        tokio::select! {
            biased;
            () = hangs => std::future::pending().await,
            _ = work => {}
        }
    }

    fn signal_all(&self, signal: u32) {
        for process in self.processes.lock().values() {
            process.signal(signal);
        }
    }

    /// Content of a file of a set, as the guest has it.
    /// Makes a file set what was sent: parts of a file follow one another.
    fn replace(&self, set: &str, files: Vec<v1::File>) {
        use std::io::Write;
        let directory = self.directory.join(set);
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        for file in files {
            let path = directory.join(file.path);
            if !file.symlink_target.is_empty() {
                std::os::unix::fs::symlink(file.symlink_target, path).unwrap();
            } else if file.directory {
                std::fs::create_dir_all(path).unwrap();
            } else {
                let mut to = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
                to.write_all(&file.data).unwrap();
            }
        }
    }

    pub(crate) fn file(&self, set: &str, name: &str) -> Option<String> {
        std::fs::read_to_string(self.directory.join(set).join(name)).ok()
    }

    fn process(&self, container_id: &str, exec_id: &str) -> Result<Arc<Process>, Status> {
        let key = (container_id.to_owned(), exec_id.to_owned());
        self.processes.lock().get(&key).cloned().ok_or_else(|| Status::not_found("no such process"))
    }
}

impl Process {
    fn signal(&self, signal: u32) {
        if self.exit.borrow().is_none() {
            let group = nix::unistd::Pid::from_raw(-(self.pid as i32));
            let _ = nix::sys::signal::kill(group, nix::sys::signal::Signal::try_from(signal as i32).ok());
        }
    }

    fn start(spec: &v1::Process, pids: &AtomicU32) -> Result<Arc<Self>, Status> {
        let _ = pids.fetch_add(1, Ordering::Relaxed);
        let mut child = tokio::process::Command::new(&spec.args[0])
            .args(&spec.args[1..])
            .env_clear()
            .envs(spec.env.iter().filter_map(|e| e.split_once('=')))
            .process_group(0)
            .stdin(if spec.stdin { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| Status::failed_precondition(format!("exec {:?}: {e}", spec.args[0])))?;
        let process = Arc::new(Self { pid: child.id().unwrap(), ..Default::default() });
        if let Some(mut stdin) = child.stdin.take() {
            let (sender, mut data) = mpsc::channel::<Vec<u8>>(4);
            *process.stdin.lock() = Some(sender);
            tokio::spawn(async move {
                while let Some(data) = data.recv().await {
                    let _ = stdin.write_all(&data).await;
                }
            });
        }
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        tokio::spawn(copy(stdout, process.clone(), 0));
        tokio::spawn(copy(stderr, process.clone(), 1));
        let waiting = process.clone();
        tokio::spawn(async move {
            use std::os::unix::process::ExitStatusExt;
            let status = child.wait().await.unwrap();
            let signal = status.signal().unwrap_or(0);
            let exit_code = status.code().unwrap_or(128 + signal);
            waiting.exit.send_replace(Some(v1::WaitProcessResponse {
                exit_code,
                signal: signal as u32,
                oom_killed: false,
                finished_unix_nanos: 0,
            }));
        });
        Ok(process)
    }
}

async fn copy(mut from: impl AsyncReadExt + Unpin, process: Arc<Process>, stream: usize) {
    let mut buffer = vec![0; 32 << 10];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return process.output[stream].send_modify(|o| o.1 = true),
            Ok(n) => process.output[stream].send_modify(|o| o.0.extend_from_slice(&buffer[..n])),
        }
    }
}

struct GuestService(Arc<Guest>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Agent for GuestService {
    type ReadOutputStream = Answers<v1::OutputChunk>;
    type DialStream = Answers<v1::DialChunk>;

    async fn hello(&self, request: Request<v1::HelloRequest>) -> Answer<v1::HelloResponse> {
        if self.0.mischief.silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let wrong = self.0.mischief.wrong_version.load(Ordering::Relaxed);
        let newest = if self.0.mischief.old.load(Ordering::Relaxed) { 2 } else { request.into_inner().max_version };
        Ok(Response::new(v1::HelloResponse {
            version: if wrong { 77 } else { newest },
            agent_version: "fake".into(),
            kernel_release: "6.1".into(),
            // The guest's identity is decided by the host's entropy.
            boot_id: if self.0.configured.lock().iter().any(|request| !request.entropy.is_empty()) {
                self.0.boot_id.clone()
            } else {
                String::new()
            },
        }))
    }

    async fn configure_sandbox(
        &self,
        request: Request<v1::ConfigureSandboxRequest>,
    ) -> Answer<v1::ConfigureSandboxResponse> {
        if *self.0.misdeed.lock() == Some(misdeeds::Misdeed::Silence) {
            return std::future::pending().await;
        }
        let request = request.into_inner();
        if !request.file_set.is_empty() {
            self.0.replace(&request.file_set, request.files.clone());
        }
        self.0.configured.lock().push(request);
        Ok(Response::new(v1::ConfigureSandboxResponse { boot_id: self.0.boot_id.clone() }))
    }

    async fn put_files(&self, request: Request<Streaming<v1::PutFilesRequest>>) -> Answer<v1::PutFilesResponse> {
        let mut messages = request.into_inner();
        let set = messages.message().await?.unwrap().set;
        let (mut files, mut committed) = (Vec::new(), false);
        while let Some(message) = messages.message().await? {
            files.extend(message.file);
            committed |= message.commit;
        }
        assert!(committed);
        self.0.replace(&set, files);
        Ok(Response::new(v1::PutFilesResponse {}))
    }

    async fn read_file(&self, request: Request<v1::ReadFileRequest>) -> Answer<v1::ReadFileResponse> {
        let request = request.into_inner();
        if self.0.misdeed.lock().is_some() {
            return misdeeds::too_much();
        }
        let containers = self.0.containers.lock();
        let mount = containers[&request.container_id].mounts.iter().find(|m| m.destination == request.path);
        let Some(v1::Mount { source: Some(v1::mount::Source::FileSet(set)), sub_path, .. }) = mount else {
            return Err(Status::not_found("no such file"));
        };
        let data = self.0.file(set, sub_path).unwrap_or_default().into_bytes();
        Ok(Response::new(v1::ReadFileResponse { data }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        let request = request.into_inner();
        self.0.containers.lock().insert(request.container_id.clone(), request);
        Ok(Response::new(v1::CreateContainerResponse { uid: 1000, gid: 1001, groups: vec![1001, 7] }))
    }

    async fn update_container(
        &self,
        request: Request<v1::UpdateContainerRequest>,
    ) -> Answer<v1::UpdateContainerResponse> {
        let request = request.into_inner();
        let mut containers = self.0.containers.lock();
        let container = containers.get_mut(&request.container_id);
        container.ok_or_else(|| Status::not_found("no such container"))?.resources = request.resources;
        Ok(Response::new(v1::UpdateContainerResponse {}))
    }

    async fn start_process(&self, request: Request<v1::StartProcessRequest>) -> Answer<v1::StartProcessResponse> {
        let v1::StartProcessRequest { container_id, exec_id, process } = request.into_inner();
        let created = self.0.containers.lock().get(&container_id).cloned();
        let created = created.ok_or_else(|| Status::not_found("no such container"))?;
        let mut spec = process.or(created.process).unwrap();
        // Where a real guest would have the mounts.
        spec.env.push(format!("FILES={}", self.0.directory.display()));
        let process = Process::start(&spec, &self.0.pids)?;
        let pid = process.pid;
        self.0.processes.lock().insert((container_id, exec_id), process);
        Ok(Response::new(v1::StartProcessResponse { pid }))
    }

    async fn wait_process(&self, request: Request<v1::WaitProcessRequest>) -> Answer<v1::WaitProcessResponse> {
        let request = request.into_inner();
        let process = self.0.process(&request.container_id, &request.exec_id)?;
        let misdeed = *self.0.misdeed.lock();
        if let Some(misdeed) = misdeed {
            return misdeed.end().await;
        }
        let exit = process.exit.subscribe().wait_for(Option::is_some).await.unwrap().unwrap();
        Ok(Response::new(exit))
    }

    async fn signal_process(&self, request: Request<v1::SignalProcessRequest>) -> Answer<v1::SignalProcessResponse> {
        let request = request.into_inner();
        self.0.process(&request.container_id, &request.exec_id)?.signal(request.signal);
        Ok(Response::new(v1::SignalProcessResponse {}))
    }

    async fn remove_process(&self, request: Request<v1::RemoveProcessRequest>) -> Answer<v1::RemoveProcessResponse> {
        let request = request.into_inner();
        self.0.processes.lock().remove(&(request.container_id.clone(), request.exec_id.clone()));
        if request.exec_id.is_empty() && self.0.containers.lock().remove(&request.container_id).is_none() {
            return Err(Status::not_found("no such container"));
        }
        // A guest may claim whatever it likes.
        Ok(Response::new(v1::RemoveProcessResponse { freed_slots: vec![0, 1, 99] }))
    }

    async fn read_output(&self, request: Request<Streaming<v1::ReadOutputRequest>>) -> Answer<Self::ReadOutputStream> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.unwrap();
        let process = self.0.process(&first.container_id, &first.exec_id)?;
        if let Some(misdeed) = *self.0.misdeed.lock() {
            return misdeed.output(first.stdout_offset);
        }
        let (to_client, answers) = mpsc::channel(4);
        let lying = self.0.mischief.lying_output.load(Ordering::Relaxed);
        for (stream, from) in [(0usize, first.stdout_offset), (1, first.stderr_offset)] {
            let (to_client, mut output) = (to_client.clone(), process.output[stream].subscribe());
            tokio::spawn(async move {
                let mut at = from as usize;
                loop {
                    let (data, eof) = {
                        let Ok(output) = output.wait_for(|o| o.1 || o.0.len() > at).await else { return };
                        let end = output.0.len().min(at + (64 << 10));
                        (output.0[at..end].to_vec(), output.1 && end == output.0.len())
                    };
                    let mut chunk =
                        v1::OutputChunk { stream: stream as i32, offset: at as u64, data: data.clone(), eof };
                    if lying {
                        chunk.stream = 9;
                        chunk.offset = u64::MAX;
                    }
                    at += data.len();
                    if to_client.send(Ok(chunk)).await.is_err() || eof {
                        break;
                    }
                }
                // The stream stays until the other one is over, too.
                output.wait_for(|o| o.1).await.map(drop).unwrap_or_default();
            });
        }
        tokio::spawn(async move { while let Ok(Some(_)) = messages.message().await {} });
        Ok(Response::new(ReceiverStream::new(answers).boxed()))
    }

    async fn write_stdin(&self, request: Request<v1::WriteStdinRequest>) -> Answer<v1::WriteStdinResponse> {
        let request = request.into_inner();
        let process = self.0.process(&request.container_id, &request.exec_id)?;
        let stdin = process.stdin.lock().clone();
        if let Some(stdin) = stdin {
            let _ = stdin.send(request.data).await;
        }
        if request.close {
            *process.stdin.lock() = None;
        }
        Ok(Response::new(v1::WriteStdinResponse {}))
    }

    async fn resize_tty(&self, _request: Request<v1::ResizeTtyRequest>) -> Answer<v1::ResizeTtyResponse> {
        Ok(Response::new(v1::ResizeTtyResponse {}))
    }

    async fn dial(&self, request: Request<Streaming<v1::DialChunk>>) -> Answer<Self::DialStream> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.unwrap();
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", first.port as u16))
            .await
            .map_err(|e| Status::unavailable(e.to_string()))?;
        let (mut from, mut to) = stream.into_split();
        tokio::spawn(async move {
            while let Ok(Some(chunk)) = messages.message().await {
                let _ = to.write_all(&chunk.data).await;
                if chunk.close_write {
                    let _ = to.shutdown().await;
                }
            }
        });
        let (to_client, answers) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok(n @ 1..) = from.read(&mut buffer).await {
                let chunk = v1::DialChunk { data: buffer[..n].to_vec(), ..Default::default() };
                if to_client.send(Ok(chunk)).await.is_err() {
                    return;
                }
            }
            let _ = to_client.send(Ok(v1::DialChunk { close_write: true, ..Default::default() })).await;
        });
        Ok(Response::new(ReceiverStream::new(answers).boxed()))
    }

    async fn stats(&self, _request: Request<v1::StatsRequest>) -> Answer<v1::StatsResponse> {
        let absurd = self.0.mischief.absurd_stats.load(Ordering::Relaxed);
        let value = if absurd { u64::MAX } else { 1 << 20 };
        let stats = |id: &String| v1::ContainerStats {
            container_id: id.clone(),
            cpu_usage_nanos: value,
            memory_usage_bytes: value,
            memory_working_set_bytes: value,
            pids: 1,
            writable_bytes_used: value,
            writable_inodes_used: value,
            cpu_pressure: Some(v1::Pressure {
                some: Some(v1::Stalls { avg10: if absurd { f64::NAN } else { 1.0 }, ..Default::default() }),
                full: None,
            }),
            ..Default::default()
        };
        let interface = |name: &str| v1::InterfaceStats { name: name.into(), rx_bytes: value, ..Default::default() };
        let mut interfaces = vec![interface("sit0\x1b[2J"); if absurd { 1000 } else { 1 }];
        interfaces.push(interface("eth0"));
        let mut containers: Vec<_> = self.0.containers.lock().keys().map(stats).collect();
        if self.0.misdeed.lock().is_some() {
            // As many as fit into a message that is small as long as nobody decodes it.
            containers.resize_with(misdeeds::MANY, Default::default);
        }
        Ok(Response::new(v1::StatsResponse {
            containers,
            memory_total_bytes: value,
            memory_available_bytes: value,
            interfaces,
        }))
    }

    type ServeHostPathStream = Pin<Box<dyn Stream<Item = Result<v1::HostPathRequest, Status>> + Send>>;

    /// Asks what the test has put down, and keeps the answers.
    async fn serve_host_path(
        &self,
        request: Request<Streaming<v1::HostPathReply>>,
    ) -> Result<Response<Self::ServeHostPathStream>, Status> {
        let mut answers = request.into_inner();
        let guest = self.0.clone();
        let (requests, outgoing) = mpsc::channel(64);
        let wanted = guest.host_path_requests.lock().clone();
        for request in wanted {
            requests.send(Ok(request)).await.map_err(|_| Status::internal("nobody reads"))?;
        }
        tokio::spawn(async move {
            while let Ok(Some(answer)) = answers.message().await {
                let end = answer.end;
                guest.host_path_replies.lock().push(answer);
                if end {
                    break;
                }
            }
            drop(requests);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn shutdown(&self, _request: Request<v1::ShutdownRequest>) -> Answer<v1::ShutdownResponse> {
        // It takes hyperd's patience no longer than needed: the machine is killed at once then.
        Err(Status::unimplemented("this machine is switched off from outside"))
    }
}

/// Two images, whose "root file systems" are never read: `test` is everybody's, `private` is acme's, or whose credentials are
/// good.
pub(crate) struct FakeImages {
    /// The one tenant that has pulled `private`.
    owner: Mutex<Option<String>>,
}

impl FakeImages {
    pub(crate) fn of(owner: &str) -> Self {
        Self { owner: Mutex::new(Some(owner.into())) }
    }
}

#[async_trait]
impl crate::Images for FakeImages {
    fn get(&self, reference_or_id: &str) -> Option<Image> {
        self.list().into_iter().find(|image| {
            let named = |tag: &String| tag.ends_with(&format!("/{reference_or_id}:latest"));
            image.tags.iter().any(named) || reference_or_id == image.id.to_string()
        })
    }

    fn list(&self) -> Vec<Image> {
        let image = |name: &str| Image {
            id: Digest::of(name.as_bytes()),
            tags: vec![format!("docker.io/library/{name}:latest")],
            digests: vec![],
            size_bytes: 1,
            config: ImageConfig { entrypoint: vec!["/bin/sh".into(), "-c".into()], ..Default::default() },
            rootfs: "/dev/null".into(),
        };
        vec![image("test"), image("private")]
    }

    fn may_use(&self, id: &Digest, tenant: &str) -> bool {
        *id == Digest::of(b"test") || self.owner.lock().as_deref() == Some(tenant)
    }

    fn tenants(&self) -> BTreeSet<String> {
        self.owner.lock().iter().cloned().collect()
    }

    async fn forget_tenant(&self, tenant: &str) -> Result<(), ImageError> {
        self.owner.lock().take_if(|owner| owner == tenant);
        Ok(())
    }

    async fn pull(
        &self,
        reference: &str,
        _credentials: Option<Credentials>,
        _puller: &Puller,
    ) -> Result<Image, ImageError> {
        self.get(reference).ok_or_else(|| ImageError::NotFound { reference: reference.into() })
    }

    async fn import(
        &self,
        path: &Path,
        _name: Option<&str>,
        _progress: mpsc::Sender<Progress>,
    ) -> Result<Image, ImageError> {
        Err(ImageError::Archive { path: path.into(), reason: "there is none in this test".into() })
    }

    async fn remove(&self, _reference_or_id: &str) -> Result<(), ImageError> {
        Ok(())
    }

    fn usage(&self) -> (u64, u64) {
        (1, 1)
    }
}

/// Makes an executable script. Another process writes it: a file that this one has open for writing, and that a
/// fork elsewhere in it inherits for a moment, cannot be run ("text file busy").
pub(crate) fn script(path: &Path, text: &str) {
    let source = path.with_extension("source");
    std::fs::write(&source, text).unwrap();
    let status = std::process::Command::new("install").arg("-m755").arg(source).arg(path).status().unwrap();
    assert!(status.success());
}
