//! The containers of this pod and their processes.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hypernetes_guest_protocol::v1;
use tokio::sync::watch;
use tonic::Status;

use crate::{descriptor::ProcessEnd, output::Stream, reaper::Exit, rootfs::Root};

pub struct Container {
    pub id: String,
    pub spec: v1::CreateContainerRequest,
    pub directory: PathBuf,
    pub root: Root,
    /// By exec id; the first process's is empty.
    processes: Mutex<HashMap<String, Arc<Process>>>,
}

pub struct Process {
    pub pid: i32,
    pub stdout: Arc<Stream>,
    pub stderr: Arc<Stream>,
    /// Where its standard input is written to.
    pub stdin: tokio::sync::Mutex<Option<ProcessEnd>>,
    /// The terminal's master side.
    pub terminal: Option<OwnedFd>,
    pub ended: watch::Receiver<Option<Ended>>,
}

#[derive(Debug, Clone, Copy)]
pub struct Ended {
    pub exit: Exit,
    pub out_of_memory: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while a lock is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Container {
    pub fn new(spec: v1::CreateContainerRequest, directory: PathBuf, root: Root) -> Self {
        Self { id: spec.container_id.clone(), spec, directory, root, processes: Mutex::default() }
    }

    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>, Status> {
        lock(&self.processes).get(exec_id).cloned().ok_or_else(|| {
            Status::not_found(match exec_id {
                "" => format!("the container {} was not started", self.id),
                exec => format!("there is no process {exec} in the container {}", self.id),
            })
        })
    }

    pub fn has_process(&self, exec_id: &str) -> bool {
        lock(&self.processes).contains_key(exec_id)
    }

    pub fn insert_process(&self, exec_id: &str, process: Process) -> Arc<Process> {
        let process = Arc::new(process);
        lock(&self.processes).insert(exec_id.to_owned(), process.clone());
        process
    }

    pub fn remove_process(&self, exec_id: &str) -> Option<Arc<Process>> {
        lock(&self.processes).remove(exec_id)
    }

    /// The first process, if it is there and has not ended.
    pub fn running_init(&self) -> Option<Arc<Process>> {
        lock(&self.processes).get("").filter(|process| process.ended.borrow().is_none()).cloned()
    }
}

#[derive(Default)]
pub struct Containers(Mutex<HashMap<String, Arc<Container>>>);

impl Containers {
    pub fn get(&self, id: &str) -> Result<Arc<Container>, Status> {
        lock(&self.0).get(id).cloned().ok_or_else(|| Status::not_found(format!("there is no container {id}")))
    }

    pub fn insert(&self, container: Container) {
        lock(&self.0).insert(container.id.clone(), Arc::new(container));
    }

    pub fn remove(&self, id: &str) -> Option<Arc<Container>> {
        lock(&self.0).remove(id)
    }

    pub fn all(&self) -> Vec<Arc<Container>> {
        lock(&self.0).values().cloned().collect()
    }

    /// Whether a container that is there uses a disk.
    pub fn uses_slot(&self, slot: u32) -> bool {
        lock(&self.0).values().any(|container| slots(&container.spec).any(|used| used == slot))
    }
}

/// Disks that a container has mounted.
pub fn slots(spec: &v1::CreateContainerRequest) -> impl Iterator<Item = u32> + '_ {
    let volumes = spec.mounts.iter().filter_map(|mount| match &mount.source {
        Some(v1::mount::Source::Disk(disk)) => Some(disk.slot),
        _ => None,
    });
    spec.root.iter().map(|root| root.slot).chain(volumes)
}
