//! `run`: a container in a VM of its own.

use std::{collections::HashMap, path::PathBuf};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    connection::Clients,
    containers, cri, exec,
    find::{self, RUN_LABEL},
    images, logs,
    stream::End,
    units,
};

/// Published ports of a pod, for `ps`.
pub const PORTS_ANNOTATION: &str = "hyperctl.hypernetes.io/ports";
/// Which of `i` and `t` a container was run with, for `attach`.
pub const STREAMS_ANNOTATION: &str = "hyperctl.hypernetes.io/streams";
/// hyperd's: whose the VM is, and that it has no network.
const TENANT_ANNOTATION: &str = "hypernetes.io/tenant";
const NETWORK_ANNOTATION: &str = "hypernetes.io/network";
const CPU_PERIOD: i64 = 100_000;
/// Seconds that a container has to end when we are told to.
const GRACE: u32 = 10;

/// Run a container in a new virtual machine
///
/// Pulls the image when it is not there. Without -d it ends with the container's exit code, or with 125 when there was
/// none; Ctrl-P Ctrl-Q detaches from a container with a terminal.
#[derive(clap::Args)]
pub struct Run {
    /// Leave it running, and print its id.
    #[arg(long, short)]
    detach: bool,
    /// Give it our input.
    #[arg(long, short)]
    interactive: bool,
    /// Give it a terminal.
    #[arg(long, short)]
    tty: bool,
    /// Remove it when it has ended.
    #[arg(long, conflicts_with = "detach")]
    rm: bool,
    /// What it is called [default: made up].
    #[arg(long, value_parser = parse_name)]
    name: Option<String>,
    /// Host name in the VM [default: the name].
    #[arg(long)]
    hostname: Option<String>,
    /// NAME=VALUE, or NAME of a variable of ours.
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Make a port reachable at the host; the network must be able to.
    #[arg(long, short, value_name = "[ADDRESS:]HOST:CONTAINER[/udp]", value_parser = parse_port)]
    publish: Vec<Publish>,
    /// Memory, e.g. 256m; the VM gets somewhat more.
    #[arg(long, short, value_name = "SIZE", value_parser = units::parse_bytes)]
    memory: Option<u64>,
    /// Processors, e.g. 1.5.
    #[arg(long, value_name = "NUMBER", value_parser = parse_cpus)]
    cpus: Option<f64>,
    /// `default`: the one of hyperd's CNI configuration.
    #[arg(long, value_enum, default_value = "default")]
    network: Network,
    /// Name server, instead of the network's.
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Instead of the image's entry point.
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// USER[:GROUP], by name or number.
    #[arg(long, short)]
    user: Option<String>,
    /// Working directory of the command.
    #[arg(long, short, value_name = "DIR")]
    workdir: Option<String>,
    /// All of root's powers, in its own VM.
    #[arg(long)]
    privileged: bool,
    /// Its root file system cannot be written.
    #[arg(long)]
    read_only: bool,
    /// Of the pod and of the container.
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// Whose VM it is: VMs of one tenant and size are copies of a booted one.
    #[arg(long, default_value = "operator")]
    tenant: String,
    /// When to pull the image.
    #[arg(long, value_enum, default_value = "missing")]
    pull: images::PullPolicy,
    /// By name and tag, by digest, or by id.
    image: String,
    /// Instead of the image's own command.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Network {
    Default,
    None,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Publish {
    address: String,
    host: u16,
    container: u16,
    protocol: cri::Protocol,
}

impl Run {
    pub async fn run(self, clients: &Clients) -> Result<u8> {
        if self.network == Network::None && !self.publish.is_empty() {
            bail!("-p needs a network");
        }
        let name = self.name.clone().unwrap_or_else(|| made_up_name(&self.image));
        if let Some(other) = find::all(clients).await?.iter().find(|f| f.is_ours() && f.name() == name) {
            bail!("the name {name:?} is in use by {}", units::short_id(&other.container.id));
        }
        let mut env: Vec<cri::KeyValue> = self.env.iter().filter_map(|text| variable(text)).collect();
        if self.tty && !env.iter().any(|variable| variable.key == "TERM") {
            env.extend(variable("TERM"));
        }
        images::ensure(clients, &self.image, self.pull).await?;
        let uid = uuid::Uuid::new_v4().to_string();
        let mut interrupted = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let made = tokio::select! {
            made = self.make(clients, &name, &uid, env) => made,
            _ = interrupted.0.recv() => Err(anyhow::anyhow!("interrupted")),
            _ = interrupted.1.recv() => Err(anyhow::anyhow!("ended")),
        };
        let outcome = match &made {
            Ok(id) if self.detach => {
                let started = start(clients, id).await;
                started.map(|()| println!("{id}")).map(|()| None)
            }
            Ok(id) if self.interactive || self.tty => self.attached(clients, id).await,
            Ok(id) => self.watched(clients, id).await.map(Some),
            Err(_) => Ok(None),
        };
        let failed = made.is_err() || outcome.is_err();
        let ended = matches!(outcome, Ok(Some(_)));
        if failed || (ended && self.rm) {
            remove_by_uid(clients, &uid).await?;
        } else if ended {
            // The container is kept for `logs`; its VM is of no more use.
            stop_by_uid(clients, &uid).await?;
        }
        made?;
        Ok(outcome?.unwrap_or(0))
    }

