//! What networks, subnets and ports have in common.

use std::{collections::HashSet, fmt::Debug, sync::Arc};

use hypernetes_api::TenantId;
use hypernetes_client::Api;
use hypernetes_facade::NotUpdated;
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{Caller, Error, Reach};
use crate::{
    NetworkService,
    address_book::AddressBook,
    state::{Followed, Inner, version},
};

/// One of the three kinds of objects.
pub(crate) trait Kind: Followed + Clone + Debug + Serialize + DeserializeOwned + Send + 'static {
    /// As Neutron's messages have it.
    const NAME: &'static str;
    fn all(tenant: &AddressBook) -> &std::collections::BTreeMap<String, Arc<Self>>;
    fn display_name(&self) -> &str;
    /// The attributes that clients see. `operator`: those for operators, too.
    fn view(&self, tenant: &TenantId, has: &AddressBook, operator: bool) -> Map<String, Value>;
}

/// The attributes that all kinds have.
pub(crate) fn common<K: Kind>(object: &K, tenant: &TenantId, description: &str) -> Map<String, Value> {
    let meta = object.meta();
    let created = meta.creation_timestamp.as_ref().map(|time| time.0.to_string());
    let changed = meta.managed_fields.iter().flatten().filter_map(|entry| entry.time.as_ref()).max();
    let updated = changed.map(|time| time.0.to_string()).or_else(|| created.clone());
    let name = if object.display_name().is_empty() { object.name_any() } else { object.display_name().to_owned() };
    let common = json!({
        "id": object.uid(),
        "name": name,
        "description": description,
        "tenant_id": tenant,
        "project_id": tenant,
        "created_at": created,
        "updated_at": updated,
        "revision_number": meta.resource_version.as_ref().and_then(|version| version.parse::<u64>().ok()),
        "tags": [],
    });
    match common {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Adds attributes.
pub(crate) fn with(mut map: Map<String, Value>, more: Value) -> Map<String, Value> {
    if let Value::Object(more) = more {
        map.extend(more);
    }
    map
}

/// All objects that the caller may see.
pub(crate) fn views<K: Kind>(service: &NetworkService, caller: &Caller) -> Vec<Map<String, Value>> {
    let inner = service.state.lock();
    let tenants = inner.tenants.iter().filter(|(tenant, _)| caller.scope.includes(tenant));
    tenants
        .flat_map(|(tenant, has)| {
            K::all(has).values().map(move |object| object.view(tenant, has, caller.scope.is_operator()))
        })
        .collect()
}

fn find_in<K: Kind>(inner: &Inner, caller: &Caller, id: &str) -> Option<(TenantId, Arc<K>)> {
    let tenants = inner.tenants.iter().filter(|(tenant, _)| caller.scope.includes(tenant));
    let mut found = tenants.flat_map(|(tenant, has)| K::all(has).values().map(move |object| (tenant, object)));
    let (tenant, object) = found.find(|(_, object)| object.meta().uid.as_deref() == Some(id))?;
    Some((tenant.clone(), Arc::clone(object)))
}

/// The object with this id, if the caller may see it: also one that was made a moment ago, through another server.
pub(crate) async fn find<K: Kind>(
    service: &NetworkService,
    caller: &Caller,
    id: &str,
) -> Result<(TenantId, Arc<K>), Error> {
    if let Some(found) = find_in(&service.state.lock(), caller, id) {
        return Ok(found);
    }
    hear_of_all::<K>(service, &caller.scope).await?;
    find_in(&service.state.lock(), caller, id).ok_or_else(|| Error::not_found(K::NAME, id))
}

/// Waits until this server has heard of all that has come and gone of the kind up to now: before it says that there is none.
pub(crate) async fn hear_of_all<K: Kind>(service: &NetworkService, reach: &Reach) -> Result<(), Error> {
    let client = match reach {
        Reach::Project(tenant) => service.clients.tenant(tenant),
        Reach::All { .. } => service.everyone.clone(),
    };
    let list = Api::<K>::all(client).list(&ListParams::default()).await?;
    let now = list.metadata.resource_version.and_then(|version| version.parse().ok());
    let newest = list.items.iter().filter_map(version).max();
    let there: HashSet<_> = list.items.iter().map(K::uid).collect();
    let is_there = |object: &Arc<K>| there.contains(&object.uid()) || version(&**object) > now;
    let heard = |inner: &Inner| {
        let mut tenants = inner.tenants.iter().filter(|(tenant, _)| reach.includes(tenant));
        inner.seen::<K>() >= newest && tenants.all(|(_, has)| K::all(has).values().all(is_there))
    };
    service.state.wait(heard).await;
    Ok(())
}

pub(crate) fn view<K: Kind>(
    service: &NetworkService,
    caller: &Caller,
    tenant: &TenantId,
    object: &K,
) -> Map<String, Value> {
    service.state.with(tenant, |has| object.view(tenant, has, caller.scope.is_operator()))
}

fn api<K: Kind>(service: &NetworkService, tenant: &TenantId) -> Api<K> {
    Api::all(service.clients.tenant(tenant))
}

/// Makes the object. Where another one took its name in between, it gets another name, too.
///
/// `named` makes the object with these `metadata.name` and display name.
pub(crate) async fn create<K: Kind>(
    service: &NetworkService,
    tenant: &TenantId,
    name: &str,
    named: impl Fn(&str, &str) -> Result<K, Error>,
) -> Result<K, Error> {
    let free = service.state.with(tenant, |has| !K::all(has).contains_key(name));
    let generated = format!("{}-{}", K::NAME.to_ascii_lowercase(), uuid::Uuid::new_v4().simple());
    let usable = free && is_object_name(name);
    let made = hypernetes_facade::create(&api::<K>(service, tenant), name, usable, &generated, named).await?;
    service.state.wrote(tenant, made.clone());
    Ok(made)
}

/// A DNS label that is no pod's port.
fn is_object_name(name: &str) -> bool {
    // A tenant's id has the same form.
    name.parse::<TenantId>().is_ok() && !name.starts_with("pod-")
}

/// Changes the object; when others write at the same time, their version of it.
pub(crate) async fn update<K: Kind>(
    service: &NetworkService,
    tenant: &TenantId,
    object: &K,
    change: impl Fn(&mut K) -> Result<(), Error>,
) -> Result<K, Error> {
    let uid = object.uid();
    let same = |other: &K| other.uid() == uid;
    match hypernetes_facade::update(&api::<K>(service, tenant), object.clone(), same, change).await {
        Ok(written) => {
            service.state.wrote(tenant, written.clone());
            Ok(written)
        }
        Err(NotUpdated::Gone) => Err(Error::not_found(K::NAME, uid.as_deref().unwrap_or_default())),
        Err(NotUpdated::Contended) => {
            Err(Error::conflict(format!("{} is being changed by others at the same time; try again.", K::NAME)))
        }
        Err(NotUpdated::Refused(error)) => Err(error),
        Err(NotUpdated::Api(error)) => Err(error.into()),
    }
}

/// Deletes the object and waits until it is gone. False: something holds it.
pub(crate) async fn delete<K: Kind>(service: &NetworkService, tenant: &TenantId, object: &K) -> Result<bool, Error> {
    let (name, uid) = (object.name_any(), object.uid());
    match api::<K>(service, tenant).delete(&name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => {
            other?;
        }
    }
    let gone = |inner: &Inner| {
        let has = inner.tenants.get(tenant);
        has.and_then(|has| K::all(has).get(&name)).is_none_or(|object| object.uid() != uid)
    };
    Ok(service.state.wait(gone).await)
}
