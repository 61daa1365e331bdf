//! The security of one container, from the pod's and its own settings into CRI's.

use std::path::{Component, Path};

use hypernetes_api::DnsLabel;
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{AppArmorProfile, Container as ContainerSpec, PodSpec, SeccompProfile};

use crate::{identity::PodId, pod::spec::user_namespace};

/// What Kubernetes hides from containers, and what it lets them only read, unless `procMount` is `Unmasked`.
const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// `seccomp`: the node's directory of seccomp profiles; `uid`: the pod's.
pub fn of(spec: &PodSpec, wanted: &ContainerSpec, uid: &str, seccomp: &Path) -> cri::LinuxContainerSecurityContext {
    let (pod, own) =
        (spec.security_context.clone().unwrap_or_default(), wanted.security_context.clone().unwrap_or_default());
    let number = |value: Option<i64>| value.map(|value| cri::Int64Value { value });
    let capabilities = own.capabilities.unwrap_or_default();
    let share = spec.share_process_namespace.unwrap_or(false);
    let paths = |paths: &[&str]| match own.proc_mount.as_deref() {
        Some("Unmasked") => Vec::new(),
        _ => paths.iter().map(|path| (*path).to_owned()).collect(),
    };
    let policy = match pod.supplemental_groups_policy.as_deref() {
        Some("Strict") => cri::SupplementalGroupsPolicy::Strict,
        _ => cri::SupplementalGroupsPolicy::Merge,
    };
    cri::LinuxContainerSecurityContext {
        privileged: own.privileged.unwrap_or(false),
        run_as_user: number(own.run_as_user.or(pod.run_as_user)),
        run_as_group: number(own.run_as_group.or(pod.run_as_group)),
        supplemental_groups: pod.supplemental_groups.unwrap_or_default().into_iter().chain(pod.fs_group).collect(),
        supplemental_groups_policy: policy.into(),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        capabilities: Some(cri::Capability {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
            ..Default::default()
        }),
        namespace_options: Some(cri::NamespaceOption {
            pid: if share { cri::NamespaceMode::Pod } else { cri::NamespaceMode::Container }.into(),
            userns_options: user_namespace::of(spec, uid),
            ..Default::default()
        }),
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READONLY_PATHS),
        seccomp: own.seccomp_profile.or(pod.seccomp_profile).map(|profile| security_profile(&profile, seccomp)),
        apparmor: own.app_armor_profile.or(pod.app_armor_profile).map(|profile| app_armor(&profile)),
        ..Default::default()
    }
}

/// Whether the pod or the container wants no process of root's (`runAsNonRoot`).
pub fn must_not_be_root(spec: &PodSpec, wanted: &ContainerSpec) -> bool {
    let own = wanted.security_context.as_ref().and_then(|context| context.run_as_non_root);
    own.or_else(|| spec.security_context.as_ref()?.run_as_non_root) == Some(true)
}

/// Refuses a container that would run as root, or as a user that only the image knows; in upstream's words.
///
/// # Errors
/// The message for the container's state.
pub fn check_not_root(
    context: &cri::LinuxContainerSecurityContext,
    image: Option<&cri::Image>,
    pod: &PodId,
    container: &DnsLabel,
) -> Result<(), String> {
    let place = format!("(pod: {:?}, container: {container})", pod.to_string());
    if let Some(user) = &context.run_as_user {
        return match user.value {
            0 => Err(format!("container's runAsUser breaks non-root policy {place}")),
            _ => Ok(()),
        };
    }
    match image {
        Some(cri::Image { uid: Some(user), .. }) if user.value != 0 => Ok(()),
        Some(cri::Image { uid: None, username, .. }) if !username.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({username}), cannot verify user is non-root {place}"
        )),
        _ => Err(format!("container has runAsNonRoot and image will run as root {place}")),
    }
}

/// CRI wants a user where it is given a group: the image's, or root.
pub fn complete_user(context: &mut cri::LinuxContainerSecurityContext, image: Option<&cri::Image>) {
    if context.run_as_group.is_none() || context.run_as_user.is_some() {
        return;
    }
    match image {
        Some(cri::Image { uid: Some(uid), .. }) => context.run_as_user = Some(*uid),
        Some(image) if !image.username.is_empty() => context.run_as_username.clone_from(&image.username),
        _ => context.run_as_user = Some(cri::Int64Value { value: 0 }),
    }
}

/// A VM's kernel has no profiles: the runtime refuses those of the node, and the others change nothing.
fn app_armor(wanted: &AppArmorProfile) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType;
    let kind = match wanted.type_.as_str() {
        "RuntimeDefault" => ProfileType::RuntimeDefault,
        "Localhost" => ProfileType::Localhost,
        _ => ProfileType::Unconfined,
    };
    let localhost_ref = wanted.localhost_profile.clone().unwrap_or_default();
    cri::SecurityProfile { profile_type: kind.into(), localhost_ref }
}