    /// Makes the pod and the container.
    async fn make(&self, clients: &Clients, name: &str, uid: &str, env: Vec<cri::KeyValue>) -> Result<String> {
        let mut runtime = clients.runtime.clone();
        let pod = self.pod(clients, name, uid);
        let request = cri::RunPodSandboxRequest { config: Some(pod.clone()), ..Default::default() };
        let made = runtime.run_pod_sandbox(request).await;
        let hint = if self.network == Network::None { "" } else { " (--network none does without a network)" };
        let pod_sandbox_id = made.with_context(|| format!("starting a VM{hint}"))?.into_inner().pod_sandbox_id;
        let config = Some(self.container(name, env));
        let request = cri::CreateContainerRequest { pod_sandbox_id, config, sandbox_config: Some(pod) };
        let made = runtime.create_container(request).await.context("making the container")?;
        Ok(made.into_inner().container_id)
    }

    fn pod(&self, clients: &Clients, name: &str, uid: &str) -> cri::PodSandboxConfig {
        let ports: Vec<String> = self.publish.iter().map(Publish::to_string).collect();
        let streams =
            [(self.interactive, "i"), (self.tty, "t")].into_iter().filter_map(|(is, what)| is.then_some(what));
        let mut annotations = HashMap::from([
            (TENANT_ANNOTATION.to_owned(), self.tenant.clone()),
            (STREAMS_ANNOTATION.to_owned(), streams.collect()),
            (PORTS_ANNOTATION.to_owned(), ports.join(", ")),
        ]);
        if self.network == Network::None {
            annotations.insert(NETWORK_ANNOTATION.into(), "none".into());
        }
        let mut labels: HashMap<String, String> = self.label.iter().cloned().collect();
        labels.insert(RUN_LABEL.into(), "true".into());
        // crictl shows these.
        labels.insert("io.kubernetes.pod.name".into(), name.into());
        labels.insert("io.kubernetes.pod.namespace".into(), "hyperctl".into());
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.into(),
                uid: uid.into(),
                namespace: "hyperctl".into(),
                attempt: 0,
            }),
            hostname: self.hostname.clone().unwrap_or_else(|| name.into()),
            log_directory: log_directory(clients, uid).map(|path| path.display().to_string()).unwrap_or_default(),
            dns_config: (!self.dns.is_empty())
                .then(|| cri::DnsConfig { servers: self.dns.clone(), ..Default::default() }),
            port_mappings: self.publish.iter().map(Publish::mapping).collect(),
            labels,
            annotations,
            linux: Some(cri::LinuxPodSandboxConfig { resources: Some(self.resources()), ..Default::default() }),
            ..Default::default()
        }
    }

    fn resources(&self) -> cri::LinuxContainerResources {
        cri::LinuxContainerResources {
            memory_limit_in_bytes: self.memory.and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(0),
            cpu_period: if self.cpus.is_some() { CPU_PERIOD } else { 0 },
            cpu_quota: self.cpus.map_or(0, |cpus| (cpus * CPU_PERIOD as f64) as i64),
            ..Default::default()
        }
    }

    fn container(&self, name: &str, envs: Vec<cri::KeyValue>) -> cri::ContainerConfig {
        let mut security = cri::LinuxContainerSecurityContext {
            privileged: self.privileged,
            readonly_rootfs: self.read_only,
            namespace_options: Some(cri::NamespaceOption {
                pid: cri::NamespaceMode::Container as i32,
                ..Default::default()
            }),
            ..Default::default()
        };
        if let Some(user) = &self.user {
            let (user, group) = user.split_once(':').map_or((user.as_str(), None), |(user, group)| (user, Some(group)));
            match user.parse() {
                Ok(value) => security.run_as_user = Some(cri::Int64Value { value }),
                Err(_) => security.run_as_username = user.into(),
            }
            security.run_as_group = group.and_then(|g| g.parse().ok()).map(|value| cri::Int64Value { value });
        }
        let mut labels: HashMap<String, String> = self.label.iter().cloned().collect();
        for (key, value) in [("pod.name", name), ("pod.namespace", "hyperctl"), ("container.name", name)] {
            labels.insert(format!("io.kubernetes.{key}"), value.into());
        }
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
            image: Some(cri::ImageSpec { image: self.image.clone(), ..Default::default() }),
            command: self.entrypoint.iter().cloned().collect(),
            args: self.command.clone(),
            working_dir: self.workdir.clone().unwrap_or_default(),
            envs,
            labels,
            log_path: format!("{name}.log"),
            stdin: self.interactive,
            stdin_once: self.interactive && !self.detach,
            tty: self.tty,
            linux: Some(cri::LinuxContainerConfig {
                resources: Some(self.resources()),
                security_context: Some(security),
            }),
            ..Default::default()
        }
    }

    /// With our input or terminal; attached before the start, so that nothing is missed. None: detached from.
    async fn attached(&self, clients: &Clients, id: &str) -> Result<Option<u8>> {
        let stream = exec::attach(clients, id, self.interactive, self.tty).await?;
        start(clients, id).await?;
        match stream.run(self.interactive, self.tty).await? {
            End::Exited(_) => exec::ended(clients, id).await.map(Some),
            End::Detached => Ok(None),
        }
    }

    /// Without: its log is its output. That has every line, however slowly it is read.
    async fn watched(&self, clients: &Clients, id: &str) -> Result<u8> {
        start(clients, id).await?;
        let mut interrupt = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let follow = logs::follow_all(clients, id);
        tokio::pin!(follow);
        let mut grace = GRACE;
        loop {
            tokio::select! {
                outcome = &mut follow => {
                    outcome?;
                    return containers::exit_code(clients, id).await;
                }
                _ = interrupt.0.recv() => {}
                _ = interrupt.1.recv() => {}
            }
            // The second time there is no more patience.
            let (mut runtime, container_id) = (clients.runtime.clone(), id.to_owned());
            let timeout = i64::from(std::mem::take(&mut grace));
            tokio::spawn(async move {
                let _ = runtime.stop_container(cri::StopContainerRequest { container_id, timeout }).await;
            });
        }
    }
}

