//! `/subnets`

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
};
use http::StatusCode;
use hypernetes_api::{
    TenantId,
    subnet::{NO_GATEWAY, SubnetRange, address},
    types::network::{AllocationPool, Network, Subnet, SubnetSpec},
};
use kube::ResourceExt;
use serde_json::{Map, Value, json};

use super::{
    Answer, Attributes, Caller, Envelope, Error, Parameters, Service, item, link, list,
    object::{self, Kind, common, with},
};
use crate::address_book::AddressBook;

impl Kind for Subnet {
    const NAME: &'static str = "Subnet";

    fn all(tenant: &AddressBook) -> &BTreeMap<String, Arc<Self>> {
        &tenant.subnets
    }

    fn display_name(&self) -> &str {
        &self.spec.display_name
    }

    fn view(&self, tenant: &TenantId, has: &AddressBook, _: bool) -> Map<String, Value> {
        let spec = &self.spec;
        let range = SubnetRange::parse(spec).ok();
        let pools = range.iter().flat_map(|range| &range.pools).map(|(start, end)| json!({"start": start, "end": end}));
        with(
            common(self, tenant, &spec.description),
            json!({
                "network_id": has.networks.get(&spec.network).and_then(|network| network.uid()),
                "ip_version": 4,
                "cidr": range.as_ref().map_or_else(|| spec.cidr.clone(), |range| range.cidr.to_string()),
                "gateway_ip": range.as_ref().and_then(|range| range.gateway),
                "allocation_pools": pools.collect::<Vec<_>>(),
                "dns_nameservers": spec.dns_nameservers,
                "host_routes": [],
                "enable_dhcp": !spec.disable_dhcp,
                "ipv6_address_mode": null,
                "ipv6_ra_mode": null,
                "subnetpool_id": null,
                "segment_id": null,
                "service_types": [],
                "dns_publish_fixed_ip": false,
                "router:external": false,
            }),
        )
    }
}

/// The attributes of a body that may change later, too. None: it is not there.
struct Given {
    name: Option<String>,
    description: Option<String>,
    /// As in the specification.
    gateway: Option<String>,
    pools: Option<Vec<AllocationPool>>,
    dns_nameservers: Option<Vec<String>>,
    enable_dhcp: Option<bool>,
}

impl Given {
    fn parse(mut body: Attributes) -> Result<Self, Error> {
        let gateway = match body.take("gateway_ip") {
            None => None,
            Some(Value::Null) => Some(NO_GATEWAY.to_owned()),
            Some(Value::String(text)) if address(&text).is_ok() => Some(text),
            Some(other) => {
                let shown: String = other.to_string().chars().take(64).collect();
                return Err(Error::attribute("gateway_ip", format_args!("'{shown}' is not a valid IP address")));
            }
        };
        let pool = |mut pool: Attributes| {
            let (start, end) = (pool.text("start")?, pool.text("end")?);
            pool.finish()?;
            match (start, end) {
                (Some(start), Some(end)) => Ok(AllocationPool { start, end }),
                _ => Err(Error::attribute("allocation_pools", "a pool has a start and an end")),
            }
        };
        let pools = body.objects("allocation_pools")?;
        let dns_nameservers = body.texts("dns_nameservers")?;
        for server in dns_nameservers.iter().flatten() {
            if address(server).is_err() {
                let shown: String = server.chars().take(64).collect();
                return Err(Error::attribute("dns_nameservers", format_args!("'{shown}' is not a valid nameserver")));
            }
        }
        let given = Self {
            name: body.text("name")?,
            description: body.text("description")?,
            gateway,
            pools: pools.map(|pools| pools.into_iter().map(pool).collect()).transpose()?,
            dns_nameservers,
            enable_dhcp: body.boolean("enable_dhcp")?,
        };
        body.absent(&[
            "host_routes",
            "ipv6_address_mode",
            "ipv6_ra_mode",
            "subnetpool_id",
            "use_default_subnetpool",
            "prefixlen",
            "segment_id",
            "service_types",
            "dns_publish_fixed_ip",
            "shared",
        ])?;
        body.finish()?;
        Ok(given)
    }

    fn apply(&self, spec: &mut SubnetSpec) {
        fn set<T: Clone>(field: &mut T, given: &Option<T>) {
            if let Some(given) = given {
                field.clone_from(given);
            }
        }
        set(&mut spec.description, &self.description);
        set(&mut spec.gateway, &self.gateway);
        set(&mut spec.allocation_pools, &self.pools);
        set(&mut spec.dns_nameservers, &self.dns_nameservers);
        if let Some(dhcp) = self.enable_dhcp {
            spec.disable_dhcp = !dhcp;
        }
    }
}

pub(super) async fn list(State(service): Service, caller: Caller, parameters: Parameters) -> Answer {
    caller.reader("get_subnet")?;
    let views = object::views::<Subnet>(&service, &caller);
    Ok(Json(list::answer("subnets", views, &parameters, &link(&service, "subnets"))?))
}

