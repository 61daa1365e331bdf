//! What clients ask about the service itself.

use axum::{Json, Router, extract::State, routing::get};
use hypernetes_api::types::volume::Volume;
use hypernetes_client::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use super::{
    Caller, Error, Server, Shared,
    view::{ZONE, gibibytes},
};

pub(super) fn routes() -> Router<Server> {
    Router::new()
        .route("/limits", get(limits))
        .route("/os-services", get(services))
        .route("/os-availability-zone", get(zones))
        .route("/extensions", get(extensions))
}

async fn limits(State(volumes): Shared, caller: Caller) -> Result<Json<Value>, Error> {
    caller.reader("limits_extension:used_limits")?;
    let api: Api<Volume> = Api::all(volumes.clients.tenant(caller.tenant()));
    let all = api.list(&ListParams::default()).await?.items;
    // -1: no limit of that kind; a tenant's limits are ResourceQuotas.
    Ok(Json(json!({"limits": {"rate": [], "absolute": {
        "maxTotalVolumes": -1, "maxTotalVolumeGigabytes": -1, "totalVolumesUsed": all.len(),
        "totalGigabytesUsed": all.iter().map(|volume| gibibytes(volume.spec.size_bytes)).fold(0, u64::saturating_add),
        "maxTotalSnapshots": 0, "totalSnapshotsUsed": 0, "maxTotalBackups": 0, "totalBackupsUsed": 0,
        "maxTotalBackupGigabytes": 0, "totalBackupGigabytesUsed": 0,
    }}})))
}

async fn services(State(volumes): Shared, caller: Caller) -> Result<Json<Value>, Error> {
    caller.admin("volume_extension:services:index")?;
    Ok(Json(json!({"services": [{
        "binary": "cinder-volume", "host": format!("hypernetes@{}", volumes.backend.driver()), "zone": ZONE, "status": "enabled",
        "state": "up", "updated_at": null, "disabled_reason": null,
    }]})))
}

async fn zones(caller: Caller) -> Result<Json<Value>, Error> {
    caller.reader("volume:availability_zone_list")?;
    Ok(Json(json!({"availabilityZoneInfo": [{"zoneName": ZONE, "zoneState": {"available": true}}]})))
}

async fn extensions(caller: Caller) -> Result<Json<Value>, Error> {
    caller.reader("volume:extensions")?;
    Ok(Json(json!({"extensions": []})))
}
