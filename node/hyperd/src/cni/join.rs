//! Joins the interface that a chain of plugins made for a container to a VM.
//!
//! The VM needs a tap; plugins make veths, macvlans and others. In the pod's network namespace a tap is put beside the
//! interface, and traffic control passes every frame that either receives on to the other, unseen by the namespace's own
//! network stack. The guest takes over the interface's hardware address, addresses and routes; the namespace keeps them,
//! too, so that plugins find what they made when they are asked to check it (docs/decisions/0014).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use futures::TryStreamExt;
use hypernetes_hypervisor::tap;
use rtnetlink::{
    Handle, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType},
    },
};

use super::{Route, netns};

/// The tap's name in each pod's namespace.
pub(super) const TAP: &str = "tap0";
/// Every protocol (ETH_P_ALL).
const ALL_PROTOCOLS: u16 = 0x0003;
/// Handle of a device's ingress queue.
const INGRESS: u32 = 0xffff_0000;
/// Most routes that a guest is given.
const MAX_ROUTES: usize = 64;

#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    #[error("entering the namespace: {0}")]
    Namespace(io::Error),
    #[error("the plugins made no interface {0}")]
    Missing(String),
    #[error("the interface {0} is not one of Ethernet, which is what a VM can be connected to")]
    NotEthernet(String),
    #[error("making a tap: {0}")]
    Tap(io::Error),
    #[error("{what}: {source}")]
    Netlink { what: &'static str, source: rtnetlink::Error },
}

/// What the VM gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Joined {
    pub tap: String,
    pub mac: String,
    pub mtu: u32,
    /// In the order in which they can be added. Those that an address brings along are not among them.
    pub routes: Vec<Route>,
    /// Networks that an address brings a route to by being there, e.g. `10.1.0.0/16`.
    pub connected: Vec<String>,
}

/// Joins the interface in the namespace to a tap, which is made.
pub(crate) async fn join(namespace: &Path, interface: &str) -> Result<Joined, JoinError> {
    let runtime = tokio::runtime::Handle::current();
    let opened = netns::inside(namespace, move || {
        // The socket belongs to this namespace for as long as it lives, whoever uses it.
        let _runtime = runtime.enter();
        let (connection, netlink, _) = rtnetlink::new_connection()?;
        Ok((connection, netlink))
    });
    let (connection, netlink) = opened.await.map_err(JoinError::Namespace)?;
    let connection = tokio::spawn(connection);
    let joined = with(&netlink, namespace, interface).await;
    connection.abort();
    joined
}

async fn with(netlink: &Handle, namespace: &Path, interface: &str) -> Result<Joined, JoinError> {
    let link = link(netlink, interface).await?.ok_or_else(|| JoinError::Missing(interface.into()))?;
    let (mut mac, mut mtu, mut is_tap) = (None, 0, false);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            LinkAttribute::Mtu(value) => mtu = *value,
            LinkAttribute::LinkInfo(infos) => is_tap = infos.contains(&LinkInfo::Kind(InfoKind::Tun)),
            _ => {}
        }
    }
    let mac = mac.ok_or_else(|| JoinError::NotEthernet(interface.into()))?;
    let (routes, connected) = routes(netlink, link.header.index).await?;
    let tap = if is_tap {
        // The VM opens it itself.
        interface.to_owned()
    } else {
        redirect(netlink, namespace, link.header.index, mtu).await?;
        TAP.to_owned()
    };
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    Ok(Joined { tap, mac, mtu, routes, connected })
}