pub(super) async fn show(
    State(service): Service,
    caller: Caller,
    Path(id): Path<String>,
    parameters: Parameters,
) -> Answer {
    caller.reader("get_subnet")?;
    let (tenant, subnet) = object::find::<Subnet>(&service, &caller, &id).await?;
    let view = object::view(&service, &caller, &tenant, &*subnet);
    Ok(Json(json!({"subnet": list::fields(view, &parameters)})))
}

pub(super) async fn create(
    State(service): Service,
    caller: Caller,
    body: Envelope,
) -> Result<(StatusCode, Json<Value>), Error> {
    const ACTION: &str = "create_subnet";
    caller.member(ACTION)?;
    let mut body = item(body, "subnet")?;
    let owner = ["project_id", "tenant_id"].iter().any(|name| body.contains_key(*name));
    let wanted_tenant = if owner { Some(caller.scope.tenant_of_new(&body, ACTION)?) } else { None };
    body.retain(|name, _| !matches!(name.as_str(), "project_id" | "tenant_id"));
    let mut body = Attributes(body);
    let required =
        |name: &str| Error::bad_request(format!("Failed to parse request. Required attribute '{name}' not specified"));
    let network = body.text("network_id")?.ok_or_else(|| required("network_id"))?;
    let version = body.number("ip_version")?.ok_or_else(|| required("ip_version"))?;
    let cidr = body.text("cidr")?.filter(|cidr| !cidr.is_empty());
    let given = Given::parse(body)?;
    if version != 4 {
        return Err(Error::invalid("only subnets of IP version 4 are supported"));
    }
    let cidr = cidr.ok_or_else(|| Error::bad_request("Bad subnets request: a subnetpool or a cidr is required."))?;
    let (tenant, network) = object::find::<Network>(&service, &caller, &network).await?;
    if wanted_tenant.is_some_and(|wanted| wanted != tenant) {
        return Err(Error::forbidden(ACTION));
    }
    let mut spec = SubnetSpec { network: network.name_any(), cidr: cidr.clone(), ..SubnetSpec::default() };
    given.apply(&mut spec);
    let range = SubnetRange::parse(&spec).map_err(|error| Error::subnet(&error, &cidr))?;
    spec.cidr = range.cidr.to_string();
    if service.state.with(&tenant, |has| has.overlapping(&spec.network, &range)).is_some() {
        return Err(Error::invalid(format_args!(
            "Requested subnet with cidr: {} for network: {} overlaps with another subnet",
            range.cidr,
            network.uid().unwrap_or_default(),
        )));
    }
    let made = object::create(&service, &tenant, given.name.as_deref().unwrap_or_default(), |name, display| {
        Ok(Subnet::new(name, SubnetSpec { display_name: display.to_owned(), ..spec.clone() }))
    })
    .await?;
    let view = object::view(&service, &caller, &tenant, &made);
    Ok((StatusCode::CREATED, Json(json!({"subnet": view}))))
}

pub(super) async fn update(State(service): Service, caller: Caller, Path(id): Path<String>, body: Envelope) -> Answer {
    caller.member("update_subnet")?;
    let (tenant, subnet) = object::find::<Subnet>(&service, &caller, &id).await?;
    let body = item(body, "subnet")?;
    if let Some(fixed) =
        ["cidr", "network_id", "ip_version", "project_id", "tenant_id"].iter().find(|n| body.contains_key(**n))
    {
        return Err(Error::bad_request(format!("Cannot update read-only attribute {fixed}")));
    }
    let given = Given::parse(Attributes(body))?;
    let written = object::update(&service, &tenant, &*subnet, |subnet: &mut Subnet| {
        if let Some(name) = &given.name {
            subnet.spec.display_name.clone_from(name);
        }
        given.apply(&mut subnet.spec);
        let spec = &subnet.spec;
        let range = SubnetRange::parse(spec).map_err(|error| Error::subnet(&error, &spec.cidr))?;
        let taken = |gateway: Ipv4Addr| service.state.with(&tenant, |has| has.owner(&spec.network, gateway));
        match range.gateway.and_then(|gateway| Some((gateway, taken(gateway)?))) {
            Some((gateway, port)) => Err(Error::gateway_in_use(&gateway, &port)),
            None => Ok(()),
        }
    })
    .await?;
    Ok(Json(json!({"subnet": object::view(&service, &caller, &tenant, &written)})))
}

pub(super) async fn delete(
    State(service): Service,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Error> {
    caller.member("delete_subnet")?;
    let (tenant, subnet) = object::find::<Subnet>(&service, &caller, &id).await?;
    let in_use = service.state.with(&tenant, |has| has.subnet_in_use(&subnet));
    if in_use || !object::delete(&service, &tenant, &*subnet).await? {
        return Err(Error::subnet_in_use(&id));
    }
    Ok(StatusCode::NO_CONTENT)
}
