//! Security contexts of pods and containers.

use std::collections::HashSet;

use serde_json::Value;

use crate::{
    field::{Errors, Field, shown},
    format,
};

/// The largest user or group.
const MAX_ID: i64 = i32::MAX as i64;
const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
/// How upstream's own type of a container's context is printed: its fields in order, with those of ours.
const CONTAINER: &[(&str, &str)] = &[
    ("Capabilities", "capabilities"),
    ("Privileged", "privileged"),
    ("SELinuxOptions", "seLinuxOptions"),
    ("WindowsOptions", "windowsOptions"),
    ("RunAsUser", "runAsUser"),
    ("RunAsGroup", "runAsGroup"),
    ("RunAsNonRoot", "runAsNonRoot"),
    ("ReadOnlyRootFilesystem", "readOnlyRootFilesystem"),
    ("AllowPrivilegeEscalation", "allowPrivilegeEscalation"),
    ("ProcMount", "procMount"),
    ("SeccompProfile", "seccompProfile"),
    ("AppArmorProfile", "appArmorProfile"),
];

fn id(field: &Field<'_>, errors: &mut Errors) {
    field.in_range(errors, 0, MAX_ID);
}

/// `securityContext` of a container.
pub(crate) fn of_container(context: &Field<'_>, host_users: bool, errors: &mut Errors) {
    if !context.is_set() {
        return;
    }
    id(&context.get("runAsUser"), errors);
    id(&context.get("runAsGroup"), errors);
    let proc_mount = context.get("procMount");
    proc_mount.optional_one_of(errors, &["Default", "Unmasked"]);
    if host_users && proc_mount.text() == "Unmasked" {
        proc_mount.invalid(errors, "`hostUsers` must be false to use `Unmasked`");
    }
    seccomp(&context.get("seccompProfile"), errors);
    if context.get("allowPrivilegeEscalation").flag() == Some(false) {
        if context.get("privileged").is_true() {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            context.invalid_as(errors, internal(context), why);
        }
        let added = context.walk(["capabilities", "add"]);
        if added.items().any(|capability| capability.text() == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            context.invalid_as(errors, internal(context), why);
        }
    }
    app_armor(&context.get("appArmorProfile"), errors);
}

/// A context as upstream's own type is printed.
fn internal(context: &Field<'_>) -> String {
    let fields = CONTAINER.iter().map(|(name, ours)| {
        let value = context.get(ours).value;
        let value = match (*ours, value) {
            ("capabilities", Value::Object(lists)) => {
                let list = |name: &str| lists.get(name).map_or("null".to_owned(), Value::to_string);
                format!("{{\"Add\":{},\"Drop\":{}}}", list("add"), list("drop"))
            }
            (_, value) => shown(value),
        };
        format!("\"{name}\":{value}")
    });
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

fn seccomp(profile: &Field<'_>, errors: &mut Errors) {
    if !profile.is_set() {
        return;
    }
    let (kind, path) = (profile.get("type"), profile.get("localhostProfile"));
    match kind.is_empty() {
        true => kind.required(errors, "type is required when seccompProfile is set"),
        false => kind.one_of(errors, PROFILES),
    }
    match (kind.text() == "Localhost", path.is_set()) {
        (true, false) => path.required(errors, "must be set when seccomp type is Localhost"),
        (true, true) => path.faulty(errors, format::descending_path(path.text())),
        (false, true) => path.invalid_as(
            errors,
            format!("{{\"Type\":{},\"LocalhostProfile\":{}}}", shown(kind.value), shown(path.value)),
            "can only be set when seccomp type is Localhost",
        ),
        (false, false) => {}
    }
}

fn app_armor(profile: &Field<'_>, errors: &mut Errors) {
    if !profile.is_set() {
        return;
    }
    let (kind, name) = (profile.get("type"), profile.get("localhostProfile"));
    match kind.text() {
        "Localhost" if name.text().trim().is_empty() && name.text().is_empty() => {
            name.required(errors, "must be set when AppArmor type is Localhost");
        }
        "Localhost" => {
            if name.text().trim() != name.text() {
                name.invalid(errors, "must not be padded with whitespace");
            }
            if name.text().len() > 4095 {
                name.too_long(errors, 4095);
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if name.is_set() {
                name.invalid(errors, "can only be set when AppArmor type is Localhost");
            }
        }
        "" => kind.required(errors, "type is required when appArmorProfile is set"),
        _ => kind.not_supported(errors, PROFILES),
    }
}

/// `securityContext` of a pod's spec.
pub(crate) fn of_pod(context: &Field<'_>, spec: &Field<'_>, errors: &mut Errors) {
    for name in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&context.get(name), errors);
    }
    context.get("supplementalGroups").items().for_each(|group| id(&group, errors));
    let shared = spec.get("shareProcessNamespace");
    if shared.is_true() && spec.get("hostPID").is_true() {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        Field::at(shared.value, context.path.child("shareProcessNamespace")).invalid(errors, why);
    }
    sysctls(&context.get("sysctls"), errors);
    context.get("fsGroupChangePolicy").optional_one_of(errors, &["Always", "OnRootMismatch"]);
    seccomp(&context.get("seccompProfile"), errors);
    app_armor(&context.get("appArmorProfile"), errors);
    context.get("supplementalGroupsPolicy").optional_one_of(errors, &["Merge", "Strict"]);
    context.get("seLinuxChangePolicy").optional_one_of(errors, &["MountOption", "Recursive"]);
}

fn sysctls(list: &Field<'_>, errors: &mut Errors) {
    let mut names = HashSet::new();
    for sysctl in list.items() {
        let name = sysctl.get("name");
        if name.is_empty() {
            name.required(errors, "");
        } else if !is_sysctl(name.text()) {
            name.invalid(errors, SYSCTL);
        } else if !names.insert(name.text()) {
            name.duplicate(errors);
        }
    }
}

const SYSCTL: &str = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// Words of lower-case letters and digits, with dashes and underscores inside, between dots or slashes: never a path that
/// leaves `/proc/sys`.
fn is_sysctl(name: &str) -> bool {
    let ends = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let word = |word: &str| {
        let bytes = word.as_bytes();
        bytes.first().is_some_and(ends)
            && bytes.last().is_some_and(ends)
            && bytes.iter().all(|b| ends(b) || b"-_".contains(b))
    };
    name.len() <= 253 && name.split(['.', '/']).all(word)
}
