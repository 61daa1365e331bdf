//! What the labels of a namespace ask of its pods.

use std::fmt;

use hypernetes_api::error::Cause;
use serde_json::Value;

/// Before the names of labels and of audit annotations.
pub const PREFIX: &str = "pod-security.kubernetes.io/";

/// Each asks for all that those before it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// Of Kubernetes, by its minor number: what a level asked for then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Minor(u64),
    Latest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standard {
    pub level: Level,
    pub version: Version,
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Version::Minor(minor) => write!(f, "{level}:v1.{minor}"),
            Version::Latest => write!(f, "{level}:latest"),
        }
    }
}

/// A standard for each mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub enforce: Standard,
    pub audit: Standard,
    pub warn: Standard,
}

/// Where no label says otherwise.
const OPEN: Standard = Standard { level: Level::Privileged, version: Version::Latest };

impl Policy {
    /// Nothing is asked for, in no mode.
    pub fn is_open(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|one| one.level == Level::Privileged)
    }

    /// There is always one: what is no level, or no version, is enforced as the strictest, and neither recorded nor warned of.
    pub fn of(namespace: &Value) -> (Self, Vec<Cause>) {
        let labels = Labels { of: &namespace["metadata"]["labels"], faults: Vec::new() };
        labels.policy()
    }
}

struct Labels<'a> {
    of: &'a Value,
    faults: Vec<Cause>,
}

impl Labels<'_> {
    fn policy(mut self) -> (Policy, Vec<Cause>) {
        let enforced = self.level("enforce");
        let enforce = Standard {
            level: enforced.map_or(OPEN.level, |level| level.unwrap_or(Level::Restricted)),
            version: self.version("enforce-version").unwrap_or(OPEN.version),
        };
        let audit = Standard {
            level: self.level("audit").flatten().unwrap_or(OPEN.level),
            version: self.version("audit-version").unwrap_or(OPEN.version),
        };
        let (warned, version) = (self.level("warn"), self.version("warn-version"));
        let mut warn =
            Standard { level: warned.flatten().unwrap_or(OPEN.level), version: version.unwrap_or(OPEN.version) };
        // Who enforces is warned of it, too.
        if warned.is_none() && enforced.flatten().is_some_and(|level| level > warn.level) {
            warn.level = enforce.level;
            warn.version = version.unwrap_or(enforce.version);
        }
        (Policy { enforce, audit, warn }, self.faults)
    }

    /// None: there is no such label; of one that says nothing known, `Some(None)`.
    fn level(&mut self, label: &str) -> Option<Option<Level>> {
        let text = self.text(label)?;
        let level = match text.as_str() {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        };
        if level.is_none() {
            self.fault(label, &text, "must be one of privileged, baseline, restricted");
        }
        Some(level)
    }

    fn version(&mut self, label: &str) -> Option<Version> {
        let text = self.text(label)?;
        let minor = || {
            let digits = text.strip_prefix("v1.")?;
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
            digits.parse::<u64>().ok().filter(|minor| plain && i64::try_from(*minor).is_ok())
        };
        if text == "latest" {
            return Some(Version::Latest);
        }
        let version = minor().map(Version::Minor);
        if version.is_none() {
            self.fault(label, &text, "must be \"latest\" or \"v1.x\"");
        }
        Some(version.unwrap_or(Version::Latest))
    }

    fn text(&self, label: &str) -> Option<String> {
        Some(self.of.get(format!("{PREFIX}{label}"))?.as_str()?.to_owned())
    }

    fn fault(&mut self, label: &str, value: &str, why: &str) {
        self.faults.push(Cause {
            reason: "FieldValueInvalid".into(),
            message: format!("Invalid value: {value:?}: {why}"),
            field: format!("metadata.labels[{PREFIX}{label}]"),
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(labels: &[(&str, &str)]) -> (String, usize) {
        let labels: serde_json::Map<_, _> =
            labels.iter().map(|(name, value)| (format!("{PREFIX}{name}"), json!(value))).collect();
        let (Policy { enforce, audit, warn }, faults) = Policy::of(&json!({"metadata": {"labels": labels}}));
        (format!("{enforce} {audit} {warn}"), faults.len())
    }

    #[test]
    fn labels_are_read_as_upstream_reads_them() {
        for (labels, said, faults) in [
            (&[][..], "privileged:latest privileged:latest privileged:latest", 0),
            (&[("enforce", "baseline")], "baseline:latest privileged:latest baseline:latest", 0),
            (
                &[("enforce", "restricted"), ("enforce-version", "v1.24"), ("warn", "baseline")],
                "restricted:v1.24 privileged:latest baseline:latest",
                0,
            ),
            (
                &[("enforce", "restricted"), ("enforce-version", "v1.24")],
                "restricted:v1.24 privileged:latest restricted:v1.24",
                0,
            ),
            (
                &[("enforce", "restricted"), ("enforce-version", "v1.24"), ("warn-version", "v1.9")],
                "restricted:v1.24 privileged:latest restricted:v1.9",
                0,
            ),
            (&[("enforce", "x"), ("audit", "y")], "restricted:latest privileged:latest privileged:latest", 2),
            (
                &[("audit-version", "v1.09"), ("warn-version", "v2.1")],
                "privileged:latest privileged:latest privileged:latest",
                2,
            ),
        ] {
            assert_eq!(policy(labels), (said.to_owned(), faults), "{labels:?}");
        }
    }
}
