//! The process that containers' processes are forked from.
//!
//! The agent has threads, so it must not fork; and running a program anew for each process costs several milliseconds where
//! the processor is emulated. So before there are threads it forks this helper, which does nothing but fork when it
//! is asked to. What it forks are children of the agent, not its own.
//!
//! ```text
//! agent ──request, streams──▶ zygote ──clone──▶ the process: joins namespaces, drops privileges, exec
//!   ▲                            │ "pid N"          │
//!   └──────── status pipe ───────┴──────────────────┴─ closed by exec, or "error CODE TEXT"
//! ```

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Write},
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    libc,
    sched::{CloneFlags, setns, unshare},
    sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
    },
    unistd::{ForkResult, fork},
};

use crate::{
    init::CGROUPS,
    process::{self, Failure, Launch},
};

/// A directory and an exec id fit in twice.
const MAX_REQUEST: usize = 4096;
/// Characters of a reason, none of which takes more than four bytes.
const MAX_TEXT: usize = 1000;
/// Standard input, output and error, and the status pipe.
const DESCRIPTORS: usize = 4;

/// The agent's end.
pub struct Zygote(OwnedFd);

impl Zygote {
    /// Forks it. To be called while this process has one thread.
    pub fn start() -> io::Result<Self> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        #[allow(unsafe_code)]
        // SAFETY: this process has one thread, so the child may do whatever the parent might.
        match unsafe { fork() }? {
            ForkResult::Parent { .. } => Ok(Self(ours)),
            ForkResult::Child => {
                drop(ours);
                serve(&theirs);
                std::process::exit(0)
            }
        }
    }

    /// Has a process made of what the file `launch-<exec id>` in the container's directory says. How it goes is told
    /// through the last of the descriptors.
    pub fn spawn(&self, directory: &Path, exec_id: &str, descriptors: [BorrowedFd<'_>; DESCRIPTORS]) -> io::Result<()> {
        let request = format!("{}\0{exec_id}", directory.display());
        let raw = descriptors.map(|fd| fd.as_raw_fd());
        let rights = [ControlMessage::ScmRights(&raw)];
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(request.as_bytes())], &rights, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }
}

struct Request {
    directory: PathBuf,
    exec_id: String,
    streams: [OwnedFd; 3],
    status: File,
}

fn serve(socket: &OwnedFd) {
    let Ok(own) = File::open("/proc/self/ns/pid") else { return };
    loop {
        match receive(socket) {
            Ok(Some(request)) => answer(request, &own),
            // The agent has ended, and with it everything.
            Ok(None) => return,
            Err(error) => eprintln!("hyperstart: a request for a process: {error}"),
        }
    }
}

