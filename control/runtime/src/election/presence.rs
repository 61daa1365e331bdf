//! That a server is there, and where: a Lease of its own beside those that are competed for (KEP-1965's, with the address in an
//! annotation). It is renewed like these, and deleted by a server that ends; of one that ends without, or cannot be reached, it
//! becomes old, and whoever keeps the list of servers deletes it after its time.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
};

use hypernetes_api::TenantId;
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{Election, NAMESPACE, Takeover};

/// Upstream's, on leases of API servers.
const LABEL: (&str, &str) = ("apiserver.kubernetes.io/identity", "kube-apiserver");
const ADDRESS: &str = "hypernetes.io/address";
const MANAGER: &str = "kube-apiserver";

/// Where the server listens whose Lease this is, if it is one of these. A tenant's own are none.
pub fn server_of(tenant: &TenantId, lease: &Lease) -> Option<SocketAddr> {
    let metadata = &lease.metadata;
    let labelled = metadata.labels.as_ref().and_then(|labels| labels.get(LABEL.0)).is_some_and(|is| is == LABEL.1);
    let is = labelled && tenant.is_system() && metadata.namespace.as_deref() == Some(NAMESPACE);
    metadata.annotations.as_ref().filter(|_| is)?.get(ADDRESS)?.parse().ok()
}

impl Election {
    /// Says where this process serves the API, until `stop`; not of one that has the store alone, beside which there is none.
    pub async fn serve_at(&self, address: SocketAddr, stop: &CancellationToken) {
        if self.takeover == Takeover::AtOnce {
            return;
        }
        let mut hasher = DefaultHasher::new();
        self.identity.hash(&mut hasher);
        let name = format!("apiserver-{:016x}", hasher.finish());
        let renewing = async {
            loop {
                let renewed = timeout(self.timing.renew / 2, self.say(&name, address)).await;
                if let Ok(Err(error)) = renewed {
                    tracing::debug!(lease = name, %error, "the server's lease is not renewed");
                }
                sleep_until(self.next(self.timing.renew / 2)).await;
            }
        };
        if stop.run_until_cancelled(renewing).await.is_none()
            && let Ok(Err(error)) = timeout(self.timing.retry, self.api.delete(&name, &DeleteParams::default())).await
        {
            tracing::debug!(lease = name, %error, "the server's lease is not deleted");
        }
    }

    async fn say(&self, name: &str, address: SocketAddr) -> Result<(), kube::Error> {
        let seconds = i32::try_from(self.timing.lease.as_secs()).unwrap_or(i32::MAX).max(1);
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some([(LABEL.0.to_owned(), LABEL.1.to_owned())].into()),
                annotations: Some([(ADDRESS.to_owned(), address.to_string())].into()),
                ..Default::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(seconds),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..Default::default()
            }),
        };
        let patch = Patch::Apply(json!(lease));
        self.api.patch(name, &PatchParams::apply(MANAGER).force(), &patch).await.map(drop)
    }
}
