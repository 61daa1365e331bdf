//! The pod's network devices, addresses and routes, by rtnetlink(7).

use std::{
    fs, io,
    net::IpAddr,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use futures::TryStreamExt;
use hypernetes_guest_protocol::v1;
use nix::libc::EEXIST;
use rtnetlink::{
    Error, Handle, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressHeaderFlags, AddressScope},
        link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
        route::RouteScope,
    },
};

const LOOPBACK: &str = "lo";
static LOOPBACK_IS_UP: AtomicBool = AtomicBool::new(false);

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("netlink: {0}")]
    Netlink(#[from] Error),
    #[error("opening netlink: {0}")]
    Open(#[from] io::Error),
    #[error("{path}: {source}")]
    Setting { path: PathBuf, source: io::Error },
    #[error("there is no interface {0}")]
    NoInterface(String),
    #[error("{0:?} is not an address in CIDR notation")]
    Address(String),
}

/// An address with the length of its network's prefix.
type Cidr = (IpAddr, u8);

/// Brings devices and routes to what the request says. May be repeated, also with another address of the device.
pub async fn configure(request: &v1::ConfigureSandboxRequest) -> Result<(), NetworkError> {
    if request.interfaces.is_empty() && request.routes.is_empty() && LOOPBACK_IS_UP.load(Ordering::Relaxed) {
        return Ok(());
    }
    let (connection, netlink, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let result = apply(&netlink, request).await;
    connection.abort();
    result
}

async fn apply(netlink: &Handle, request: &v1::ConfigureSandboxRequest) -> Result<(), NetworkError> {
    let links = netlink.link().get().set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats]);
    let links: Vec<LinkMessage> = links.execute().try_collect().await?;
    let mut devices: Vec<Device> = links.iter().map(Device::from).collect();
    if let Some(loopback) = devices.iter_mut().find(|device| device.name == LOOPBACK && !device.is_up) {
        netlink.link().set(LinkUnspec::new_with_index(loopback.index).up().build()).execute().await?;
    }
    LOOPBACK_IS_UP.store(true, Ordering::Relaxed);
    for interface in &request.interfaces {
        let mac = parse_mac(&interface.mac).ok_or_else(|| NetworkError::NoInterface(interface.mac.clone()))?;
        let device = select(&mut devices, &mac).ok_or_else(|| NetworkError::NoInterface(interface.mac.clone()))?;
        bring_up(netlink, device, interface, mac).await?;
    }
    for wanted in &request.routes {
        let device = devices.iter().find(|device| device.name == wanted.interface);
        let device = device.ok_or_else(|| NetworkError::NoInterface(wanted.interface.clone()))?;
        route(netlink, device, wanted).await?;
    }
    Ok(())
}

struct Device {
    index: u32,
    name: String,
    mac: Vec<u8>,
    is_up: bool,
    /// It stands for hardware: it is neither the loopback nor made by software, as tunnels and bridges are.
    is_hardware: bool,
}

impl From<&LinkMessage> for Device {
    fn from(link: &LinkMessage) -> Self {
        let mut device = Self {
            index: link.header.index,
            name: String::new(),
            mac: Vec::new(),
            is_up: link.header.flags.contains(LinkFlags::Up),
            is_hardware: link.header.link_layer_type == LinkLayerType::Ether,
        };
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => device.name.clone_from(name),
                LinkAttribute::Address(bytes) => device.mac.clone_from(bytes),
                LinkAttribute::LinkInfo(infos) if infos.iter().any(|info| matches!(info, LinkInfo::Kind(_))) => {
                    device.is_hardware = false;
                }
                _ => {}
            }
        }
        device
    }
}

/// The device of that address, or the only one that there is: a copied VM starts with the address of what it was copied from.
fn select<'a>(devices: &'a mut [Device], mac: &[u8]) -> Option<&'a mut Device> {
    let known = devices.iter().position(|device| device.mac == mac);
    let mut hardware = devices.iter().enumerate().filter(|(_, device)| device.is_hardware).map(|(at, _)| at);
    let only = hardware.next().filter(|_| hardware.next().is_none());
    known.or(only).map(|at| &mut devices[at])
}

