//! What clients ask beside networks, subnets and ports: extensions, quotas, and lists of what there is none of.

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::get,
};
use serde_json::{Value, json};

use super::{Answer, Caller, Error, Reach, Server, Service};
use crate::NetworkService;

/// Alias, name, description: what of Neutron's extensions is there.
const EXTENSIONS: &[(&str, &str, &str)] = &[
    ("availability_zone", "Availability Zone", "Availability zones: there are none."),
    ("binding", "Port Binding", "The host of a port, for operators."),
    ("net-mtu", "Network MTU", "The MTU of a network."),
    ("net-mtu-writable", "Network MTU (writable)", "The MTU of a network may be changed."),
    ("pagination", "Pagination support", "Lists may be cut into pages."),
    ("project-id", "project_id field enabled", "project_id is the same as tenant_id."),
    ("provider", "Provider Network", "The segment of a network, for operators."),
    ("quotas", "Quota management support", "Quotas: there is no limit yet."),
    ("sorting", "Sorting support", "Lists may be sorted."),
    ("standard-attr-description", "standard-attr-description", "Objects have a description."),
    ("standard-attr-revisions", "Resource revision numbers", "Objects have a revision_number."),
    ("standard-attr-timestamp", "Resource timestamps", "Objects have created_at and updated_at."),
];

/// Collections that are always empty.
const EMPTY: &[&str] = &["agents", "availability_zones", "security-groups", "security-group-rules"];

pub(super) fn routes() -> Router<Server> {
    let mut router = Router::new()
        .route("/extensions", get(extensions))
        .route("/extensions/{alias}", get(extension))
        .route("/quotas/{project}", get(quota))
        .route("/quotas/{project}/default", get(quota))
        .route("/quotas/{project}/details.json", get(quota_details))
        .route("/security-groups/{id}", get(security_group));
    for name in EMPTY {
        let key = name.replace('-', "_");
        router = router.route(&format!("/{name}"), get(move |_: Caller| async move { Json(json!({key: []})) }));
    }
    router
}

fn shown((alias, name, description): &(&str, &str, &str)) -> Value {
    json!({"alias": alias, "name": name, "description": description, "links": [], "updated": "2026-01-01T00:00:00Z"})
}

async fn extensions(_: Caller) -> Json<Value> {
    Json(json!({"extensions": EXTENSIONS.iter().map(shown).collect::<Vec<_>>()}))
}

async fn extension(_: Caller, Path(alias): Path<String>) -> Answer {
    let found = EXTENSIONS.iter().find(|(other, ..)| *other == alias);
    found.map(|found| Json(json!({"extension": shown(found)}))).ok_or_else(|| Error::extension_not_found(&alias))
}

/// What the project has of each kind.
fn usage(service: &NetworkService, caller: &Caller, project: &str) -> Result<[(&'static str, usize); 3], Error> {
    caller.reader("get_quota")?;
    let own = match &caller.scope {
        Reach::Project(own) => own.as_str() == project,
        Reach::All { .. } => true,
    };
    if !own {
        return Err(Error::forbidden("get_quota"));
    }
    let inner = service.state.lock();
    let has = project.parse().ok().and_then(|tenant| inner.tenants.get(&tenant));
    let count = |of: fn(&crate::address_book::AddressBook) -> usize| has.map_or(0, of);
    Ok([
        ("network", count(|has| has.networks.len())),
        ("subnet", count(|has| has.subnets.len())),
        ("port", count(|has| has.ports.len())),
    ])
}

/// -1: no limit.
async fn quota(State(service): Service, caller: Caller, Path(project): Path<String>) -> Answer {
    let limits = usage(&service, &caller, &project)?.map(|(kind, _)| (kind.to_owned(), json!(-1)));
    Ok(Json(json!({"quota": Value::Object(limits.into_iter().collect())})))
}

async fn quota_details(State(service): Service, caller: Caller, Path(project): Path<String>) -> Answer {
    let details = usage(&service, &caller, &project)?
        .map(|(kind, used)| (kind.to_owned(), json!({"limit": -1, "used": used, "reserved": 0})));
    Ok(Json(json!({"quota": Value::Object(details.into_iter().collect())})))
}

async fn security_group(_: Caller, Path(id): Path<String>) -> Answer {
    Err(Error::not_found("Security group", &id))
}