async fn start(clients: &Clients, id: &str) -> Result<()> {
    let request = cri::StartContainerRequest { container_id: id.into() };
    clients.runtime.clone().start_container(request).await.context("starting the container")?;
    Ok(())
}

/// The pods of a run: one, or none yet.
async fn pods_of(clients: &Clients, uid: &str) -> Result<Vec<cri::PodSandbox>> {
    let mut pods =
        clients.runtime.clone().list_pod_sandbox(cri::ListPodSandboxRequest::default()).await?.into_inner().items;
    pods.retain(|pod| pod.metadata.as_ref().is_some_and(|metadata| metadata.uid == uid));
    Ok(pods)
}

async fn remove_by_uid(clients: &Clients, uid: &str) -> Result<()> {
    for pod in pods_of(clients, uid).await? {
        remove_pod(clients, &pod).await?;
    }
    Ok(())
}

async fn stop_by_uid(clients: &Clients, uid: &str) -> Result<()> {
    for pod in pods_of(clients, uid).await? {
        clients.runtime.clone().stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: pod.id }).await?;
    }
    Ok(())
}

/// Removes a pod that `run` made, with its logs.
pub async fn remove_pod(clients: &Clients, pod: &cri::PodSandbox) -> Result<()> {
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
    clients.runtime.clone().remove_pod_sandbox(request).await?;
    let uid = pod.metadata.as_ref().map(|metadata| metadata.uid.as_str()).unwrap_or_default();
    if let Some(directory) = log_directory(clients, uid) {
        let _ = std::fs::remove_dir_all(directory);
    }
    Ok(())
}

/// Of a pod that `run` made. The uid names a directory: what is not one of ours has none.
fn log_directory(clients: &Clients, uid: &str) -> Option<PathBuf> {
    let uid = uuid::Uuid::parse_str(uid).ok()?;
    Some(clients.directory.join("hyperctl").join(uid.to_string()))
}

