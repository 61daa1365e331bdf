//! What of several servers one does at a time, each part under a lease of its own: `kubectl get leases -n kube-system`.

use std::{net::SocketAddr, sync::Arc};

use hypernetes_api::AllTenants;
use hypernetes_certificates::issue::CertificateAuthorities;
use hypernetes_controllers::{
    ControllersConfig,
    runtime::{Election, Informers},
};
use hypernetes_identity::Identity;
use hypernetes_network::NetworkService;
use hypernetes_volume::Volumes;
use tokio_util::sync::CancellationToken;

const CONTROLLERS: &str = "hypernetes-controllers";
const SCHEDULER: &str = "hypernetes-scheduler";
const NETWORK: &str = "hypernetes-network";
const VOLUME: &str = "hypernetes-volume";
const IDENTITY: &str = "hypernetes-identity";

pub struct Background {
    pub election: Election,
    pub informers: Informers,
    pub cluster_ca_pem: String,
    /// Where the server listens.
    pub api_server: SocketAddr,
    pub authorities: Arc<dyn CertificateAuthorities>,
    pub identity: Arc<Identity>,
    pub networks: Arc<NetworkService>,
    pub volumes: Arc<Volumes>,
}

impl Background {
    /// Until `stop`, and what was begun has ended.
    pub async fn run(self, stop: CancellationToken) {
        let Self { election, informers, cluster_ca_pem, api_server, authorities, identity, networks, volumes } = &self;
        let controllers = election.run(CONTROLLERS, &stop, |term| {
            let config = ControllersConfig {
                informers: informers.during(&term),
                cluster_ca_pem: cluster_ca_pem.clone(),
                api_server: *api_server,
                authorities: authorities.clone(),
            };
            async move { hypernetes_controllers::run(config, term.stop().clone()).await }
        });
        let scheduler = election.run(SCHEDULER, &stop, |term| {
            let informers = informers.during(&term);
            async move { hypernetes_scheduler::run(informers, term.stop().clone()).await }
        });
        let networks = election.run(NETWORK, &stop, |term| networks.act(term));
        let volumes = election.run(VOLUME, &stop, |term| volumes.act(AllTenants::grant(), term));
        let identity = election
            .run(IDENTITY, &stop, |term| identity.keep_house(&term.clients(informers.clients()), term.stop().clone()));
        let serving = election.serve_at(*api_server, &stop);
        tokio::join!(controllers, scheduler, networks, volumes, identity, serving);
    }
}

/// The host's name, so that people know which server it is, and something that no other process has.
pub fn identity() -> String {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    format!("{host}_{:032x}", rand::random::<u128>())
}
