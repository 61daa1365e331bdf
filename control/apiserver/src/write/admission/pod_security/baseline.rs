//! The checks of `baseline`: nothing by which a container is more than a container.

use std::collections::BTreeSet;

use hypernetes_schema::walk::list;
use serde_json::Value;

use super::pod::{Found, Pod, containers, found, name, plural, quoted, setters};

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// By the version since which they are harmless.
const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];
const SE_LINUX_TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Who has what is not allowed: the pod, or containers by their names.
struct Bad<'a> {
    pod: bool,
    containers: Vec<&'a str>,
}

impl<'a> Bad<'a> {
    fn find(pod: Pod<'a>, mut is_bad: impl FnMut(&'a Value) -> bool) -> Self {
        let mut bad = Self { pod: false, containers: Vec::new() };
        for (name, _) in pod.contexts().filter(|(_, context)| is_bad(context)) {
            match name {
                None => bad.pod = true,
                Some(name) => bad.containers.push(name),
            }
        }
        bad
    }

    fn is_none(&self) -> bool {
        !self.pod && self.containers.is_empty()
    }

    fn setters(&self) -> String {
        setters(self.pod, &self.containers)
    }
}

pub fn app_armor(pod: Pod<'_>) -> Found {
    let mut values = BTreeSet::new();
    let bad = Bad::find(pod, |context| {
        let Some(profile) = context.get("appArmorProfile").filter(|profile| profile.is_object()) else { return false };
        let of = text(&profile["type"]);
        let is_bad = !matches!(of, "RuntimeDefault" | "Localhost");
        if is_bad {
            values.insert(of.to_owned());
        }
        is_bad
    });
    let allowed = |value: &str| value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
    let annotations = pod.annotations().filter(|(key, value)| key.starts_with(APP_ARMOR) && !allowed(value));
    let annotations: BTreeSet<String> = annotations.map(|(key, value)| format!("{key}={value:?}")).collect();
    if bad.is_none() && annotations.is_empty() {
        return None;
    }
    let of_annotations = plural("annotation", "annotations", annotations.len()).to_owned();
    let of_annotations = (!annotations.is_empty()).then_some(of_annotations);
    let who: Vec<String> =
        Some(bad.setters()).filter(|who| !who.is_empty()).into_iter().chain(of_annotations).collect();
    let values: Vec<String> = values.into_iter().chain(annotations).collect();
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    found(reason, format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(&values)))
}

pub fn capabilities(pod: Pod<'_>) -> Found {
    let mut others = BTreeSet::new();
    let bad = names(pod, |container| {
        let added = list(&container["securityContext"]["capabilities"], "add").iter().map(text);
        let bad: Vec<&str> = added.filter(|one| !CAPABILITIES.contains(one)).collect();
        others.extend(bad.iter().copied());
        !bad.is_empty()
    });
    let detail =
        || format!("{} must not include {} in securityContext.capabilities.add", containers(&bad), quoted(&others));
    if bad.is_empty() { None } else { found("non-default capabilities", detail()) }
}

/// The containers of which something is so.
fn names<'a>(pod: Pod<'a>, mut is_so: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
    pod.containers().filter(|container| is_so(container)).map(name).collect()
}

pub fn host_namespaces(pod: Pod<'_>) -> Found {
    let shared = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| pod.spec[*field] == true);
    let shared: Vec<String> = shared.map(|field| format!("{field}=true")).collect();
    if shared.is_empty() { None } else { found("host namespaces", shared.join(", ")) }
}

pub fn host_paths(pod: Pod<'_>) -> Found {
    let volumes = list(pod.spec, "volumes").iter().filter(|volume| volume["hostPath"].is_object());
    let volumes: Vec<&str> = volumes.map(name).collect();
    let what = plural("volume", "volumes", volumes.len());
    if volumes.is_empty() { None } else { found("hostPath volumes", format!("{what} {}", quoted(&volumes))) }
}

pub fn host_ports(pod: Pod<'_>) -> Found {
    let mut ports = BTreeSet::new();
    let bad = names(pod, |container| {
        let own =
            list(container, "ports").iter().filter_map(|port| port["hostPort"].as_i64()).filter(|port| *port != 0);
        let own: Vec<String> = own.map(|port| port.to_string()).collect();
        let is_bad = !own.is_empty();
        ports.extend(own);
        is_bad
    });
    if bad.is_empty() {
        return None;
    }
    let (uses, what) = (plural("uses", "use", bad.len()), plural("hostPort", "hostPorts", ports.len()));
    let ports: Vec<String> = ports.into_iter().collect();
    found("hostPort", format!("{} {uses} {what} {}", containers(&bad), ports.join(", ")))
}

pub fn probed_hosts(pod: Pod<'_>) -> Found {
    let (mut bad, mut hosts) = (BTreeSet::new(), BTreeSet::new());
    for container in pod.containers() {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|probe| &container[probe]);
        let hooks = ["postStart", "preStop"].map(|hook| &container["lifecycle"][hook]);
        let own =
            probes.into_iter().chain(hooks).flat_map(|one| ["httpGet", "tcpSocket"].map(|way| text(&one[way]["host"])));
        let own: Vec<&str> = own.filter(|host| !host.is_empty()).collect();
        if !own.is_empty() {
            bad.insert(name(container));
            hosts.extend(own);
        }
    }
    if bad.is_empty() {
        return None;
    }
    let bad: Vec<&str> = bad.into_iter().collect();
    let uses = plural("uses", "use", bad.len());
    let what = plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len());
    found("probe or lifecycle host", format!("{} {uses} {what} {}", containers(&bad), quoted(&hosts)))
}