async fn bring_up(
    netlink: &Handle,
    device: &mut Device,
    wanted: &v1::Interface,
    mac: Vec<u8>,
) -> Result<(), NetworkError> {
    let moves = device.mac != mac;
    let renames = !wanted.name.is_empty() && device.name != wanted.name;
    let waited = device.is_up && !renames && !makes_link_local(&device.name)?;
    // While it is up it keeps its name, and the link-local address (RFC 4291) that it has of its old one.
    if device.is_up && !waited && (moves || renames || wanted.waiting) {
        netlink.link().set(LinkUnspec::new_with_index(device.index).down().build()).execute().await?;
        device.is_up = false;
    }
    let mut up = LinkUnspec::new_with_index(device.index).up();
    if moves {
        up = up.address(mac.clone());
    }
    if renames {
        up = up.name(wanted.name.clone());
    }
    if wanted.mtu > 0 {
        up = up.mtu(wanted.mtu);
    }
    if wanted.waiting {
        make_link_local(&device.name, false)?;
    }
    netlink.link().set(up.build()).execute().await?;
    (device.mac, device.is_up) = (mac, true);
    if renames {
        device.name.clone_from(&wanted.name);
    }
    if wanted.waiting {
        return remove_addresses(netlink, device, &[]).await;
    }
    let addresses: Vec<Cidr> = wanted.addresses.iter().map(|text| parse_cidr(text)).collect::<Result<_, _>>()?;
    if waited {
        // It had no address.
        make_link_local(&device.name, true)?;
    } else {
        remove_addresses(netlink, device, &addresses).await?;
    }
    for (ip, prefix) in addresses {
        let mut add = netlink.address().add(device.index, ip, prefix);
        if ip.is_ipv6() {
            // The network's side knows that it is nobody else's; asking around would take a second in which it is of no use.
            add.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        present(add.execute().await)?;
    }
    Ok(())
}

/// Whether a device makes itself a link-local address when it is up: `addr_gen_mode` (Linux, ip-sysctl.rst) is not "none".
/// Without IPv6 it does not.
fn makes_link_local(device: &str) -> Result<bool, NetworkError> {
    let path = link_local_mode(device);
    match fs::read_to_string(&path) {
        Ok(mode) => Ok(mode.trim() != "1"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(NetworkError::Setting { path, source }),
    }
}

/// It is made at once, of the hardware address, where the device is up.
fn make_link_local(device: &str, makes: bool) -> Result<(), NetworkError> {
    let path = link_local_mode(device);
    match fs::write(&path, if makes { "0" } else { "1" }) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(NetworkError::Setting { path, source }),
        _ => Ok(()),
    }
}

fn link_local_mode(device: &str) -> PathBuf {
    PathBuf::from(format!("/proc/sys/net/ipv6/conf/{device}/addr_gen_mode"))
}

/// Takes from a device what an earlier configuration gave it and this one does not; its routes go with its addresses.
async fn remove_addresses(netlink: &Handle, device: &Device, wanted: &[Cidr]) -> Result<(), NetworkError> {
    let mut found = netlink.address().get().set_link_index_filter(device.index).execute();
    let mut surplus = Vec::new();
    while let Some(address) = found.try_next().await? {
        let has = |attribute: &AddressAttribute| match attribute {
            AddressAttribute::Address(ip) => wanted.contains(&(*ip, address.header.prefix_len)),
            _ => false,
        };
        if address.header.scope == AddressScope::Universe && !address.attributes.iter().any(has) {
            surplus.push(address);
        }
    }
    for address in surplus {
        netlink.address().del(address).execute().await?;
    }
    Ok(())
}

async fn route(netlink: &Handle, device: &Device, wanted: &v1::Route) -> Result<(), NetworkError> {
    let (destination, prefix) = parse_cidr(&wanted.destination)?;
    let builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(destination, prefix)
        .map_err(|_| NetworkError::Address(wanted.destination.clone()))?
        .output_interface(device.index);
    let builder = if wanted.gateway.is_empty() {
        // Else the kernel finds no gateway behind it.
        builder.scope(RouteScope::Link)
    } else {
        let wrong = || NetworkError::Address(wanted.gateway.clone());
        builder.gateway(wanted.gateway.parse().map_err(|_| wrong())?).map_err(|_| wrong())?
    };
    Ok(present(netlink.route().add(builder.build()).execute().await)?)
}

fn parse_mac(text: &str) -> Option<Vec<u8>> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.filter(|bytes| bytes.len() == 6)
}

/// That it is there already is what was wanted.
fn present(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::NetlinkError(message)) if message.raw_code() == -EEXIST => Ok(()),
        other => other,
    }
}

fn parse_cidr(text: &str) -> Result<Cidr, NetworkError> {
    let wrong = || NetworkError::Address(text.into());
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    Ok((address.parse().map_err(|_| wrong())?, prefix.parse().map_err(|_| wrong())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_selected_by_its_address_or_by_being_the_only_one() {
        let device = |name: &str, last: u8, is_hardware| Device {
            index: u32::from(last),
            name: name.into(),
            mac: vec![2, 0, 0, 0, 0, last],
            is_up: false,
            is_hardware,
        };
        let selected = |devices: &mut [Device], last: u8| {
            select(devices, &[2, 0, 0, 0, 0, last]).map(|device| device.name.clone()).unwrap_or_default()
        };
        let mut one = [device(LOOPBACK, 0, false), device("eth0", 1, true), device("tunl0", 9, false)];
        assert_eq!(selected(&mut one, 1), "eth0");
        assert_eq!(selected(&mut one, 7), "eth0");
        let mut two = [device("eth0", 1, true), device("eth1", 2, true)];
        assert_eq!(selected(&mut two, 2), "eth1");
        assert_eq!(selected(&mut two, 7), "");
    }

    #[test]
    fn addresses_have_their_forms() {
        assert_eq!(parse_mac("52:54:00:ab:CD:01"), Some(vec![0x52, 0x54, 0, 0xab, 0xcd, 1]));
        assert_eq!(parse_mac("52:54:00:ab:CD"), None);
        assert_eq!(parse_cidr("10.0.0.1/24").unwrap(), ("10.0.0.1".parse().unwrap(), 24));
        assert!(parse_cidr("10.0.0.1").is_err());
        assert!(parse_cidr("10.0.0.1/300").is_err());
    }
}
