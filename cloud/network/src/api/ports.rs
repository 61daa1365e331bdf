//! `/ports`

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use axum::{
    Json,
    extract::{Path, State},
};
use http::StatusCode;
use hypernetes_api::{
    TenantId,
    types::network::{FixedIp, Network, Port, PortSpec, Subnet},
};
use kube::ResourceExt;
use serde_json::{Map, Value, json};

use super::{
    Answer, Attributes, Caller, Envelope, Error, Parameters, Reach, Service, item, link, list,
    object::{self, Kind, common, with},
};
use crate::{
    NetworkService,
    address_book::{AddressBook, POD_OWNER, Refusal},
    ipam::AllocationError,
    state::PATIENCE,
};

impl Kind for Port {
    const NAME: &'static str = "Port";

    fn all(tenant: &AddressBook) -> &BTreeMap<String, Arc<Self>> {
        &tenant.ports
    }

    fn display_name(&self) -> &str {
        &self.spec.display_name
    }

    fn view(&self, tenant: &TenantId, has: &AddressBook, operator: bool) -> Map<String, Value> {
        let spec = &self.spec;
        let status = self.status.clone().unwrap_or_default();
        let fixed_ip = |fixed: &FixedIp| {
            let subnet = has.subnets.get(&fixed.subnet).and_then(|subnet| subnet.uid());
            json!({"subnet_id": subnet, "ip_address": fixed.ip_address})
        };
        let placed = spec.fixed_ips.iter().filter(|fixed| !fixed.ip_address.is_empty());
        let view = with(
            common(self, tenant, &spec.description),
            json!({
                "network_id": has.networks.get(&spec.network).and_then(|network| network.uid()),
                "mac_address": spec.mac_address,
                "fixed_ips": placed.map(fixed_ip).collect::<Vec<_>>(),
                "admin_state_up": !spec.admin_state_down,
                "status": match status.phase.as_str() { "Active" => "ACTIVE", "Down" => "DOWN", _ => "BUILD" },
                "device_id": spec.device_id,
                "device_owner": spec.device_owner,
                "security_groups": [],
                "allowed_address_pairs": [],
                "extra_dhcp_opts": [],
                "port_security_enabled": true,
                "qos_policy_id": null,
                "dns_name": "",
                "dns_assignment": [],
                "binding:vnic_type": "normal",
            }),
        );
        if !operator {
            return view;
        }
        with(
            view,
            json!({
                "binding:host_id": status.host,
                "binding:vif_type": if status.host.is_empty() { "unbound" } else { "tap" },
                "binding:vif_details": {},
                "binding:profile": {},
            }),
        )
    }
}

/// The attributes of a body that may change later, too. None: it is not there.
struct Given {
    name: Option<String>,
    description: Option<String>,
    admin_state_up: Option<bool>,
    fixed_ips: Option<Vec<WantedIp>>,
    mac_address: Option<String>,
    device_id: Option<String>,
    device_owner: Option<String>,
}

struct WantedIp {
    /// The subnet's id.
    subnet: Option<String>,
    ip: String,
}

impl Given {
    fn parse(mut body: Attributes, action: &str) -> Result<Self, Error> {
        let fixed_ip = |mut fixed: Attributes| {
            let (subnet, ip) = (fixed.text("subnet_id")?, fixed.text("ip_address")?.unwrap_or_default());
            fixed.finish()?;
            if !ip.is_empty() && hypernetes_api::subnet::address(&ip).is_err() {
                let shown: String = ip.chars().take(64).collect();
                return Err(Error::attribute("fixed_ips", format_args!("'{shown}' is not a valid IP address")));
            }
            Ok(WantedIp { subnet: subnet.filter(|subnet| !subnet.is_empty()), ip })
        };
        let fixed_ips = body.objects("fixed_ips")?;
        let mac_address = body.text("mac_address")?;
        let mac_address = mac_address.map(|mac| crate::macs::parse(&mac)).transpose();
        let mac_address = mac_address.map_err(|error| Error::refused(&error.into(), ""))?;
        let given = Self {
            name: body.text("name")?,
            description: body.text("description")?,
            admin_state_up: body.boolean("admin_state_up")?,
            fixed_ips: fixed_ips.map(|list| list.into_iter().map(fixed_ip).collect()).transpose()?,
            mac_address,
            device_id: body.text("device_id")?,
            device_owner: body.text("device_owner")?,
        };
        // These are of the network service itself.
        let reserved = |owner: &String| owner.starts_with("network:") || owner.starts_with("hypernetes:");
        if given.device_owner.as_ref().is_some_and(reserved) {
            return Err(Error::forbidden(&format!("{action}:device_owner")));
        }
        if body.text("binding:vnic_type")?.is_some_and(|kind| !matches!(kind.as_str(), "" | "normal")) {
            return Err(Error::invalid("binding:vnic_type is always normal"));
        }
        if body.boolean("port_security_enabled")? == Some(false) {
            return Err(Error::invalid("ports without port security are not supported"));
        }
        body.absent(&[
            "security_groups",
            "allowed_address_pairs",
            "extra_dhcp_opts",
            "qos_policy_id",
            "dns_name",
            "dns_domain",
            "binding:host_id",
            "binding:profile",
            "propagate_uplink_status",
            "numa_affinity_policy",
            "hints",
        ])?;
        body.finish()?;
        Ok(given)
    }