pub fn privileged(pod: Pod<'_>) -> Found {
    let bad = names(pod, |container| container["securityContext"]["privileged"] == true);
    let detail = || format!("{} must not set securityContext.privileged=true", containers(&bad));
    if bad.is_empty() { None } else { found("privileged", detail()) }
}

pub fn proc_mount(pod: Pod<'_>) -> Found {
    let mut others = BTreeSet::new();
    let bad = names(pod, |container| {
        let mount = container["securityContext"]["procMount"].as_str().filter(|mount| *mount != "Default");
        others.extend(mount);
        mount.is_some()
    });
    let detail = || format!("{} must not set securityContext.procMount to {}", containers(&bad), quoted(&others));
    if bad.is_empty() { None } else { found("procMount", detail()) }
}

pub fn proc_mount_of_host_users(pod: Pod<'_>) -> Found {
    if pod.has_own_users() { None } else { proc_mount(pod) }
}

pub fn se_linux(pod: Pod<'_>) -> Found {
    of_se_linux(pod, &SE_LINUX_TYPES[..4])
}

pub fn se_linux_1_31(pod: Pod<'_>) -> Found {
    of_se_linux(pod, &SE_LINUX_TYPES)
}

fn of_se_linux(pod: Pod<'_>, allowed: &[&str]) -> Found {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let bad = Bad::find(pod, |context| {
        let options = &context["seLinuxOptions"];
        let of = text(&options["type"]);
        let (has_user, has_role) = (!text(&options["user"]).is_empty(), !text(&options["role"]).is_empty());
        if !allowed.contains(&of) {
            types.insert(of);
        }
        user |= has_user;
        role |= has_role;
        !allowed.contains(&of) || has_user || has_role
    });
    if bad.is_none() {
        return None;
    }
    let of_types = format!("{} {}", plural("type", "types", types.len()), quoted(&types));
    let what = [
        (!types.is_empty()).then_some(of_types),
        user.then(|| "user may not be set".to_owned()),
        role.then(|| "role may not be set".to_owned()),
    ];
    let what: Vec<String> = what.into_iter().flatten().collect();
    found(
        "seLinuxOptions",
        format!("{} set forbidden securityContext.seLinuxOptions: {}", bad.setters(), what.join("; ")),
    )
}

/// Before there were fields for it.
pub fn seccomp_annotations(pod: Pod<'_>) -> Found {
    let allowed =
        |value: &str| matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
    let keys: BTreeSet<String> = pod.containers().map(|one| format!("{SECCOMP_OF_CONTAINER}{}", name(one))).collect();
    let bad = pod
        .annotations()
        .filter(|(key, value)| (key.as_str() == SECCOMP_OF_POD || keys.contains(key.as_str())) && !allowed(value));
    let bad: BTreeSet<String> = bad.map(|(key, value)| format!("{key}={value:?}")).collect();
    if bad.is_empty() {
        return None;
    }
    let what = plural("annotation", "annotations", bad.len());
    found("seccompProfile", format!("forbidden {what} {}", bad.into_iter().collect::<Vec<_>>().join(", ")))
}

pub fn seccomp(pod: Pod<'_>) -> Found {
    let mut types = BTreeSet::new();
    let bad = Bad::find(pod, |context| {
        let Some(profile) = context.get("seccompProfile").filter(|profile| profile.is_object()) else { return false };
        let of = text(&profile["type"]);
        let is_bad = !matches!(of, "RuntimeDefault" | "Localhost");
        if is_bad {
            types.insert(of);
        }
        is_bad
    });
    let detail = || format!("{} must not set securityContext.seccompProfile.type to {}", bad.setters(), quoted(&types));
    if bad.is_none() { None } else { found("seccompProfile", detail()) }
}

pub fn sysctls(pod: Pod<'_>) -> Found {
    of_sysctls(pod, &SYSCTLS[..5])
}

pub fn sysctls_1_27(pod: Pod<'_>) -> Found {
    of_sysctls(pod, &SYSCTLS[..6])
}

pub fn sysctls_1_29(pod: Pod<'_>) -> Found {
    of_sysctls(pod, &SYSCTLS[..10])
}

pub fn sysctls_1_32(pod: Pod<'_>) -> Found {
    of_sysctls(pod, &SYSCTLS)
}

fn of_sysctls(pod: Pod<'_>, allowed: &[&str]) -> Found {
    let own = list(&pod.spec["securityContext"], "sysctls").iter().map(name);
    let bad: Vec<&str> = own.filter(|sysctl| !allowed.contains(sysctl)).collect();
    if bad.is_empty() { None } else { found("forbidden sysctls", bad.join(", ")) }
}

pub fn host_process(pod: Pod<'_>) -> Found {
    let bad = Bad::find(pod, |context| context["windowsOptions"]["hostProcess"] == true);
    let detail = || format!("{} must not set securityContext.windowsOptions.hostProcess=true", bad.setters());
    if bad.is_none() { None } else { found("hostProcess", detail()) }
}
