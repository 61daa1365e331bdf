//! What makes a VM the pod's: entropy and clock of its own, its name, its settings, its network.

use std::time::Duration;

use hypernetes_guest_protocol::v1;
use k8s_cri::v1 as cri;

use crate::{
    agent::{Agent, AgentError, CALL_TIMEOUT},
    cni::{Dns, INTERFACE, PodNetwork},
    runtime::now_nanos,
};

/// What there is to say of a pod's network when its VM is given its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network<'a> {
    /// It is to have none.
    None,
    /// [`connect`] will say it.
    Unknown,
    /// The VM was connected before it was the pod's; see [`join`].
    Joined(&'a PodNetwork),
}

/// File set of what the sandbox itself puts below /etc.
pub(crate) const ETC_SET: &str = "sandbox-etc";

/// Gives it all that does not follow from a network that is not known yet. Gives its boot's id.
pub(crate) async fn give(
    agent: &Agent,
    patience: Duration,
    config: &cri::PodSandboxConfig,
    network: Network<'_>,
) -> Result<String, AgentError> {
    let mut request = v1::ConfigureSandboxRequest {
        hostname: hostname(config),
        unix_time_nanos: now_nanos().unsigned_abs(),
        entropy: rand::random::<[u8; 32]>().to_vec(),
        sysctls: config.linux.as_ref().map(|l| l.sysctls.clone()).unwrap_or_default(),
        ..Default::default()
    };
    let named = match network {
        Network::Unknown => None,
        Network::None => Some(etc_files(config, None)),
        Network::Joined(network) => Some(etc_files(config, Some(network))),
    };
    if let Some(files) = named {
        (request.file_set, request.files) = (ETC_SET.into(), files);
    }
    let configured = agent.configure(request, patience).await?;
    Ok(crate::agent::clean(&configured.boot_id))
}

/// Gives it the pod's network, and the names that belong to it.
pub(crate) async fn connect(
    agent: &Agent,
    config: &cri::PodSandboxConfig,
    network: &PodNetwork,
) -> Result<(), AgentError> {
    let mut request = interface(network);
    (request.file_set, request.files) = (ETC_SET.into(), etc_files(config, Some(network)));
    agent.configure(request, CALL_TIMEOUT).await.map(drop)
}

/// Gives a VM that has no pod yet the network that its pod will have.
pub(crate) async fn join(agent: &Agent, network: &PodNetwork) -> Result<(), AgentError> {
    agent.configure(interface(network), CALL_TIMEOUT).await.map(drop)
}

pub(crate) fn hostname(config: &cri::PodSandboxConfig) -> String {
    let name = config.metadata.as_ref().map(|m| m.name.as_str()).unwrap_or_default();
    let name = if config.hostname.is_empty() { name } else { &config.hostname };
    // Linux' limit is 64 bytes with the terminating zero.
    name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).take(63).collect()
}

fn interface(network: &PodNetwork) -> v1::ConfigureSandboxRequest {
    let interface = v1::Interface {
        mac: network.mac.clone(),
        name: INTERFACE.into(),
        addresses: network.addresses.iter().map(|a| a.cidr.clone()).collect(),
        mtu: network.mtu,
        waiting: false,
    };
    let routes = network.routes.iter().map(|wanted| v1::Route {
        destination: wanted.destination.clone(),
        gateway: wanted.gateway.map(|g| g.to_string()).unwrap_or_default(),
        interface: INTERFACE.into(),
    });
    v1::ConfigureSandboxRequest { interfaces: vec![interface], routes: routes.collect(), ..Default::default() }
}

/// The pod's own DNS settings, else the network's.
fn dns(config: &cri::PodSandboxConfig, network: Option<&PodNetwork>) -> Dns {
    match (&config.dns_config, network) {
        (Some(dns), _) if !dns.servers.is_empty() || !dns.searches.is_empty() || !dns.options.is_empty() => {
            Dns { nameservers: dns.servers.clone(), search: dns.searches.clone(), options: dns.options.clone() }
        }
        (_, Some(network)) => network.dns.clone(),
        _ => Dns::default(),
    }
}

/// /etc/hostname, /etc/hosts and /etc/resolv.conf for containers that bring none.
fn etc_files(config: &cri::PodSandboxConfig, network: Option<&PodNetwork>) -> Vec<v1::File> {
    let hostname = hostname(config);
    let one_line = |text: &String| text.replace(['\n', '\r'], " ");
    let dns = dns(config, network);
    let mut resolv = String::new();
    for server in &dns.nameservers {
        resolv += &format!("nameserver {}\n", one_line(server));
    }
    for (keyword, values) in [("search", &dns.search), ("options", &dns.options)] {
        if !values.is_empty() {
            resolv += &format!("{keyword} {}\n", values.iter().map(one_line).collect::<Vec<_>>().join(" "));
        }
    }
    let mut hosts = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for address in network.map(|n| n.addresses.as_slice()).unwrap_or_default() {
        hosts += &format!("{}\t{hostname}\n", address.ip);
    }
    [("hostname", format!("{hostname}\n")), ("hosts", hosts), ("resolv.conf", resolv)]
        .into_iter()
        .map(|(path, text)| v1::File { path: path.into(), mode: 0o644, data: text.into_bytes(), ..Default::default() })
        .collect()
}
