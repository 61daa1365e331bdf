//! `hypernetes up`: everything on this machine.

use std::{
    ffi::OsString,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use hypernetes_daemon::{
    confine::mounts,
    notify::{self, Listener, Message},
};
use hypernetes_hypervisor::{Vmm, process::Process};

use crate::{
    Root,
    pki::Authority,
    supervise::{self, Role, Supervisor},
};

/// Start everything on this machine: server, hyperd and node, with embedded engines
///
/// All run as processes of their own and are started again when they die; VMs and data outlive each of them.
/// Without --detach it stays in the foreground until it is interrupted, and leaves the pods running; `hypernetes down`
/// stops those, too.
#[derive(clap::Args)]
pub struct Up {
    #[command(flatten)]
    root: Root,
    /// Where the Kubernetes, Keystone, Neutron and Cinder APIs are served. Port 0 picks one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:6443")]
    bind: SocketAddr,
    /// The guest's kernel: a directory with `vmlinuz` and `modules/` (see scripts/guest-kernel.sh).
    #[arg(long, value_name = "DIR", default_value = ".tools/guest", env = "HYPERNETES_GUEST")]
    guest: PathBuf,
    /// What runs the pods' VMs.
    #[arg(long, default_value_t, value_name = "qemu|firecracker", env = "HYPERNETES_VMM")]
    vmm: Vmm,
    /// What of requests is recorded: a file with a Policy of audit.k8s.io/v1, as `server` takes it.
    #[arg(long, value_name = "FILE")]
    audit_policy: Option<PathBuf>,
    /// File of the keys that the server's store is encrypted with, as `server` takes it.
    #[arg(long, value_name = "FILE")]
    encryption_keys: Option<PathBuf>,
    /// Return when everything is ready; go on in the background.
    #[arg(long)]
    detach: bool,
}

/// How long `--detach` waits for everything: the first start builds the VM's files and probes the accelerator.
const DETACH_PATIENCE: Duration = Duration::from_secs(240);

const QEMU: &str = "qemu-system-x86_64";
/// Programs that are called, and Debian's packages that have them.
const PROGRAMS: [(&str, &str); 5] = [
    (QEMU, "qemu-system-x86"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("mkfs.ext4", "e2fsprogs"),
    ("xz", "xz-utils"),
];

/// Programs that lie beside this one.
const BESIDE: [&str; 4] = ["hyperd", "hyperstart", "hypernetes-cni", "hypernetes-vmm"];

impl Up {
    pub async fn run(mut self) -> Result<()> {
        std::fs::create_dir_all(&self.root.directory)
            .with_context(|| format!("making {}", self.root.directory.display()))?;
        self.root.directory = self.root.directory.canonicalize()?;
        let record = Supervisor::record(&self.root.directory, "up");
        if let Some(running) = Process::recall(&record) {
            println!("already up (pid {})", running.pid);
            return Ok(());
        }
        self.resolve_port()?;
        self.check()?;
        if self.detach { self.detach().await } else { self.supervise(record).await }
    }

    /// Port 0 becomes a free one, and stays it: clients have the address in their files.
    fn resolve_port(&mut self) -> Result<()> {
        if self.bind.port() == 0 {
            let kept = self.root.directory.join("address");
            let earlier = std::fs::read_to_string(&kept).ok().and_then(|text| text.trim().parse().ok());
            self.bind = match earlier {
                Some(address) => address,
                None => TcpListener::bind(self.bind).and_then(|listener| listener.local_addr())?,
            };
            std::fs::write(&kept, self.bind.to_string())?;
        }
        Ok(())
    }

    /// Says all that is missing at once, and what to do about it.
    fn check(&self) -> Result<()> {
        let mut problems = Vec::new();
        if !nix::unistd::geteuid().is_root() {
            problems.push("it needs root, for network namespaces and the VMs' users: run it with sudo".to_owned());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = |program: &str| std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
        let sbin = |program: &str| ["/usr/sbin", "/sbin"].iter().any(|d| Path::new(d).join(program).is_file());
        for (program, package) in PROGRAMS {
            let needed = self.vmm == Vmm::Qemu || program != QEMU;
            if needed && !found(program) && !sbin(program) {
                problems.push(format!("the program {program} is missing: apt-get install {package}"));
            }
        }
        if !self.guest.join("vmlinuz").is_file() {
            problems.push(format!(
                "there is no guest kernel in {}: run scripts/guest-kernel.sh {0}, or name another directory with --guest",
                self.guest.display()
            ));
        }
        for program in BESIDE {
            let path = supervise::program(program)?;
            if !path.is_file() {
                problems.push(format!("{} is missing: run make build", path.display()));
            }
        }
        if !Path::new("/dev/net/tun").exists() {
            problems.push("/dev/net/tun is missing: the kernel needs tap devices (modprobe tun)".to_owned());
        }
        if Process::recall(&Supervisor::record(&self.root.directory, "server")).is_none()
            && let Err(error) = TcpListener::bind(self.bind)
        {
            problems.push(format!("{} cannot be used ({error}): stop what listens there, or choose --bind", self.bind));
        }
        if problems.is_empty() {
            return Ok(());
        }
        bail!("this machine is not ready:\n  - {}", problems.join("\n  - "))
    }

    /// Runs this very command in the background and shows how it gets on.
    async fn detach(&self) -> Result<()> {
        let root = &self.root.directory;
        let log_path = root.join("log/up.log");
        std::fs::create_dir_all(root.join("log"))?;
        std::fs::create_dir_all(root.join("run"))?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&log_path)?;
        let listener = Listener::bind(root.join("run/up.notify"))?;
        let (variable, socket) = listener.environment();
        let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--detach");
        let mut child = tokio::process::Command::new(std::env::current_exe()?)
            .args(arguments)
            .env(variable, socket)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let listen = async {
            loop {
                match listener.next().await? {
                    Message::Ready => return anyhow::Ok(()),
                    Message::Status(text) => println!("  {text}"),
                }
            }
        };
        tokio::select! {
            ready = listen => ready,
            status = child.wait() => bail!("it ended with {}:\n{}", status?, supervise::tail(&log_path)),
            () = tokio::time::sleep(DETACH_PATIENCE) => {
                bail!("not ready after {} s:\n{}", DETACH_PATIENCE.as_secs(), supervise::tail(&log_path))
            }
        }
    }

    async fn supervise(&self, record: PathBuf) -> Result<()> {
        let root = &self.root.directory;
        // What the roles mount is seen by all of them, and stays when they end; else they have mounts of their own.
        for directory in [root.as_path(), Path::new(hypernetes_netagent::NAMESPACES)] {
            std::fs::create_dir_all(directory)?;
            let shared = mounts::share(directory);
            if !shared.with_context(|| format!("sharing what is mounted in {}", directory.display()))? {
                notify::status(
                    "the roles see all of the host's files until the next `down`: an earlier version has mounts",
                );
            }
        }
        let supervisor = Supervisor::new(root)?;
        let own = Process::remember(std::process::id(), record.clone())?;
        let roles = self.roles(root)?;
        let result = supervisor.run(roles, hypernetes_daemon::stop_signal()).await;
        drop(own);
        let _ = std::fs::remove_file(record);
        result
    }

    fn roles(&self, root: &Path) -> Result<Vec<Role>> {
        let server = root.join("server");
        let argument = |text: &str| OsString::from(text);
        let (hyperd, volumes, node) = (root.join("hyperd"), root.join("volumes"), root.join("node"));
        let node_name = crate::node::host_name()?;
        let authority = Authority::open(&server.join("pki"))?;
        crate::node::write_credentials(&authority, &node, &node_name, &format!("https://{}", self.bind))?;
        std::fs::create_dir_all(&volumes)?;
        let mut of_server = vec![
            argument("server"),
            argument("--root"),
            server.clone().into(),
            argument("--bind"),
            self.bind.to_string().into(),
            argument("--volumes"),
            volumes.clone().into(),
            argument("--user"),
            crate::privileges::SERVER_USER.to_string().into(),
        ];
        let files = [
            ("--audit-policy", "the audit policy", &self.audit_policy),
            ("--encryption-keys", "the encryption keys", &self.encryption_keys),
        ];
        for (option, what, file) in files {
            let Some(file) = file else { continue };
            let file = file.canonicalize().with_context(|| format!("{what} {}", file.display()))?;
            of_server.extend([argument(option), file.into()]);
        }
        Ok(vec![
            Role { name: "server", program: "hypernetes", memory_part: 4, arguments: of_server },
            Role {
                name: "hyperd",
                program: "hyperd",
                memory_part: 8,
                arguments: vec![
                    argument("--root"),
                    hyperd.clone().into(),
                    argument("--guest"),
                    self.guest.canonicalize()?.into(),
                    argument("--vmm"),
                    argument(&self.vmm.to_string()),
                    argument("--pods-dir"),
                    node.join("pods").into(),
                    argument("--volumes"),
                    volumes.into(),
                ],
            },
            Role {
                name: "node",
                program: "hypernetes",
                memory_part: 8,
                arguments: vec![
                    argument("node"),
                    argument("--root"),
                    node.into(),
                    argument("--name"),
                    node_name.into(),
                    argument("--hyperd-root"),
                    hyperd.into(),
                ],
            },
        ])
    }
}
