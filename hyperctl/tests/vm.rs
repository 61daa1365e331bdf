//! hyperctl with a real hyperd, a real VM, and Debian's CNI plugins, on a host of the test's own. Needs QEMU, the guest's
//! kernel, busybox, containernetworking-plugins and iptables.

#[path = "../../node/hyperd/tests/common/layout.rs"]
mod layout;

use std::{
    fs::File,
    io::{Read, Write},
    net::TcpStream,
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use hypernetes_hyperd::HyperdConfig;
use hypernetes_hypervisor::{
    Accelerator, GuestFiles,
    qemu::{Qemu, QemuConfig, TemplateLimits},
};
use hypernetes_image::{ImageStore, Limits};
use nix::{
    mount::MsFlags,
    sched::{CloneFlags, setns, unshare},
};

/// Runs the test on a thread with a network and mounts of its own, which are gone with it.
fn on_a_host(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn guest_files() -> GuestFiles {
    GuestFiles::in_checkout(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
}

struct Host {
    directory: tempfile::TempDir,
    hyperd: Option<tokio::runtime::Runtime>,
}

impl Host {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // The VMM runs as a user of its own, and has to reach its directory.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        let mut host = Self { directory, hyperd: None };
        let net = host.path("root/cni/net.d");
        std::fs::create_dir_all(&net).unwrap();
        let chain = serde_json::json!({"cniVersion": "1.0.0", "name": "bridged", "plugins": [
            {"type": "bridge", "bridge": "cni0", "isGateway": true, "mtu": 1400, "dns": {"nameservers": ["10.87.0.1"]},
             "ipam": {"type": "host-local", "dataDir": host.path("ipam"), "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                      "ranges": [[{"subnet": "10.87.0.0/24"}], [{"subnet": "fd87::/64"}]]}},
            {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}},
        ]});
        std::fs::write(net.join("10-bridged.conflist"), chain.to_string()).unwrap();
        host.run();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&mut self) {
        // Threads of a runtime are made by whichever thread has work for them: each is brought here.
        let network = Arc::new(File::open("/proc/thread-self/ns/net").unwrap());
        let enter = move || setns(network.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .on_thread_start(enter)
            .build()
            .unwrap();
        let root = self.path("root");
        let guest = guest_files();
        runtime.spawn(async move {
            let templates = TemplateLimits { count: 0, ..TemplateLimits::default() };
            let config = QemuConfig {
                directory: root.join("vmm"),
                guest,
                jail: None,
                fork: None,
                rehearsal: None,
                accelerator: Some(Accelerator::Tcg),
                templates,
            };
            let hypervisor = Arc::new(Qemu::new(config).await.unwrap());
            let images = Arc::new(ImageStore::open(root.join("images"), Limits::default()).unwrap());
            let config = HyperdConfig::new(&root, hypervisor, images);
            hypernetes_hyperd::run(config, std::future::pending()).await.unwrap();
        });
        self.hyperd = Some(runtime);
        let socket = self.path("root/hyperd.sock");
        within(Duration::from_secs(60), "hyperd to serve", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    }

    /// As `kill -9` would.
    fn kill(&mut self) {
        self.hyperd.take().unwrap().shutdown_background();
        std::thread::sleep(Duration::from_millis(50));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hyperctl"));
        command.args(arguments).env("HYPERNETES_ROOT", self.path("root")).env_remove("HYPERCTL_SOCKET");
        command.env("DOCKER_CONFIG", self.path("docker")).env("TERM", "xterm-test");
        command
    }

    fn output(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// What a command prints that succeeds.
    fn ctl(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments, "");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "hyperctl {arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ctl(&[arguments, &["-o", "json"]].concat())).unwrap()
    }
}

impl Drop for Host {
    /// A test that failed leaves no VM behind.
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.path("root/sandboxes")).into_iter().flatten().flatten() {
            let record: serde_json::Value =
                serde_json::from_slice(&std::fs::read(entry.path()).unwrap_or_default()).unwrap_or_default();
            if let Some(pid) = record["vm"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()) {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
        }
        if let Some(hyperd) = self.hyperd.take() {
            hyperd.shutdown_background();
        }
    }
}

fn within(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What a server says to a caller.
fn call(server: &str) -> String {
    let mut answer = String::new();
    within(Duration::from_secs(20), server, || {
        let Ok(mut stream) = TcpStream::connect_timeout(&server.parse().unwrap(), Duration::from_secs(2)) else {
            return false;
        };
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        answer.clear();
        stream.read_to_string(&mut answer).is_ok() && !answer.is_empty()
    });
    answer
}

/// Runs a command at a terminal, types, and gives all that was shown and the exit code.
fn at_a_terminal(mut command: Command, lines: &[(&str, &str)]) -> (String, Option<i32>) {
    let size = nix::pty::Winsize { ws_row: 33, ws_col: 101, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = nix::pty::openpty(&size, None).unwrap();
    let end = || Stdio::from(pty.slave.try_clone().unwrap());
    let mut child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
    drop((command, pty.slave));
    let mut terminal = File::from(pty.master);
    let mut shown = Vec::new();
    let read = |shown: &mut Vec<u8>, terminal: &mut File| {
        let mut buffer = [0; 4096];
        // EIO: the other side is closed.
        let length = terminal.read(&mut buffer).unwrap_or(0);
        shown.extend_from_slice(&buffer[..length]);
        length > 0
    };
    for (prompt, line) in lines {
        let from = shown.len();
        while !String::from_utf8_lossy(&shown[from..]).contains(prompt) {
            assert!(read(&mut shown, &mut terminal), "no {prompt:?} in {:?}", String::from_utf8_lossy(&shown));
        }
        terminal.write_all(line.as_bytes()).unwrap();
    }
    while read(&mut shown, &mut terminal) {}
    (String::from_utf8_lossy(&shown).into_owned(), child.wait().unwrap().code())
}

#[test]
fn containers_by_hand() {
    on_a_host(|| {
        let mut host = Host::start();
        let layout = host.path("layout");
        layout::busybox_layout(&layout, &[]);
        let archive = host.path("busybox.tar");
        let mut tar = tar::Builder::new(File::create(&archive).unwrap());
        tar.append_dir_all(".", &layout).unwrap();
        tar.into_inner().unwrap();
        let id = host.ctl(&["load", "--name", "test/busybox:1", archive.to_str().unwrap()]);
        assert!(id.starts_with("sha256:"), "{id}");
        assert_eq!(host.json(&["images"])[0]["tags"][0], "docker.io/test/busybox:1");
        assert!(host.ctl(&["info"]).contains("tcg"));

        // Output in order and whole, the exit code, and nothing left.
        let script = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $i; done; echo $MINE >&2; exit 7";
        let run = host.output(&["run", "--rm", "-e", "MINE=yes", "test/busybox:1", script], "");
        assert_eq!(run.status.code(), Some(7), "{}", String::from_utf8_lossy(&run.stderr));
        let expected: String = (1..=3000).map(|i| format!("{i}\n")).collect();
        assert_eq!(String::from_utf8_lossy(&run.stdout), expected);
        assert_eq!(String::from_utf8_lossy(&run.stderr), "yes\n");
        assert_eq!(host.json(&["ps", "-a"]), serde_json::json!([]));
        assert_eq!(host.json(&["vm", "ls"]), serde_json::json!([]));

        // A server with a port at the host.
        let serve = "echo up; while true; do echo \"hello from $(hostname)\" | nc -l -p 80; done";
        let id = host.ctl(&["run", "-d", "--name", "web", "-p", "8080:80", "-m", "64m", "test/busybox:1", serve]);
        assert_eq!(call("127.0.0.1:8080"), "hello from web\n");
        let vm = &host.json(&["vm", "ls"])[0];
        assert_eq!((&vm["pod"], &vm["state"], &vm["tenant"]), (&"web".into(), &"ready".into(), &"operator".into()));
        let ips: Vec<&str> = vm["ips"].as_array().unwrap().iter().map(|ip| ip.as_str().unwrap()).collect();
        assert!(ips[0].starts_with("10.87.0.") && ips[1].starts_with("fd87::"), "{ips:?}");
        // The guest has what the plugins answered.
        assert_eq!(call(&format!("[{}]:80", ips[1])), "hello from web\n");
        let mtu = host.ctl(&["exec", "web", "cat", "/sys/class/net/eth0/mtu"]);
        assert_eq!(mtu, "1400\n");
        assert!(host.ctl(&["exec", "web", "cat", "/etc/resolv.conf"]).contains("nameserver 10.87.0.1"));
        let ps = host.ctl(&["ps"]);
        assert!(ps.contains("8080->80") && ps.contains("hyperctl/web") && ps.contains("Up"), "{ps}");
        assert!(id.starts_with(ps.lines().nth(1).unwrap().split_whitespace().next().unwrap()));
        let stats = host.json(&["stats", "--no-stream"]);
        assert!(stats[0]["memory_bytes"].as_u64().unwrap() > 0, "{stats}");
        let taken = host.output(&["run", "--name", "web", "test/busybox:1", "true"], "");
        assert_eq!(taken.status.code(), Some(125));
        assert!(String::from_utf8_lossy(&taken.stderr).contains("in use"));

        // Streams, whoever serves them.
        host.kill();
        host.run();
        within(Duration::from_secs(30), "the VM to be found again", || {
            host.output(&["exec", "web", "true"], "").status.success()
        });
        assert_eq!(call("127.0.0.1:8080"), "hello from web\n");
        let piped = host.output(&["exec", "-i", "web", "sh", "-c", "cat; exit 3"], "through");
        assert_eq!((piped.status.code(), piped.stdout), (Some(3), b"through".to_vec()));
        let (shown, code) = at_a_terminal(
            host.command(&["exec", "-it", "web", "sh"]),
            &[("# ", "echo $((40+2)) on $(tty)\n"), ("# ", "exit 5\n")],
        );
        assert_eq!(code, Some(5), "{shown}");
        assert!(shown.contains("42 on /dev/pts/"), "{shown}");
        assert_eq!(host.ctl(&["logs", "--tail", "1", "web"]), "up\n");
        let (shown, code) = at_a_terminal(
            host.command(&["run", "--rm", "-it", "--network", "none", "--name", "mine", "test/busybox:1", "sh"]),
            &[("# ", "echo $TERM at $(hostname); ls /sys/class/net; exit 4\n")],
        );
        assert_eq!(code, Some(4), "{shown}");
        assert_eq!(host.output(&["exec", "web", "nowhere"], "").status.code(), Some(127));
        assert!(shown.contains("xterm-test at mine") && !shown.contains("eth0"), "{shown}");

        let refused = host.output(&["rm", "web"], "");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("-f"));
        host.ctl(&["stop", "-t", "1", "web"]);
        assert_eq!(host.json(&["vm", "ls"]), serde_json::json!([]));
        assert_eq!(host.json(&["ps", "-a"])[0]["state"], "exited");
        assert_eq!(host.ctl(&["logs", "web"]), "up\n");
        host.ctl(&["rm", "web"]);
        assert_eq!(std::fs::read_dir(host.path("root/hyperctl")).unwrap().count(), 0);
        for left in ["root/netns", "root/networks"] {
            assert_eq!(std::fs::read_dir(host.path(left)).unwrap().count(), 0, "{left}");
        }
        host.ctl(&["rmi", "test/busybox:1"]);
        assert_eq!(host.json(&["images"]), serde_json::json!([]));
    });
}
