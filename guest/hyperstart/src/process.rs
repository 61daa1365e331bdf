//! Processes of containers: what the agent prepares for one, and what a fork of the zygote does to become it.

use std::{
    convert::Infallible,
    ffi::CString,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hypernetes_guest_protocol::v1;
use nix::{
    fcntl::OFlag,
    mount::{MsFlags, mount},
    pty::Winsize,
    sched::{CloneFlags, setns, unshare},
    unistd::{Gid, Uid, chdir, execve, pipe2, pivot_root, setgid, setgroups, setsid, setuid},
};
use prost::Message;
use tokio::{net::unix::pipe, sync::watch};
use tonic::Status;

use crate::{
    aside::aside,
    container::{self, USER_NAMESPACE},
    descriptor::{self, ProcessEnd},
    mountinfo, mounts,
    output::Stream,
    reaper::Reaper,
    rootfs::Root,
    seccomp,
    state::{Container, Containers, Ended, Process},
    users,
    zygote::Zygote,
};

/// SIGRTMAX.
const LAST_SIGNAL: i32 = 64;
const START_TIMEOUT: Duration = Duration::from_secs(20);
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What shells answer for a command that is not there, or cannot be run.
const NOT_FOUND: u32 = 127;
const NOT_EXECUTABLE: u32 = 126;

// tty_ioctl(2)
nix::ioctl_write_int_bad!(set_controlling_terminal, nix::libc::TIOCSCTTY);
nix::ioctl_write_ptr_bad!(set_window_size, nix::libc::TIOCSWINSZ, Winsize);
nix::ioctl_write_ptr_bad!(unlock_terminal, nix::libc::TIOCSPTLCK, nix::libc::c_int);
nix::ioctl_read_bad!(get_terminal_number, nix::libc::TIOCGPTN, u32);
nix::ioctl_write_int_bad!(open_peer, nix::libc::TIOCGPTPEER);

/// What the forked process has to know; the agent has looked everything up.
#[derive(Clone, PartialEq, Message)]
pub struct Launch {
    #[prost(message, optional, tag = "1")]
    pub process: Option<v1::Process>,
    #[prost(uint32, tag = "2")]
    uid: u32,
    #[prost(uint32, tag = "3")]
    gid: u32,
    #[prost(uint32, repeated, tag = "4")]
    groups: Vec<u32>,
    /// The container's first process, whose namespaces an exec joins; 0 for the first process itself.
    #[prost(int32, tag = "5")]
    pub join_pid: i32,
    #[prost(bool, tag = "6")]
    pub share_pid_namespace: bool,
    #[prost(string, repeated, tag = "7")]
    masked_paths: Vec<String>,
    #[prost(string, repeated, tag = "8")]
    readonly_paths: Vec<String>,
    #[prost(bool, tag = "9")]
    readonly_root: bool,
    #[prost(string, tag = "10")]
    pub cgroup: String,
    /// Which of the container's `/dev/pts` its terminal is.
    #[prost(uint32, optional, tag = "11")]
    terminal: Option<u32>,
    /// The first process of another container, whose process namespace the container joins; 0: none.
    #[prost(int32, tag = "12")]
    pub pid_target: i32,
    /// Places in the root whose mounts are shared with other containers, and those that only follow others' mounts.
    #[prost(string, repeated, tag = "13")]
    shared_mounts: Vec<String>,
    #[prost(string, repeated, tag = "14")]
    slave_mounts: Vec<String>,
    /// Who root is in the guest; none: root.
    #[prost(uint32, optional, tag = "15")]
    owner: Option<u32>,
}

impl Launch {
    /// A user or group of the container, as the guest knows it.
    fn outside(&self, id: u32) -> u32 {
        self.owner.unwrap_or(0).saturating_add(id)
    }

    fn file(directory: &Path, exec_id: &str) -> PathBuf {
        directory.join(format!("launch-{exec_id}"))
    }

    pub fn read(directory: &Path, exec_id: &str) -> Result<Self, Failure> {
        let bytes = fs::read(Self::file(directory, exec_id)).map_err(failed("reading what to start"))?;
        Self::decode(bytes.as_slice()).map_err(failed("reading what to start"))
    }
}

/// Starts a process in a container. Returns when it runs what it was asked to, or why it cannot.
pub async fn start(
    containers: &Containers,
    container: &Arc<Container>,
    exec_id: &str,
    spec: &v1::Process,
    reaper: &Reaper,
    zygote: &Zygote,
) -> Result<Arc<Process>, Status> {
    let internal = |error: io::Error| Status::internal(format!("starting a process: {error}"));
    if spec.args.is_empty() {
        return Err(Status::invalid_argument("no command specified"));
    }
    if container.has_process(exec_id) {
        return Err(Status::already_exists("it was started already"));
    }
    let init = container.running_init();
    if !exec_id.is_empty() && init.is_none() {
        return Err(Status::failed_precondition(format!("the container {} is not running", container.id)));
    }
    let pid_target = match container.spec.pid_target.as_str() {
        "" => 0,
        target => {
            let running = containers.get(target)?.running_init();
            running.ok_or_else(|| Status::failed_precondition(format!("the container {target} is not running")))?.pid
        }
    };
    let propagated = |wanted: v1::mount::Propagation| -> Vec<String> {
        let mounts = container.spec.mounts.iter().filter(|mount| mount.propagation() == wanted);
        mounts.map(|mount| mount.destination.clone()).collect()
    };
    let user = spec.user.clone().unwrap_or_default();
    // The files of users may be the host's, and so may what `/dev` is in.
    let (of, terminal) = (container.clone(), spec.clone());
    let prepare = move || (users::resolve(&of.root, &user), Streams::open(&terminal, &of.root));
    let (credentials, streams) = aside(prepare).await?;
    let credentials = credentials.map_err(Status::invalid_argument)?;
    let streams = streams.map_err(internal)?;
    let mut process = spec.clone();
    if !process.env.iter().any(|v| v.starts_with("HOME=")) {
        process.env.push(format!("HOME={}", credentials.home));
    }
    let launch = Launch {
        process: Some(process),
        uid: credentials.uid,
        gid: credentials.gid,
        groups: credentials.groups,
        join_pid: init.map_or(0, |init| init.pid),
        share_pid_namespace: container.spec.share_pid_namespace,
        masked_paths: container.spec.masked_paths.clone(),
        readonly_paths: container.spec.readonly_paths.clone(),
        readonly_root: container.spec.readonly_root,
        cgroup: container.id.clone(),
        terminal: streams.terminal.as_ref().map(terminal_number).transpose().map_err(internal)?,
        pid_target,
        shared_mounts: propagated(v1::mount::Propagation::Shared),
        slave_mounts: propagated(v1::mount::Propagation::Slave),
        owner: container.spec.user_namespace.map(|mapping| mapping.host_id),
    };
    let file = Launch::file(&container.directory, exec_id);
    fs::write(&file, launch.encode_to_vec()).map_err(internal)?;

    let (status_read, status_write) = pipe2(OFlag::O_CLOEXEC).map_err(|e| internal(e.into()))?;
    let [stdin, stdout, stderr] = &streams.theirs;
    zygote
        .spawn(&container.directory, exec_id, [stdin.as_fd(), stdout.as_fd(), stderr.as_fd(), status_write.as_fd()])
        .map_err(internal)?;
    // The ends that this process holds must go, or the pipes never end.
    drop((streams.theirs, status_write));

    let report = tokio::time::timeout(START_TIMEOUT, read_report(status_read)).await;
    let _ = fs::remove_file(&file);
    let report = report.map_err(|_| Status::deadline_exceeded("the process did not start"))?.map_err(internal)?;
    let (pid, error) = report;
    let pid = pid.ok_or_else(|| {
        Status::internal(error.clone().map_or_else(|| "the process was not made".into(), |(_, text)| text))
    })?;
    let exit = reaper.wait(pid);
    if let Some((code, text)) = error {
        return Err(match code {
            NOT_FOUND | NOT_EXECUTABLE => Status::failed_precondition(text),
            _ => Status::internal(text),
        });
    }
    let (stdout, stderr) = (Arc::new(Stream::default()), Arc::new(Stream::default()));
    stdout.fill_from(streams.out);
    let stderr = match streams.err {
        Some(err) => {
            stderr.fill_from(err);
            stderr
        }
        None => Stream::ended(),
    };
    let (sender, ended) = watch::channel(None);
    let owner = container.id.clone();
    let first = exec_id.is_empty();
    tokio::spawn(async move {
        let Ok(exit) = exit.await else { return };
        let out_of_memory = exit.signal == nix::libc::SIGKILL as u32 && container::out_of_memory(&owner);
        if first {
            // With the first process the container ends, as with the first process of a pid namespace.
            container::kill_all(&owner);
        }
        let _ = sender.send(Some(Ended { exit, out_of_memory }));
    });
    let process = Process {
        pid,
        stdout,
        stderr,
        stdin: tokio::sync::Mutex::new(streams.input),
        terminal: streams.terminal,
        ended,
    };
    Ok(container.insert_process(exec_id, process))
}

pub fn resize(process: &Process, width: u32, height: u32) -> Result<(), Status> {
    let terminal = process.terminal.as_ref().ok_or_else(|| Status::failed_precondition("it has no terminal"))?;
    let narrow = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
    let size = Winsize { ws_row: narrow(height), ws_col: narrow(width), ws_xpixel: 0, ws_ypixel: 0 };
    use std::os::fd::AsRawFd;
    #[allow(unsafe_code)]
    // SAFETY: the descriptor is an open terminal's, and the structure lives until the call returns.
    unsafe { set_window_size(terminal.as_raw_fd(), &size) }
        .map_err(|e| Status::internal(format!("resizing the terminal: {e}")))?;
    Ok(())
}

/// Both ends of a process's standard streams.
struct Streams {
    /// Standard input, output and error, as the process has them.
    theirs: [OwnedFd; 3],
    input: Option<ProcessEnd>,
    out: OwnedFd,
    err: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
}

impl Streams {
    fn open(spec: &v1::Process, root: &Root) -> io::Result<Self> {
        if spec.tty {
            let narrow = |value: u32, default: u16| match value {
                0 => default,
                value => u16::try_from(value).unwrap_or(u16::MAX),
            };
            let size = Winsize {
                ws_row: narrow(spec.tty_height, 24),
                ws_col: narrow(spec.tty_width, 80),
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            let (master, slave) = open_terminal(root, &size)?;
            let input = if spec.stdin {
                // Only for writing: the reading side is another descriptor of the same terminal.
                Some(ProcessEnd::new(master.try_clone()?, tokio::io::Interest::WRITABLE)?)
            } else {
                None
            };
            return Ok(Self {
                theirs: [slave.try_clone()?, slave.try_clone()?, slave],
                input,
                out: master.try_clone()?,
                err: None,
                terminal: Some(master),
            });
        }
        let (out, stdout) = pipe2(OFlag::O_CLOEXEC)?;
        let (err, stderr) = pipe2(OFlag::O_CLOEXEC)?;
        let (stdin, input) = if spec.stdin {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            (read, Some(ProcessEnd::new(write, tokio::io::Interest::WRITABLE)?))
        } else {
            (File::open("/dev/null")?.into(), None)
        };
        Ok(Self { theirs: [stdin, stdout, stderr], input, out, err: Some(err), terminal: None })
    }
}

/// A new terminal of the container's own `/dev/pts`: one of the agent's would have no name there. Both ends.
fn open_terminal(root: &Root, size: &Winsize) -> io::Result<(OwnedFd, OwnedFd)> {
    use std::os::fd::AsRawFd;
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    let master = root.open_inside(Path::new("/dev/pts/ptmx"), flags)?;
    #[allow(unsafe_code)]
    // SAFETY: the descriptor is open, what the pointers point to lives until the calls return, and the descriptor that
    // the last call answers is new and nobody else's.
    let slave = unsafe {
        unlock_terminal(master.as_raw_fd(), &0)?;
        set_window_size(master.as_raw_fd(), size)?;
        OwnedFd::from_raw_fd(open_peer(master.as_raw_fd(), flags.bits() | OFlag::O_CLOEXEC.bits())?)
    };
    Ok((master, slave))
}

/// N of `/dev/pts/N`.
fn terminal_number(master: &OwnedFd) -> io::Result<u32> {
    use std::os::fd::AsRawFd;
    let mut number = 0;
    #[allow(unsafe_code)]
    // SAFETY: the descriptor is open, and the number lives until the call returns.
    unsafe {
        get_terminal_number(master.as_raw_fd(), &mut number)?;
    }
    Ok(number)
}

type Report = (Option<i32>, Option<(u32, String)>);

/// Reads what zygote and process say until exec closes the pipe.
async fn read_report(fd: OwnedFd) -> io::Result<Report> {
    use tokio::io::AsyncReadExt;
    descriptor::set_nonblocking(&fd)?;
    let mut text = String::new();
    pipe::Receiver::from_owned_fd(fd)?.take(64 << 10).read_to_string(&mut text).await?;
    let mut report = (None, None);
    for line in text.lines() {
        if let Some(pid) = line.strip_prefix("pid ") {
            report.0 = pid.parse().ok();
        } else if let Some((code, message)) = line.strip_prefix("error ").and_then(|rest| rest.split_once(' ')) {
            report.1 = Some((code.parse().unwrap_or(1), message.to_owned()));
        }
    }
    Ok(report)
}

/// Why a process cannot become what it should.
pub struct Failure {
    pub code: u32,
    pub text: String,
}

pub fn failed<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> Failure + '_ {
    move |error| Failure { code: 1, text: format!("{what}: {error}") }
}

/// Opened while the agent's files can be seen.
pub fn user_namespace(directory: &Path, launch: &Launch) -> Result<Option<File>, Failure> {
    match launch.owner {
        Some(_) => File::open(directory.join(USER_NAMESPACE)).map(Some).map_err(failed("finding the user namespace")),
        None => Ok(None),
    }
}

/// Goes on in the forked process until it runs what it was asked to.
pub fn become_process(directory: &Path, launch: &Launch, user_namespace: Option<File>) -> Result<Infallible, Failure> {
    let process = launch.process.clone().unwrap_or_default();
    setsid().map_err(failed("making a session"))?;
    if launch.join_pid == 0 {
        enter_root(&directory.join("root"), launch, &process).map_err(failed("entering the container"))?;
    }
    if let Some(number) = launch.terminal {
        take_terminal(number, launch.outside(launch.uid)).map_err(failed("taking the terminal"))?;
    }
    own_streams(launch.outside(launch.uid)).map_err(failed("handing over the standard streams"))?;
    for limit in &process.rlimits {
        set_limit(limit)?;
    }
    let cwd = if process.cwd.is_empty() { "/" } else { &process.cwd };
    if chdir(cwd) == Err(nix::Error::ENOENT) {
        // As container runtimes do: a working directory that the image lacks is made.
        fs::create_dir_all(cwd).map_err(failed("making the working directory"))?;
        let _ = std::os::unix::fs::chown(cwd, Some(launch.outside(launch.uid)), Some(launch.outside(launch.gid)));
    }
    if let Some(namespace) = user_namespace {
        setns(namespace, CloneFlags::CLONE_NEWUSER).map_err(failed("joining the user namespace"))?;
        if launch.join_pid == 0 {
            // Mounts of its own for a root that may mount; what is there stays as it is.
            unshare(CloneFlags::CLONE_NEWNS).map_err(failed("making a mount namespace"))?;
        }
    }
    drop_privileges(launch, &process)?;
    chdir(cwd).map_err(failed("changing to the working directory"))?;
    if process.no_new_privileges {
        seccomp::install(&process.seccomp).map_err(failed("installing the seccomp filter"))?;
    }
    execute(&process)
}

/// Lets the process's user open its own standard streams again by their names (`/dev/stdout`).
fn own_streams(owner: u32) -> io::Result<()> {
    for number in 0..=2 {
        let path = format!("/proc/self/fd/{number}");
        let kind = fs::metadata(&path)?.file_type();
        if std::os::unix::fs::FileTypeExt::is_fifo(&kind) {
            std::os::unix::fs::chown(&path, Some(owner), None)?;
        }
    }
    Ok(())
}

/// Opens the terminal again by the name that it has in the container, so that ttyname(3) finds it.
fn take_terminal(number: u32, owner: u32) -> io::Result<()> {
    let terminal = File::options().read(true).write(true).open(format!("/dev/pts/{number}"))?;
    std::os::unix::fs::fchown(&terminal, Some(owner), None)?;
    nix::unistd::dup2_stdin(&terminal)?;
    nix::unistd::dup2_stdout(&terminal)?;
    nix::unistd::dup2_stderr(&terminal)?;
    #[allow(unsafe_code)]
    // SAFETY: descriptor 0 is the terminal that was just opened.
    unsafe {
        set_controlling_terminal(0, 0)?;
    }
    Ok(())
}

/// Makes the prepared root this process's.
fn enter_root(root: &Path, launch: &Launch, process: &v1::Process) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    separate(root, launch)?;
    chdir(root)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "proc", Some("proc"), flags, None::<&str>)?;
    let access = if process.privileged { MsFlags::empty() } else { MsFlags::MS_RDONLY };
    // sysfs offers the place; a kernel without control groups does not.
    let _ = mount(Some("cgroup2"), "sys/fs/cgroup", Some("cgroup2"), flags | access, None::<&str>);
    pivot_root(".", ".")?;
    // The old root lies over the new one now.
    nix::mount::umount2(".", nix::mount::MntFlags::MNT_DETACH)?;
    chdir("/")?;
    if !process.privileged {
        for path in &launch.readonly_paths {
            if Path::new(path).exists() {
                mounts::bind(Path::new(path), Path::new(path), true)?;
            }
        }
        for path in &launch.masked_paths {
            match fs::metadata(path) {
                Ok(metadata) if metadata.is_dir() => {
                    mount(Some("tmpfs"), path.as_str(), Some("tmpfs"), MsFlags::MS_RDONLY, Some("size=0k"))?;
                }
                Ok(_) => mounts::bind(Path::new("/dev/null"), Path::new(path), false)?,
                Err(_) => {}
            }
        }
    }
    if launch.readonly_root {
        mounts::remount_read_only(Path::new("/"))?;
    }
    Ok(())
}

