//! What ADD answers: the results of CNI 0.3.0 to 1.1.0, which differ in nothing that we need.

use std::{net::IpAddr, path::Path};

use serde::Deserialize;
use serde_json::Value;

use super::{Address, Dns, Route};

/// Most interfaces, addresses or routes of one pod.
const MAX_ENTRIES: usize = 64;
/// Most entries of a kind in the DNS settings.
const MAX_DNS: usize = 32;
/// Linux' IFNAMSIZ without the terminating zero.
const MAX_INTERFACE_NAME: usize = 15;

/// A result, bounded and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AddResult {
    pub interfaces: Vec<Interface>,
    /// With the index of the interface that has it; none: the pod's.
    pub addresses: Vec<(Option<usize>, Address)>,
    pub routes: Vec<Route>,
    pub dns: Dns,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub name: String,
    /// In lower case; empty: the plugin does not say.
    pub mac: String,
    /// 0: the plugin does not say.
    pub mtu: u32,
    /// The network namespace it is in; empty: the host's.
    pub sandbox: String,
}

impl AddResult {
    pub(crate) fn parse(result: &Value) -> Result<Self, String> {
        let raw = Raw::deserialize(result).map_err(|e| e.to_string())?;
        if raw.interfaces.len().max(raw.ips.len()).max(raw.routes.len()) > MAX_ENTRIES {
            return Err("too many interfaces, addresses or routes".into());
        }
        let interfaces = raw.interfaces.into_iter().map(Interface::try_from).collect::<Result<Vec<_>, _>>()?;
        let mut addresses = Vec::new();
        for RawIp { address, gateway, interface } in raw.ips {
            let ip = parse_cidr(&address)?;
            // Some plugins write -1 for "none".
            let interface = interface.and_then(|index| usize::try_from(index).ok());
            if interface.is_some_and(|index| index >= interfaces.len()) {
                return Err(format!("the address {address} is on an interface that is not there"));
            }
            addresses.push((interface, Address { cidr: address, ip, gateway }));
        }
        let mut routes = Vec::new();
        for RawRoute { dst, gw } in raw.routes {
            parse_cidr(&dst)?;
            routes.push(Route { destination: dst, gateway: gw });
        }
        Ok(Self { interfaces, addresses, routes, dns: raw.dns.try_into()? })
    }

    /// The interface that stands for the pod's, with its index: in that namespace and of that name.
    pub(crate) fn interface(&self, netns: &Path, name: &str) -> Option<(usize, &Interface)> {
        let inside = |i: &Interface| !i.sandbox.is_empty() && Path::new(&i.sandbox) == netns && i.name == name;
        self.interfaces.iter().enumerate().find(|(_, interface)| inside(interface))
    }

    /// Addresses of that interface, and those that are of none.
    pub(crate) fn addresses_of(&self, index: usize) -> Vec<Address> {
        let fit = self.addresses.iter().filter(|(interface, _)| interface.is_none_or(|i| i == index));
        fit.map(|(_, address)| address.clone()).collect()
    }
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    interfaces: Vec<RawInterface>,
    #[serde(default)]
    ips: Vec<RawIp>,
    #[serde(default)]
    routes: Vec<RawRoute>,
    #[serde(default)]
    dns: RawDns,
}

#[derive(Deserialize)]
struct RawInterface {
    name: String,
    #[serde(default)]
    mac: String,
    #[serde(default)]
    mtu: u32,
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct RawIp {
    address: String,
    #[serde(default, deserialize_with = "address_or_nothing")]
    gateway: Option<IpAddr>,
    #[serde(default)]
    interface: Option<i64>,
}

#[derive(Deserialize)]
struct RawRoute {
    dst: String,
    #[serde(default, deserialize_with = "address_or_nothing")]
    gw: Option<IpAddr>,
}

#[derive(Default, Deserialize)]
struct RawDns {
    #[serde(default)]
    nameservers: Vec<String>,
    #[serde(default)]
    domain: String,
    #[serde(default)]
    search: Vec<String>,
    #[serde(default)]
    options: Vec<String>,
}

/// Go's libraries write "" for an address that is not there.
fn address_or_nothing<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<IpAddr>, D::Error> {
    let text = Option::<String>::deserialize(from)?.unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| serde::de::Error::custom(format!("{text:?} is not an address")))
}

impl TryFrom<RawInterface> for Interface {
    type Error = String;

    fn try_from(raw: RawInterface) -> Result<Self, String> {
        if raw.name.is_empty() || raw.name.len() > MAX_INTERFACE_NAME || raw.name.contains(['/', '\0']) {
            return Err(format!("{:?} is not the name of an interface", short(&raw.name)));
        }
        if !raw.mac.is_empty() && !is_mac(&raw.mac) {
            return Err(format!("{:?} is not a hardware address", short(&raw.mac)));
        }
        Ok(Self { name: raw.name, mac: raw.mac.to_ascii_lowercase(), mtu: raw.mtu, sandbox: raw.sandbox })
    }
}

