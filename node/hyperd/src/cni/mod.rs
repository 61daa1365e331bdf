//! The pods' networks, by the Container Network Interface (CNI specification 0.3.0 to 1.1.0).
//!
//! ```text
//!            ┌ a chain for containers: a network namespace of the pod, whose eth0 is joined to a tap ┐
//! sandbox ──▶│                                                                                      ├──▶ a tap for the VM
//!            └ a plugin with the capability `hypernetes.io/tap`: the tap that it names              ┘
//! ```
//!
//! The first configuration by name in the directory is the pods' network. It is read for each pod, so a change counts from
//! the next pod on; what was made by an earlier one is undone as that one says.

mod ahead;
mod attachment;
mod config;
mod execute;
mod join;
mod netns;
mod pod;
mod prepared;
mod result;
#[cfg(test)]
mod tests;
mod version;

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::{
    attachment::{Attachment, PerSandbox},
    config::{ConfigList, PluginConfig},
    execute::{Command, Subject},
    join::JoinError,
    result::AddResult,
    version::Version,
};
pub(crate) use self::{
    pod::Pod,
    prepared::{Choice, PreparedTap, Style},
};

/// What the pod's interface is called, in its namespace and in its VM.
pub(crate) const INTERFACE: &str = "eth0";

#[derive(Debug, thiserror::Error)]
pub enum CniError {
    #[error("the network configuration {path}: {reason}")]
    Config { path: PathBuf, reason: String },
    #[error("the plugin {plugin} is not in {directories}")]
    Missing { plugin: String, directories: String },
    #[error("the plugin {plugin}: {reason}")]
    Run { plugin: String, reason: String },
    #[error("the plugin {plugin} did not end its {command} within {seconds} s, and was killed")]
    Timeout { plugin: String, command: &'static str, seconds: u64 },
    /// The plugin itself said so.
    #[error("the plugin {plugin} failed (code {code}): {message}")]
    Plugin { plugin: String, code: u64, message: String },
    #[error("the plugin {plugin} answered nonsense: {reason}")]
    Result { plugin: String, reason: String },
    /// What the pod asks for cannot be had.
    #[error("{0}")]
    Pod(String),
    #[error("{operation} {path}: {source}")]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("joining the interface to the VM: {0}")]
    Join(String),
}

impl CniError {
    /// Whether trying again later, with nothing changed, may help.
    pub(crate) fn is_temporary(&self) -> bool {
        // "Try again later", "not available", "not available, and attached pods lose their network".
        matches!(self, Self::Plugin { code: 11 | 50 | 51, .. })
    }

    fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { operation, path, source }
    }
}

impl From<JoinError> for CniError {
    fn from(error: JoinError) -> Self {
        Self::Join(error.to_string())
    }
}

