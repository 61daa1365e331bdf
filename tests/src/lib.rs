//! What tests of the whole system share: the running installation, tenants of their own, and the stock clients.
//!
//! `scripts/test-e2e.sh` starts one installation for all tests and names it in the environment; every test makes its own
//! tenant, so that tests run beside each other.
#![forbid(unsafe_code)]

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long anything may take until a test gives up on it. Generous: the machine emulates its VMs, and may be busy. (nextest ends
/// a test after five minutes.)
pub const PATIENCE: Duration = Duration::from_secs(240);

/// The installation that the tests run against.
#[derive(Clone)]
pub struct System {
    pub root: PathBuf,
    pub checkout: PathBuf,
}

impl System {
    /// The one that `scripts/test-e2e.sh` has started.
    pub fn shared() -> Self {
        let root = std::env::var_os("HYPERNETES_TEST_ROOT")
            .expect("these tests need a running system: `make test-e2e` starts one and runs them");
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a checkout").to_owned();
        Self { root: root.into(), checkout }
    }

    pub fn hypernetes(&self) -> Command {
        let binary = std::env::var_os("HYPERNETES_TEST_BINARY").map(PathBuf::from);
        let mut command = Command::new(binary.unwrap_or_else(|| self.checkout.join("target/release/hypernetes")));
        command.env("HYPERNETES_ROOT", &self.root);
        command
    }

    /// kubectl as the operator.
    pub fn operator(&self) -> Kubectl {
        Kubectl { program: self.kubectl_program(), kubeconfig: self.root.join("server/operator.kubeconfig") }
    }

    fn kubectl_program(&self) -> PathBuf {
        self.checkout.join(".tools/bin/kubectl")
    }

    /// The openstack client with the settings of an openrc file.
    pub fn openstack(&self, openrc: &Path) -> OpenStack {
        let text = std::fs::read_to_string(openrc).unwrap_or_else(|e| panic!("{}: {e}", openrc.display()));
        let environment = text
            .lines()
            .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.trim_matches(['\'', '"']).to_owned()))
            .collect();
        OpenStack { program: self.checkout.join(".tools/venv/bin/openstack"), environment }
    }

    pub fn admin_openstack(&self) -> OpenStack {
        self.openstack(&self.root.join("server/admin.openrc"))
    }

    /// A new tenant with a user who is its admin.
    pub fn tenant(&self, prefix: &str) -> Tenant {
        let unique = Instant::now().elapsed().as_nanos() as u32 ^ std::process::id();
        let name = format!("{prefix}-{unique:x}{:x}", rand_suffix());
        let directory = tempfile::tempdir().expect("a temporary directory");
        let output =
            Finished::of(self.hypernetes().args(["tenant", "create", &name, "--directory"]).arg(directory.path()));
        output.success();
        Tenant { system: self.clone(), name, directory }
    }

    /// Pid of a role, as its supervisor has recorded it.
    pub fn pid_of(&self, role: &str) -> i32 {
        let path = self.root.join("run").join(format!("{role}.pid"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        text.split(' ').next().and_then(|pid| pid.parse().ok()).expect("a pid")
    }
}

/// A system that one test has to itself; stopped and removed when it is dropped.
pub struct OwnSystem {
    pub system: System,
    directory: tempfile::TempDir,
}

impl OwnSystem {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a checkout").to_owned();
        let own = Self { system: System { root: directory.path().join("root"), checkout }, directory };
        let guest = own.system.checkout.join(".tools/guest");
        let mut up = own.system.hypernetes();
        up.args(["up", "--bind", "127.0.0.1:0", "--detach", "--guest"]).arg(guest);
        Finished::of(&mut up).success();
        own
    }
}

impl Drop for OwnSystem {
    fn drop(&mut self) {
        let down = Finished::of(self.system.hypernetes().arg("down"));
        if std::thread::panicking() {
            // What its processes have said.
            let logs = std::fs::read_dir(self.directory.path().join("root/log")).into_iter().flatten().flatten();
            for log in logs {
                let text = std::fs::read_to_string(log.path()).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let last = lines[lines.len().saturating_sub(40)..].join("\n");
                eprintln!("== last lines of {}\n{last}", log.path().display());
            }
            return;
        }
        down.success();
    }
}

fn rand_suffix() -> u32 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map(|d| d.subsec_nanos()).unwrap_or(0)
}

/// A tenant of one test.
pub struct Tenant {
    pub system: System,
    pub name: String,
    directory: tempfile::TempDir,
}

