//! Connections that are made before their pods are known, for VMs that wait.
//!
//! Running a chain of plugins takes about as long as all the rest of a pod's start. Many a chain does not ask whose the
//! sandbox is: what it makes follows from its configuration, the sandbox's id, which the VM has while it waits, and the network
//! namespace. Such a chain is run for the VM, and the pod that takes it finds it connected (docs/decisions/0025).

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{
    Cni, CniError, PodNetwork,
    config::ConfigList,
    pod::Pod,
    prepared::{Choice, PreparedTap, Style},
};

/// By this capability a plugin says that it may be run ahead of the pod, or that it may not.
const AHEAD: &str = "hypernetes.io/ahead";

/// Plugins that may unless they say otherwise: those of the reference implementation that take nothing of the pod but what is
/// passed as a capability.
const IMPERSONAL: [&str; 8] = ["bandwidth", "bridge", "firewall", "macvlan", "portmap", "ptp", "sbr", "tuning"];
/// The same of what they have addresses from. Leases (`dhcp`) would have to be renewed for nobody, and what is written into
/// a configuration (`static`) is one pod's.
const IMPERSONAL_IPAM: [&str; 2] = ["", "host-local"];

impl ConfigList {
    /// Which chain it is, if it does not ask whose the sandbox is.
    pub(super) fn ahead(&self) -> Option<u64> {
        let may = |plugin: &super::PluginConfig| match plugin.capability(AHEAD) {
            Some(says) => says,
            None => {
                let ipam = plugin.0.get("ipam").and_then(|ipam| ipam.get("type")).and_then(|kind| kind.as_str());
                IMPERSONAL.contains(&plugin.kind()) && IMPERSONAL_IPAM.contains(&ipam.unwrap_or_default())
            }
        };
        self.plugins.iter().all(may).then(|| {
            let mut hasher = DefaultHasher::new();
            serde_json::to_string(self).unwrap_or_default().hash(&mut hasher);
            hasher.finish()
        })
    }
}

impl Cni {
    /// Connects a VM that waits. After an error [`Cni::del`] is owed as after success.
    ///
    /// # Errors
    /// `Config` when its chain is not the one in force any more.
    pub(crate) async fn connect_ahead(
        &self,
        sandbox_id: &str,
        tenant: &str,
        chain: u64,
        tap: &PreparedTap,
    ) -> Result<PodNetwork, CniError> {
        let pod = Pod { sandbox_id: sandbox_id.into(), tenant: tenant.into(), ..Pod::default() };
        let list = self.load().await?.filter(|list| list.ahead() == Some(chain));
        let choice = list.map(|list| Choice { style: Style::Ahead(chain), list });
        let changed =
            || CniError::Config { path: self.config_dir.clone(), reason: "it was changed while a VM was made".into() };
        self.add(choice, &pod, Some(tap)).await?.ok_or_else(changed)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn list(plugins: Value) -> ConfigList {
        ConfigList::parse(json!({"cniVersion": "1.0.0", "name": "n", "plugins": plugins}).to_string().as_bytes())
            .unwrap()
    }

    #[test]
    fn only_a_chain_that_does_not_ask_whose_the_sandbox_is() {
        let bridge = json!({"type": "bridge", "ipam": {"type": "host-local"}});
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        assert!(list(json!([bridge, portmap])).ahead().is_some());
        assert!(list(json!([bridge, {"type": "calico"}])).ahead().is_none());
        assert!(list(json!([{"type": "bridge", "ipam": {"type": "dhcp"}}])).ahead().is_none());
        // What a plugin says of itself counts.
        assert!(list(json!([{"type": "calico", "capabilities": {AHEAD: true}}])).ahead().is_some());
        assert!(list(json!([bridge, {"type": "portmap", "capabilities": {AHEAD: false}}])).ahead().is_none());
    }

    #[test]
    fn another_configuration_is_another_chain() {
        let of = |mtu: u32| list(json!([{"type": "bridge", "mtu": mtu}])).ahead();
        assert_eq!(of(1400), of(1400));
        assert_ne!(of(1400), of(1450));
    }
}
