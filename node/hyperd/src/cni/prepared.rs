//! Taps that are made before their pods are known, so that a VM can be attached to them already.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use hypernetes_hypervisor::{Nic, tap};
use k8s_cri::v1 as cri;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Cni, CniError, PodNetwork,
    config::ConfigList,
    join, netns,
    pod::{Pod, TAP},
};

/// What VMs of a plugin that takes taps wait in. Nothing in it has an address, and nothing is forwarded.
const NURSERY: &str = "nursery";
/// An interface's name has at most 15 bytes.
const NAME_LENGTH: usize = 14;

/// How pods are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Style {
    /// To an interface that a chain of plugins makes in a namespace of the pod's own.
    Joined,
    /// The same, by a chain that makes it before the pod is known: one that waits is connected.
    Ahead(u64),
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
    /// Tells the namespace from a later one at its path.
    inode: u64,
}

/// What is remembered of a tap for as long as it may be in the namespace, which may be a plugin's.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TapRecord {
    name: String,
    netns: PathBuf,
}

impl Cni {
    /// What a pod is connected to that begins now; none: nothing.
    ///
    /// # Errors
    /// `Config` when what is configured is no network, `Pod` when the pod's wishes cannot be understood.
    pub(crate) async fn choose(&self, config: &cri::PodSandboxConfig) -> Result<Option<Choice>, CniError> {
        let Some(list) = self.load().await? else { return Ok(None) };
        let style = if list.has_capability(TAP) {
            Style::Tap
        } else if let Some(chain) = list.ahead()
            && Pod::new("", config)?.is_like_any_other(&list)
        {
            Style::Ahead(chain)
        } else {
            Style::Joined
        };
        Ok(Some(Choice { style, list }))
    }

    /// Makes a tap. It stays when its VM ends: a VM that is hibernated comes back to it. For a plugin that takes taps it is made
    /// where the last one had to be, if that is known and still there: moving it would take the kernel some time.
    pub(crate) async fn prepare(
        &self,
        sandbox_id: &str,
        style: Style,
        last: Option<&Path>,
    ) -> Result<PreparedTap, CniError> {
        let (netns, name) = match (style, last.filter(|path| netns::exists(path))) {
            (Style::Joined | Style::Ahead(_), _) => (self.netns_dir.join(sandbox_id), join::TAP.to_owned()),
            (Style::Tap, None) => (self.netns_dir.join(NURSERY), waiting(sandbox_id)),
            (Style::Tap, Some(last)) => (last.to_owned(), waiting(sandbox_id)),
        };
        if style == Style::Tap {
            let record = TapRecord { name: name.clone(), netns: netns.clone() };
            self.taps.save(sandbox_id, &record).map_err(CniError::file("remembering a tap in", &netns))?;
        }
        if style != Style::Tap || !netns::exists(&netns) {
            netns::make(&netns).await.map_err(CniError::file("making the network namespace", &netns))?;
        }
        let tap = name.clone();
        let made = netns::inside(&netns, move || tap::create(&tap)).await;
        made.map_err(CniError::file("making a tap in", &netns))?;
        let inode = netns.metadata().map_err(CniError::file("looking at", &netns))?.ino();
        Ok(PreparedTap { style, name, netns, inode })
    }

    /// Removes the tap of a VM that has ended, if no plugin took it. Those in a pod's own namespace go with that.
    pub(crate) async fn remove_tap(&self, sandbox_id: &str) {
        let remove = async {
            let Some(TapRecord { name, netns }) = self.taps.load(sandbox_id)? else { return Ok(()) };
            if netns::exists(&netns) {
                let removed = move || match nix::net::if_::if_nametoindex(name.as_str()) {
                    Ok(_) => tap::remove(&name),
                    Err(_) => Ok(()),
                };
                netns::inside(&netns, removed).await?;
            }
            self.taps.remove(sandbox_id)
        };
        if let Err(error) = remove.await {
            tracing::warn!(sandbox = sandbox_id, %error, "a tap was left behind");
        }
    }

    /// Removes the taps of all sandboxes but these. What cannot be removed is logged.
    pub(super) async fn remove_other_taps(&self, valid: &BTreeSet<String>) {
        for sandbox_id in self.taps.list().unwrap_or_default().iter().filter(|id| !valid.contains(*id)) {
            self.remove_tap(sandbox_id).await;
        }
    }

    /// Removes what VMs waited in, when none does any more.
    pub(crate) async fn close_nursery(&self) {
        let path = self.netns_dir.join(NURSERY);
        if let Err(error) = netns::remove(&path).await {
            tracing::warn!(path = %path.display(), %error, "a network namespace was left behind");
        }
    }

    /// Whether the pod's network goes through the tap that the pod's VM has open: a plugin may not know that it is given one,
    /// and make its own.
    pub(crate) async fn took(&self, tap: &PreparedTap, network: &PodNetwork) -> bool {
        if tap.style != Style::Tap {
            return true;
        }
        let nic = Nic { tap: network.tap.clone(), netns: network.netns.clone(), mac: String::new() };
        matches!(tap::open(&nic).await, Err(error) if error.kind() == ErrorKind::ResourceBusy)
    }
}

/// Name of a sandbox's tap until a plugin gives it another.
fn waiting(sandbox_id: &str) -> String {
    format!("vm{sandbox_id}").chars().take(NAME_LENGTH).collect()
}

impl PreparedTap {
    /// Whether it can still be taken: a plugin may have removed the namespace, and made another.
    pub(crate) fn is_there(&self) -> bool {
        self.netns.metadata().is_ok_and(|file| file.ino() == self.inode)
    }

    /// What a plugin is told that takes it.
    pub(super) fn offer(&self) -> serde_json::Value {
        json!({"name": self.name, "netns": self.netns})
    }
}
