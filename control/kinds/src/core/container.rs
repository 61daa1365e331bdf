//! Containers of a pod: regular ones, those that come before, and ephemeral ones.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Map, Value};

use super::{downward, probe, resources, security, volume::Volumes};
use crate::{
    field::{Errors, Field, quote},
    format,
};

pub(crate) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// What containers are checked against: the rest of their pod.
pub(crate) struct Surroundings<'a> {
    pub volumes: Volumes<'a>,
    /// Names of the pod's resource claims.
    pub claims: BTreeSet<&'a str>,
    /// The pod's termination grace period, in seconds.
    pub grace: Option<i64>,
    pub restart_policy: &'a str,
    /// Whether the pod's users are the host's.
    pub host_users: bool,
}

/// `containers`: at least one, of different names.
pub(crate) fn regular(list: &Field<'_>, around: &Surroundings<'_>, errors: &mut Errors) {
    if list.is_empty() {
        return list.required(errors, "");
    }
    let mut names = HashSet::new();
    for container in list.items() {
        common(&container, around, errors);
        let name = container.get("name");
        if !names.insert(name.text()) {
            name.duplicate(errors);
        }
        hooks(&container, around, errors);
        let policy = container.get("restartPolicy");
        if policy.is_set() {
            policy.forbidden(errors, "may not be set for non-init containers");
        }
    }
    let mut ports = HashSet::new();
    list.items().for_each(|container| host_ports(&container, &mut ports, errors));
}

/// `initContainers`, whose names are no regular container's either.
pub(crate) fn init(list: &Field<'_>, regular: &Field<'_>, around: &Surroundings<'_>, errors: &mut Errors) {
    let mut names: HashSet<&str> = regular.items().map(|container| container.get("name").text()).collect();
    for container in list.items() {
        common(&container, around, errors);
        let (name, policy) = (container.get("name"), container.get("restartPolicy"));
        policy.optional_one_of(errors, &["Always", "Never", "OnFailure"]);
        if names.contains(name.text()) {
            name.duplicate(errors);
        } else if !name.is_empty() {
            names.insert(name.text());
        }
        host_ports(&container, &mut HashSet::new(), errors);
        if policy.text() == "Always" {
            hooks(&container, around, errors);
            continue;
        }
        for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            let field = container.get(name);
            if field.is_set() {
                field.forbidden(errors, "may not be set for init containers without restartPolicy=Always");
            }
        }
    }
}

/// `ephemeralContainers`, which have a name of their own and are part of no workload.
pub(crate) fn ephemeral(list: &Field<'_>, others: &[Field<'_>], around: &Surroundings<'_>, errors: &mut Errors) {
    let targets: HashSet<&str> = others.iter().flat_map(Field::items).map(|c| c.get("name").text()).collect();
    let mut names = targets.clone();
    for container in list.items() {
        common(&container, around, errors);
        trimmed_image(&container, errors);
        let (name, target) = (container.get("name"), container.get("targetContainerName"));
        if !names.insert(name.text()) {
            name.duplicate(errors);
        }
        if !target.is_empty() && !targets.contains(target.text()) {
            target.not_found(errors);
        }
        const NOT: &str = "cannot be set for an Ephemeral Container";
        for name in ["ports", "resources", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
            let field = container.get(name);
            if !field.is_empty() {
                field.forbidden(errors, NOT);
            }
        }
        for mount in container.get("volumeMounts").items() {
            for name in ["subPath", "subPathExpr"] {
                if !mount.get(name).is_empty() {
                    mount.get(name).forbidden(errors, NOT);
                }
            }
        }
    }
}

/// Of a pod's containers (templates may have it): an image without spaces around it.
pub(crate) fn trimmed_image(container: &Field<'_>, errors: &mut Errors) {
    let image = container.get("image");
    if image.text().trim() != image.text() {
        image.invalid(errors, "must not have leading or trailing whitespace");
    }
}

/// What all kinds of containers have.
fn common(container: &Field<'_>, around: &Surroundings<'_>, errors: &mut Errors) {
    container.get("name").required_text(errors, format::label);
    container.get("image").not_empty(errors);
    container.get("terminationMessagePolicy").required_one_of(errors, &["File", "FallbackToLogsOnError"]);
    ports(&container.get("ports"), errors);
    variables(&container.get("env"), errors);
    variables_from(&container.get("envFrom"), errors);
    let (mounts, devices) = (container.get("volumeMounts"), container.get("volumeDevices"));
    mounts_of(container, &mounts, &devices, &around.volumes, errors);
    devices_of(&devices, &mounts, &around.volumes, errors);
    container.get("imagePullPolicy").required_one_of(errors, &["Always", "IfNotPresent", "Never"]);
    resources::of_container(&container.get("resources"), &around.claims, errors);
    resize(&container.get("resizePolicy"), around.restart_policy, errors);
    security::of_container(&container.get("securityContext"), around.host_users, errors);
}

