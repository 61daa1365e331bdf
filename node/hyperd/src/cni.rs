//! Runs CNI plugins (CNI specification 1.0.0): ADD when a sandbox is made, DEL when it ends.
//!
//! The first `*.conflist` by name in the configuration directory is the pod network. The answer of the last plugin
//! says which tap the VM gets; a plugin that makes no tap is refused.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Time limit of one plugin's run.
const PLUGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Most that a plugin may print.
const MAX_OUTPUT: u64 = 1 << 20;
const MAX_CONFIG: u64 = 1 << 20;
/// Most addresses or routes of one pod.
const MAX_ENTRIES: usize = 64;
/// Linux' IFNAMSIZ without the terminating zero.
const MAX_INTERFACE_NAME: usize = 15;

#[derive(Debug, thiserror::Error)]
pub enum CniError {
    #[error("the network configuration {path}: {reason}")]
    Config { path: PathBuf, reason: String },
    #[error("the plugin {plugin}: {reason}")]
    Run { plugin: String, reason: String },
    /// The plugin itself said so.
    #[error("the plugin {plugin} failed (code {code}): {message}")]
    Plugin { plugin: String, code: u64, message: String },
    #[error("the plugin {plugin} answered nonsense: {reason}")]
    Result { plugin: String, reason: String },
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

/// Whose network it is.
#[derive(Debug, Clone)]
pub(crate) struct PodIdentity {
    pub sandbox_id: String,
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub tenant: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Cni {
    pub config_dir: PathBuf,
    pub bin_dir: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigList {
    cni_version: String,
    name: String,
    plugins: Vec<serde_json::Map<String, Value>>,
}

impl Cni {
    /// The configuration in force; none when the directory has none.
    fn load(&self) -> Result<Option<ConfigList>, CniError> {
        let mut paths: Vec<PathBuf> = match std::fs::read_dir(&self.config_dir) {
            Ok(entries) => entries.filter_map(|e| Some(e.ok()?.path())).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(config_error(&self.config_dir, error)),
        };
        paths.retain(|p| p.extension().is_some_and(|e| e == "conflist"));
        paths.sort();
        let Some(path) = paths.first() else { return Ok(None) };
        let length = std::fs::metadata(path).map_err(|e| config_error(path, e))?.len();
        if length > MAX_CONFIG {
            return Err(config_error(path, "it is too large"));
        }
        let text = std::fs::read(path).map_err(|e| config_error(path, e))?;
        let list: ConfigList = serde_json::from_slice(&text).map_err(|e| config_error(path, e))?;
        if list.plugins.is_empty() {
            return Err(config_error(path, "it names no plugin"));
        }
        for plugin in &list.plugins {
            let name = plugin_type(plugin);
            if name.is_empty() || name.contains('/') || name.starts_with('.') {
                return Err(config_error(path, format!("{name:?} is not the name of a plugin")));
            }
        }
        Ok(Some(list))
    }

    /// Whether pods will have a network, and if not why.
    pub(crate) fn status(&self) -> Result<Option<String>, CniError> {
        let Some(list) = self.load()? else { return Ok(None) };
        for plugin in &list.plugins {
            let path = self.bin_dir.join(plugin_type(plugin));
            if !path.exists() {
                return Err(config_error(&path, "the plugin is not there"));
            }
        }
        Ok(Some(list.name))
    }

    /// Connects a sandbox; none when no network is configured.
    pub(crate) async fn add(&self, pod: &PodIdentity) -> Result<Option<PodNetwork>, CniError> {
        let Some(list) = self.load()? else { return Ok(None) };
        let mut result = Value::Null;
        for plugin in &list.plugins {
            let output = self.run("ADD", &list, plugin, pod, &result).await?;
            result = serde_json::from_slice(&output)
                .map_err(|e| CniError::Result { plugin: plugin_type(plugin).into(), reason: e.to_string() })?;
        }
        let last = list.plugins.last().map(plugin_type).unwrap_or_default();
        parse_result(&result).map(Some).map_err(|reason| CniError::Result { plugin: last.into(), reason })
    }

    /// Disconnects a sandbox. Repeating it, or disconnecting one that never was connected, is no error.
    pub(crate) async fn del(&self, pod: &PodIdentity) -> Result<(), CniError> {
        let Some(list) = self.load()? else { return Ok(()) };
        for plugin in list.plugins.iter().rev() {
            self.run("DEL", &list, plugin, pod, &Value::Null).await?;
        }
        Ok(())
    }

    async fn run(
        &self,
        command: &str,
        list: &ConfigList,
        plugin: &serde_json::Map<String, Value>,
        pod: &PodIdentity,
        previous: &Value,
    ) -> Result<Vec<u8>, CniError> {
        let name = plugin_type(plugin).to_owned();
        let run_error = |reason: String| CniError::Run { plugin: name.clone(), reason };
        let mut config = plugin.clone();
        config.insert("cniVersion".into(), list.cni_version.clone().into());
        config.insert("name".into(), list.name.clone().into());
        if !previous.is_null() {
            config.insert("prevResult".into(), previous.clone());
        }
        let input = Value::Object(config).to_string();
        let mut child = tokio::process::Command::new(self.bin_dir.join(&name))
            .env_clear()
            .envs(environment(command, &self.bin_dir, pod))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| run_error(e.to_string()))?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(run_error("no pipes".into()));
        };
        let work = async {
            let write = async move {
                // A plugin need not read its input.
                let _ = stdin.write_all(input.as_bytes()).await;
            };
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let (mut stdout, mut stderr) = (stdout.take(MAX_OUTPUT), stderr.take(MAX_OUTPUT));
            let (_, read, _) = tokio::join!(write, stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
            read?;
            drop((stdout, stderr));
            Ok::<_, io::Error>((child.wait().await?, out, err))
        };
        let (status, out, err) = tokio::time::timeout(PLUGIN_TIMEOUT, work)
            .await
            .map_err(|_| run_error(format!("no answer within {} s", PLUGIN_TIMEOUT.as_secs())))?
            .map_err(|e| run_error(e.to_string()))?;
        if status.success() {
            return Ok(out);
        }
        #[derive(Deserialize)]
        struct Failure {
            code: u64,
            msg: String,
            #[serde(default)]
            details: String,
        }
        match serde_json::from_slice::<Failure>(&out) {
            Ok(Failure { code, msg, details }) => {
                let message = if details.is_empty() { msg } else { format!("{msg}: {details}") };
                Err(CniError::Plugin { plugin: name, code, message: crate::agent::clean(&message) })
            }
            Err(_) => Err(run_error(format!(
                "it ended with {status}: {}",
                crate::agent::clean(&String::from_utf8_lossy(&err))
            ))),
        }
    }
}

fn config_error(path: &Path, reason: impl ToString) -> CniError {
    CniError::Config { path: path.into(), reason: reason.to_string() }
}

fn plugin_type(plugin: &serde_json::Map<String, Value>) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn environment(command: &str, bin_dir: &Path, pod: &PodIdentity) -> BTreeMap<&'static str, String> {
    // ";" separates arguments; Kubernetes names have none, anything else is kept from adding arguments of its own.
    let clean = |text: &str| text.replace([';', '=', '\0'], "_");
    let arguments = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={};HYPERNETES_TENANT={}",
        clean(&pod.namespace),
        clean(&pod.name),
        pod.sandbox_id,
        clean(&pod.uid),
        clean(&pod.tenant)
    );
    BTreeMap::from([
        ("CNI_COMMAND", command.into()),
        ("CNI_CONTAINERID", pod.sandbox_id.clone()),
        // A VM has no network namespace of its own on the host; the answer names that of its network.
        ("CNI_NETNS", String::new()),
        ("CNI_IFNAME", "eth0".into()),
        ("CNI_ARGS", arguments),
        ("CNI_PATH", bin_dir.display().to_string()),
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()),
    ])
}