    fn apply(&self, spec: &mut PortSpec) {
        fn set(field: &mut String, given: &Option<String>) {
            if let Some(given) = given {
                field.clone_from(given);
            }
        }
        set(&mut spec.description, &self.description);
        set(&mut spec.device_id, &self.device_id);
        set(&mut spec.device_owner, &self.device_owner);
        if let Some(up) = self.admin_state_up {
            spec.admin_state_down = !up;
        }
    }

    /// The addresses that are wanted, with subnets by name.
    async fn wanted(
        &self,
        service: &NetworkService,
        caller: &Caller,
        tenant: &TenantId,
        network: &str,
    ) -> Result<Option<Vec<FixedIp>>, Error> {
        let Some(list) = &self.fixed_ips else { return Ok(None) };
        let mut all = Vec::with_capacity(list.len());
        for wanted in list {
            let subnet = match &wanted.subnet {
                None => String::new(),
                Some(id) => {
                    let (owner, subnet) = object::find::<Subnet>(service, caller, id).await?;
                    if owner != *tenant || subnet.spec.network != network {
                        return Err(Error::invalid(format_args!("the subnet {id} is not on the port's network")));
                    }
                    subnet.name_any()
                }
            };
            all.push(FixedIp { subnet, ip_address: wanted.ip.clone() });
        }
        Ok(Some(all))
    }
}

pub(super) async fn list(State(service): Service, caller: Caller, parameters: Parameters) -> Answer {
    caller.reader("get_port")?;
    let views = object::views::<Port>(&service, &caller);
    Ok(Json(list::answer("ports", views, &parameters, &link(&service, "ports"))?))
}

pub(super) async fn show(
    State(service): Service,
    caller: Caller,
    Path(id): Path<String>,
    parameters: Parameters,
) -> Answer {
    caller.reader("get_port")?;
    let (tenant, port) = object::find::<Port>(&service, &caller, &id).await?;
    let view = object::view(&service, &caller, &tenant, &*port);
    Ok(Json(json!({"port": list::fields(view, &parameters)})))
}

pub(super) async fn create(
    State(service): Service,
    caller: Caller,
    body: Envelope,
) -> Result<(StatusCode, Json<Value>), Error> {
    const ACTION: &str = "create_port";
    caller.member(ACTION)?;
    let mut body = item(body, "port")?;
    let owner = ["project_id", "tenant_id"].iter().any(|name| body.contains_key(*name));
    let wanted_tenant = if owner { Some(caller.scope.tenant_of_new(&body, ACTION)?) } else { None };
    body.retain(|name, _| !matches!(name.as_str(), "project_id" | "tenant_id"));
    let mut body = Attributes(body);
    let network_id = body
        .text("network_id")?
        .ok_or_else(|| Error::bad_request("Failed to parse request. Required attribute 'network_id' not specified"))?;
    let given = Given::parse(body, ACTION)?;
    let (tenant, network) = object::find::<Network>(&service, &caller, &network_id).await?;
    if wanted_tenant.is_some_and(|wanted| wanted != tenant) {
        return Err(Error::forbidden(ACTION));
    }
    let network = network.name_any();
    let wanted = given.wanted(&service, &caller, &tenant, &network).await?.unwrap_or_default();
    let mut spec = PortSpec { network: network.clone(), ..PortSpec::default() };
    given.apply(&mut spec);
    let mac = given.mac_address.clone().unwrap_or_default();
    let tried = parking_lot::Mutex::new(Vec::new());
    let named = |name: &str, display: &str| {
        let placed = service.state.with(&tenant, |has| has.place(name, &network, &wanted, &mac));
        let placement = placed.map_err(|refusal| Error::refused(&refusal, &network_id))?;
        tried.lock().push((name.to_owned(), placement.fixed_ips.clone()));
        let spec = PortSpec {
            display_name: display.to_owned(),
            fixed_ips: placement.fixed_ips,
            mac_address: placement.mac_address,
            ..spec.clone()
        };
        Ok(Port::new(name, spec))
    };
    let attempt = async || {
        // All that others have is known before one is refused.
        if service.state.with(&tenant, |has| has.is_full(&network)) {
            let own = Reach::Project(tenant.clone());
            object::hear_of_all::<Subnet>(&service, &own).await?;
            object::hear_of_all::<Port>(&service, &own).await?;
        }
        let _making = service.making_port.lock().await;
        let name = given.name.as_deref().unwrap_or_default();
        let mut made = object::create(&service, &tenant, name, named).await;
        // Another server was faster; there are other addresses.
        let chosen = wanted.iter().any(|fixed| !fixed.ip_address.is_empty()) || !mac.is_empty();
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if chosen || !made.as_ref().is_err_and(|error| *error == Error::taken()) {
                break;
            }
            for (name, fixed_ips) in tried.lock().drain(..) {
                service.state.with(&tenant, |has| has.is_elsewhere(&name, &network, &fixed_ips));
            }
            made = object::create(&service, &tenant, name, named).await;
        }
        // What was given to a port that was not made is free again.
        for (name, _) in tried.lock().drain(..) {
            service.state.with(&tenant, |has| has.restore(&name));
        }
        made
    };
    let mut made = attempt().await;
    let exhausted = Error::refused(&Refusal::Allocation(AllocationError::Exhausted), &network_id);
    if made.as_ref().is_err_and(|error| *error == exhausted) {
        // What is promised to others is theirs, or free again, in a moment.
        let promises = |has: &AddressBook| has.promises(&network);
        service.state.wait(|inner| !inner.tenants.get(&tenant).is_some_and(promises)).await;
        made = attempt().await;
    }
    let made = made?;
    // It is accepted in moments; clients look at it once.
    let (name, uid) = (made.name_any(), made.uid());
    let of = |inner: &crate::state::Inner| inner.tenants.get(&tenant)?.ports.get(&name).cloned();
    service
        .state
        .wait(|inner| of(inner).is_none_or(|port| port.uid() != uid || crate::state::is_accepted(&port)))
        .await;
    let current = of(&service.state.lock()).filter(|port| port.uid() == uid);
    let view = object::view(&service, &caller, &tenant, current.as_deref().unwrap_or(&made));
    Ok((StatusCode::CREATED, Json(json!({"port": view}))))
}

