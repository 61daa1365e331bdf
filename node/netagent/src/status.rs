//! Tells the API what became of ports: `Active` on this host, or `Down`.

use std::time::Duration;

use hypernetes_api::{TenantId, types::network::Port};
use hypernetes_client::{Api, Clients};
use kube::api::{Patch, PatchParams};
use serde_json::json;

/// Until when a report is tried again while the API server does not answer.
const ATTEMPTS: u32 = 8;
const FIRST_RETRY: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(crate) struct Report {
    pub tenant: TenantId,
    pub port: String,
    pub uid: String,
    pub active: bool,
}

/// Writes one report. A port that is gone, or another of the same name, is not written to.
pub(crate) async fn write(clients: &Clients, node: &str, report: &Report) {
    let api: Api<Port> = Api::all(clients.tenant(&report.tenant));
    let phase = if report.active { "Active" } else { "Down" };
    let patch = json!({"metadata": {"uid": report.uid}, "status": {"phase": phase, "host": node}});
    let mut delay = FIRST_RETRY;
    for _ in 0..ATTEMPTS {
        match api.patch_status(&report.port, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => return,
            // The uid is another's: a newer port of the same name, perhaps of a pod on another node.
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404 | 409 | 422) => return,
            Err(error) => tracing::warn!(tenant = %report.tenant, port = report.port, %error, "reporting a port"),
        }
        tokio::time::sleep(delay).await;
        delay *= 2;
    }
}
