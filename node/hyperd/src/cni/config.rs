//! Network configurations: a list of plugins (`*.conflist`) or a single one (`*.conf`, `*.json`).

use std::{
    collections::BTreeSet,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{CniError, version::Version};

const MAX_CONFIG: u64 = 1 << 20;
/// Most plugins of a list.
const MAX_PLUGINS: usize = 32;

/// A chain of plugins, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConfigList {
    pub name: String,
    /// In force; of several that the list offers, the newest that we speak.
    pub version: Version,
    /// Older ones that the list offers as well, for plugins that are older than we are.
    pub others: BTreeSet<Version>,
    pub disable_check: bool,
    pub disable_gc: bool,
    pub plugins: Vec<PluginConfig>,
}

/// One plugin's part of the list, as it is in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct PluginConfig(pub Map<String, Value>);

impl PluginConfig {
    /// Name of the executable.
    pub(crate) fn kind(&self) -> &str {
        self.0.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether the plugin wants this to be told about a pod.
    pub(crate) fn has_capability(&self, name: &str) -> bool {
        self.capability(name).unwrap_or(false)
    }

    /// What it says of the capability, if anything.
    pub(super) fn capability(&self, name: &str) -> Option<bool> {
        self.0.get("capabilities")?.get(name)?.as_bool()
    }
}

impl ConfigList {
    pub(crate) fn has_capability(&self, name: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin.has_capability(name))
    }

    /// The configuration in force: the first file by name; none when the directory has none.
    pub(crate) fn load(directory: &Path) -> Result<Option<Self>, CniError> {
        let failed = |path: &Path, reason: String| CniError::Config { path: path.into(), reason };
        let mut paths: Vec<PathBuf> = match std::fs::read_dir(directory) {
            Ok(entries) => entries.filter_map(|e| Some(e.ok()?.path())).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(directory, error.to_string())),
        };
        paths.retain(|p| p.extension().is_some_and(|e| e == "conflist" || e == "conf" || e == "json"));
        paths.sort();
        let Some(path) = paths.first() else { return Ok(None) };
        let mut text = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(MAX_CONFIG + 1).read_to_end(&mut text));
        read.map_err(|e| failed(path, e.to_string()))?;
        if text.len() as u64 > MAX_CONFIG {
            return Err(failed(path, "it is too large".into()));
        }
        Self::parse(&text).map(Some).map_err(|reason| failed(path, reason))
    }

    /// Reads a list, or a single plugin, which becomes a list of one.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct File {
            cni_version: Option<String>,
            #[serde(default)]
            cni_versions: Vec<String>,
            #[serde(default)]
            name: String,
            #[serde(default)]
            disable_check: Flag,
            #[serde(default, rename = "disableGC")]
            disable_gc: Flag,
            plugins: Option<Vec<PluginConfig>>,
        }
        let whole: Map<String, Value> = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        let file = File::deserialize(&Value::Object(whole.clone())).map_err(|e| e.to_string())?;
        let plugins = match file.plugins {
            Some(plugins) => plugins,
            None if whole.contains_key("type") => vec![PluginConfig(whole)],
            None => return Err("it has neither `plugins` nor a `type`".into()),
        };
        if plugins.is_empty() || plugins.len() > MAX_PLUGINS {
            return Err(format!("it names {} plugins: want 1 to {MAX_PLUGINS}", plugins.len()));
        }
        for plugin in &plugins {
            let kind = plugin.kind();
            if !is_name(kind) {
                return Err(format!("{:?} is not the name of a plugin", kind.chars().take(40).collect::<String>()));
            }
        }
        // The specification's rule for names; plugins make files and chains of them.
        if !is_name(&file.name) {
            return Err(format!(
                "{:?} is not the name of a network: want letters, digits, `_`, `.` and `-`",
                file.name.chars().take(40).collect::<String>()
            ));
        }
        let (version, others) = versions(file.cni_version.as_deref(), &file.cni_versions)?;
        Ok(Self {
            name: file.name,
            version,
            others,
            disable_check: file.disable_check.0,
            disable_gc: file.disable_gc.0,
            plugins,
        })
    }
}

/// A truth value, which some configurations write as text.
#[derive(Default)]
struct Flag(bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Value::deserialize(from)? {
            Value::Bool(value) => Ok(Self(value)),
            Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(Self(true)),
            Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(Self(false)),
            other => Err(serde::de::Error::custom(format!("want true or false, not {other}"))),
        }
    }
}