pub(super) async fn update(State(service): Service, caller: Caller, Path(id): Path<String>, body: Envelope) -> Answer {
    const ACTION: &str = "update_port";
    caller.member(ACTION)?;
    let (tenant, port) = object::find::<Port>(&service, &caller, &id).await?;
    let body = item(body, "port")?;
    if let Some(fixed) = ["network_id", "project_id", "tenant_id"].iter().find(|name| body.contains_key(**name)) {
        return Err(Error::bad_request(format!("Cannot update read-only attribute {fixed}")));
    }
    let given = Given::parse(Attributes(body), ACTION)?;
    let structural = given.fixed_ips.is_some()
        || given.mac_address.is_some()
        || given.device_id.is_some()
        || given.device_owner.is_some();
    if port.spec.device_owner == POD_OWNER && structural {
        return Err(Error::conflict(format!(
            "Unable to complete operation on port {id}: it belongs to a pod, which determines its addresses and device."
        )));
    }
    let wanted = given.wanted(&service, &caller, &tenant, &port.spec.network).await?;
    let network_id = service.state.with(&tenant, |has| has.networks.get(&port.spec.network).and_then(|n| n.uid()));
    let written = object::update(&service, &tenant, &*port, |port: &mut Port| {
        let name = port.name_any();
        if let Some(display) = &given.name {
            port.spec.display_name.clone_from(display);
        }
        given.apply(&mut port.spec);
        if wanted.is_some() || given.mac_address.is_some() {
            let addresses = wanted.as_ref().unwrap_or(&port.spec.fixed_ips);
            let mac = given.mac_address.as_ref().unwrap_or(&port.spec.mac_address);
            let placed = service.state.with(&tenant, |has| has.place(&name, &port.spec.network, addresses, mac));
            let placement = placed.map_err(|why| Error::refused(&why, network_id.as_deref().unwrap_or_default()))?;
            port.spec.fixed_ips = placement.fixed_ips;
            port.spec.mac_address = placement.mac_address;
        }
        Ok(())
    })
    .await;
    if written.is_err() {
        // What was given for this change is free again.
        service.state.with(&tenant, |has| has.restore(&port.name_any()));
    }
    Ok(Json(json!({"port": object::view(&service, &caller, &tenant, &written?)})))
}

pub(super) async fn delete(
    State(service): Service,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Error> {
    caller.member("delete_port")?;
    let (tenant, port) = object::find::<Port>(&service, &caller, &id).await?;
    if port.spec.device_owner == POD_OWNER {
        return Err(Error::service_port(&id, &format!("has device owner {POD_OWNER}")));
    }
    if object::delete(&service, &tenant, &*port).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Error::conflict(format!("Unable to complete operation on port {id}: it is held by a finalizer.")))
    }
}