/// Probes and hooks of what goes on running.
fn hooks(container: &Field<'_>, around: &Surroundings<'_>, errors: &mut Errors) {
    let lifecycle = container.get("lifecycle");
    for name in ["postStart", "preStop"] {
        let hook = lifecycle.get(name);
        if hook.is_set() {
            probe::hook(&hook, around.grace, errors);
        }
    }
    probe::liveness(&container.get("livenessProbe"), errors);
    probe::readiness(&container.get("readinessProbe"), errors);
    probe::liveness(&container.get("startupProbe"), errors);
}

fn ports(list: &Field<'_>, errors: &mut Errors) {
    let mut names = HashSet::new();
    for port in list.items() {
        let (name, number, host) = (port.get("name"), port.get("containerPort"), port.get("hostPort"));
        if !name.is_empty() {
            let faults = format::port_name(name.text());
            if faults.is_empty() && !names.insert(name.text()) {
                name.duplicate(errors);
            }
            name.faulty(errors, faults);
        }
        match number.int().unwrap_or(0) {
            0 => number.required(errors, ""),
            _ => number.in_range(errors, 1, 65535),
        }
        if host.int().unwrap_or(0) != 0 {
            host.in_range(errors, 1, 65535);
        }
        // Upstream takes any text here, which becomes part of a rule of the host's.
        port.get("hostIP").optional_text(errors, format::ip);
        port.get("protocol").required_one_of(errors, PROTOCOLS);
    }
}

/// Ports of the host that two containers want.
fn host_ports<'a>(container: &Field<'a>, taken: &mut HashSet<(&'a str, &'a str, i64)>, errors: &mut Errors) {
    for port in container.get("ports").items() {
        let number = port.get("hostPort");
        let Some(host) = number.int().filter(|number| *number != 0) else { continue };
        let (protocol, address) = (port.get("protocol").text(), port.get("hostIP").text());
        if !taken.insert((protocol, address, host)) {
            number.duplicate_as(errors, quote(&format!("{protocol}/{address}/{host}")));
        }
    }
}

