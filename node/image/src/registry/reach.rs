//! Which hosts a registry may be on.
//!
//! The name of an image is a tenant's, and so is what a registry of theirs redirects to; the network that it is asked from is the
//! operator's. So a registry that nobody has configured is asked at public addresses only: each address that a name leads to is
//! looked at, and only those that may be asked are connected to. What is refused looks like what is not there.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

/// Told whether there is no such host or none that may be asked.
pub(crate) const NO_HOST: &str = "no such host";

/// Where a registry's answers may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Anywhere: the operator has named it.
    Anywhere,
    /// Public addresses.
    Public,
}

impl Reach {
    /// Whether a URL may be asked, as far as its host is an address; names are looked at when they are resolved.
    pub fn allows(self, url: &Url) -> bool {
        let literal = url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
        self == Self::Anywhere || literal.is_none_or(is_public)
    }
}

/// Resolves names to public addresses only.
pub(crate) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await;
            let public: Vec<SocketAddr> =
                found.into_iter().flatten().filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err(NO_HOST.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

impl PublicOnly {
    pub fn shared() -> Arc<Self> {
        Arc::new(Self)
    }
}

/// Whether an address is one of the Internet's (IANA's registries of special-purpose addresses, RFC 6890).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || a == 0
        // Shared by providers (RFC 6598), protocols' own (RFC 6890), benchmarks' (RFC 2544), reserved.
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b))
        || a >= 240;
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let s = address.segments();
    let embedded = |high: u16, low: u16| is_public_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match s {
        // Addresses of version 4 in those of version 6: mapped, translated (RFC 6052), 6to4 (RFC 3056).
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        // Teredo, documentation.
        [0x2001, 0 | 0xdb8, ..] => false,
        // All that is given out is in 2000::/3: none of unspecified, loopback, unique local, link-local or multicast is.
        _ => s[0] & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_internets_addresses_are_public() {
        for public in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::101:101", "2002:101:101::1"]
        {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for internal in [
            "127.0.0.1",
            "127.8.9.1",
            "0.0.0.0",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::1",
        ] {
            assert!(!is_public(internal.parse().unwrap()), "{internal}");
        }
    }

    #[test]
    fn an_address_is_one_however_it_is_written() {
        for url in ["http://127.1/", "http://0x7f000001/", "http://2130706433/", "http://[::1]:5000/", "https://10.1/"]
        {
            let url: Url = url.parse().unwrap();
            assert!(!Reach::Public.allows(&url), "{url}");
            assert!(Reach::Anywhere.allows(&url), "{url}");
        }
        assert!(Reach::Public.allows(&"https://registry.example.com/".parse().unwrap()));
    }

    #[tokio::test]
    async fn names_of_internal_hosts_look_like_those_of_none() {
        let resolve = async |name: &str| {
            let resolved = PublicOnly.resolve(name.parse().unwrap()).await;
            resolved.map(|found| found.collect::<Vec<_>>()).unwrap_err().to_string()
        };
        assert_eq!(resolve("localhost").await, resolve("none.invalid").await);
    }
}
