//! The controllers: what makes the objects of the API true, one tenant's beside the other's.
//!
//! All are clients of the API and share one set of caches ([`runtime`]). Not here yet: StatefulSet, DaemonSet, CronJob,
//! disruption budgets, horizontal autoscaling, resource quotas.
#![forbid(unsafe_code)]

mod deployment;
mod discovery;
mod namespace;
mod replicaset;
pub mod runtime;
mod tenancy;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use runtime::{Informers, Key, Queue, Reconciler, drive};

/// What the controllers run with.
pub struct ControllersConfig {
    /// Shared with the scheduler of the same process.
    pub informers: Informers,
    /// The certificate that clients trust the API server by, PEM: for `kube-root-ca.crt` of each namespace.
    pub cluster_ca_pem: String,
}

/// How many keys of one controller are worked on at once.
const WORKERS: usize = 4;

/// What a controller registers itself with.
pub(crate) struct Wiring<'a> {
    pub informers: &'a Informers,
    tasks: &'a TaskTracker,
    stop: &'a CancellationToken,
}

impl Wiring<'_> {
    pub fn drive<R: Reconciler>(&self, reconciler: R, queue: Queue<R::Key>) {
        drive(self.tasks, self.informers, reconciler, queue, WORKERS, self.stop);
    }

    pub fn queue(&self) -> Queue<Key> {
        Queue::default()
    }
}

/// Runs all controllers until `stop`.
pub async fn run(config: ControllersConfig, stop: CancellationToken) {
    let tasks = TaskTracker::new();
    let wiring = Wiring { informers: &config.informers, tasks: &tasks, stop: &stop };
    tenancy::start(&wiring, &config.cluster_ca_pem);
    namespace::start(&wiring);
    replicaset::start(&wiring);
    deployment::start(&wiring);
    tasks.close();
    tasks.wait().await;
}