async fn link(netlink: &Handle, name: &str) -> Result<Option<LinkMessage>, JoinError> {
    let named =
        |link: &LinkMessage| link.attributes.iter().any(|a| matches!(a, LinkAttribute::IfName(found) if found == name));
    let mut links = std::pin::pin!(netlink.link().get().execute());
    while let Some(link) = links.try_next().await.map_err(netlink_error("looking for interfaces"))? {
        if named(&link) {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// Puts the tap there, and passes frames on both ways.
async fn redirect(netlink: &Handle, namespace: &Path, interface: u32, mtu: u32) -> Result<(), JoinError> {
    let made = netns::inside(namespace, || {
        // A VM that waited for the pod has it already.
        if nix::net::if_::if_nametoindex(TAP).is_err() {
            tap::create(TAP)?;
        }
        // What the namespace itself would say on it is for nobody.
        match std::fs::write(format!("/proc/sys/net/ipv6/conf/{TAP}/disable_ipv6"), "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(nix::net::if_::if_nametoindex(TAP)?)
    });
    let tap = made.await.map_err(JoinError::Tap)?;
    let up = LinkUnspec::new_with_index(tap).mtu(mtu).up().build();
    netlink.link().set(up).execute().await.map_err(netlink_error("setting the tap up"))?;
    for (from, to) in [(tap, interface), (interface, tap)] {
        let index = i32::try_from(from).unwrap_or_default();
        let queue = netlink.qdisc().add(index).ingress();
        queue.execute().await.map_err(netlink_error("adding an ingress queue"))?;
        netlink
            .traffic_filter(index)
            .add()
            .parent(INGRESS)
            .protocol(ALL_PROTOCOLS.to_be())
            .redirect(to)
            .map_err(netlink_error("redirecting frames"))?
            .execute()
            .await
            .map_err(netlink_error("redirecting frames"))?;
    }
    Ok(())
}

/// The interface's routes as the plugins left them. Not all are in their results: `ptp`, for one, leads even the pod's own
/// network through its gateway.
async fn routes(netlink: &Handle, interface: u32) -> Result<(Vec<Route>, Vec<String>), JoinError> {
    let mut found = Vec::new();
    let requests = [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
    for request in requests {
        let mut answers = std::pin::pin!(netlink.route().get(request).execute());
        while let Some(route) = answers.try_next().await.map_err(netlink_error("reading routes"))? {
            if found.len() < MAX_ROUTES {
                found.extend(unicast(&route, interface));
            }
        }
    }
    // A gateway must be reachable before a route through it is added: by a longer one, or one without a gateway.
    found.sort_by_key(|route| (route.gateway.is_some(), std::cmp::Reverse(route.prefix)));
    let (connected, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|route| route.by_kernel);
    let connected = connected.into_iter().map(|route| route.cidr()).collect();
    let others = others.into_iter().map(|route| Route { destination: route.cidr(), gateway: route.gateway });
    Ok((others.collect(), connected))
}

struct Found {
    destination: IpAddr,
    prefix: u8,
    gateway: Option<IpAddr>,
    by_kernel: bool,
}

impl Found {
    fn cidr(&self) -> String {
        format!("{}/{}", self.destination, self.prefix)
    }
}

/// A route of the main table that leads out of the interface and not to the link's own addresses.
fn unicast(route: &RouteMessage, interface: u32) -> Option<Found> {
    let header = &route.header;
    if header.kind != RouteType::Unicast || header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let v4 = header.address_family == rtnetlink::packet_route::AddressFamily::Inet;
    let unspecified = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let mut found = Found {
        destination: unspecified,
        prefix: header.destination_prefix_length,
        gateway: None,
        by_kernel: header.protocol == RouteProtocol::Kernel,
    };
    let mut leads_out = false;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => leads_out = *index == interface,
            RouteAttribute::Destination(address) => found.destination = ip(address)?,
            RouteAttribute::Gateway(address) => found.gateway = Some(ip(address)?),
            _ => {}
        }
    }
    let link_local = matches!(found.destination, IpAddr::V6(ip) if ip.is_unicast_link_local() || ip.is_multicast());
    (leads_out && !link_local).then_some(found)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn netlink_error(what: &'static str) -> impl Fn(rtnetlink::Error) -> JoinError {
    move |source| JoinError::Netlink { what, source }
}
