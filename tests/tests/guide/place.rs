//! Where a page's commands are run.

use std::{
    fs::File,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use hypernetes_tests::{Finished, PATIENCE, System, Tenant, eventually};

/// What a reader of the page is taken to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Has {
    /// A tenant of the system that all tests share, and the two files of it, `acme.kubeconfig` and `acme.openrc`.
    Tenant,
    /// That system itself, in HYPERNETES_ROOT.
    Installation,
    /// A server without nodes, in `data` as `up` has it.
    Server,
    /// An etcd, at $ETCD.
    Etcd,
    /// Nothing but the programs.
    Programs,
}

pub struct Place {
    pub directory: PathBuf,
    pub environment: Vec<(&'static str, String)>,
    /// What the tenant is called that the page calls acme.
    tenant: Option<Tenant>,
    system: System,
    running: Option<Child>,
    _temporary: tempfile::TempDir,
}

impl Place {
    pub fn make(has: Has) -> Self {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let directory = temporary.path().canonicalize().expect("its path");
        let system = System::shared();
        let environment = vec![
            ("HOME", directory.display().to_string()),
            ("LC_ALL", "C.UTF-8".to_owned()),
            ("PATH", path(&system)),
            ("HYPERNETES_GUEST", system.checkout.join(".tools/guest").display().to_string()),
        ];
        let mut place = Self { directory, environment, tenant: None, system, running: None, _temporary: temporary };
        place.furnish(has);
        place
    }

    fn furnish(&mut self, has: Has) {
        let here = |name: &str| self.directory.join(name);
        match has {
            Has::Tenant => {
                let tenant = self.system.tenant("acme");
                std::fs::copy(tenant.kubeconfig(), here("acme.kubeconfig")).expect("a copy");
                std::fs::copy(tenant.openrc(), here("acme.openrc")).expect("a copy");
                self.environment.push(("KUBECONFIG", here("acme.kubeconfig").display().to_string()));
                self.tenant = Some(tenant);
            }
            Has::Installation => {
                let root = &self.system.root;
                let kubeconfig = root.join("server/operator.kubeconfig");
                self.environment.push(("KUBECONFIG", kubeconfig.display().to_string()));
                self.environment.push(("HYPERNETES_ROOT", root.display().to_string()));
            }
            Has::Server => {
                self.environment.push(("KUBECONFIG", here("data/server/operator.kubeconfig").display().to_string()));
                self.running = Some(server(&self.directory, &self.system));
            }
            Has::Etcd => {
                let port = free_port();
                self.running = Some(etcd(&self.directory, port));
                self.environment.push(("ETCD", format!("http://127.0.0.1:{port}")));
            }
            Has::Programs => {}
        }
    }

    /// What was printed, as the page's reader sees it.
    pub fn shown(&self, printed: String) -> String {
        match &self.tenant {
            Some(tenant) => printed.replace(&tenant.name, "acme"),
            None => printed,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(process) = &mut self.running {
            let _ = process.kill();
            let _ = process.wait();
        }
        // What a page that has failed has started with `up`.
        if self.directory.join("data/run/up.pid").exists() {
            let root = self.directory.join("data");
            let _ = Finished::of(self.system.hypernetes().args(["down", "--root"]).arg(root));
        }
    }
}

fn path(system: &System) -> String {
    let programs = system.hypernetes().get_program().to_owned();
    let programs = Path::new(&programs).parent().expect("a directory").to_owned();
    let own = [programs, system.checkout.join(".tools/bin"), system.checkout.join(".tools/venv/bin")];
    let system = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::join_paths(own.into_iter().chain(std::env::split_paths(&system))).expect("a path");
    all.into_string().expect("text")
}

/// A server that is ready.
fn server(directory: &Path, system: &System) -> Child {
    let notify = directory.join(".notify");
    let socket = UnixDatagram::bind(&notify).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let log = File::create(directory.join("server.log")).expect("a log");
    let mut process = system
        .hypernetes()
        .args(["server", "--root", "data/server", "--bind", "127.0.0.1:0"])
        .current_dir(directory)
        .env("NOTIFY_SOCKET", &notify)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("a server");
    let (began, mut message) = (Instant::now(), [0; 4096]);
    while !socket.recv(&mut message).is_ok_and(|length| message[..length] == *b"READY=1") {
        let log = || std::fs::read_to_string(directory.join("server.log")).unwrap_or_default();
        let ended = process.try_wait().expect("a child");
        assert!(ended.is_none() && began.elapsed() < PATIENCE, "the server is not ready:\n{}", log());
    }
    process
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Debian's etcd, which answers.
fn etcd(directory: &Path, port: u16) -> Child {
    let log = File::create(directory.join("etcd.log")).expect("a log");
    let url = format!("http://127.0.0.1:{port}");
    let process = Command::new("etcd")
        .args(["--listen-client-urls", &url, "--advertise-client-urls", &url, "--unsafe-no-fsync"])
        .args(["--listen-peer-urls", "http://127.0.0.1:0", "--data-dir"])
        .arg(directory.join("etcd"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("etcd: apt-get install etcd-server");
    eventually("etcd answers", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    process
}
