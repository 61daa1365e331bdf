//! The controllers: what makes the objects of the API true, one tenant's beside the other's.
//!
//! All are clients of the API and share one set of caches ([`runtime`]). Not here yet: StatefulSet, DaemonSet, CronJob,
//! disruption budgets, horizontal autoscaling, eviction by `NoExecute` taints, claims of ephemeral
//! volumes, expansion of volumes.
#![forbid(unsafe_code)]

mod api_servers;
mod bootstrap_signer;
mod certificates;
mod definitions;
mod deployment;
mod discovery;
mod event_expiry;
mod flow_schemas;
mod garbage;
mod kubernetes_service;
mod namespace;
mod node_lifecycle;
mod pod_cleaner;
mod replicas;
mod resource_quota;
mod role_aggregation;
mod stored;
mod template;
mod tenancy;
mod token_cleaner;
mod type_checking;
mod volumes;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hypernetes_certificates::issue::CertificateAuthorities;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use hypernetes_runtime as runtime;
pub use stored::refused_today;
pub use volumes::claims_of as claims_of_pod;

use runtime::{Informers, Key, Queue, Reconciler, drive};

/// What the controllers run with.
pub struct ControllersConfig {
    /// Shared with the scheduler of the same process.
    pub informers: Informers,
    /// The certificate that clients trust the API server by, PEM: for `kube-root-ca.crt` of each namespace.
    pub cluster_ca_pem: String,
    /// Where the API server of this process listens: what the Service `kubernetes` of each cluster stands for.
    pub api_server: SocketAddr,
    /// Who signs certificates.
    pub authorities: Arc<dyn CertificateAuthorities>,
}

/// How long things may be as they are, and how many. The defaults are upstream's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// A node that says nothing for this long is unreachable (`--node-monitor-grace-period`).
    pub node_grace: Duration,
    /// Pods of a node that is not there go after this long: its kubelet may be about to make it.
    pub nodeless_grace: Duration,
    /// Pods of one tenant that have ended; the oldest above this number go (`--terminated-pod-gc-threshold`).
    pub terminated_pods: usize,
    /// Events go when they have not happened again for this long (`--event-ttl`).
    pub event_ttl: Duration,
    /// Certificates of the system's authority are good for no longer (`--cluster-signing-duration`).
    pub system_certificates: Duration,
    /// A tenant's likewise; as long as `hypernetes tenant kubeconfig --static` gives one by default.
    pub tenant_certificates: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            node_grace: Duration::from_secs(40),
            nodeless_grace: Duration::from_secs(40),
            terminated_pods: 12_500,
            event_ttl: Duration::from_secs(3600),
            system_certificates: Duration::from_secs(365 * 86_400),
            tenant_certificates: Duration::from_secs(30 * 86_400),
        }
    }
}

/// How many keys of one controller are worked on at once; half of that of one tenant.
const WORKERS: usize = 8;

/// What a controller registers itself with.
pub(crate) struct Wiring<'a> {
    pub informers: &'a Informers,
    pub limits: &'a Limits,
    tasks: &'a TaskTracker,
    stop: &'a CancellationToken,
}

impl Wiring<'_> {
    pub fn drive<R: Reconciler>(&self, reconciler: R, queue: Queue<R::Key>) {
        drive(self.tasks, self.informers, reconciler, queue, WORKERS, self.stop);
    }

    /// Runs until the controllers stop.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(work));
    }

    pub fn queue(&self) -> Queue<Key> {
        Queue::default()
    }
}

/// Runs all controllers until `stop`.
pub async fn run(config: ControllersConfig, stop: CancellationToken) {
    run_with(config, Limits::default(), stop).await;
}

/// [`run`] with limits of one's own.
pub async fn run_with(config: ControllersConfig, limits: Limits, stop: CancellationToken) {
    let tasks = TaskTracker::new();
    let wiring = Wiring { informers: &config.informers, limits: &limits, tasks: &tasks, stop: &stop };
    tenancy::start(&wiring, &config.cluster_ca_pem);
    api_servers::start(&wiring);
    kubernetes_service::start(&wiring, config.api_server);
    namespace::start(&wiring);
    replicas::start(&wiring);
    deployment::start(&wiring);
    definitions::start(&wiring);
    let counting = resource_quota::start(&wiring);
    garbage::start(&wiring, counting);
    volumes::start(&wiring);
    pod_cleaner::start(&wiring);
    node_lifecycle::start(&wiring);
    event_expiry::start(&wiring);
    certificates::start(&wiring, config.authorities.clone());
    token_cleaner::start(&wiring);
    bootstrap_signer::start(&wiring, &config.cluster_ca_pem, config.api_server);
    role_aggregation::start(&wiring);
    type_checking::start(&wiring);
    flow_schemas::start(&wiring);
    tasks.close();
    tasks.wait().await;
}