/// Cuts this mount namespace off from the agent's, except for the mounts that are to be seen on both sides.
fn separate(root: &Path, launch: &Launch) -> io::Result<()> {
    if launch.shared_mounts.is_empty() && launch.slave_mounts.is_empty() {
        return mounts::propagate(Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    }
    let place = |inside: &String| root.join(inside.trim_start_matches('/'));
    let shared: Vec<PathBuf> = launch.shared_mounts.iter().map(place).collect();
    let slaves: Vec<PathBuf> = launch.slave_mounts.iter().map(place).collect();
    for point in mountinfo::mount_points()? {
        let within = |places: &[PathBuf]| places.iter().any(|place| point.starts_with(place));
        // The old root goes away with all its mounts: were they shared, they would go elsewhere as well.
        let how = if within(&slaves) { MsFlags::MS_SLAVE } else { MsFlags::MS_PRIVATE };
        if within(&shared) {
            continue;
        }
        match mounts::propagate(&point, how) {
            // A mount that lies below another cannot be reached, and so not be shared any further either.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) => {}
            other => other?,
        }
    }
    Ok(())
}

fn set_limit(limit: &v1::Rlimit) -> Result<(), Failure> {
    use nix::sys::resource::{Resource as R, setrlimit};
    let resource = match limit.r#type.as_str() {
        "RLIMIT_AS" => R::RLIMIT_AS,
        "RLIMIT_CORE" => R::RLIMIT_CORE,
        "RLIMIT_CPU" => R::RLIMIT_CPU,
        "RLIMIT_DATA" => R::RLIMIT_DATA,
        "RLIMIT_FSIZE" => R::RLIMIT_FSIZE,
        "RLIMIT_MEMLOCK" => R::RLIMIT_MEMLOCK,
        "RLIMIT_NOFILE" => R::RLIMIT_NOFILE,
        "RLIMIT_NPROC" => R::RLIMIT_NPROC,
        "RLIMIT_STACK" => R::RLIMIT_STACK,
        other => return Err(Failure { code: 1, text: format!("the limit {other} is not known") }),
    };
    setrlimit(resource, limit.soft, limit.hard).map_err(failed("setting a limit"))
}

