//! A real etcd for tests: of one member or of several, in a directory of its own, which is gone with the test, however
//! that ends.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod cluster;
pub mod frames;
pub mod history;
pub mod proxy;

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use hypernetes_store::log::etcd::{Config, Endpoints};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long etcd may take to begin to answer.
const START: Duration = Duration::from_secs(60);

/// A process of etcd, killed when this is dropped or the test's process ends.
pub struct Process {
    shell: Child,
    pid: Pid,
}

impl Process {
    /// Whatever `arguments` say; what it prints goes to a file. `remove` is removed with it, when the test did not.
    pub fn start(arguments: &[String], log: &Path, remove: &Path) -> Self {
        // The shell's input ends with the test's process, by whatever.
        let script = r#"log=$1; remove=$2; shift 2
            "$@" >>"$log" 2>&1 </dev/null &
            echo $!; read -r _; kill -9 $!; wait $! 2>/dev/null; [ -z "$remove" ] || rm -rf "$remove""#;
        let mut shell = Command::new("sh")
            .args(["-c", script, "etcd"])
            .args([log, remove])
            .arg("etcd")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { shell, pid: Pid::from_raw(line.trim().parse().unwrap()) }
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// An address that nobody else listens on: each process of tests has a loopback address of its own, and counts its ports.
pub fn address() -> SocketAddrV4 {
    static PORTS: AtomicU16 = AtomicU16::new(20_000);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let host = Ipv4Addr::new(127, 64 + (high & 63), middle, low);
    SocketAddrV4::new(host, PORTS.fetch_add(1, Ordering::Relaxed))
}

pub fn text(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(ToString::to_string).collect()
}

/// Waits until something listens there.
pub fn listens(address: SocketAddrV4, log: &Path) {
    let began = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        let log = || std::fs::read_to_string(log).unwrap_or_default();
        assert!(began.elapsed() < START, "etcd (package etcd-server) does not listen:\n{}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Where a store is, of this etcd, with a prefix of its own.
pub fn config(urls: Vec<String>, prefix: &str) -> Config {
    let endpoints = Endpoints { urls, ..Endpoints::default() };
    Config { endpoints, prefix: prefix.into(), compaction: Duration::ZERO, ..Config::default() }
}

/// The one etcd of a test binary that needs no other.
pub fn shared() -> String {
    static URL: OnceLock<String> = OnceLock::new();
    URL.get_or_init(|| {
        let directory = tempfile::Builder::new().prefix("etcd-of-test-").tempdir().unwrap().keep();
        let (process, url) = single(&directory, &directory);
        // Ends with the test's process.
        std::mem::forget(process);
        url
    })
    .clone()
}

/// An etcd of one member, with its data in `directory`.
pub fn single(directory: &Path, remove: &Path) -> (Process, String) {
    let client = address();
    let url = format!("http://{client}");
    (single_at(directory, remove, client, &url, &[]), url)
}

/// The same, where it is said to be, and with more options.
pub fn single_at(directory: &Path, remove: &Path, client: SocketAddrV4, url: &str, more: &[&str]) -> Process {
    let peer = format!("http://{}", address());
    let log = directory.join("log");
    let data: PathBuf = directory.join("data");
    let mut arguments = text(&[
        "--name=one",
        &format!("--data-dir={}", data.display()),
        &format!("--listen-client-urls={url}"),
        &format!("--advertise-client-urls={url}"),
        &format!("--listen-peer-urls={peer}"),
        &format!("--initial-advertise-peer-urls={peer}"),
        &format!("--initial-cluster=one={peer}"),
    ]);
    arguments.extend(text(more));
    let process = Process::start(&arguments, &log, remove);
    listens(client, &log);
    process
}
