//! What plugins are told of a pod: `CNI_ARGS`, and `runtimeConfig` for those that declare the capability.

use k8s_cri::v1 as cri;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{CniError, config::ConfigList};

/// Limits of the pod's bandwidth, as Kubernetes has them: bits per second, as a quantity.
pub(crate) const INGRESS_BANDWIDTH: &str = "kubernetes.io/ingress-bandwidth";
pub(crate) const EGRESS_BANDWIDTH: &str = "kubernetes.io/egress-bandwidth";
/// Addresses that the pod asks for, separated by commas; heard by plugins with the capability `ips` only.
pub(crate) const IPS: &str = "network.hypernetes.io/ips";
/// The hardware address that the pod asks for; heard by plugins with the capability `mac` only.
pub(crate) const MAC: &str = "network.hypernetes.io/mac";

/// Declared by a plugin that makes a tap for a VM by itself: then there is no network namespace of the pod, and nothing
/// between that tap and the VM.
pub(crate) const TAP: &str = "hypernetes.io/tap";

/// Whose network it is, and what the pod wants of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pod {
    pub sandbox_id: String,
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub tenant: String,
    /// By capability.
    pub wishes: Map<String, Value>,
}

impl Pod {
    /// # Errors
    /// `Pod` when an annotation or a port mapping cannot be understood.
    pub(crate) fn new(sandbox_id: &str, config: &cri::PodSandboxConfig) -> Result<Self, CniError> {
        let metadata = config.metadata.clone().unwrap_or_default();
        Ok(Self {
            sandbox_id: sandbox_id.into(),
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            tenant: config.annotations.get(crate::TENANT_ANNOTATION).cloned().unwrap_or_default(),
            wishes: wishes(config).map_err(CniError::Pod)?,
        })
    }

    /// `CNI_ARGS`: ";" separates arguments; Kubernetes names have none, anything else is kept from adding arguments of its
    /// own.
    pub(crate) fn arguments(&self) -> String {
        let clean = |text: &str| text.replace([';', '=', '\0'], "_");
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={};HYPERNETES_TENANT={}",
            clean(&self.namespace),
            clean(&self.name),
            self.sandbox_id,
            clean(&self.uid),
            clean(&self.tenant)
        )
    }

    /// Refuses what the chain would pass over in silence, and the pod would rely on.
    pub(crate) fn check(&self, list: Option<&ConfigList>) -> Result<(), CniError> {
        if !self.wishes.contains_key("portMappings") || list.is_some_and(|list| list.has_capability("portMappings")) {
            return Ok(());
        }
        Err(CniError::Pod(
            "hostPort is not possible here: no plugin of the network has the capability `portMappings`".into(),
        ))
    }

    /// Whether the chain would connect any other pod in the same way.
    pub(super) fn is_like_any_other(&self, list: &ConfigList) -> bool {
        // Port mappings that nobody hears are refused.
        self.wishes.keys().all(|wish| wish != "portMappings" && !list.has_capability(wish))
    }
}

fn wishes(config: &cri::PodSandboxConfig) -> Result<Map<String, Value>, String> {
    let mut wishes = Map::new();
    let mappings = config.port_mappings.iter().filter(|m| m.host_port != 0).map(port_mapping);
    let mappings = mappings.collect::<Result<Vec<_>, _>>()?;
    if !mappings.is_empty() {
        wishes.insert("portMappings".into(), mappings.into());
    }
    let annotation = |name: &str| config.annotations.get(name).map(|text| text.trim());
    let mut bandwidth = Map::new();
    for (name, rate, burst) in
        [(INGRESS_BANDWIDTH, "ingressRate", "ingressBurst"), (EGRESS_BANDWIDTH, "egressRate", "egressBurst")]
    {
        let Some(text) = annotation(name) else { continue };
        // Kubernetes' own bounds.
        let bits = quantity(text).filter(|bits| (1_000..=1_000_000_000_000_000).contains(bits));
        let bits = bits.ok_or_else(|| format!("the annotation {name}: {text:?} is not a rate from 1k to 1P"))?;
        bandwidth.insert(rate.into(), bits.into());
        bandwidth.insert(burst.into(), burst_of(bits).into());
    }
    if !bandwidth.is_empty() {
        wishes.insert("bandwidth".into(), bandwidth.into());
    }
    if let Some(dns) = &config.dns_config {
        let dns = json!({"servers": dns.servers, "searches": dns.searches, "options": dns.options});
        wishes.insert("dns".into(), dns);
    }
    if let Some(text) = annotation(IPS) {
        let ips: Vec<&str> = text.split(',').map(str::trim).collect();
        let is_address =
            |text: &&str| super::result::parse_cidr(text).is_ok() || text.parse::<std::net::IpAddr>().is_ok();
        if ips.len() > 16 || !ips.iter().all(is_address) {
            return Err(format!("the annotation {IPS} is not a list of addresses"));
        }
        wishes.insert("ips".into(), json!(ips));
    }
    if let Some(text) = annotation(MAC) {
        if !super::result::is_mac(text) {
            return Err(format!("the annotation {MAC} is not a hardware address"));
        }
        wishes.insert("mac".into(), text.into());
    }
    wishes.insert(TAP.into(), true.into());
    Ok(wishes)
}