fn drop_privileges(launch: &Launch, process: &v1::Process) -> Result<(), Failure> {
    use caps::{CapSet, Capability, CapsHashSet};
    let set = |names: &[String]| -> Result<CapsHashSet, Failure> {
        names.iter().map(|name| name.parse::<Capability>().map_err(failed("a capability"))).collect()
    };
    let (wanted, ambient) = (set(&process.capabilities)?, set(&process.ambient_capabilities)?);
    let set_failed = "setting capabilities";
    if !process.no_new_privileges {
        // It takes CAP_SYS_ADMIN; the filters have to let pass what follows.
        seccomp::install(&process.seccomp).map_err(failed("installing the seccomp filter"))?;
    }
    if !process.privileged {
        for capability in caps::runtime::thread_all_supported() {
            if !wanted.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability).map_err(failed(set_failed))?;
            }
        }
    }
    let groups: Vec<Gid> = launch.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    setgroups(&groups).map_err(failed("setting groups"))?;
    setgid(Gid::from_raw(launch.gid)).map_err(failed("setting the group"))?;
    let root = launch.uid == 0;
    if !root && !ambient.is_empty() {
        nix::sys::prctl::set_keepcaps(true).map_err(failed(set_failed))?;
    }
    setuid(Uid::from_raw(launch.uid)).map_err(failed("setting the user"))?;
    if !process.privileged && (root || !ambient.is_empty()) {
        // Ambient capabilities have to be inheritable; others need not be, and are not (CVE-2022-24769).
        let kept = if root { wanted.clone() } else { ambient.clone() };
        caps::set(None, CapSet::Inheritable, &ambient).map_err(failed(set_failed))?;
        caps::set(None, CapSet::Effective, &kept).map_err(failed(set_failed))?;
        caps::set(None, CapSet::Permitted, &kept).map_err(failed(set_failed))?;
        if !ambient.is_empty() {
            caps::set(None, CapSet::Ambient, &ambient).map_err(failed(set_failed))?;
        }
    }
    if process.no_new_privileges {
        nix::sys::prctl::set_no_new_privs().map_err(failed("setting no_new_privs"))?;
    }
    Ok(())
}