impl Tenant {
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join(format!("{}.kubeconfig", self.name))
    }

    pub fn openrc(&self) -> PathBuf {
        self.directory.path().join(format!("{}.openrc", self.name))
    }

    pub fn kubectl(&self) -> Kubectl {
        Kubectl { program: self.system.kubectl_program(), kubeconfig: self.kubeconfig() }
    }

    pub fn openstack(&self) -> OpenStack {
        self.system.openstack(&self.openrc())
    }
}

impl Drop for Tenant {
    /// Its pods would take the machine from other tests.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let removed = Finished::of(self.system.hypernetes().args(["tenant", "delete", &self.name, "--yes"]));
        removed.success();
    }
}

/// A process that has ended, and what it said.
#[derive(Debug)]
pub struct Finished {
    pub command: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    pub fn of(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output();
        Self::from(command, output.unwrap_or_else(|e| panic!("{command:?}: {e}")))
    }

    pub fn with_input(command: &mut Command, input: &[u8]) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            // It may end without having read everything.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().expect("its output");
        let _ = writer.join();
        Self::from(command, output)
    }

    fn from(command: &Command, output: Output) -> Self {
        Self {
            command: format!("{command:?}"),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Its output, trimmed; a failure ends the test.
    #[track_caller]
    pub fn success(&self) -> &str {
        assert_eq!(self.code, Some(0), "{}\n{}{}", self.command, self.stdout, self.stderr);
        self.stdout.trim()
    }

    /// What it said when it failed; success ends the test.
    #[track_caller]
    pub fn failure(&self) -> String {
        assert_ne!(self.code, Some(0), "{} should have failed\n{}", self.command, self.stdout);
        format!("{}{}", self.stdout, self.stderr)
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(self.success()).unwrap_or_else(|e| panic!("{}: {e}\n{}", self.command, self.stdout))
    }
}

/// The stock kubectl with one kubeconfig.
#[derive(Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", self.kubeconfig.parent().unwrap_or(Path::new("/")));
        command
    }

    /// kubectl with a terminal of its own.
    pub fn command_in_terminal(&self, arguments: &str) -> Command {
        let mut command = Command::new("script");
        let line = format!("{} {arguments}", self.program.display());
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// Arguments as one would type them; quoting is not understood.
    pub fn run(&self, arguments: &str) -> Finished {
        self.arguments(&arguments.split_whitespace().collect::<Vec<_>>())
    }

    pub fn arguments(&self, arguments: &[&str]) -> Finished {
        Finished::of(self.command().args(arguments))
    }

    pub fn input(&self, arguments: &str, input: &str) -> Finished {
        Finished::with_input(self.command().args(arguments.split_whitespace()), input.as_bytes())
    }

    #[track_caller]
    pub fn apply(&self, manifest: &str) {
        self.input("apply -f -", manifest).success();
    }

    /// A shell command in a pod.
    pub fn shell(&self, pod: &str, script: &str) -> Finished {
        self.arguments(&["exec", pod, "--", "sh", "-c", script])
    }

    #[track_caller]
    pub fn wait_ready(&self, pod: &str) {
        self.run(&format!("wait --for=condition=Ready pod/{pod} --timeout=240s")).success();
    }

    /// One field of one object.
    #[track_caller]
    pub fn field(&self, object: &str, path: &str) -> String {
        self.run(&format!("get {object} -o jsonpath={{{path}}}")).success().to_owned()
    }
}

/// The stock openstack client as one user.
#[derive(Clone)]
pub struct OpenStack {
    program: PathBuf,
    environment: Vec<(String, String)>,
}

impl OpenStack {
    pub fn run(&self, arguments: &str) -> Finished {
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", "/usr/bin:/bin").envs(self.environment.iter().map(|(n, v)| (n, v)));
        Finished::of(command.args(arguments.split_whitespace()))
    }

    #[track_caller]
    pub fn json(&self, arguments: &str) -> Value {
        self.run(&format!("{arguments} -f json")).json()
    }

    /// The same user with one setting changed.
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut changed = self.clone();
        changed.environment.retain(|(n, _)| n != name);
        changed.environment.push((name.into(), value.into()));
        changed
    }

    pub fn setting(&self, name: &str) -> Option<&str> {
        self.environment.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Waits until a condition holds; asks again every 200 ms. For what no client can wait for.
#[track_caller]
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(began.elapsed() < PATIENCE, "after {PATIENCE:?} still not: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A pod that runs a shell script.
pub fn shell_pod(name: &str, script: &str) -> String {
    let script = serde_json::to_string(script).expect("a string");
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         restartPolicy: Never\n  containers:\n  - {{name: main, image: demo/web:1, command: [sh, -c, {script}]}}\n"
    )
}
