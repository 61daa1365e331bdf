//! A program with threads is forked while it runs: the copies go on where it was, and apart from it.
//!
//! Needs root: a copy is in namespaces of its own, as another user.

use std::{
    fs,
    io::{IoSlice, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use command_fds::{CommandFdExt, FdMapping};
use hypernetes_fork::{Place, Places, Request, SERVER_VARIABLE};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, socketpair};

/// Where the program and its copies listen.
const LISTENER: i32 = 200;
const SERVER: i32 = 201;
const UID: u32 = 0x6000_1234;
const WORKERS: usize = 4;

/// The program: workers that count, each waiting in another way, and one who tells how far they are. `N` adds N to what is told.
#[test]
#[ignore = "what the other tests fork"]
fn the_program() {
    let server = std::env::var(SERVER_VARIABLE).unwrap();
    hypernetes_fork::serve(server.parse().unwrap()).unwrap();
    let counts: Arc<[AtomicU64; WORKERS]> = Arc::default();
    let pair = Arc::new((Mutex::new(0u64), Condvar::new()));
    let strict = Arc::new(Strict::default());
    for worker in 0..WORKERS {
        let (counts, pair, strict) = (counts.clone(), pair.clone(), strict.clone());
        thread::spawn(move || {
            loop {
                match worker {
                    // Runs all the time.
                    0 => thread::yield_now(),
                    // Is most of the time in a lock that knows who holds it.
                    1 => strict.hold(),
                    // Is woken by the next, and allocates.
                    2 => {
                        let mut turns = pair.0.lock().unwrap();
                        while *turns == 0 {
                            turns = pair.1.wait(turns).unwrap();
                        }
                        *turns = 0;
                        drop(vec![0u8; 100_000]);
                    }
                    _ => {
                        *pair.0.lock().unwrap() += 1;
                        pair.1.notify_one();
                        let limit = nix::poll::PollTimeout::from(1u8);
                        let _ = nix::poll::poll(&mut [], limit);
                    }
                }
                counts[worker].fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    // SAFETY: whoever starts this process puts it there.
    #[allow(unsafe_code)]
    let listener = UnixListener::from(unsafe { OwnedFd::from_raw_fd(LISTENER) });
    let mut sum = 0;
    loop {
        let Ok((mut stream, _)) = listener.accept() else { continue };
        let mut word = [0; 8];
        if stream.read_exact(&mut word).is_err() {
            continue;
        }
        sum += u64::from_le_bytes(word);
        let numbers = [sum, std::process::id().into()].into_iter();
        let answer: Vec<u8> =
            numbers.chain(counts.iter().map(|c| c.load(Ordering::Relaxed))).flat_map(u64::to_le_bytes).collect();
        let _ = stream.write_all(&answer);
    }
}

/// A lock of the C library that can be left by the thread that took it only, by its id.
struct Strict(std::cell::UnsafeCell<libc::pthread_mutex_t>);

#[allow(unsafe_code)]
// SAFETY: it is made for several threads.
unsafe impl Sync for Strict {}
#[allow(unsafe_code)]
// SAFETY: it is not moved while it is held.
unsafe impl Send for Strict {}

#[allow(unsafe_code)]
impl Default for Strict {
    fn default() -> Self {
        // SAFETY: attributes are initialized before they are used; a mutex of this kind has no address of its own in it.
        unsafe {
            let mut attributes = std::mem::zeroed();
            libc::pthread_mutexattr_init(&raw mut attributes);
            libc::pthread_mutexattr_settype(&raw mut attributes, libc::PTHREAD_MUTEX_ERRORCHECK);
            let mut mutex = std::mem::zeroed();
            libc::pthread_mutex_init(&raw mut mutex, &raw const attributes);
            Self(mutex.into())
        }
    }
}

#[allow(unsafe_code)]
impl Strict {
    fn hold(&self) {
        // SAFETY: it was initialized.
        assert_eq!(unsafe { libc::pthread_mutex_lock(self.0.get()) }, 0);
        thread::sleep(Duration::from_millis(1));
        // SAFETY: as above.
        if unsafe { libc::pthread_mutex_unlock(self.0.get()) } != 0 {
            std::process::abort();
        }
    }
}

#[derive(Debug)]
struct Told {
    sum: u64,
    pid: u64,
    counts: Vec<u64>,
}

fn ask(socket: &Path, add: u64) -> Told {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(&add.to_le_bytes()).unwrap();
    let mut answer = [0; 8 * (2 + WORKERS)];
    stream.read_exact(&mut answer).unwrap();
    let mut numbers = answer.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
    Told { sum: numbers.next().unwrap(), pid: numbers.next().unwrap(), counts: numbers.collect() }
}

/// All workers work.
fn goes_on(socket: &Path) {
    let before = ask(socket, 0).counts;
    let began = Instant::now();
    while !ask(socket, 0).counts.iter().zip(&before).all(|(now, then)| now > then) {
        assert!(began.elapsed() < Duration::from_secs(20), "{before:?}, now {:?}", ask(socket, 0));
        thread::sleep(Duration::from_millis(5));
    }
}

struct Original {
    child: Child,
    requests: OwnedFd,
    directory: tempfile::TempDir,
}

impl Original {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (requests, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let listener = UnixListener::bind(directory.path().join("original")).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "the_program", "--ignored"]).env(SERVER_VARIABLE, SERVER.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mappings = [(theirs, SERVER), (listener.into(), LISTENER)];
        let mappings = mappings.map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
        command.fd_mappings(mappings.into()).unwrap();
        let child = command.spawn().unwrap();
        Self { child, requests, directory }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("original")
    }

    fn fork(&self, name: &str, filter: &[u8]) -> Result<(i32, PathBuf), i32> {
        let path = self.directory.path().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        let places = Places::new(&[Place::Number(LISTENER)]).unwrap();
        let message = Request { uid: UID, gid: UID, places, filter }.encode();
        let descriptors = [listener.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&descriptors)];
        let requests = self.requests.as_raw_fd();
        sendmsg::<()>(requests, &[IoSlice::new(&message)], &control, MsgFlags::empty(), None).unwrap();
        let mut answer = [0; 4];
        assert_eq!(recv(requests, &mut answer, MsgFlags::empty()).unwrap(), 4);
        match i32::from_le_bytes(answer) {
            pid if pid > 0 => Ok((pid, path)),
            error => Err(-error),
        }
    }
}

impl Drop for Original {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn status(pid: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next_back().unwrap().to_owned()
}

fn end(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    // Copies are children of the original's parent.
    nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::__WALL)).unwrap();
}

#[test]
fn copies_go_on_where_the_original_was_and_apart_from_it() {
    let original = Original::start();
    goes_on(&original.socket());
    ask(&original.socket(), 7);
    let at = ask(&original.socket(), 0).counts;
    // ret ALLOW
    let allow = [6u8, 0, 0, 0, 0, 0, 0xff, 0x7f];
    let copies: Vec<_> = (0..6).map(|n| original.fork(&format!("copy{n}"), &allow).unwrap()).collect();
    for (n, (pid, socket)) in (1..).zip(&copies) {
        let told = ask(socket, n);
        // It knows what the original knew, and is the first process of its namespace.
        assert_eq!((told.sum, told.pid), (7 + n, 1));
        assert!(told.counts.iter().zip(&at).all(|(now, then)| now >= then), "{told:?} {at:?}");
        goes_on(socket);
        assert_eq!(ask(socket, 0).sum, 7 + n);
        for (field, value) in [("Uid", UID.to_string()), ("Gid", UID.to_string()), ("NoNewPrivs", "1".into())] {
            assert_eq!(status(*pid, field), value, "{field}");
        }
        assert_eq!(status(*pid, "CapEff"), "0000000000000000");
        assert_eq!(status(*pid, "Seccomp_filters"), "1");
        // The workers, the harness's two; and the first, which made them.
        assert_eq!(status(*pid, "Threads"), (WORKERS + 3).to_string());
        for namespace in ["mnt", "net", "ipc", "uts", "pid"] {
            let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
            assert_ne!(of(&pid.to_string()), of("self"), "{namespace}");
        }
    }
    goes_on(&original.socket());
    assert_eq!(ask(&original.socket(), 0).sum, 7);
    for (pid, _) in copies {
        end(pid);
    }
    goes_on(&original.socket());
}

#[test]
fn a_copy_outlives_the_original_and_the_original_ends_with_who_has_it() {
    let mut original = Original::start();
    goes_on(&original.socket());
    let (pid, socket) = original.fork("copy", &[]).unwrap();
    let (other, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    drop((std::mem::replace(&mut original.requests, other), theirs));
    let began = Instant::now();
    while original.child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(20));
        thread::sleep(Duration::from_millis(5));
    }
    goes_on(&socket);
    end(pid);
}

#[test]
fn what_is_not_a_request_is_refused_and_what_fails_ends_the_copy_only() {
    let original = Original::start();
    goes_on(&original.socket());
    let requests = original.requests.as_raw_fd();
    for wrong in [&b"hello"[..], &[0; 200]] {
        nix::sys::socket::send(requests, wrong, MsgFlags::empty()).unwrap();
        let mut answer = [0; 4];
        assert_eq!(recv(requests, &mut answer, MsgFlags::empty()).unwrap(), 4);
        assert_eq!(i32::from_le_bytes(answer), -nix::libc::EBADMSG);
    }
    // A program that the kernel does not take: no such instruction.
    let (pid, _) = original.fork("copy", &[0xff; 8]).unwrap();
    let ended = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), Some(nix::sys::wait::WaitPidFlag::__WALL));
    assert!(matches!(ended, Ok(nix::sys::wait::WaitStatus::Exited(_, 1))), "{ended:?}");
    goes_on(&original.socket());
}
