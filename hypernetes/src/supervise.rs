//! `hypernetes up`: the three roles as processes of this binary, started in order, started again when they die.
//!
//! The supervisor can die, too: its children run on, and the next one takes them over.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use hypernetes_daemon::notify::{self, Listener, Message};
use hypernetes_hypervisor::{cgroup::Cgroups, process::Process};
use hypernetes_names::DnsSubdomain;
use tokio::sync::watch;

/// How long a role may take until it says that it is ready. The first start probes the accelerator by booting.
const START_PATIENCE: Duration = Duration::from_secs(90);
const STOP_PATIENCE: Duration = Duration::from_secs(20);
const RESTART_DELAYS: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
];
const REMEMBER_AGAIN: Duration = Duration::from_secs(2);
/// A role that ran for so long starts at the shortest delay again.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// One process to keep running.
#[derive(Debug, Clone)]
pub struct Role {
    pub name: &'static str,
    /// Beside this one.
    pub program: &'static str,
    /// Of the host's memory, the part that it may take: a quarter, say, is 4.
    pub memory_part: u64,
    pub arguments: Vec<OsString>,
}

/// A program that lies beside this one.
pub fn program(name: &str) -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

/// No role has less memory, however small the host is.
const LEAST_MEMORY: u64 = 512 << 20;

/// The control group of a role of the installation in this directory.
pub fn group_of(root: &Path, role: &str) -> Option<DnsSubdomain> {
    let installation = root.metadata().ok()?.ino();
    DnsSubdomain::new(&format!("{installation:x}.{role}")).ok()
}

/// Where the supervisor keeps what it needs.
pub struct Supervisor {
    root: PathBuf,
    run: PathBuf,
    log: PathBuf,
    cgroups: Option<Cgroups>,
}

impl Supervisor {
    pub fn new(root: &Path) -> Result<Self> {
        let (run, log) = (root.join("run"), root.join("log"));
        let supervisor = Self { root: root.to_owned(), run, log, cgroups: Cgroups::find() };
        for directory in [&supervisor.run, &supervisor.log] {
            fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        }
        Ok(supervisor)
    }

    fn record_of(&self, role: &Role) -> PathBuf {
        self.run.join(format!("{}.pid", role.name))
    }

    /// Whole or not at all.
    fn remember(&self, role: &Role, pid: u32) -> Result<Process> {
        let record = self.record_of(role);
        Process::remember(pid, record.clone()).inspect_err(|_| drop(fs::remove_file(&record))).map_err(Into::into)
    }

    pub fn record(root: &Path, name: &str) -> PathBuf {
        root.join("run").join(format!("{name}.pid"))
    }

    /// Runs the roles until `stop`; each is started when the one before it is ready.
    pub async fn run(&self, roles: Vec<Role>, mut stop: watch::Receiver<bool>) -> Result<()> {
        let mut keepers = Vec::new();
        for role in roles {
            let began = Instant::now();
            let process = match Process::recall(&self.record_of(&role)) {
                Some(process) => {
                    notify::status(&format!("{} was running already (pid {})", role.name, process.pid));
                    process
                }
                None => {
                    let process = self.start(&role).await?;
                    notify::status(&format!("{} is ready after {:.1} s", role.name, began.elapsed().as_secs_f32()));
                    process
                }
            };
            keepers.push((role, process));
        }
        notify::ready();
        let keep = keepers.into_iter().map(|(role, process)| self.keep(role, process, stop.clone()));
        futures::future::join_all(keep).await;
        let _ = stop.wait_for(|stopped| *stopped).await;
        Ok(())
    }

    /// Starts the role again whenever it ends.
    async fn keep(&self, role: Role, mut process: Process, mut stop: watch::Receiver<bool>) {
        let mut failures = 0;
        loop {
            let began = Instant::now();
            loop {
                tokio::select! {
                    () = process.ended() => break,
                    _ = stop.wait_for(|stopped| *stopped) => {
                        process.stop(STOP_PATIENCE).await;
                        return;
                    }
                    // It was started on a full disk: when there is room the next supervisor shall find it.
                    () = tokio::time::sleep(REMEMBER_AGAIN), if !self.record_of(&role).exists() => {
                        if let Ok(remembered) = self.remember(&role, process.pid.unsigned_abs()) {
                            process = remembered;
                        }
                    }
                }
            }
            if began.elapsed() > STABLE_AFTER {
                failures = 0;
            }
            loop {
                let delay = RESTART_DELAYS[failures.min(RESTART_DELAYS.len() - 1)];
                failures += 1;
                tracing::warn!(role = role.name, ?delay, "the process has ended and is started again");
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    _ = stop.wait_for(|stopped| *stopped) => return,
                }
                match self.start(&role).await {
                    Ok(started) => {
                        process = started;
                        break;
                    }
                    Err(error) => tracing::error!(role = role.name, "{error:#}"),
                }
            }
        }
    }

    /// Whatever makes one role take memory, the others and the VMs keep theirs.
    fn limit(&self, role: &Role, pid: u32) {
        let (Some(cgroups), Some(group)) = (&self.cgroups, group_of(&self.root, role.name)) else {
            tracing::warn!(role = role.name, "there are no control groups here: its memory has no limit");
            return;
        };
        let memory = (hypernetes_hypervisor::host_memory() / role.memory_part).max(LEAST_MEMORY);
        if let Err(error) = cgroups.put_role(&group, memory, pid) {
            tracing::warn!(role = role.name, %error, "its memory has no limit");
        }
    }

    /// Starts the process in a session of its own and waits until it is ready.
    async fn start(&self, role: &Role) -> Result<Process> {
        let log_path = self.log.join(format!("{}.log", role.name));
        let log = fs::OpenOptions::new().create(true).append(true).open(&log_path);
        let log = log.with_context(|| format!("opening {}", log_path.display()))?;
        let listener = Listener::bind(self.run.join(format!("{}.notify", role.name)))?;
        let (variable, socket) = listener.environment();
        let mut command = tokio::process::Command::new(program(role.program)?);
        command
            .args(&role.arguments)
            .env(variable, socket)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let mut child = command.spawn().with_context(|| format!("starting {}", role.name))?;
        let pid = child.id().context("the process has no pid")?;
        self.limit(role, pid);
        // tokio reaps it when it ends, whoever holds the pidfd.
        let process = self.remember(role, pid).or_else(|error| {
            tracing::warn!(role = role.name, %error, "the process cannot be remembered yet");
            Process::hold(i32::try_from(pid).unwrap_or_default()).context("it has ended")
        });
        let wait = async {
            loop {
                match listener.next().await? {
                    Message::Ready => return anyhow::Ok(()),
                    Message::Status(text) => notify::status(&format!("{}: {text}", role.name)),
                }
            }
        };
        let outcome = tokio::select! {
            ready = wait => ready,
            status = child.wait() => {
                let status = status?;
                bail!("{} ended with {status}:\n{}", role.name, tail(&log_path));
            }
            () = tokio::time::sleep(START_PATIENCE) => {
                let _ = child.start_kill();
                bail!("{} was not ready after {} s:\n{}", role.name, START_PATIENCE.as_secs(), tail(&log_path));
            }
        };
        outcome?;
        tokio::spawn(async move { child.wait().await });
        process.with_context(|| format!("holding {}", role.name))
    }
}

/// The last lines of a log, for a person.
pub fn tail(path: &Path) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(12)..];
    format!(
        "{}\n  (whole log: {})",
        last.iter().map(|l| format!("  | {l}")).collect::<Vec<_>>().join("\n"),
        path.display()
    )
}
