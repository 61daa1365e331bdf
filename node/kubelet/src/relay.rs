//! The way into tenants' networks, which whoever runs the kubelet has on this host.

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    str::FromStr,
};

use futures::future::BoxFuture;
use hypernetes_api::{ObjectName, TenantId};
use tokio::io::{AsyncRead, AsyncWrite};

/// A port of a tenant's network, and what listens there. The same address is another port's in another network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    pub tenant: TenantId,
    /// By its object's name.
    pub network: ObjectName,
    pub address: IpAddr,
    pub port: NonZeroU16,
}

impl Destination {
    /// Of what they are written as, each in its one way: `+80`, `080` and `::0` are refused. `None`: one of them is none.
    pub fn parse(tenant: &str, network: &str, address: &str, port: &str) -> Option<Self> {
        Some(Self {
            tenant: tenant.parse().ok()?,
            network: network.parse().ok()?,
            address: exact(address)?,
            port: exact(port)?,
        })
    }

    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port.get())
    }
}

fn exact<T: FromStr + Display>(text: &str) -> Option<T> {
    text.parse().ok().filter(|value: &T| value.to_string() == text)
}

/// Bytes, both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Nobody on this host has that address there.
    #[error("{0}")]
    NoPort(String),
    #[error("{0}")]
    Unreachable(String),
}

/// Connects to ports of tenants' networks that are on this host, and to nothing else.
pub trait Relay: Send + Sync {
    fn connect(&self, to: Destination) -> BoxFuture<'_, Result<Box<dyn Stream>, RelayError>>;
}

/// Leads nowhere.
#[cfg(test)]
pub struct NoRelay;

#[cfg(test)]
impl Relay for NoRelay {
    fn connect(&self, to: Destination) -> BoxFuture<'_, Result<Box<dyn Stream>, RelayError>> {
        Box::pin(async move { Err(RelayError::NoPort(to.address.to_string())) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_written_in_one_way() {
        let parse = |text: &str| match text.split('/').collect::<Vec<_>>()[..] {
            [tenant, network, address, port] => Destination::parse(tenant, network, address, port),
            _ => panic!("{text}"),
        };
        let to = parse("acme/default/10.244.0.2/8443").unwrap();
        assert_eq!((to.tenant.as_str(), to.network.as_str()), ("acme", "default"));
        assert_eq!(to.socket(), "10.244.0.2:8443".parse().unwrap());
        assert_eq!(parse("acme/default/fd00::2/1").unwrap().socket(), "[fd00::2]:1".parse().unwrap());
        for wrong in [
            "//10.0.0.1/1",
            "ACME/n/10.0.0.1/1",
            "*/n/10.0.0.1/1",
            "acme/../10.0.0.1/1",
            "acme/a%2fb/10.0.0.1/1",
            "acme/n/10.0.0.01/1",
            "acme/n/10.0.1/1",
            "acme/n/167772161/1",
            "acme/n/0xa000001/1",
            "acme/n/localhost/1",
            "acme/n/10.0.0.1:80/1",
            "acme/n/[fd00::2]/1",
            "acme/n/FD00::2/1",
            "acme/n/fd00::0:2/1",
            "acme/n/fe80::1%eth0/1",
            "acme/n/ 10.0.0.1/1",
            "acme/n/10.0.0.1/0",
            "acme/n/10.0.0.1/+80",
            "acme/n/10.0.0.1/080",
            "acme/n/10.0.0.1/65536",
            "acme/n/10.0.0.1/-1",
            "acme/n/10.0.0.1/http",
            "acme/n/10.0.0.1/",
            "acme/n/10.0.0.1/٨",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