impl TryFrom<RawDns> for Dns {
    type Error = String;

    fn try_from(raw: RawDns) -> Result<Self, String> {
        let mut search = raw.search;
        // resolv.conf: the local domain is searched when nothing else is said.
        if search.is_empty() && !raw.domain.is_empty() {
            search.push(raw.domain);
        }
        let dns = Self { nameservers: raw.nameservers, search, options: raw.options };
        let lists = [&dns.nameservers, &dns.search, &dns.options];
        // They become lines of a file in the guest.
        let wrong = |text: &&String| text.len() > 253 || text.contains(char::is_control);
        if lists.iter().any(|list| list.len() > MAX_DNS) || lists.into_iter().flatten().any(|text| wrong(&text)) {
            return Err("the DNS settings are too large, or have control characters".into());
        }
        Ok(dns)
    }
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

pub(super) fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    parts.len() == 6 && parts.iter().all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The address of `10.244.0.5/16`, whose prefix length is right.
pub(super) fn parse_cidr(text: &str) -> Result<IpAddr, String> {
    let parse = || {
        let (ip, prefix) = text.split_once('/')?;
        let (ip, prefix): (IpAddr, u8) = (ip.parse().ok()?, prefix.parse().ok()?);
        (prefix <= if ip.is_ipv4() { 32 } else { 128 }).then_some(ip)
    };
    parse().ok_or_else(|| format!("{:?} is not an address with a prefix length", short(text)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn results_of_old_and_new_versions() {
        // 0.3.1 and 0.4.0 say each address' IP version; a gateway may be missing or "".
        let old = json!({"cniVersion": "0.4.0",
            "interfaces": [{"name": "cni0", "mac": "8A:00:00:00:00:01"},
                {"name": "eth0", "mac": "8A:00:00:00:00:02", "sandbox": "/n/s1"}],
            "ips": [{"version": "4", "address": "10.1.0.2/16", "gateway": "10.1.0.1", "interface": 1},
                {"version": "6", "address": "fd00::2/64", "gateway": "", "interface": 1},
                {"version": "4", "address": "10.1.0.1/16", "interface": 0}],
            "routes": [{"dst": "0.0.0.0/0"}], "dns": {"nameservers": ["10.0.0.10"], "domain": "a.test"}});
        let result = AddResult::parse(&old).unwrap();
        let (index, interface) = result.interface(Path::new("/n/s1"), "eth0").unwrap();
        assert_eq!((index, interface.mac.as_str()), (1, "8a:00:00:00:00:02"));
        let addresses = result.addresses_of(index);
        assert_eq!(addresses.iter().map(|a| a.cidr.as_str()).collect::<Vec<_>>(), ["10.1.0.2/16", "fd00::2/64"]);
        assert_eq!(addresses[1].gateway, None);
        assert_eq!(result.dns.search, ["a.test"]);
        let new = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "mtu": 9000, "sandbox": "/n/s1"}],
            "ips": [{"address": "10.1.0.2/16"}], "routes": [{"dst": "::/0", "gw": "fd00::1", "mtu": 1400}]});
        let result = AddResult::parse(&new).unwrap();
        assert_eq!(result.interfaces[0].mtu, 9000);
        assert_eq!(result.routes[0].gateway.unwrap().to_string(), "fd00::1");
        assert!(result.interface(Path::new("/n/s2"), "eth0").is_none());
    }

    #[test]
    fn hostile_results_are_refused() {
        for result in [
            json!({"interfaces": [{"name": "a/b"}]}),
            json!({"interfaces": [{"name": "averyveryverylongname"}]}),
            json!({"interfaces": [{"name": "tap0", "mac": "x"}]}),
            json!({"ips": [{"address": "10.0.0.1/33"}]}),
            json!({"ips": [{"address": "10.0.0.1/8", "interface": 1}]}),
            json!({"ips": [{"address": "10.0.0.1/8", "gateway": "x"}]}),
            json!({"routes": [{"dst": "everywhere"}]}),
            json!({"dns": {"search": ["a\nnameserver 6.6.6.6"]}}),
            json!({"ips": vec![json!({"address": "10.0.0.1/8"}); 65]}),
        ] {
            assert!(AddResult::parse(&result).is_err(), "{result}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_bounded(
            name in ".{0,20}", mac in "[0-9a-fA-F:]{0,18}", address in "[0-9a-f:./]{0,24}", index in -2_i64..4, search in ".{0,9}"
        ) {
            let result = json!({"interfaces": [{"name": name, "mac": mac}],
                "ips": [{"address": address, "interface": index}], "dns": {"search": [search]}});
            if let Ok(result) = AddResult::parse(&result) {
                prop_assert!(result.interfaces[0].name.len() <= MAX_INTERFACE_NAME);
                prop_assert!(result.addresses.iter().all(|(index, _)| index.is_none_or(|i| i == 0)));
                prop_assert!(!result.dns.search[0].contains('\n'));
            }
        }
    }
}
