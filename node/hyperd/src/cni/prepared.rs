//! Taps that are made before their pods are known, so that a VM can be attached to them already.

use std::path::PathBuf;

use hypernetes_hypervisor::tap;
use serde_json::json;

use super::{Cni, CniError, config::ConfigList, join, netns, pod::TAP};

/// What VMs of a plugin that takes taps wait in. Nothing in it has an address, and nothing is forwarded.
const NURSERY: &str = "nursery";
/// An interface's name has at most 15 bytes.
const NAME_LENGTH: usize = 14;

/// How pods are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Style {
    /// To an interface that a chain of plugins makes in a namespace of the pod's own.
    Joined,
    /// To a tap that the plugin takes or makes.
    Tap,
}

/// The network that one pod is connected to, whatever is configured by then.
#[derive(Debug)]
pub(crate) struct Choice {
    pub style: Style,
    pub(super) list: ConfigList,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PreparedTap {
    pub style: Style,
    pub name: String,
    pub netns: PathBuf,
}

impl Cni {
    /// What a pod is connected to that begins now; none: nothing.
    pub(crate) async fn choose(&self) -> Result<Option<Choice>, CniError> {
        let list = self.load().await?;
        Ok(list.map(|list| Choice { style: if list.has_capability(TAP) { Style::Tap } else { Style::Joined }, list }))
    }

    /// Makes a tap. It stays when its VM ends: a VM that is hibernated comes back to it.
    pub(crate) async fn prepare(&self, sandbox_id: &str, style: Style) -> Result<PreparedTap, CniError> {
        let (netns, name) = match style {
            Style::Joined => (self.netns_dir.join(sandbox_id), join::TAP.to_owned()),
            Style::Tap => (self.netns_dir.join(NURSERY), nursed(sandbox_id)),
        };
        if style == Style::Joined || !netns::exists(&netns) {
            netns::make(&netns).await.map_err(CniError::file("making the network namespace", &netns))?;
        }
        let tap = name.clone();
        let made = netns::inside(&netns, move || tap::create(&tap)).await;
        made.map_err(CniError::file("making a tap in", &netns))?;
        Ok(PreparedTap { style, name, netns })
    }

    /// Removes the tap of a VM that has ended, if no plugin took it. Those in a pod's own namespace go with that; what is
    /// forgotten goes with the next start, when the nursery is made anew.
    pub(crate) async fn remove_tap(&self, sandbox_id: &str) {
        let nursery = self.netns_dir.join(NURSERY);
        if !netns::exists(&nursery) {
            return;
        }
        let name = nursed(sandbox_id);
        let removed = move || match nix::net::if_::if_nametoindex(name.as_str()) {
            Ok(_) => tap::remove(&name),
            Err(_) => Ok(()),
        };
        if let Err(error) = netns::inside(&nursery, removed).await {
            tracing::warn!(sandbox = sandbox_id, %error, "a tap was left behind");
        }
    }

    /// Undoes [`Self::prepare`] for a sandbox that was not connected, and whose VM has ended.
    pub(crate) async fn give_up(&self, sandbox_id: &str) {
        let path = self.netns_dir.join(sandbox_id);
        if let Err(error) = netns::remove(&path).await {
            tracing::warn!(path = %path.display(), %error, "a network namespace was left behind");
        }
        self.remove_tap(sandbox_id).await;
    }

    /// Removes what VMs waited in, when none does any more.
    pub(crate) async fn close_nursery(&self) {
        let path = self.netns_dir.join(NURSERY);
        if let Err(error) = netns::remove(&path).await {
            tracing::warn!(path = %path.display(), %error, "a network namespace was left behind");
        }
    }

    /// Whether the pod's network goes through the tap: a plugin may not know that it is given one, and make its own.
    pub(crate) async fn took(&self, tap: &PreparedTap) -> bool {
        let name = tap.name.clone();
        let left = netns::inside(&tap.netns, move || Ok(nix::net::if_::if_nametoindex(name.as_str()).is_ok()));
        tap.style == Style::Joined || !left.await.unwrap_or(true)
    }
}

/// Name of a sandbox's tap in the nursery.
fn nursed(sandbox_id: &str) -> String {
    format!("vm{sandbox_id}").chars().take(NAME_LENGTH).collect()
}

impl PreparedTap {
    /// What a plugin is told that takes it.
    pub(super) fn offer(&self) -> serde_json::Value {
        json!({"name": self.name, "netns": self.netns})
    }
}