fn parse_result(result: &Value) -> Result<PodNetwork, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        #[serde(default)]
        interfaces: Vec<Interface>,
        #[serde(default)]
        ips: Vec<Ip>,
        #[serde(default)]
        routes: Vec<AnswerRoute>,
        #[serde(default)]
        dns: Dns,
    }
    #[derive(Deserialize)]
    struct Interface {
        name: String,
        #[serde(default)]
        mac: String,
        #[serde(default)]
        mtu: u32,
        #[serde(default)]
        sandbox: String,
    }
    #[derive(Deserialize)]
    struct Ip {
        address: String,
        #[serde(default)]
        gateway: Option<IpAddr>,
    }
    #[derive(Deserialize)]
    struct AnswerRoute {
        dst: String,
        #[serde(default)]
        gw: Option<IpAddr>,
    }

    let answer = Answer::deserialize(result).map_err(|e| e.to_string())?;
    let interface = answer.interfaces.into_iter().next().ok_or("it names no interface")?;
    if interface.name.is_empty() || interface.name.len() > MAX_INTERFACE_NAME || interface.name.contains(['/', '\0']) {
        return Err(format!(
            "{:?} is not the name of an interface",
            interface.name.chars().take(40).collect::<String>()
        ));
    }
    if !is_mac(&interface.mac) {
        return Err(format!("{:?} is not a hardware address", interface.mac.chars().take(40).collect::<String>()));
    }
    if answer.ips.len() > MAX_ENTRIES || answer.routes.len() > MAX_ENTRIES {
        return Err("too many addresses or routes".into());
    }
    let dns = answer.dns;
    if dns.nameservers.iter().chain(&dns.search).chain(&dns.options).any(|s| s.len() > 253)
        || dns.nameservers.len().max(dns.search.len()).max(dns.options.len()) > MAX_ENTRIES
    {
        return Err("the DNS settings are too large".into());
    }
    let mut addresses = Vec::new();
    for ip in answer.ips {
        addresses.push(Address { ip: parse_cidr(&ip.address)?, cidr: ip.address, gateway: ip.gateway });
    }
    let mut routes = Vec::new();
    for route in answer.routes {
        parse_cidr(&route.dst)?;
        routes.push(Route { destination: route.dst, gateway: route.gw });
    }
    Ok(PodNetwork {
        tap: interface.name,
        mac: interface.mac.to_ascii_lowercase(),
        mtu: interface.mtu,
        netns: (!interface.sandbox.is_empty()).then(|| interface.sandbox.into()),
        addresses,
        routes,
        dns,
    })
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    parts.len() == 6 && parts.iter().all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn parse_cidr(text: &str) -> Result<IpAddr, String> {
    let parse = || {
        let (ip, prefix) = text.split_once('/')?;
        let (ip, prefix): (IpAddr, u8) = (ip.parse().ok()?, prefix.parse().ok()?);
        (prefix <= if ip.is_ipv4() { 32 } else { 128 }).then_some(ip)
    };
    parse().ok_or_else(|| {
        format!("{:?} is not an address with a prefix length", text.chars().take(60).collect::<String>())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> PodIdentity {
        PodIdentity {
            sandbox_id: "s1".into(),
            name: "web;EVIL=1".into(),
            namespace: "default".into(),
            uid: "u".into(),
            tenant: "t".into(),
        }
    }

    fn with_plugin(script: &str) -> (tempfile::TempDir, Cni) {
        let dir = tempfile::tempdir().unwrap();
        let cni = Cni { config_dir: dir.path().join("net.d"), bin_dir: dir.path().join("bin") };
        std::fs::create_dir_all(&cni.config_dir).unwrap();
        std::fs::create_dir_all(&cni.bin_dir).unwrap();
        std::fs::write(
            cni.config_dir.join("10-test.conflist"),
            r#"{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"fake","x":1}]}"#,
        )
        .unwrap();
        crate::fake::script(&cni.bin_dir.join("fake"), &format!("#!/bin/sh\n{script}\n"));
        (dir, cni)
    }

    #[tokio::test]
    async fn add_passes_identity_and_reads_the_answer() {
        let (dir, cni) = with_plugin(
            r#"here=$(dirname "$0"); cat >"$here/stdin"; echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_ARGS" >"$here/env"
echo '{"cniVersion":"1.0.0","interfaces":[{"name":"tap0","mac":"52:54:00:AA:00:01","mtu":1450,"sandbox":"/run/netns/hn-1"}],
"ips":[{"address":"10.244.0.5/16","gateway":"10.244.0.1","interface":0}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["10.96.0.10"]}}'"#,
        );
        let network = cni.add(&pod()).await.unwrap().unwrap();
        assert_eq!(network.tap, "tap0");
        assert_eq!(network.mac, "52:54:00:aa:00:01");
        assert_eq!(network.netns.as_deref(), Some(Path::new("/run/netns/hn-1")));
        assert_eq!(network.addresses[0].ip.to_string(), "10.244.0.5");
        assert_eq!(network.dns.nameservers, ["10.96.0.10"]);
        let env = std::fs::read_to_string(dir.path().join("bin/env")).unwrap();
        assert!(env.contains("ADD s1 IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web_EVIL_1;"), "{env}");
        assert!(env.contains("HYPERNETES_TENANT=t"));
        let stdin: Value = serde_json::from_slice(&std::fs::read(dir.path().join("bin/stdin")).unwrap()).unwrap();
        assert_eq!(stdin["name"], "test");
        assert_eq!(stdin["x"], 1);
    }

    #[tokio::test]
    async fn failures_are_told_and_no_configuration_is_no_network() {
        let (_dir, cni) = with_plugin(r#"echo '{"code":11,"msg":"no port yet"}'; exit 1"#);
        let error = cni.add(&pod()).await.unwrap_err();
        assert!(matches!(&error, CniError::Plugin { code: 11, message, .. } if message == "no port yet"), "{error}");
        let (_dir, cni) = with_plugin("echo garbage");
        assert!(matches!(cni.add(&pod()).await, Err(CniError::Result { .. })));
        let empty = tempfile::tempdir().unwrap();
        let cni = Cni { config_dir: empty.path().join("none"), bin_dir: empty.path().into() };
        assert!(cni.add(&pod()).await.unwrap().is_none());
        assert!(cni.status().unwrap().is_none());
    }

    #[test]
    fn hostile_answers_are_refused() {
        for answer in [
            r#"{}"#,
            r#"{"interfaces":[{"name":"a/b","mac":"52:54:00:aa:00:01"}]}"#,
            r#"{"interfaces":[{"name":"averyveryverylongname","mac":"52:54:00:aa:00:01"}]}"#,
            r#"{"interfaces":[{"name":"tap0","mac":"x"}]}"#,
            r#"{"interfaces":[{"name":"tap0","mac":"52:54:00:aa:00:01"}],"ips":[{"address":"10.0.0.1/33"}]}"#,
        ] {
            assert!(parse_result(&serde_json::from_str(answer).unwrap()).is_err(), "{answer}");
        }
    }
}
