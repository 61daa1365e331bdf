//! Which checks a standard has, in which version of Kubernetes, and in which order they are told.

use super::{
    baseline,
    pod::{Found, Pod, Violation},
    policy::{Level, Standard, Version},
    restricted,
};

type Run = fn(Pod<'_>) -> Found;

/// One check, by its identity, by which checks of a level are ordered.
struct Check {
    id: &'static str,
    /// From which minor version on it is done how.
    since: &'static [(u64, Run)],
    /// The check of `baseline` that it stands for.
    instead: Option<&'static str>,
}

const fn check(id: &'static str, since: &'static [(u64, Run)]) -> Check {
    Check { id, since, instead: None }
}

const BASELINE: &[Check] = &[
    check("appArmorProfile", &[(0, baseline::app_armor)]),
    check("capabilities_baseline", &[(0, baseline::capabilities)]),
    check("hostNamespaces", &[(0, baseline::host_namespaces)]),
    check("hostPathVolumes", &[(0, baseline::host_paths)]),
    check("hostPorts", &[(0, baseline::host_ports)]),
    check("hostProbesAndHostLifecycle", &[(34, baseline::probed_hosts)]),
    check("privileged", &[(0, baseline::privileged)]),
    check("procMount", &[(0, baseline::proc_mount), (35, baseline::proc_mount_of_host_users)]),
    check("seLinuxOptions", &[(0, baseline::se_linux), (31, baseline::se_linux_1_31)]),
    check("seccompProfile_baseline", &[(0, baseline::seccomp_annotations), (19, baseline::seccomp)]),
    check(
        "sysctls",
        &[
            (0, baseline::sysctls),
            (27, baseline::sysctls_1_27),
            (29, baseline::sysctls_1_29),
            (32, baseline::sysctls_1_32),
        ],
    ),
    check("windowsHostProcess", &[(0, baseline::host_process)]),
];
const RESTRICTED: &[Check] = &[
    check("allowPrivilegeEscalation", &[(8, restricted::escalation), (25, restricted::escalation_1_25)]),
    Check {
        instead: Some("capabilities_baseline"),
        ..check("capabilities_restricted", &[(22, restricted::capabilities), (25, restricted::capabilities_1_25)])
    },
    Check { instead: Some("procMount"), ..check("procMount_restricted", &[(35, baseline::proc_mount)]) },
    Check { instead: Some("hostPathVolumes"), ..check("restrictedVolumes", &[(0, restricted::volumes)]) },
    check("runAsNonRoot", &[(0, restricted::non_root), (35, restricted::non_root_of_host_users)]),
    check("runAsUser", &[(23, restricted::user), (35, restricted::user_of_host_users)]),
    Check {
        instead: Some("seccompProfile_baseline"),
        ..check("seccompProfile_restricted", &[(19, restricted::seccomp), (25, restricted::seccomp_1_25)])
    },
];
/// What is later is as this.
const LATEST: u64 = 35;

impl Check {
    fn at(&self, minor: u64) -> Option<Run> {
        self.since.iter().rev().find(|(since, _)| *since <= minor).map(|(_, run)| *run)
    }
}

/// All that is wrong with a pod.
pub struct Violations(Vec<Violation>);

impl Violations {
    pub fn of(pod: Pod<'_>, standard: Standard) -> Self {
        let minor = match standard.version {
            Version::Latest => LATEST,
            Version::Minor(minor) => minor.min(LATEST),
        };
        let restricted = if standard.level == Level::Restricted { RESTRICTED } else { &[] };
        let baseline = if standard.level == Level::Privileged { &[] } else { BASELINE };
        let replaced = |id| restricted.iter().any(|check| check.instead == Some(id) && check.at(minor).is_some());
        let checks = baseline.iter().filter(|check| !replaced(check.id)).chain(restricted);
        Self(checks.filter_map(|check| check.at(minor)?(pod)).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn reasons(&self) -> String {
        self.0.iter().map(|one| one.reason.as_str()).collect::<Vec<_>>().join(", ")
    }

    pub fn details(&self) -> String {
        self.0.iter().map(|one| format!("{} ({})", one.reason, one.detail)).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_told_by_their_identity() {
        for checks in [BASELINE, RESTRICTED] {
            assert!(checks.is_sorted_by_key(|check| check.id));
            for check in checks {
                assert!(check.since.is_sorted_by_key(|(since, _)| *since), "{}", check.id);
                assert!(check.since.iter().all(|(since, _)| *since <= LATEST), "{}", check.id);
                assert!(check.instead.is_none_or(|id| BASELINE.iter().any(|other| other.id == id)), "{}", check.id);
            }
        }
    }
}
