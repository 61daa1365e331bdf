//! The checks of `restricted`, besides those of `baseline`: a container says that it wants no more than most need.

use std::collections::BTreeSet;

use hypernetes_schema::walk::list;
use serde_json::Value;

use super::pod::{Found, Pod, containers, found, name, plural, quoted, setters};

/// Volumes that are a part of the pod, or a tenant's own.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
/// All others.
const OTHER_VOLUMES: [&str; 21] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "glusterfs",
    "hostPath",
    "iscsi",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

/// Who says it wrongly, and who does not say it while the pod does not, either.
struct Said<'a> {
    bad_pod: bool,
    bad: Vec<&'a str>,
    silent: Vec<&'a str>,
}

impl<'a> Said<'a> {
    /// `says`: of a security context, whether what it says is right; none: it says nothing.
    fn of(pod: Pod<'a>, mut says: impl FnMut(&'a Value) -> Option<bool>) -> Self {
        let of_pod = says(&pod.spec["securityContext"]);
        let mut said = Self { bad_pod: of_pod == Some(false), bad: Vec::new(), silent: Vec::new() };
        for container in pod.containers() {
            match says(&container["securityContext"]) {
                Some(true) => {}
                Some(false) => said.bad.push(name(container)),
                None if of_pod == Some(true) => {}
                None => said.silent.push(name(container)),
            }
        }
        said
    }

    /// What is said of those that say it wrongly, or else of those that say nothing.
    fn found(&self, reason: &str, wrong: &str, missing: &str) -> Found {
        if self.bad_pod || !self.bad.is_empty() {
            return found(reason, format!("{} {wrong}", setters(self.bad_pod, &self.bad)));
        }
        let missing = || format!("pod or {} {missing}", containers(&self.silent));
        if self.silent.is_empty() { None } else { found(reason, missing()) }
    }
}

pub fn escalation(pod: Pod<'_>) -> Found {
    let bad = pod.containers().filter(|one| one["securityContext"]["allowPrivilegeEscalation"] != false);
    let bad: Vec<&str> = bad.map(name).collect();
    let detail = || format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&bad));
    if bad.is_empty() { None } else { found("allowPrivilegeEscalation != false", detail()) }
}

pub fn escalation_1_25(pod: Pod<'_>) -> Found {
    if pod.is_windows() { None } else { escalation(pod) }
}

pub fn capabilities(pod: Pod<'_>) -> Found {
    let (mut keeping, mut adding, mut added) = (Vec::new(), Vec::new(), BTreeSet::new());
    for container in pod.containers() {
        let own = &container["securityContext"]["capabilities"];
        if !list(own, "drop").iter().any(|one| one == "ALL") {
            keeping.push(name(container));
        }
        let others = list(own, "add").iter().filter_map(Value::as_str).filter(|one| *one != "NET_BIND_SERVICE");
        let others: Vec<&str> = others.collect();
        if !others.is_empty() {
            adding.push(name(container));
        }
        added.extend(others);
    }
    let keeping = (!keeping.is_empty())
        .then(|| format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeping)));
    let adding = (!adding.is_empty()).then(|| {
        format!("{} must not include {} in securityContext.capabilities.add", containers(&adding), quoted(&added))
    });
    let all: Vec<String> = keeping.into_iter().chain(adding).collect();
    if all.is_empty() { None } else { found("unrestricted capabilities", all.join("; ")) }
}

pub fn capabilities_1_25(pod: Pod<'_>) -> Found {
    if pod.is_windows() { None } else { capabilities(pod) }
}

pub fn volumes(pod: Pod<'_>) -> Found {
    let bad = list(pod.spec, "volumes").iter().filter(|volume| !VOLUMES.iter().any(|kind| volume[*kind].is_object()));
    let (mut names, mut kinds) = (Vec::new(), BTreeSet::new());
    for volume in bad {
        names.push(name(volume));
        let kind = OTHER_VOLUMES.into_iter().find(|kind| volume[*kind].is_object());
        kinds.insert(kind.unwrap_or("unknown"));
    }
    if names.is_empty() {
        return None;
    }
    let (what, uses) = (plural("volume", "volumes", names.len()), plural("uses", "use", names.len()));
    let of = plural("restricted volume type", "restricted volume types", kinds.len());
    found("restricted volume types", format!("{what} {} {uses} {of} {}", quoted(&names), quoted(&kinds)))
}

pub fn non_root(pod: Pod<'_>) -> Found {
    let said = Said::of(pod, |context| context["runAsNonRoot"].as_bool());
    said.found(
        "runAsNonRoot != true",
        "must not set securityContext.runAsNonRoot=false",
        "must set securityContext.runAsNonRoot=true",
    )
}

pub fn non_root_of_host_users(pod: Pod<'_>) -> Found {
    if pod.has_own_users() { None } else { non_root(pod) }
}

pub fn user(pod: Pod<'_>) -> Found {
    let is_root = |context: &Value| context["runAsUser"] == 0;
    let of_pod = is_root(&pod.spec["securityContext"]);
    let bad: Vec<&str> = pod.containers().filter(|one| is_root(&one["securityContext"])).map(name).collect();
    let detail = || format!("{} must not set runAsUser=0", setters(of_pod, &bad));
    if of_pod || !bad.is_empty() { found("runAsUser=0", detail()) } else { None }
}

pub fn user_of_host_users(pod: Pod<'_>) -> Found {
    if pod.has_own_users() { None } else { user(pod) }
}

pub fn seccomp(pod: Pod<'_>) -> Found {
    let mut types = BTreeSet::new();
    let said = Said::of(pod, |context| {
        let profile = context.get("seccompProfile").filter(|profile| profile.is_object())?;
        let of = profile["type"].as_str().unwrap_or_default();
        let is_right = matches!(of, "RuntimeDefault" | "Localhost");
        if !is_right {
            types.insert(of);
        }
        Some(is_right)
    });
    let wrong = format!("must not set securityContext.seccompProfile.type to {}", quoted(&types));
    said.found(
        "seccompProfile",
        &wrong,
        "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
    )
}

pub fn seccomp_1_25(pod: Pod<'_>) -> Found {
    if pod.is_windows() { None } else { seccomp(pod) }
}