fn execute(process: &v1::Process) -> Result<Infallible, Failure> {
    let invalid = |_| Failure { code: 1, text: "an argument contains a NUL".into() };
    let text = |texts: &[String]| -> Result<Vec<CString>, Failure> {
        texts.iter().map(|t| CString::new(t.as_bytes()).map_err(invalid)).collect()
    };
    let mut environment = process.env.clone();
    let path = environment.iter().rev().find_map(|v| v.strip_prefix("PATH=")).map(str::to_owned);
    let path = path.unwrap_or_else(|| {
        environment.push(format!("PATH={DEFAULT_PATH}"));
        DEFAULT_PATH.to_owned()
    });
    let name = process.args[0].as_str();
    let candidates: Vec<PathBuf> = if name.contains('/') {
        vec![name.into()]
    } else {
        path.split(':')
            .map(|directory| Path::new(if directory.is_empty() { "." } else { directory }).join(name))
            .collect()
    };
    let (arguments, mut environment) = (text(&process.args)?, text(&environment)?);
    for variable in &process.raw_env {
        environment.push(CString::new(variable.as_slice()).map_err(invalid)?);
    }
    let mut denied = None;
    for candidate in &candidates {
        let program = CString::new(candidate.as_os_str().as_bytes()).map_err(invalid)?;
        match execve(&program, &arguments, &environment) {
            Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => {}
            Err(error) => denied = Some(error),
            Ok(never) => return Ok(never),
        }
    }
    Err(match denied {
        Some(error) => {
            let text = format!("exec: {name:?}: {}", error.desc().to_lowercase());
            Failure { code: NOT_EXECUTABLE, text }
        }
        None if name.contains('/') => {
            Failure { code: NOT_FOUND, text: format!("exec: {name:?}: stat {name}: no such file or directory") }
        }
        None => Failure { code: NOT_FOUND, text: format!("exec: {name:?}: executable file not found in $PATH") },
    })
}