fn receive(socket: &OwnedFd) -> io::Result<Option<Request>> {
    let mut bytes = [0; MAX_REQUEST];
    let mut space = nix::cmsg_space!([i32; DESCRIPTORS]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            #[allow(unsafe_code)]
            // SAFETY: the kernel has just made these descriptors for this message, and nobody else knows them.
            descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let length = message.bytes;
    if length == 0 {
        return Ok(None);
    }
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it is not one");
    let text = std::str::from_utf8(&bytes[..length]).map_err(|_| wrong())?;
    let (directory, exec_id) = text.split_once('\0').ok_or_else(wrong)?;
    let [stdin, stdout, stderr, status] = <[OwnedFd; DESCRIPTORS]>::try_from(descriptors).map_err(|_| wrong())?;
    Ok(Some(Request {
        directory: directory.into(),
        exec_id: exec_id.into(),
        streams: [stdin, stdout, stderr],
        status: status.into(),
    }))
}

fn answer(request: Request, own: &File) {
    let mut status = match request.status.try_clone() {
        Ok(status) => status,
        Err(error) => return eprintln!("hyperstart: {error}"),
    };
    if let Err(failure) = make(request) {
        tell(&mut status, &failure);
    }
    // Whatever was joined for that process is not for the next.
    if let Err(error) = setns(own, CloneFlags::CLONE_NEWPID) {
        eprintln!("hyperstart: going back to the pod's process namespace: {error}");
        std::process::exit(1);
    }
}

fn tell(status: &mut File, failure: &Failure) {
    let text: String = failure.text.chars().take(MAX_TEXT).map(|c| if c == '\n' { ' ' } else { c }).collect();
    let _ = say(status, &format!("error {} {text}\n", failure.code));
}

/// Says a line. This process says whom it has made while that one may be saying why it fails: only what is written at once,
/// and at most `PIPE_BUF` bytes long, is in one piece (pipe(7)).
fn say(status: &mut File, line: &str) -> io::Result<()> {
    status.write_all(line.as_bytes())
}

/// What an exec joins.
struct Namespaces {
    pid: File,
    others: [(File, CloneFlags); 2],
}

impl Namespaces {
    fn of(pid: i32) -> io::Result<Self> {
        let open = |kind: &str| File::open(format!("/proc/{pid}/ns/{kind}"));
        Ok(Self {
            pid: open("pid")?,
            others: [(open("cgroup")?, CloneFlags::CLONE_NEWCGROUP), (open("mnt")?, CloneFlags::CLONE_NEWNS)],
        })
    }
}

fn make(mut request: Request) -> Result<(), Failure> {
    use process::failed;
    let launch = Launch::read(&request.directory, &request.exec_id)?;
    let group = Path::new(CGROUPS).join(&launch.cgroup);
    let group = File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(group);
    let group = group.map_err(failed("finding the control group"))?;
    let joined = match launch.join_pid {
        0 => None,
        pid => Some(Namespaces::of(pid).map_err(failed("finding the container's namespaces"))?),
    };
    match &joined {
        Some(namespaces) => {
            setns(&namespaces.pid, CloneFlags::CLONE_NEWPID).map_err(failed("joining the process namespace"))?;
        }
        None if launch.pid_target != 0 => {
            let target = File::open(format!("/proc/{}/ns/pid", launch.pid_target));
            let target = target.map_err(failed("finding the other container's process namespace"))?;
            setns(target, CloneFlags::CLONE_NEWPID).map_err(failed("joining a process namespace"))?;
        }
        None if !launch.share_pid_namespace => {
            unshare(CloneFlags::CLONE_NEWPID).map_err(failed("making a process namespace"))?;
        }
        None => {}
    }
    match clone_into(&group).map_err(failed("forking"))? {
        0 => {
            let Err(failure) = become_it(&request, &launch, joined);
            tell(&mut request.status, &failure);
            std::process::exit(i32::try_from(failure.code).unwrap_or(1))
        }
        pid => say(&mut request.status, &format!("pid {pid}\n")).map_err(failed("telling the agent")),
    }
}

/// fork(2), but for two things: the child is in that control group from its first instruction, which moving it there is not
/// and waits for the whole system for; and it is a child of this process's parent, which reaps it. 0 in the child.
fn clone_into(group: &File) -> io::Result<i32> {
    #[allow(clippy::cast_sign_loss)]
    let flags = (libc::CLONE_PARENT as u64) | CLONE_INTO_CGROUP;
    let arguments = CloneArguments { flags, cgroup: group.as_raw_fd() as u64, ..Default::default() };
    #[allow(unsafe_code)]
    // SAFETY: the kernel reads one structure of the given size, which lives until the call returns. Without CLONE_VM the child
    // has its own copy of all memory, and this process has one thread, so the child may do whatever the parent might.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArguments>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        pid => i32::try_from(pid).map_err(io::Error::other),
    }
}

/// clone3(2), Linux 5.7 and later.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args`.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

fn become_it(
    request: &Request,
    launch: &Launch,
    joined: Option<Namespaces>,
) -> Result<std::convert::Infallible, Failure> {
    use process::failed;
    let streams = || -> nix::Result<()> {
        nix::unistd::dup2_stdin(&request.streams[0])?;
        nix::unistd::dup2_stdout(&request.streams[1])?;
        nix::unistd::dup2_stderr(&request.streams[2])
    };
    streams().map_err(failed("taking the streams"))?;
    if let Some(adjustment) = launch.process.as_ref().and_then(|process| process.oom_score_adj) {
        // While /proc is still the agent's.
        std::fs::write("/proc/self/oom_score_adj", adjustment.to_string()).map_err(failed("setting oom_score_adj"))?;
    }
    let user_namespace = process::user_namespace(&request.directory, launch)?;
    match joined {
        Some(namespaces) => {
            for (handle, flag) in &namespaces.others {
                setns(handle, *flag).map_err(failed("joining the container's namespaces"))?;
            }
        }
        None => unshare(CloneFlags::CLONE_NEWCGROUP).map_err(failed("making namespaces"))?,
    }
    process::become_process(&request.directory, launch, user_namespace)
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;

    use super::*;

    #[test]
    fn what_two_say_at_once_stays_apart() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let say_often = |failure: Option<Failure>| {
            let mut status = File::from(write.try_clone().unwrap());
            std::thread::spawn(move || {
                for _ in 0..2000 {
                    match &failure {
                        Some(failure) => tell(&mut status, failure),
                        None => say(&mut status, "pid 4711\n").unwrap(),
                    }
                }
            })
        };
        let long = Failure { code: 127, text: "\u{1f512}\n".repeat(MAX_TEXT) };
        let speakers = [say_often(None), say_often(Some(long))];
        drop(write);
        let lines: Vec<String> = io::BufReader::new(File::from(read)).lines().map(Result::unwrap).collect();
        speakers.into_iter().for_each(|speaker| speaker.join().unwrap());
        let expected = format!("error 127 {}", "\u{1f512} ".repeat(MAX_TEXT / 2));
        assert_eq!(lines.iter().filter(|line| *line == "pid 4711").count(), 2000);
        assert_eq!(lines.iter().filter(|line| **line == expected).count(), 2000);
    }
}