impl Publish {
    fn mapping(&self) -> cri::PortMapping {
        cri::PortMapping {
            protocol: self.protocol as i32,
            container_port: self.container.into(),
            host_port: self.host.into(),
            host_ip: self.address.clone(),
        }
    }
}

impl std::fmt::Display for Publish {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let protocol = if self.protocol == cri::Protocol::Udp { "/udp" } else { "" };
        let separator = if self.address.is_empty() { "" } else { ":" };
        write!(to, "{}{separator}{}->{}{protocol}", self.address, self.host, self.container)
    }
}

/// `8080:80`, `127.0.0.1:8080:80`, `[::1]:53:53/udp`
fn parse_port(text: &str) -> Result<Publish, String> {
    let wrong = || format!("{text:?} is not [ADDRESS:]HOST:CONTAINER[/udp]");
    let (ports, protocol) = match text.rsplit_once('/') {
        None => (text, cri::Protocol::Tcp),
        Some((ports, "tcp")) => (ports, cri::Protocol::Tcp),
        Some((ports, "udp")) => (ports, cri::Protocol::Udp),
        Some((ports, "sctp")) => (ports, cri::Protocol::Sctp),
        Some(_) => return Err(wrong()),
    };
    let (rest, container) = ports.rsplit_once(':').ok_or_else(wrong)?;
    let (address, host) = rest.rsplit_once(':').unwrap_or(("", rest));
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong);
    if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
        return Err(wrong());
    }
    Ok(Publish { address: address.into(), host: port(host)?, container: port(container)?, protocol })
}

fn parse_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let good = text.len() <= 63 && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(plain);
    if good { Ok(text.into()) } else { Err("want at most 63 letters, digits, `-`, `_` and `.`".into()) }
}

fn parse_cpus(text: &str) -> Result<f64, String> {
    let cpus = text.parse::<f64>().ok().filter(|cpus| (0.01..=64.0).contains(cpus));
    cpus.ok_or_else(|| "want a number from 0.01 to 64".into())
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() || name.starts_with("hyperctl.") {
        return Err(format!("{name:?} cannot be a label's name"));
    }
    Ok((name.into(), value.into()))
}

/// `NAME=VALUE`; of `NAME` alone our own value, or nothing if we have none.
fn variable(text: &str) -> Option<cri::KeyValue> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, value.to_owned()),
        None => (text, std::env::var(text).ok()?),
    };
    Some(cri::KeyValue { key: key.into(), value: value.into() })
}

/// The image's name with something behind it that makes it unique.
fn made_up_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or_default();
    let plain: String = last.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    let plain = plain.trim_matches('-');
    let stem = if plain.is_empty() { "c" } else { plain };
    let unique: String = uuid::Uuid::new_v4().simple().to_string().chars().take(8).collect();
    format!("{stem}-{unique}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ports() {
        let parsed = |text: &str| parse_port(text).map(|publish| publish.to_string());
        assert_eq!(parsed("8080:80").unwrap(), "8080->80");
        assert_eq!(parsed("127.0.0.1:8080:80/tcp").unwrap(), "127.0.0.1:8080->80");
        assert_eq!(parsed("[::1]:53:5353/udp").unwrap(), "::1:53->5353/udp");
        for wrong in ["", "80", "0:80", "80:70000", "x:80:80", "80:80/icmp", ":80"] {
            assert!(parse_port(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_that_are_made_up_are_names() {
        for image in ["demo/web:1", "localhost:5000/a@sha256:00", "", "-", "registry/UPPER_case:x"] {
            assert!(parse_name(&made_up_name(image)).is_ok(), "{image}");
        }
        for wrong in ["", "-x", "a/b", "../x", &"x".repeat(64)] {
            assert!(parse_name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn variables() {
        assert_eq!(variable("A=b=c").unwrap().value, b"b=c");
        assert_eq!(variable("A=").unwrap().value, b"");
        assert!(variable("HYPERCTL_NO_SUCH_VARIABLE").is_none());
        assert_eq!(variable("PATH").unwrap().value, std::env::var("PATH").unwrap().into_bytes());
    }

    proptest! {
        #[test]
        fn no_port_breaks_it(text in "[0-9a-f:./\\[\\]udp]{0,24}") {
            if let Ok(publish) = parse_port(&text) {
                prop_assert!(publish.host != 0 && publish.container != 0);
            }
        }
    }
}