/// Sends a signal to a process, or to all of its container.
pub fn signal(container: &Container, process: &Process, number: u32, all: bool) -> Result<(), Status> {
    let number = i32::try_from(number).map_err(|_| Status::invalid_argument("no such signal"))?;
    if !(1..=LAST_SIGNAL).contains(&number) {
        return Err(Status::invalid_argument(format!("there is no signal {number}")));
    }
    if all && number == nix::libc::SIGKILL {
        container::kill_all(&container.id);
        return Ok(());
    }
    if process.ended.borrow().is_some() {
        return Ok(());
    }
    #[allow(unsafe_code)]
    // SAFETY: the call has no pointers. nix' own knows no real-time signals.
    let result = unsafe { nix::libc::kill(process.pid, number) };
    match nix::Error::result(result) {
        Ok(_) | Err(nix::Error::ESRCH) => Ok(()),
        Err(error) => Err(Status::internal(format!("sending a signal: {error}"))),
    }
}

/// Writes to standard input as fast as the process reads; closed, what follows is dropped.
pub async fn write_stdin(process: &Process, data: Vec<u8>, close: bool) -> Result<(), Status> {
    let mut stdin = process.stdin.lock().await;
    let mut ended = process.ended.clone();
    let outcome = match stdin.as_ref() {
        None => Ok(()),
        // A process that has ended reads no more, though others may hold its pipe.
        Some(input) => tokio::select! {
            result = input.write_all(data.into()) => result,
            _ = ended.wait_for(Option::is_some) => Ok(()),
        },
    };
    if close || outcome.is_err() {
        *stdin = None;
    }
    match outcome {
        // The process has closed its end: nobody wants the rest.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Status::internal(format!("standard input: {error}")))
        }
        _ => Ok(()),
    }
}
