//! The sandboxes and containers that this hyperd knows.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use hypernetes_guest_protocol::v1;
use hypernetes_watch::Watcher;
use k8s_cri::v1 as cri;
use parking_lot::RwLock;

use crate::{
    HyperdConfig,
    budget::{Budget, Owner},
    cni::Cni,
    container::Container,
    error::{Error, Result},
    events::Events,
    exec,
    log_budget::LogBudgets,
    pool::Pool,
    records::Records,
    sandbox::{Sandbox, tenant_of},
    streaming::Sessions,
};

/// Everything that the services work on.
pub(crate) struct Runtime {
    pub config: HyperdConfig,
    pub records: Records,
    pub cni: Cni,
    pub events: Events,
    pub watcher: Arc<Watcher>,
    pub sessions: Sessions,
    /// Modules as guests get them, read when the first is wanted.
    pub modules: tokio::sync::OnceCell<Arc<Vec<v1::File>>>,
    pub pool: Pool,
    /// Commands whose output is collected, probes' among them, and bytes of it.
    pub commands: Arc<Budget>,
    pub collected: Arc<Budget>,
    /// Bytes of tenants' logs.
    pub logs: LogBudgets,
    sandboxes: RwLock<HashMap<String, Arc<Sandbox>>>,
    containers: RwLock<HashMap<String, Arc<Container>>>,
}

impl Runtime {
    pub(crate) fn new(config: HyperdConfig, records: Records, watcher: Arc<Watcher>, sessions: Sessions) -> Self {
        let cni = Cni::new(config.cni_config_dir.clone(), config.cni_bin_dirs.clone(), &config.root);
        Self {
            pool: Pool::new(config.pool.clone()),
            logs: LogBudgets::new(config.tenant_log_bytes),
            config,
            records,
            cni,
            events: Events::new(),
            watcher,
            sessions,
            modules: tokio::sync::OnceCell::new(),
            commands: Budget::new("commands", exec::COMMANDS),
            collected: Budget::new("bytes of commands' output", exec::COLLECTED),
            sandboxes: RwLock::default(),
            containers: RwLock::default(),
        }
    }

    /// By id, or by the beginning of one that is unique.
    pub(crate) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        find(&self.sandboxes.read(), "sandbox", id)
    }

    /// By id, or by the beginning of one that is unique.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>> {
        find(&self.containers.read(), "container", id)
    }

    /// Whose budgets a pod's requests are counted in.
    pub(crate) fn owner(&self, sandbox_id: &str) -> Result<Owner> {
        let sandbox = self.sandbox(sandbox_id)?;
        let tenant = tenant_of(&sandbox.record().config)?;
        let tenant = tenant.map_or_else(String::new, |tenant| tenant.to_string());
        Ok(Owner { tenant, sandbox_id: sandbox.id.clone() })
    }

    pub(crate) fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        self.sandboxes.read().values().cloned().collect()
    }

    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        self.containers.read().values().cloned().collect()
    }

    pub(crate) fn containers_of(&self, sandbox_id: &str) -> Vec<Arc<Container>> {
        let mut containers: Vec<_> =
            self.containers.read().values().filter(|c| c.sandbox_id == sandbox_id).cloned().collect();
        containers.sort_by_key(|c| c.record().created_at);
        containers
    }

    /// What clients see of a sandbox's containers.
    pub(crate) fn statuses_of(&self, sandbox_id: &str) -> Vec<cri::ContainerStatus> {
        self.containers_of(sandbox_id).iter().filter(|c| c.is_made()).map(|c| c.status()).collect()
    }

    /// Does something while no sandbox comes or goes.
    pub(crate) fn exclusively<T>(&self, act: impl FnOnce(&HashMap<String, Arc<Sandbox>>) -> T) -> T {
        act(&self.sandboxes.write())
    }

    /// Adds a sandbox that is to be made, unless the host has no memory for its VM.
    pub(crate) fn insert_new_sandbox(&self, sandbox: Arc<Sandbox>) -> Result<()> {
        let mut sandboxes = self.sandboxes.write();
        insert(&mut sandboxes, sandbox.clone())?;
        self.has_memory_for(&sandbox, sandboxes.values()).inspect_err(|_| drop(sandboxes.remove(&sandbox.id)))
    }

    /// Adds a sandbox, unless there is one of the same pod and attempt.
    pub(crate) fn insert_sandbox(&self, sandbox: Arc<Sandbox>) -> Result<()> {
        insert(&mut self.sandboxes.write(), sandbox)
    }

    pub(crate) fn forget_sandbox(&self, id: &str) {
        self.sandboxes.write().remove(id);
    }

    /// Adds a container, unless its sandbox has one of the same name and attempt.
    pub(crate) fn insert_container(&self, container: Arc<Container>) -> Result<()> {
        let mut containers = self.containers.write();
        let metadata = container.record().config.metadata;
        let same = |c: &&Arc<Container>| c.sandbox_id == container.sandbox_id && c.record().config.metadata == metadata;
        if let Some(other) = containers.values().find(same) {
            return Err(Error::AlreadyExists(format!("the container {} has the same name and attempt", other.id)));
        }
        containers.insert(container.id.clone(), container);
        Ok(())
    }

    pub(crate) fn forget_container(&self, id: &str) {
        self.containers.write().remove(id);
    }

    /// Tells the listeners what happened to a sandbox (`container` none) or container.
    pub(crate) fn publish(&self, sandbox: &Sandbox, container: Option<&str>, kind: cri::ContainerEventType) {
        self.events.send(cri::ContainerEventResponse {
            container_id: container.unwrap_or(&sandbox.id).to_owned(),
            container_event_type: kind as i32,
            created_at: now_nanos(),
            pod_sandbox_status: Some(sandbox.status()),
            containers_statuses: self.statuses_of(&sandbox.id),
        });
    }
}

trait Known {
    fn full_id(&self) -> &str;
}

impl Known for Sandbox {
    fn full_id(&self) -> &str {
        &self.id
    }
}

impl Known for Container {
    fn full_id(&self) -> &str {
        &self.id
    }
}

fn insert(sandboxes: &mut HashMap<String, Arc<Sandbox>>, sandbox: Arc<Sandbox>) -> Result<()> {
    let metadata = sandbox.record().config.metadata;
    if let Some(other) = sandboxes.values().find(|s| s.record().config.metadata == metadata) {
        return Err(Error::AlreadyExists(format!("the sandbox {} has the same name, uid and attempt", other.id)));
    }
    sandboxes.insert(sandbox.id.clone(), sandbox);
    Ok(())
}

fn find<T: Known>(map: &HashMap<String, Arc<T>>, kind: &'static str, id: &str) -> Result<Arc<T>> {
    let not_found = || Error::NotFound { kind, id: id.chars().take(80).collect() };
    if id.is_empty() {
        return Err(not_found());
    }
    if let Some(found) = map.get(id) {
        return Ok(found.clone());
    }
    let mut matching = map.values().filter(|v| v.full_id().starts_with(id));
    match (matching.next(), matching.next()) {
        (Some(found), None) => Ok(found.clone()),
        (Some(_), Some(_)) => Err(Error::InvalidArgument(format!("{id:?} is the beginning of several ids"))),
        (None, _) => Err(not_found()),
    }
}

/// Unix time in nanoseconds, as CRI wants it.
pub(crate) fn now_nanos() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

/// 128 random bits in hex. Short, because it becomes part of socket paths (at most 107 bytes).
pub(crate) fn new_id() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}