fn security_profile(wanted: &SeccompProfile, directory: &Path) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType;
    let (kind, path) = match wanted.type_.as_str() {
        "RuntimeDefault" => (ProfileType::RuntimeDefault, String::new()),
        "Localhost" => {
            let name = Path::new(wanted.localhost_profile.as_deref().unwrap_or_default());
            // The name is the tenant's: one that leads elsewhere is none, which the runtime refuses.
            let inside = name.components().all(|part| matches!(part, Component::Normal(_)));
            let path = if inside { directory.join(name).display().to_string() } else { String::new() };
            (ProfileType::Localhost, path)
        }
        _ => (ProfileType::Unconfined, String::new()),
    };
    cri::SecurityProfile { profile_type: kind.into(), localhost_ref: path }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn root_is_refused_where_it_is_not_wanted() {
        let parse = |value| serde_json::from_value::<ContainerSpec>(value).unwrap();
        let pod = |context| -> PodSpec {
            serde_json::from_value(json!({"containers": [], "securityContext": context})).unwrap()
        };
        let (plain, unwilling) = (parse(json!({"name": "a"})), pod(json!({"runAsNonRoot": true})));
        assert!(must_not_be_root(&unwilling, &plain));
        assert!(!must_not_be_root(&pod(json!({})), &plain));
        let own = |wanted: bool| parse(json!({"name": "a", "securityContext": {"runAsNonRoot": wanted}}));
        assert!(!must_not_be_root(&unwilling, &own(false)) && must_not_be_root(&pod(json!({})), &own(true)));
        let id = PodId {
            tenant: "acme".parse().unwrap(),
            uid: "u".parse().unwrap(),
            namespace: "default".parse().unwrap(),
            name: "web".parse().unwrap(),
        };
        let number = |value| Some(cri::Int64Value { value });
        let check = |user: Option<i64>, image: Option<cri::Image>| {
            let run_as_user = user.and_then(number);
            let context = cri::LinuxContainerSecurityContext { run_as_user, ..Default::default() };
            check_not_root(&context, image.as_ref(), &id, &"a".parse().unwrap())
        };
        let root = "container has runAsNonRoot and image will run as root (pod: \"web_default(u)\", container: a)";
        for image in [None, Some(cri::Image::default()), Some(cri::Image { uid: number(0), ..Default::default() })] {
            assert_eq!(check(None, image).unwrap_err(), root);
        }
        let named = cri::Image { username: "web".into(), ..Default::default() };
        assert_eq!(
            check(None, Some(named.clone())).unwrap_err(),
            "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root (pod: \"web_default(u)\", container: a)"
        );
        assert_eq!(
            check(Some(0), Some(named.clone())).unwrap_err(),
            "container's runAsUser breaks non-root policy (pod: \"web_default(u)\", container: a)"
        );
        assert_eq!(check(Some(1), Some(named)), Ok(()));
        assert_eq!(check(None, Some(cri::Image { uid: number(7), ..Default::default() })), Ok(()));
    }

    #[test]
    fn the_containers_settings_win_over_the_pods() {
        let pod = |context| -> PodSpec {
            serde_json::from_value(json!({"containers": [], "securityContext": context})).unwrap()
        };
        let container = |context| -> ContainerSpec {
            serde_json::from_value(json!({"name": "a", "securityContext": context})).unwrap()
        };
        let spec = pod(json!({"runAsUser": 5, "supplementalGroupsPolicy": "Strict",
            "seccompProfile": {"type": "RuntimeDefault"}}));
        let made = of(&spec, &container(json!({})), "u", Path::new("/s"));
        assert_eq!(made.run_as_user.unwrap().value, 5);
        assert_eq!(made.supplemental_groups_policy, cri::SupplementalGroupsPolicy::Strict as i32);
        assert_eq!(made.seccomp.unwrap().profile_type, 0);
        assert!(made.masked_paths.contains(&"/proc/kcore".to_owned()) && made.readonly_paths.len() == 5);
        let own = container(json!({"runAsUser": 6, "procMount": "Unmasked",
            "seccompProfile": {"type": "Localhost", "localhostProfile": "a/b.json"}}));
        let made = of(&spec, &own, "u", Path::new("/s"));
        assert_eq!(made.run_as_user.unwrap().value, 6);
        assert_eq!(made.seccomp.unwrap().localhost_ref, "/s/a/b.json");
        assert!(made.masked_paths.is_empty());
        for name in ["../x", "/etc/passwd", "a/../../x"] {
            let profile = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": name}});
            let made = of(&spec, &container(profile), "u", Path::new("/s"));
            assert_eq!(made.seccomp.unwrap().localhost_ref, "", "{name}");
        }
        assert_eq!(of(&pod(json!({})), &container(json!({})), "u", Path::new("/s")).seccomp, None);
    }

    #[test]
    fn a_group_has_a_user() {
        let number = |value| Some(cri::Int64Value { value });
        let context = |user, group| cri::LinuxContainerSecurityContext {
            run_as_user: user,
            run_as_group: group,
            ..Default::default()
        };
        let completed = |mut context, image: Option<cri::Image>| {
            complete_user(&mut context, image.as_ref());
            (context.run_as_user.map(|user| user.value), context.run_as_username)
        };
        let named = cri::Image { username: "web".into(), ..Default::default() };
        let numbered = cri::Image { uid: number(7), ..Default::default() };
        assert_eq!(completed(context(None, number(5)), Some(named.clone())), (None, "web".into()));
        assert_eq!(completed(context(None, number(5)), Some(numbered)), (Some(7), String::new()));
        assert_eq!(completed(context(None, number(5)), None), (Some(0), String::new()));
        assert_eq!(completed(context(number(3), number(5)), Some(named.clone())), (Some(3), String::new()));
        assert_eq!(completed(context(None, None), Some(named)), (None, String::new()));
    }
}
