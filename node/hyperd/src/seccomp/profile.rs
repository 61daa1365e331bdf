//! Seccomp profiles as files: OCI's runtime-spec (`config-linux.md`), and conditions on capabilities as Docker has them.

use serde::Deserialize;

/// Entries of one profile.
const MAX_ENTRIES: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Profile {
    pub default_action: Action,
    pub default_errno_ret: Option<u32>,
    #[serde(default)]
    pub syscalls: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    #[serde(default)]
    pub names: Vec<String>,
    pub action: Action,
    pub errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub args: Vec<Argument>,
    #[serde(default)]
    pub includes: Condition,
    #[serde(default)]
    pub excludes: Condition,
}

/// When an entry counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Condition {
    #[serde(default)]
    pub caps: Vec<String>,
    #[serde(default)]
    pub arches: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Argument {
    pub index: u8,
    pub value: u64,
    /// With `MaskedEq`, `value` is the mask and this is what is compared with.
    #[serde(default)]
    pub value_two: u64,
    pub op: Operator,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Operator {
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Action {
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    /// Asks a program of the node: there is none in the VM.
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Profile {
    /// # Errors
    /// With a sentence that repeats nothing of the file but names of fields and places.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let profile: Self = serde_json::from_slice(text).map_err(|error| match error.classify() {
            // Whatever else the file is, its content is nobody's business.
            serde_json::error::Category::Data => {
                format!("line {} is not as OCI's runtime-spec has it", error.line())
            }
            _ => "it is not JSON".into(),
        })?;
        if profile.syscalls.len() > MAX_ENTRIES {
            return Err(format!("it has more than {MAX_ENTRIES} entries"));
        }
        let actions = profile.syscalls.iter().map(|entry| entry.action).chain([profile.default_action]);
        if actions.into_iter().any(|action| action == Action::Notify) {
            return Err("SCMP_ACT_NOTIFY is not possible: nothing of the node listens in the pod's VM".into());
        }
        Ok(profile)
    }
}

impl Entry {
    /// Whether the entry counts for a container with these capabilities.
    pub(super) fn applies(&self, capabilities: &[String]) -> bool {
        // Docker's name of the architecture.
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let has = |wanted: &Condition| {
            (wanted.caps.is_empty() || wanted.caps.iter().all(|cap| capabilities.contains(cap)))
                && (wanted.arches.is_empty() || wanted.arches.iter().any(|name| name == arch))
        };
        let excluded = self.excludes.caps.iter().any(|cap| capabilities.contains(cap))
            || self.excludes.arches.iter().any(|name| name == arch);
        has(&self.includes) && !excluded
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn profiles_are_read() {
        let text = br#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": null, "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["clone"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 4, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}]}]}"#;
        let profile = Profile::parse(text).unwrap();
        assert_eq!(profile.syscalls[1].args[0].value_two, 1);
        assert!(!profile.syscalls[0].applies(&[]) && profile.syscalls[0].applies(&["CAP_SYS_ADMIN".into()]));
        for (text, says) in [
            ("secret", "not JSON"),
            (r#"{"defaultAction": "root:secret"}"#, "line 1"),
            (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, "SCMP_ACT_NOTIFY"),
        ] {
            let error = Profile::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(says) && !error.contains("secret"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_file_does_harm(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Profile::parse(&text);
        }
    }
}