/// What the pod's VM is connected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodNetwork {
    pub tap: String,
    pub mac: String,
    /// 0: the guest's default.
    pub mtu: u32,
    pub netns: Option<PathBuf>,
    pub addresses: Vec<Address>,
    pub routes: Vec<Route>,
    pub dns: Dns,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Address {
    /// With prefix length, e.g. `10.244.0.5/16`.
    pub cidr: String,
    pub ip: IpAddr,
    pub gateway: Option<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Route {
    pub destination: String,
    pub gateway: Option<IpAddr>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Dns {
    pub nameservers: Vec<String>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

/// The runtime's side of CNI.
#[derive(Debug, Clone)]
pub(crate) struct Cni {
    config_dir: PathBuf,
    /// Where plugins are looked for, in this order.
    bin_dirs: Vec<PathBuf>,
    attachments: PerSandbox<Attachment>,
    /// Of taps that wait where plugins that take them have theirs.
    taps: PerSandbox<prepared::TapRecord>,
    /// Where the pods' network namespaces are mounted.
    netns_dir: PathBuf,
}

impl Cni {
    /// `root` is where it keeps what it has to remember.
    pub(crate) fn new(config_dir: PathBuf, bin_dirs: Vec<PathBuf>, root: &Path) -> Self {
        Self {
            config_dir,
            bin_dirs,
            attachments: PerSandbox::new(root.join("networks")),
            taps: PerSandbox::new(root.join("taps")),
            netns_dir: root.join("netns"),
        }
    }

    /// Name of the network that pods would be connected to now; none when none is configured.
    ///
    /// # Errors
    /// Why it cannot be used: a configuration with a mistake, a missing plugin, or one that says that it is not ready.
    pub(crate) async fn status(&self) -> Result<Option<String>, CniError> {
        let Some(list) = self.load().await? else { return Ok(None) };
        for plugin in &list.plugins {
            execute::find(&self.bin_dirs, plugin.kind())?;
        }
        if list.version.has_gc_and_status() {
            for plugin in &list.plugins {
                self.run(Command::Status, &list, plugin, None, &Value::Null, &Subject::default()).await?;
            }
        }
        Ok(Some(list.name))
    }

    /// Connects a sandbox to what was chosen for it; none when no network is configured. After an error [`Self::del`] is owed as after success.
    /// `tap` is one that the pod's VM is attached to already; see [`Self::took`].
    pub(crate) async fn add(
        &self,
        choice: Option<Choice>,
        pod: &Pod,
        tap: Option<&PreparedTap>,
    ) -> Result<Option<PodNetwork>, CniError> {
        let list = choice.map(|choice| choice.list);
        pod.check(list.as_ref())?;
        let Some(list) = list else { return Ok(None) };
        let netns = (!list.has_capability(pod::TAP)).then(|| self.netns_dir.join(&pod.sandbox_id));
        let mut attachment = Attachment { pod: pod.clone(), list, netns, result: None };
        if let Some(tap) = tap {
            attachment.pod.wishes.insert(pod::TAP.into(), tap.offer());
        }
        self.save(&attachment).await?;
        if let Some(netns) = &attachment.netns
            && tap.is_none_or(|tap| tap.netns != *netns)
        {
            netns::make(netns).await.map_err(CniError::file("making the network namespace", netns))?;
        }
        let mut result = Value::Null;
        for plugin in &attachment.list.plugins {
            let output = self.run_for(Command::Add, &attachment, plugin, &result).await?;
            result = serde_json::from_slice(&output)
                .map_err(|e| CniError::Result { plugin: plugin.kind().into(), reason: e.to_string() })?;
        }
        attachment.result = Some(result);
        self.save(&attachment).await?;
        connect(&attachment).await.map(Some)
    }

    /// Asks the plugins whether a sandbox is still connected as they left it.
    pub(crate) async fn check(&self, sandbox_id: &str) -> Result<(), CniError> {
        let Some(attachment) = self.attachment(sandbox_id)? else { return Ok(()) };
        let Some(result) = &attachment.result else { return Ok(()) };
        if !attachment.list.version.has_check() || attachment.list.disable_check {
            return Ok(());
        }
        for plugin in &attachment.list.plugins {
            self.run_for(Command::Check, &attachment, plugin, result).await?;
        }
        Ok(())
    }

    /// Disconnects a sandbox. Repeating it, or disconnecting one that never was connected, is no error.
    pub(crate) async fn del(&self, sandbox_id: &str) -> Result<(), CniError> {
        if let Some(attachment) = self.attachment(sandbox_id)? {
            let previous = match &attachment.result {
                Some(result) if attachment.list.version.has_check() => result.clone(),
                _ => Value::Null,
            };
            for plugin in attachment.list.plugins.iter().rev() {
                self.run_for(Command::Del, &attachment, plugin, &previous).await?;
            }
        }
        let netns = self.netns_dir.join(sandbox_id);
        netns::remove(&netns).await.map_err(CniError::file("removing the network namespace", &netns))?;
        self.remove_tap(sandbox_id).await;
        // Last: until here it can be done again.
        self.attachments
            .remove(sandbox_id)
            .map_err(CniError::file("forgetting the attachment of", Path::new(sandbox_id)))
    }

    /// Removes what is left of all sandboxes but these, and has the plugins remove what they know of others. For a start,
    /// when no sandbox is being made: what is in the way of it is logged.
    pub(crate) async fn collect_garbage(&self, valid: &BTreeSet<String>) {
        if let Err(error) = self.attachments.remove_unfinished() {
            tracing::warn!(%error, "an unfinished record of an attachment was left behind");
        }
        if let Err(error) = self.taps.remove_unfinished() {
            tracing::warn!(%error, "an unfinished record of a tap was left behind");
        }
        self.disconnect_others(valid).await;
        for path in netns::all(&self.netns_dir).unwrap_or_default() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !valid.contains(&name)
                && !matches!(self.attachments.load(&name), Ok(Some(_)))
                && let Err(error) = netns::remove(&path).await
            {
                tracing::warn!(path = %path.display(), %error, "a network namespace was left behind");
            }
        }
        // What could not be undone now keeps what it has at its plugins: the next attempt may need it.
        let kept = self.attachments.list().unwrap_or_default();
        if let Err(error) = self.run_gc(&kept).await {
            tracing::warn!(%error, "the network's plugins did not collect their garbage");
        }
    }

    /// Disconnects what is connected and is none of these sandboxes. What cannot be is logged.
    pub(crate) async fn disconnect_others(&self, valid: &BTreeSet<String>) {
        let known = self.attachments.list().unwrap_or_default();
        for sandbox_id in known.iter().filter(|id| !valid.contains(*id)) {
            match self.del(sandbox_id).await {
                Ok(()) => tracing::info!(sandbox = sandbox_id, "disconnected what has no sandbox"),
                Err(error) => tracing::warn!(sandbox = sandbox_id, %error, "an attachment could not be undone"),
            }
        }
        self.remove_other_taps(valid).await;
    }

    async fn run_gc(&self, kept: &[String]) -> Result<(), CniError> {
        let Some(list) = self.load().await? else { return Ok(()) };
        if !list.version.has_gc_and_status() || list.disable_gc {
            return Ok(());
        }
        let valid: Value = kept.iter().map(|id| json!({"containerID": id, "ifname": INTERFACE})).collect();
        let mut outcome = Ok(());
        for plugin in &list.plugins {
            let mut plugin = plugin.clone();
            // The specification's name, and the one that plugins know from its reference implementation.
            for name in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
                plugin.0.insert(name.into(), valid.clone());
            }
            // As the specification wants it, the others are asked even if one fails.
            let ran = self.run(Command::Gc, &list, &plugin, None, &Value::Null, &Subject::default()).await;
            outcome = outcome.and(ran.map(drop));
        }
        outcome
    }

    /// The configuration in force, in the newest version that all its plugins speak.
    async fn load(&self) -> Result<Option<ConfigList>, CniError> {
        let Some(mut list) = ConfigList::load(&self.config_dir)? else { return Ok(None) };
        if list.others.is_empty() {
            return Ok(Some(list));
        }
        let mut offered: BTreeSet<Version> = list.others.clone();
        offered.insert(list.version);
        for plugin in &list.plugins {
            let spoken = execute::versions(&self.bin_dirs, plugin.kind(), list.version).await?;
            offered.retain(|version| spoken.contains(version));
        }
        list.version = offered.pop_last().ok_or_else(|| CniError::Config {
            path: self.config_dir.clone(),
            reason: format!("the plugins of {:?} have no version of CNI in common that it offers", list.name),
        })?;
        Ok(Some(list))
    }

    fn attachment(&self, sandbox_id: &str) -> Result<Option<Attachment>, CniError> {
        self.attachments.load(sandbox_id).map_err(CniError::file("reading the attachment of", Path::new(sandbox_id)))
    }

    async fn save(&self, attachment: &Attachment) -> Result<(), CniError> {
        let path = Path::new(&attachment.pod.sandbox_id);
        let (attachments, snapshot) = (self.attachments.clone(), attachment.clone());
        let saved = tokio::task::spawn_blocking(move || attachments.save(&snapshot.pod.sandbox_id, &snapshot)).await;
        saved.map_err(io::Error::other).flatten().map_err(CniError::file("saving the attachment of", path))
    }

    async fn run_for(
        &self,
        command: Command,
        attachment: &Attachment,
        plugin: &PluginConfig,
        previous: &Value,
    ) -> Result<Vec<u8>, CniError> {
        let subject = Subject {
            container_id: attachment.pod.sandbox_id.clone(),
            // After the host's restart there is none, and plugins have to do without.
            netns: attachment.netns.clone().filter(|path| netns::exists(path)),
            interface: INTERFACE,
            arguments: attachment.pod.arguments(),
        };
        let wishes = Some(&attachment.pod.wishes);
        self.run(command, &attachment.list, plugin, wishes, previous, &subject).await
    }

    /// `wishes` are passed on to a plugin as far as it declares to hear them.
    async fn run(
        &self,
        command: Command,
        list: &ConfigList,
        plugin: &PluginConfig,
        wishes: Option<&Map<String, Value>>,
        previous: &Value,
        subject: &Subject,
    ) -> Result<Vec<u8>, CniError> {
        let mut config = plugin.0.clone();
        config.insert("cniVersion".into(), list.version.to_string().into());
        config.insert("name".into(), list.name.clone().into());
        let heard: Map<String, Value> = wishes
            .into_iter()
            .flatten()
            .filter(|(name, _)| plugin.has_capability(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        // It is of no use to the plugin, and of none to one that reads its configuration strictly.
        config.remove("capabilities");
        config.remove("cniVersions");
        if !heard.is_empty() {
            config.insert("runtimeConfig".into(), heard.into());
        }
        if !previous.is_null() {
            config.insert("prevResult".into(), previous.clone());
        }
        execute::run(&self.bin_dirs, plugin.kind(), command, config, subject).await
    }
}

/// What the VM is connected to, by the chain's result.
async fn connect(attachment: &Attachment) -> Result<PodNetwork, CniError> {
    let last = attachment.list.plugins.last().map(PluginConfig::kind).unwrap_or_default();
    let nonsense = |reason: String| CniError::Result { plugin: last.into(), reason };
    let result = AddResult::parse(attachment.result.as_ref().unwrap_or(&Value::Null)).map_err(nonsense)?;
    let Some(netns) = &attachment.netns else { return handed_over(result).map_err(nonsense) };
    let (index, _) = result
        .interface(netns, INTERFACE)
        .ok_or_else(|| nonsense(format!("it names no interface {INTERFACE} in the pod's network namespace")))?;
    let joined = join::join(netns, INTERFACE).await?;
    let mut addresses = result.addresses_of(index);
    for address in &mut addresses {
        if !brings_route(address, &joined.connected) {
            address.cidr = format!("{}/{}", address.ip, if address.ip.is_ipv4() { 32 } else { 128 });
        }
    }
    Ok(PodNetwork {
        tap: joined.tap,
        mac: joined.mac,
        mtu: joined.mtu,
        netns: Some(netns.clone()),
        addresses,
        routes: joined.routes,
        dns: result.dns,
    })
}

/// Whether the network that the address is in was left reachable without a gateway.
fn brings_route(address: &Address, connected: &[String]) -> bool {
    let prefix = address.cidr.split_once('/').map(|(_, prefix)| prefix);
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
        IpAddr::V6(ip) => ip.to_bits(),
    };
    connected.iter().filter_map(|network| network.split_once('/')).any(|(network, length)| {
        let (Ok(network), Ok(count)) = (network.parse::<IpAddr>(), length.parse::<u32>()) else { return false };
        let same = (bits(network) ^ bits(address.ip)).checked_shr(128 - count).unwrap_or(0) == 0;
        prefix == Some(length) && network.is_ipv4() == address.ip.is_ipv4() && same
    })
}

/// The tap of a plugin that makes one: its first interface.
fn handed_over(result: AddResult) -> Result<PodNetwork, String> {
    let interface = result.interfaces.first().ok_or("it names no interface")?;
    if interface.mac.is_empty() {
        return Err(format!("it does not say the hardware address of {}", interface.name));
    }
    let addresses = result.addresses_of(0);
    let mut routes = result.routes;
    for route in &mut routes {
        // A route without a gateway goes to that of the address of its family. Routes that were read in the pod's namespace
        // say themselves where they go: without a gateway they lead to the link.
        let v4 = !route.destination.contains(':');
        let default = addresses.iter().find(|a| a.ip.is_ipv4() == v4).and_then(|a| a.gateway);
        route.gateway = route.gateway.or(default);
    }
    Ok(PodNetwork {
        tap: interface.name.clone(),
        mac: interface.mac.clone(),
        mtu: interface.mtu,
        netns: (!interface.sandbox.is_empty()).then(|| interface.sandbox.clone().into()),
        addresses,
        routes,
        dns: result.dns,
    })
}