/// The newest that we speak, and the others.
fn versions(one: Option<&str>, several: &[String]) -> Result<(Version, BTreeSet<Version>), String> {
    let mut offered: BTreeSet<Version> = several.iter().filter_map(|text| text.parse().ok()).collect();
    match one {
        Some(text) if several.is_empty() => {
            offered.insert(text.parse()?);
        }
        Some(text) => offered.extend(text.parse::<Version>()),
        None if several.is_empty() => return Err("it does not say its `cniVersion`".into()),
        None => {}
    }
    let newest = offered.pop_last().ok_or_else(|| format!("none of the versions {several:?} of CNI is spoken here"))?;
    Ok((newest, offered))
}

/// What may name a plugin's file or a network.
fn is_name(text: &str) -> bool {
    text.len() <= 255
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_and_single_plugins() {
        let list = ConfigList::parse(
            br#"{"cniVersion":"0.4.0","name":"n","disableCheck":"true","plugins":[{"type":"bridge"},
               {"type":"portmap","capabilities":{"portMappings":true,"x":1}}]}"#,
        )
        .unwrap();
        assert_eq!((list.version, list.disable_check, list.plugins.len()), (Version::V0_4_0, true, 2));
        assert!(list.has_capability("portMappings"));
        assert!(!list.has_capability("bandwidth") && !list.has_capability("x"));
        let single = ConfigList::parse(br#"{"cniVersion":"1.0.0","name":"n","type":"ptp","mtu":9000}"#).unwrap();
        assert_eq!(single.plugins[0].kind(), "ptp");
        assert_eq!(single.plugins[0].0["mtu"], 9000);
    }

    #[test]
    fn the_newest_version_that_we_speak() {
        let parse = |versions: &str| {
            ConfigList::parse(format!(r#"{{{versions}"name":"n","plugins":[{{"type":"a"}}]}}"#).as_bytes())
        };
        let list = parse(r#""cniVersion":"1.0.0","cniVersions":["0.4.0","1.1.0","9.0.0"],"#).unwrap();
        assert_eq!(list.version, Version::V1_1_0);
        assert_eq!(list.others, [Version::V0_4_0, Version::V1_0_0].into());
        for wrong in ["", r#""cniVersion":"0.1.0","#, r#""cniVersions":["9.0.0"],"#] {
            assert!(parse(wrong).unwrap_err().contains("cniVersion") || parse(wrong).unwrap_err().contains("CNI"));
        }
    }

    #[test]
    fn names_are_names() {
        for (name, kind) in [("n", "../sh"), ("n", ""), ("n", ".x"), ("a/b", "x"), ("", "x"), ("-n", "x")] {
            let text = serde_json::json!({"cniVersion": "1.0.0", "name": name, "plugins": [{"type": kind}]});
            assert!(ConfigList::parse(text.to_string().as_bytes()).is_err(), "{text}");
        }
        assert!(ConfigList::parse(br#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#).is_err());
        assert!(ConfigList::parse(br#"{"cniVersion":"1.0.0","name":"n"}"#).is_err());
    }

    #[test]
    fn the_first_file_by_name_counts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, name: &str| {
            let text = serde_json::json!({"cniVersion": "1.0.0", "name": name, "type": "x"});
            std::fs::write(dir.path().join(file), text.to_string()).unwrap();
        };
        let name = || ConfigList::load(dir.path()).unwrap().map(|list| list.name);
        assert_eq!(name(), None);
        write("00-other.txt", "text");
        write("20-b.conflist", "b");
        assert_eq!(name().as_deref(), Some("b"));
        write("10-a.conf", "a");
        assert_eq!(name().as_deref(), Some("a"));
        assert_eq!(ConfigList::load(&dir.path().join("none")).unwrap(), None);
        std::fs::write(dir.path().join("01.json"), vec![b' '; MAX_CONFIG as usize + 2]).unwrap();
        assert!(ConfigList::load(dir.path()).unwrap_err().to_string().contains("too large"));
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ConfigList::parse(&text);
        }

        #[test]
        fn what_is_accepted_is_safe_to_run(kind in ".{0,20}", name in ".{0,20}", version in "[0-2]\\.[0-4]\\.[01]") {
            let text = serde_json::json!({"cniVersion": version, "name": name, "plugins": [{"type": kind}]});
            if let Ok(list) = ConfigList::parse(text.to_string().as_bytes()) {
                prop_assert!(!list.plugins[0].kind().contains('/') && !list.plugins[0].kind().starts_with('.'));
                prop_assert!(!list.name.contains('/') && !list.name.is_empty());
                prop_assert_eq!(list.version.to_string(), version);
            }
        }
    }
}