fn variables(list: &Field<'_>, errors: &mut Errors) {
    for variable in list.items() {
        variable.get("name").required_text(errors, format::variable);
        let from = variable.get("valueFrom");
        if !from.is_set() {
            continue;
        }
        let mut sources = 0;
        let mut source = |name| Some(from.get(name)).filter(Field::is_set).inspect(|_| sources += 1);
        let field = source("fieldRef");
        let resource = source("resourceFieldRef");
        let map = source("configMapKeyRef");
        let secret = source("secretKeyRef");
        let file = source("fileKeyRef");
        if let Some(field) = field {
            downward::field(&field, downward::OF_VARIABLES, errors);
        }
        if let Some(resource) = resource {
            downward::resource(&resource, false, errors);
        }
        for reference in [map, secret].into_iter().flatten() {
            let name = reference.get("name");
            name.faulty(errors, format::subdomain(name.text()));
            reference.get("key").required_text(errors, format::config_key);
        }
        if let Some(file) = file {
            file.get("key").required_text(errors, format::variable);
            file.get("volumeName").required_text(errors, format::label);
            file.get("path").required_text(errors, format::local_path);
        }
        let why = match sources {
            0 => {
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
            }
            _ if !variable.get("value").is_empty() => "may not be specified when `value` is not empty",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        from.invalid_quoted(errors, "", why);
    }
}

fn variables_from(list: &Field<'_>, errors: &mut Errors) {
    for source in list.items() {
        source.get("prefix").optional_text(errors, format::variable);
        let mut sources = 0;
        for name in ["configMapRef", "secretRef"] {
            let reference = source.get(name);
            if reference.is_set() {
                sources += 1;
                reference.get("name").required_text(errors, format::subdomain);
            }
        }
        // Upstream's path here is the list's.
        match sources {
            0 => list.invalid_quoted(errors, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => list.invalid_quoted(errors, "", "may not have more than one field specified at a time"),
        }
    }
}

fn mounts_of(
    container: &Field<'_>,
    mounts: &Field<'_>,
    devices: &Field<'_>,
    volumes: &Volumes<'_>,
    errors: &mut Errors,
) {
    let mut paths = HashSet::new();
    let device_names: HashSet<&str> = devices.items().map(|device| device.get("name").text()).collect();
    let device_paths: HashSet<&str> = devices.items().map(|device| device.get("devicePath").text()).collect();
    let privileged = container.walk(["securityContext", "privileged"]).is_true();
    for mount in mounts.items() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        let (sub, expression) = (mount.get("subPath"), mount.get("subPathExpr"));
        name.not_empty(errors);
        let volume = volumes.get(name.text());
        if volume.is_none() {
            name.not_found_as(errors, name.text());
        }
        path.not_empty(errors);
        if !paths.insert(path.text()) {
            path.invalid_text(errors, "must be unique");
        }
        if device_names.contains(name.text()) {
            name.invalid_text(errors, "must not already exist in volumeDevices");
        }
        if device_paths.contains(path.text()) {
            path.invalid_text(errors, "must not already exist as a path in volumeDevices");
        }
        if !sub.is_empty() && !expression.is_empty() {
            expression.invalid(errors, "subPathExpr and subPath are mutually exclusive");
        }
        // From here on, upstream's paths have no index.
        let shared = |name: &'static str| Field::at(mount.get(name).value, mounts.path.child(name));
        shared("subPath").optional_text(errors, format::descending_path);
        shared("subPathExpr").optional_text(errors, format::descending_path);
        let (propagation, recursive) = (shared("mountPropagation"), shared("recursiveReadOnly"));
        propagation.optional_one_of(errors, &["Bidirectional", "HostToContainer", "None"]);
        if propagation.text() == "Bidirectional" && !privileged {
            let why = "Bidirectional mount propagation is available only to privileged containers";
            propagation.forbidden(errors, why);
        }
        match recursive.text() {
            "Enabled" | "IfPossible" => {
                if !mount.get("readOnly").is_true() {
                    recursive.forbidden(errors, "may only be specified when readOnly is true");
                }
                if !["", "None"].contains(&propagation.text()) {
                    let why = "may only be specified when mountPropagation is None or not specified";
                    recursive.forbidden(errors, why);
                }
            }
            _ => recursive.optional_one_of(errors, &["Disabled", "Enabled", "IfPossible"]),
        }
    }
}

fn devices_of(devices: &Field<'_>, mounts: &Field<'_>, volumes: &Volumes<'_>, errors: &mut Errors) {
    let (mut names, mut paths) = (HashSet::new(), HashSet::new());
    let mount_names: HashSet<&str> = mounts.items().map(|mount| mount.get("name").text()).collect();
    let mount_paths: HashSet<&str> = mounts.items().map(|mount| mount.get("mountPath").text()).collect();
    for device in devices.items() {
        let (name, path) = (device.get("name"), device.get("devicePath"));
        name.not_empty(errors);
        if !name.is_empty() && !names.insert(name.text()) {
            name.invalid(errors, "must be unique");
        }
        match volumes.get(name.text()) {
            None => name.not_found_as(errors, name.text()),
            Some(volume) if !volume.get("persistentVolumeClaim").is_set() && !volume.get("ephemeral").is_set() => {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                name.invalid(errors, why);
            }
            Some(_) => {}
        }
        path.not_empty(errors);
        if format::steps_back(path.text()) {
            path.invalid(errors, "can not contain backsteps ('..')");
        } else if !paths.insert(path.text()) {
            path.invalid_text(errors, "must be unique");
        }
        if mount_names.contains(name.text()) {
            name.invalid_text(errors, "must not already exist in volumeMounts");
        }
        if mount_paths.contains(path.text()) {
            path.invalid_text(errors, "must not already exist as a path in volumeMounts");
        }
    }
}

fn resize(list: &Field<'_>, restart_policy: &str, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for policy in list.items() {
        let name = policy.get("resourceName").text();
        if !seen.insert(name) {
            policy.duplicate_as(errors, quote(name));
        }
        // Upstream's paths here are the list's.
        let at = |name: &'static str| Field::at(policy.get(name).value, list.path.clone());
        at("resourceName").required_one_of(errors, &["cpu", "memory"]);
        let restart = at("restartPolicy");
        restart.required_one_of(errors, &["NotRequired", "RestartContainer"]);
        if restart_policy == "Never" && restart.text() != "NotRequired" {
            restart.invalid_text(errors, "must be 'NotRequired' when `restartPolicy` is 'Never'");
        }
    }
}

/// `Always` for images without a tag or with `latest`, else `IfNotPresent`.
pub(crate) fn pull_policy(container: &mut Map<String, Value>) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = if image_is_latest(image) { "Always" } else { "IfNotPresent" };
    container.entry("imagePullPolicy").or_insert_with(|| policy.into());
}

/// The same for an image that is a volume.
pub(crate) fn pull_policy_of_volume(source: &mut Map<String, Value>) {
    let image = source.get("reference").and_then(Value::as_str).unwrap_or_default();
    let policy = if image_is_latest(image) { "Always" } else { "IfNotPresent" };
    source.entry("pullPolicy").or_insert_with(|| policy.into());
}

fn image_is_latest(image: &str) -> bool {
    // What is no image is not the latest one.
    if image.is_empty() || image.ends_with(':') || image.contains(['@', ' ']) {
        return false;
    }
    let name = image.rsplit('/').next().unwrap_or_default();
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, latest) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.27", false),
            ("localhost:5000/nginx", true),
            ("localhost:5000/nginx:1", false),
            ("nginx@sha256:00", false),
            ("", false),
            (" nginx", false),
        ] {
            assert_eq!(image_is_latest(image), latest, "{image}");
        }
    }
}
