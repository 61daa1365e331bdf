//! Processes of containers: started by a fresh copy of this program, which becomes them.
//!
//! ```text
//! agent ──spawn──▶ launcher ──fork──▶ the process
//!   ▲                 │ "pid N", ends      │ joins namespaces, drops privileges
//!   └──── status pipe ┴────────────────────┴─ closed by exec, or "error CODE TEXT"
//! ```

use std::{
    convert::Infallible,
    ffi::CString,
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use hypernetes_guest_protocol::v1;
use nix::{
    fcntl::OFlag,
    mount::{MsFlags, mount},
    pty::Winsize,
    sched::{CloneFlags, setns, unshare},
    unistd::{ForkResult, Gid, Pid, Uid, chdir, execve, fork, pipe2, pivot_root, setgid, setgroups, setsid, setuid},
};
use prost::Message;
use tokio::{net::unix::pipe, sync::watch};
use tonic::Status;

use crate::{
    aside::aside,
    container,
    init::CGROUPS,
    mounts,
    output::{self, Stream},
    reaper::Reaper,
    rootfs::Root,
    state::{Container, Ended, Input, Process},
    users,
};

/// First argument of the launcher: `hyperstart LAUNCH <directory> <exec id>`.
pub const LAUNCH: &str = "launch";
const STATUS_FD: i32 = 3;
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

/// What the launcher has to know; the agent has looked everything up.
#[derive(Clone, PartialEq, Message)]
struct Launch {
    #[prost(message, optional, tag = "1")]
    process: Option<v1::Process>,
    #[prost(uint32, tag = "2")]
    uid: u32,
    #[prost(uint32, tag = "3")]
    gid: u32,
    #[prost(uint32, repeated, tag = "4")]
    groups: Vec<u32>,
    /// The container's first process, whose namespaces an exec joins; 0 for the first process itself.
    #[prost(int32, tag = "5")]
    join_pid: i32,
    #[prost(bool, tag = "6")]
    share_pid_namespace: bool,
    #[prost(string, repeated, tag = "7")]
    masked_paths: Vec<String>,
    #[prost(string, repeated, tag = "8")]
    readonly_paths: Vec<String>,
    #[prost(bool, tag = "9")]
    readonly_root: bool,
    #[prost(string, tag = "10")]
    cgroup: String,
    /// Which of the container's `/dev/pts` its terminal is.
    #[prost(uint32, optional, tag = "11")]
    terminal: Option<u32>,
}

/// Starts a process in a container. Returns when it runs what it was asked to, or why it cannot.
pub async fn start(
    container: &Arc<Container>,
    exec_id: &str,
    spec: &v1::Process,
    reaper: &Reaper,
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
    };
    let file = container.directory.join(format!("launch-{exec_id}"));
    fs::write(&file, launch.encode_to_vec()).map_err(internal)?;

    let (status_read, status_write) = pipe2(OFlag::O_CLOEXEC).map_err(|e| internal(e.into()))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(LAUNCH).arg(&container.directory).arg(exec_id).env_clear();
    command.stdin(streams.stdin).stdout(streams.stdout).stderr(streams.stderr);
    command
        .fd_mappings(vec![FdMapping { parent_fd: status_write, child_fd: STATUS_FD }])
        .map_err(|e| internal(io::Error::other(e.to_string())))?;
    // The launcher ends by itself; the reaper reaps it.
    let spawned = command.spawn();
    // The write ends that this process holds in `command` must go, or the pipes never end.
    drop(command);
    drop(spawned.map_err(internal)?);

    let report = tokio::time::timeout(START_TIMEOUT, read_report(status_read)).await;
    let _ = fs::remove_file(&file);
    let report = report.map_err(|_| Status::deadline_exceeded("the process did not start"))?.map_err(internal)?;
    let (pid, error) = report;
    let pid = pid.ok_or_else(|| {
        Status::internal(error.clone().map_or_else(|| "the launcher ended without a word".into(), |(_, text)| text))
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
    stdin: Stdio,
    stdout: Stdio,
    stderr: Stdio,
    input: Option<Input>,
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
                let writer = master.try_clone()?;
                output::set_nonblocking(&writer)?;
                // Only for writing: the reading side is another descriptor of the same terminal.
                Some(Input::Terminal(output::watched(writer, tokio::io::Interest::WRITABLE)?))
            } else {
                None
            };
            return Ok(Self {
                stdin: slave.try_clone()?.into(),
                stdout: slave.try_clone()?.into(),
                stderr: slave.into(),
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
            output::set_nonblocking(&write)?;
            (read.into(), Some(Input::Pipe(pipe::Sender::from_owned_fd(write)?)))
        } else {
            (Stdio::null(), None)
        };
        Ok(Self { stdin, stdout: stdout.into(), stderr: stderr.into(), input, out, err: Some(err), terminal: None })
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

fn close_on_exec(fd: &OwnedFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(())
}

type Report = (Option<i32>, Option<(u32, String)>);

/// Reads what launcher and process say until exec closes the pipe.
async fn read_report(fd: OwnedFd) -> io::Result<Report> {
    use tokio::io::AsyncReadExt;
    output::set_nonblocking(&fd)?;
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
struct Failure {
    code: u32,
    text: String,
}

fn failed<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> Failure + '_ {
    move |error| Failure { code: 1, text: format!("{what}: {error}") }
}

/// The launcher: a process of its own, with one thread.
pub fn launch(arguments: Vec<String>) -> ExitCode {
    let mut status = {
        #[allow(unsafe_code)]
        // SAFETY: the agent has put the status pipe there, and nothing else in this process knows that number.
        let fd = unsafe { OwnedFd::from_raw_fd(STATUS_FD) };
        let _ = close_on_exec(&fd);
        File::from(fd)
    };
    let (directory, exec_id) = match arguments.as_slice() {
        [directory, exec_id] => (PathBuf::from(directory), exec_id.clone()),
        _ => return ExitCode::FAILURE,
    };
    let failure = match run(&directory, &exec_id, &mut status) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(failure) => failure,
    };
    let _ = writeln!(status, "error {} {}", failure.code, failure.text.replace('\n', " "));
    ExitCode::from(u8::try_from(failure.code).unwrap_or(1))
}

fn run(directory: &Path, exec_id: &str, status: &mut File) -> Result<(), Failure> {
    let bytes = fs::read(directory.join(format!("launch-{exec_id}"))).map_err(failed("reading what to start"))?;
    let launch = Launch::decode(bytes.as_slice()).map_err(failed("reading what to start"))?;
    let group = Path::new(CGROUPS).join(&launch.cgroup).join("cgroup.procs");
    fs::write(group, "0").map_err(failed("joining the control group"))?;
    if launch.join_pid != 0 {
        let open = |kind: &str| File::open(format!("/proc/{}/ns/{kind}", launch.join_pid));
        let namespaces = [
            ("cgroup", CloneFlags::CLONE_NEWCGROUP),
            ("pid", CloneFlags::CLONE_NEWPID),
            ("mnt", CloneFlags::CLONE_NEWNS),
        ];
        // All handles first: in the container's mount namespace /proc is another.
        let handles: Vec<(File, CloneFlags)> = namespaces
            .into_iter()
            .map(|(kind, flag)| Ok((open(kind)?, flag)))
            .collect::<io::Result<_>>()
            .map_err(failed("finding the container's namespaces"))?;
        for (handle, flag) in &handles {
            setns(handle, *flag).map_err(failed("joining the container's namespaces"))?;
        }
    } else {
        let mut flags = CloneFlags::CLONE_NEWCGROUP;
        if !launch.share_pid_namespace {
            flags |= CloneFlags::CLONE_NEWPID;
        }
        unshare(flags).map_err(failed("making namespaces"))?;
    }
    #[allow(unsafe_code)]
    // SAFETY: this process has one thread, so the child may do whatever the parent might.
    let forked = unsafe { fork() };
    match forked.map_err(failed("forking"))? {
        ForkResult::Parent { child } => {
            writeln!(status, "pid {child}").map_err(failed("telling the agent"))?;
            Ok(())
        }
        ForkResult::Child => become_process(directory, &launch).map(|never| match never {}),
    }
}

fn become_process(directory: &Path, launch: &Launch) -> Result<Infallible, Failure> {
    let process = launch.process.clone().unwrap_or_default();
    setsid().map_err(failed("making a session"))?;
    if launch.join_pid == 0 {
        enter_root(&directory.join("root"), launch, &process).map_err(failed("entering the container"))?;
    }
    if let Some(number) = launch.terminal {
        take_terminal(number, launch.uid).map_err(failed("taking the terminal"))?;
    }
    for limit in &process.rlimits {
        set_limit(limit)?;
    }
    let cwd = if process.cwd.is_empty() { "/" } else { &process.cwd };
    if chdir(cwd) == Err(nix::Error::ENOENT) {
        // As container runtimes do: a working directory that the image lacks is made.
        fs::create_dir_all(cwd).map_err(failed("making the working directory"))?;
        let _ = std::os::unix::fs::chown(cwd, Some(launch.uid), Some(launch.gid));
    }
    drop_privileges(launch, &process)?;
    chdir(cwd).map_err(failed("changing to the working directory"))?;
    execute(&process)
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
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    // pivot_root wants a mount that is its own.
    mounts::bind(root, root, false)?;
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
    let (arguments, environment) = (text(&process.args)?, text(&environment)?);
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
    let signal = nix::sys::signal::Signal::try_from(number)
        .map_err(|_| Status::invalid_argument(format!("there is no signal {number}")))?;
    if all && signal == nix::sys::signal::Signal::SIGKILL {
        container::kill_all(&container.id);
        return Ok(());
    }
    if process.ended.borrow().is_some() {
        return Ok(());
    }
    match nix::sys::signal::kill(Pid::from_raw(process.pid), signal) {
        Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
        Err(error) => Err(Status::internal(format!("sending a signal: {error}"))),
    }
}

/// Writes to standard input as fast as the process reads; closed, what follows is dropped.
pub async fn write_stdin(process: &Process, data: &[u8], close: bool) -> Result<(), Status> {
    use tokio::io::AsyncWriteExt;
    let mut stdin = process.stdin.lock().await;
    let mut ended = process.ended.clone();
    let outcome = match stdin.as_mut() {
        None => Ok(()),
        Some(input) => {
            let write = async {
                match input {
                    Input::Pipe(pipe) => pipe.write_all(data).await,
                    Input::Terminal(terminal) => {
                        let mut rest = data;
                        while !rest.is_empty() {
                            let mut ready = terminal.writable().await?;
                            match ready.try_io(|fd| Ok(nix::unistd::write(fd.get_ref().as_fd(), rest)?)) {
                                Ok(written) => rest = &rest[written?..],
                                Err(_would_block) => {}
                            }
                        }
                        Ok(())
                    }
                }
            };
            // A process that has ended reads no more, though others may hold its pipe.
            tokio::select! {
                result = write => result,
                _ = ended.wait_for(Option::is_some) => Ok(()),
            }
        }
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
