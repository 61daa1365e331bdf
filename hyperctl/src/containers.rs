//! `ps`, `stop` and `rm`.

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    connection::Clients,
    cri,
    find::{self, Found},
    output::{self, Format, Row},
    run, stream, units,
};

/// List containers
#[derive(clap::Args)]
#[command(visible_alias = "ls")]
pub struct Ps {
    /// Those that have ended as well.
    #[arg(long, short)]
    all: bool,
    /// Ids only.
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Serialize)]
struct ContainerRow {
    id: String,
    name: String,
    pod: String,
    namespace: String,
    image: String,
    state: &'static str,
    status: String,
    exit_code: Option<i32>,
    reason: String,
    /// Unix time, ns.
    created_at: i64,
    ports: String,
    pod_id: String,
}

impl Row for ContainerRow {
    const COLUMNS: &'static [&'static str] = &["CONTAINER ID", "IMAGE", "CREATED", "STATUS", "PORTS", "NAME", "POD"];

    fn cells(&self) -> Vec<String> {
        let pod = if self.namespace.is_empty() { self.pod.clone() } else { format!("{}/{}", self.namespace, self.pod) };
        vec![
            units::short_id(&self.id),
            self.image.clone(),
            format!("{} ago", units::age(self.created_at, Timestamp::now())),
            self.status.clone(),
            self.ports.clone(),
            self.name.clone(),
            pod,
        ]
    }
}

impl Ps {
    pub async fn run(self, clients: &Clients, format: Format) -> Result<()> {
        let mut rows = Vec::new();
        for found in find::all(clients).await? {
            if !self.all && found.container.state() != cri::ContainerState::ContainerRunning {
                continue;
            }
            // Between the two calls it may be removed.
            match status(clients, &found.container.id).await {
                Ok(status) => rows.push(row(&found, &status)),
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(error),
            }
        }
        if self.quiet {
            rows.iter().for_each(|row| println!("{}", row.id));
            return Ok(());
        }
        output::print(format, &rows)
    }
}

fn row(found: &Found, status: &cri::ContainerStatus) -> ContainerRow {
    let now = Timestamp::now();
    let metadata = found.pod.metadata.clone().unwrap_or_default();
    let (state, text) = match status.state() {
        cri::ContainerState::ContainerCreated => ("created", "Created".to_owned()),
        cri::ContainerState::ContainerRunning => ("running", format!("Up {}", units::age(status.started_at, now))),
        cri::ContainerState::ContainerExited => {
            let (code, ago) = (status.exit_code, units::age(status.finished_at, now));
            ("exited", format!("Exited ({code}) {ago} ago"))
        }
        cri::ContainerState::ContainerUnknown => ("unknown", "Unknown".to_owned()),
    };
    ContainerRow {
        id: found.container.id.clone(),
        name: found.name().to_owned(),
        pod: metadata.name,
        namespace: metadata.namespace,
        image: status.image.as_ref().map(|image| image.image.clone()).unwrap_or_default(),
        state,
        status: text,
        exit_code: (state == "exited").then_some(status.exit_code),
        reason: status.reason.clone(),
        created_at: status.created_at,
        ports: found.pod.annotations.get(run::PORTS_ANNOTATION).cloned().unwrap_or_default(),
        pod_id: found.pod.id.clone(),
    }
}

pub async fn status(clients: &Clients, id: &str) -> Result<cri::ContainerStatus> {
    let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
    let status = clients.runtime.clone().container_status(request).await?.into_inner().status;
    status.context("hyperd knows nothing of the container")
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<tonic::Status>().is_some_and(|status| status.code() == tonic::Code::NotFound)
}

/// Stop containers, and the VMs of those that `run` started
#[derive(clap::Args)]
pub struct Stop {
    /// Seconds that it has to end by itself.
    #[arg(long, short, default_value_t = 10)]
    time: u32,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Stop {
    pub async fn run(self, clients: &Clients) -> Result<()> {
        for name in &self.containers {
            let found = find::one(clients, name).await?;
            stop(clients, &found, self.time).await.with_context(|| format!("stopping {name}"))?;
            println!("{name}");
        }
        Ok(())
    }
}

/// Ends the container, and its pod if it is there for nothing else.
pub async fn stop(clients: &Clients, found: &Found, seconds: u32) -> Result<()> {
    let mut runtime = clients.runtime.clone();
    let request = cri::StopContainerRequest { container_id: found.container.id.clone(), timeout: seconds.into() };
    runtime.stop_container(request).await?;
    if found.is_ours() {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: found.pod.id.clone() };
        runtime.stop_pod_sandbox(request).await?;
    }
    Ok(())
}

/// Remove containers, with the VMs and logs of those that `run` started
#[derive(clap::Args)]
pub struct Rm {
    /// Running ones as well.
    #[arg(long, short)]
    force: bool,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Rm {
    pub async fn run(self, clients: &Clients) -> Result<()> {
        for name in &self.containers {
            let found = find::one(clients, name).await?;
            if found.container.state() == cri::ContainerState::ContainerRunning && !self.force {
                bail!("{name} is running: stop it, or remove it with -f");
            }
            remove(clients, &found).await.with_context(|| format!("removing {name}"))?;
            println!("{name}");
        }
        Ok(())
    }
}

/// Removes the container, and its pod if it is there for nothing else.
pub async fn remove(clients: &Clients, found: &Found) -> Result<()> {
    if found.is_ours() {
        return run::remove_pod(clients, &found.pod).await;
    }
    let request = cri::RemoveContainerRequest { container_id: found.container.id.clone() };
    clients.runtime.clone().remove_container(request).await?;
    Ok(())
}

/// The container's exit code as a command's, once it has ended.
pub async fn exit_code(clients: &Clients, id: &str) -> Result<u8> {
    let status = status(clients, id).await?;
    if status.reason == "StartError" {
        bail!("the container did not start: {}", status.message);
    }
    Ok(stream::exit_code(status.exit_code))
}
