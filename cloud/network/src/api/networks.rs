//! `/networks`

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
};
use http::StatusCode;
use hypernetes_api::{
    TenantId,
    types::network::{Network, NetworkSpec, Subnet},
};
use kube::ResourceExt;
use serde_json::{Map, Value, json};

use super::{
    Answer, Attributes, Caller, Envelope, Error, Parameters, Service, item, link, list,
    object::{self, Kind, common, with},
};
use crate::{DEFAULT_MTU, address_book::AddressBook};

/// Least of IPv4 (RFC 791), most of an IPv4 packet.
const MTUS: std::ops::RangeInclusive<i64> = 68..=65_535;

impl Kind for Network {
    const NAME: &'static str = "Network";

    fn all(tenant: &AddressBook) -> &BTreeMap<String, Arc<Self>> {
        &tenant.networks
    }

    fn display_name(&self) -> &str {
        &self.spec.display_name
    }

    fn view(&self, tenant: &TenantId, has: &AddressBook, operator: bool) -> Map<String, Value> {
        let name = self.name_any();
        let subnets: Vec<_> = has.subnets.values().filter(|s| s.spec.network == name).filter_map(|s| s.uid()).collect();
        let status = self.status.clone().unwrap_or_default();
        let view = with(
            common(self, tenant, &self.spec.description),
            json!({
                "admin_state_up": !self.spec.admin_state_down,
                "status": if status.phase == "Active" { "ACTIVE" } else { "BUILD" },
                "mtu": if self.spec.mtu == 0 { DEFAULT_MTU } else { self.spec.mtu },
                "subnets": subnets,
                "shared": false,
                "router:external": false,
                "port_security_enabled": true,
                "availability_zone_hints": [],
                "availability_zones": [],
                "ipv4_address_scope": null,
                "ipv6_address_scope": null,
            }),
        );
        if !operator {
            return view;
        }
        with(
            view,
            json!({
                "provider:network_type": "vxlan",
                "provider:physical_network": null,
                "provider:segmentation_id": status.segment_id,
            }),
        )
    }
}

/// The attributes of a body. None: it is not there.
struct Given {
    name: Option<String>,
    description: Option<String>,
    admin_state_up: Option<bool>,
    mtu: Option<u32>,
}

impl Given {
    fn parse(mut body: Attributes, action: &str) -> Result<Self, Error> {
        if body.0.keys().any(|name| name.starts_with("provider:")) || body.0.get("shared") == Some(&true.into()) {
            return Err(Error::forbidden(action));
        }
        let mtu = body.number("mtu")?;
        if let Some(mtu) = mtu.filter(|mtu| *mtu != 0 && !MTUS.contains(mtu)) {
            return Err(Error::attribute("mtu", format_args!("'{mtu}' is not in the range {MTUS:?}")));
        }
        let given = Self {
            name: body.text("name")?,
            description: body.text("description")?,
            admin_state_up: body.boolean("admin_state_up")?,
            mtu: mtu.and_then(|mtu| mtu.try_into().ok()),
        };
        if body.boolean("port_security_enabled")? == Some(false) {
            return Err(Error::invalid("networks without port security are not supported"));
        }
        body.absent(&[
            "shared",
            "router:external",
            "availability_zone_hints",
            "dns_domain",
            "is_default",
            "qos_policy_id",
            "segments",
            "vlan_transparent",
            "qinq",
        ])?;
        body.finish()?;
        Ok(given)
    }

    fn apply(&self, spec: &mut NetworkSpec) {
        if let Some(description) = &self.description {
            spec.description.clone_from(description);
        }
        if let Some(up) = self.admin_state_up {
            spec.admin_state_down = !up;
        }
        if let Some(mtu) = self.mtu {
            spec.mtu = mtu;
        }
    }
}

pub(super) async fn list(State(service): Service, caller: Caller, parameters: Parameters) -> Answer {
    caller.reader("get_network")?;
    let views = object::views::<Network>(&service, &caller);
    Ok(Json(list::answer("networks", views, &parameters, &link(&service, "networks"))?))
}

pub(super) async fn show(
    State(service): Service,
    caller: Caller,
    Path(id): Path<String>,
    parameters: Parameters,
) -> Answer {
    caller.reader("get_network")?;
    let (tenant, network) = object::find::<Network>(&service, &caller, &id).await?;
    let view = object::view(&service, &caller, &tenant, &*network);
    Ok(Json(json!({"network": list::fields(view, &parameters)})))
}

pub(super) async fn create(
    State(service): Service,
    caller: Caller,
    body: Envelope,
) -> Result<(StatusCode, Json<Value>), Error> {
    const ACTION: &str = "create_network";
    caller.member(ACTION)?;
    let mut body = item(body, "network")?;
    let tenant = caller.scope.tenant_of_new(&body, ACTION)?;
    body.retain(|name, _| !matches!(name.as_str(), "project_id" | "tenant_id"));
    let given = Given::parse(Attributes(body), ACTION)?;
    let made = object::create(&service, &tenant, given.name.as_deref().unwrap_or_default(), |name, display| {
        let mut spec = NetworkSpec { display_name: display.to_owned(), ..NetworkSpec::default() };
        given.apply(&mut spec);
        Ok(Network::new(name, spec))
    })
    .await?;
    // It becomes active in moments; clients look at it once.
    let (name, uid) = (made.name_any(), made.uid());
    let of = |inner: &crate::state::Inner| inner.tenants.get(&tenant)?.networks.get(&name).cloned();
    service
        .state
        .wait(|inner| {
            of(inner).is_none_or(|n| n.uid() != uid || n.status.as_ref().is_some_and(|s| s.phase == "Active"))
        })
        .await;
    let current = of(&service.state.lock()).filter(|network| network.uid() == uid);
    let view = object::view(&service, &caller, &tenant, current.as_deref().unwrap_or(&made));
    Ok((StatusCode::CREATED, Json(json!({"network": view}))))
}

pub(super) async fn update(State(service): Service, caller: Caller, Path(id): Path<String>, body: Envelope) -> Answer {
    const ACTION: &str = "update_network";
    caller.member(ACTION)?;
    let (tenant, network) = object::find::<Network>(&service, &caller, &id).await?;
    let given = Given::parse(Attributes(item(body, "network")?), ACTION)?;
    let written = object::update(&service, &tenant, &*network, |network: &mut Network| {
        if let Some(name) = &given.name {
            network.spec.display_name.clone_from(name);
        }
        given.apply(&mut network.spec);
        Ok(())
    })
    .await?;
    Ok(Json(json!({"network": object::view(&service, &caller, &tenant, &written)})))
}

/// The network's subnets go with it; ports keep it.
pub(super) async fn delete(
    State(service): Service,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Error> {
    caller.member("delete_network")?;
    let (tenant, network) = object::find::<Network>(&service, &caller, &id).await?;
    let name = network.name_any();
    let (in_use, subnets) = service.state.with(&tenant, |has| {
        let subnets: Vec<Arc<Subnet>> = has.subnets.values().filter(|s| s.spec.network == name).cloned().collect();
        (has.network_in_use(&name), subnets)
    });
    if in_use {
        return Err(Error::network_in_use(&id));
    }
    for subnet in subnets {
        if !object::delete(&service, &tenant, &*subnet).await? {
            return Err(Error::network_in_use(&id));
        }
    }
    let gone = object::delete(&service, &tenant, &*network).await?;
    if gone { Ok(StatusCode::NO_CONTENT) } else { Err(Error::network_in_use(&id)) }
}
