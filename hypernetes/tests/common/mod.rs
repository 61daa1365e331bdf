//! A server, as an operator starts it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    fs::File,
    os::unix::{net::UnixDatagram, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

pub const BINARY: &str = env!("CARGO_BIN_EXE_hypernetes");
/// How long anything may take until the test gives up on it: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct Server {
    process: Child,
    place: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    /// A server that is ready, with a store of its own.
    pub fn start() -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), &[])
    }

    /// A server that is ready, in a place whose `server` is its directory, with more options.
    pub fn start_with(place: tempfile::TempDir, options: &[&str]) -> Self {
        Self::start_when(place, options, |_| true)
    }

    /// [`Self::start_with`], where something else has to be the case before it can be ready: it is asked for with what the server has logged.
    pub fn start_when(place: tempfile::TempDir, options: &[&str], mut may: impl FnMut(&str) -> bool) -> Self {
        let (notify, log) = (place.path().join("notify"), File::create(place.path().join("log")).unwrap());
        let _ = std::fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let process = command(&place, options)
            .env("NOTIFY_SOCKET", &notify)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        let (mut server, began, mut buffer, mut waits) = (Self { process, place }, Instant::now(), [0; 4096], true);
        loop {
            waits = waits && !may(&server.read("log"));
            if socket.recv(&mut buffer).is_ok_and(|length| buffer[..length] == *b"READY=1") {
                assert!(!waits, "it is ready too soon");
                return server;
            }
            let log = || std::fs::read_to_string(server.place.path().join("log")).unwrap();
            assert!(began.elapsed() < PATIENCE, "the server is not ready:\n{}", log());
            let ended = server.process.try_wait().unwrap();
            assert!(ended.is_none(), "the server ended:\n{}", log());
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().try_into().unwrap()), signal).unwrap();
    }

    /// Its place, when it has ended as it is asked to.
    pub fn stopped(mut self) -> tempfile::TempDir {
        self.signal(Signal::SIGTERM);
        let ended = self.process.wait().unwrap();
        assert!(ended.success(), "{ended}:\n{}", self.read("log"));
        std::mem::replace(&mut self.place, tempfile::tempdir().unwrap())
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Its place, when it is no more.
    pub fn killed(mut self) -> tempfile::TempDir {
        self.kill();
        std::mem::replace(&mut self.place, tempfile::tempdir().unwrap())
    }
}

fn command(place: &tempfile::TempDir, options: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["server", "--bind", "127.0.0.1:0", "--root"]).arg(place.path().join("server")).args(options);
    command
}

/// Why a server does not start.
pub fn refused_to_start(place: &tempfile::TempDir, options: &[&str]) -> String {
    let output = command(place, options).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

pub fn good(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub fn refused(words: &[String]) -> String {
    let output = Command::new(BINARY).args(words).output().unwrap();
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

pub async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    // What the server answers, and not what comes of asking again and again for minutes.
    config.default_retry = false;
    Client::try_from(config).unwrap()
}