fn port_mapping(mapping: &cri::PortMapping) -> Result<Value, String> {
    let port = |port: i32| u16::try_from(port).ok().filter(|port| *port != 0);
    let (host, container) = (port(mapping.host_port), port(mapping.container_port));
    let (Some(host), Some(container)) = (host, container) else {
        return Err(format!(
            "the port mapping {} to {} is not from a port to a port",
            mapping.host_port, mapping.container_port
        ));
    };
    let protocol = match mapping.protocol() {
        cri::Protocol::Tcp => "tcp",
        cri::Protocol::Udp => "udp",
        cri::Protocol::Sctp => "sctp",
    };
    if !mapping.host_ip.is_empty() && mapping.host_ip.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("the hostIP of port {host} is not an address"));
    }
    Ok(json!({"hostPort": host, "containerPort": container, "protocol": protocol, "hostIP": mapping.host_ip}))
}

/// Bits that may pass at once: a tenth of a second's, and no less than two of the largest packets.
fn burst_of(rate: u64) -> u64 {
    (rate / 10).clamp(2 * 8 * (64 << 10), u64::from(u32::MAX))
}

/// A Kubernetes quantity, rounded up: `10M`, `1.5Gi`, `1e6`.
fn quantity(text: &str) -> Option<u64> {
    const SUFFIXES: [(&str, f64); 13] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("m", 1e-3),
        ("E", 1e18),
        ("", 1.0),
    ];
    let (number, factor) = SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, factor)))?;
    let plain = number.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    let value = number.parse::<f64>().ok().filter(|_| plain)? * factor;
    // Beyond 2^53 a float is no longer exact; nothing has such a bandwidth.
    (0.0..9e15).contains(&value).then_some(value.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn annotated(annotations: &[(&str, &str)]) -> cri::PodSandboxConfig {
        let annotations = annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        cri::PodSandboxConfig { annotations, ..Default::default() }
    }

    #[test]
    fn arguments_cannot_be_smuggled() {
        let pod = Pod { name: "web;EVIL=1".into(), tenant: "t".into(), ..Default::default() };
        assert!(pod.arguments().contains(";K8S_POD_NAME=web_EVIL_1;"), "{}", pod.arguments());
        assert!(pod.arguments().ends_with("HYPERNETES_TENANT=t"));
    }

    #[test]
    fn wishes_of_a_pod() {
        let mut config =
            annotated(&[(INGRESS_BANDWIDTH, "10M"), (IPS, "10.0.0.5, fd00::5/64"), (MAC, "02:00:00:00:00:01")]);
        let mapping = |host_port| cri::PortMapping { host_port, container_port: 80, ..Default::default() };
        config.port_mappings = vec![mapping(8080), mapping(0)];
        let wishes = Pod::new("s", &config).unwrap().wishes;
        assert_eq!(
            wishes["portMappings"],
            json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}])
        );
        assert_eq!(wishes["bandwidth"], json!({"ingressRate": 10_000_000, "ingressBurst": 1_048_576}));
        assert_eq!(wishes["ips"], json!(["10.0.0.5", "fd00::5/64"]));
        for wrong in [(EGRESS_BANDWIDTH, "fast"), (EGRESS_BANDWIDTH, "1"), (IPS, "x"), (MAC, "x")] {
            assert!(Pod::new("s", &annotated(&[wrong])).is_err(), "{wrong:?}");
        }
        config.port_mappings = vec![mapping(70_000)];
        assert!(Pod::new("s", &config).is_err());
    }

    #[test]
    fn a_host_port_that_nobody_would_make_is_refused() {
        let list = |capabilities: &str| {
            let text = format!(r#"{{"cniVersion":"1.0.0","name":"n","type":"x"{capabilities}}}"#);
            ConfigList::parse(text.as_bytes()).unwrap()
        };
        let mapping = cri::PortMapping { host_port: 80, container_port: 80, ..Default::default() };
        let config = cri::PodSandboxConfig { port_mappings: vec![mapping], ..Default::default() };
        let pod = Pod::new("s", &config).unwrap();
        assert!(pod.check(Some(&list(""))).unwrap_err().to_string().contains("hostPort"));
        pod.check(Some(&list(r#","capabilities":{"portMappings":true}"#))).unwrap();
        assert!(pod.check(None).is_err());
    }

    #[test]
    fn quantities() {
        let known = [("1", 1), ("1k", 1000), ("10M", 10_000_000), ("1.5Gi", 1_610_612_736), ("1e6", 1_000_000)];
        for (text, value) in known {
            assert_eq!(quantity(text), Some(value), "{text}");
        }
        for text in ["", "M", "x", "-1", "1 M", "inf", "NaN", "1e99", "1Mb"] {
            assert_eq!(quantity(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn bursts_fit_the_plugin(text in "[0-9.eE+-]{0,8}(k|M|G|Ki|Mi|P)?") {
            if let Some(rate) = quantity(&text) {
                let burst = burst_of(rate);
                prop_assert!((1 << 20..=u64::from(u32::MAX)).contains(&burst));
            }
        }
    }
}
