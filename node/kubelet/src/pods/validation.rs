//! Whether a pod's specification is one that this node can act on: all names in it are names, all amounts are amounts.
//!
//! The API server refuses such pods, too. What comes here has passed another version of it, or none.

use std::collections::HashSet;

use hypernetes_api::{ConfigKey, DnsLabel, DnsSubdomain, InvalidName};
use k8s_openapi::{
    api::core::v1::{
        Container, DownwardAPIVolumeFile, EphemeralContainer, KeyToPath, PodSpec, ResourceRequirements, Volume,
    },
    apimachinery::pkg::api::resource::Quantity,
};

use crate::{
    pod_dir::{InvalidItemPath, ItemPath},
    quantity::{Amount, InvalidAmount},
};

/// Most containers and volumes of a pod; a file of its own each.
const MOST: usize = 1000;

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {why}")]
pub struct InvalidSpec {
    /// As field errors of the API name it: `spec.volumes[0].name`.
    pub path: String,
    pub why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error(transparent)]
    Item(#[from] InvalidItemPath),
    #[error("{0:?}: {1}")]
    Amount(String, InvalidAmount),
    #[error("{0:?} is there twice")]
    Duplicate(String),
    #[error("there are more than {MOST}")]
    TooMany,
    #[error("{0} is not supported")]
    Unsupported(&'static str),
}

type Checked = Result<(), InvalidSpec>;

fn at<E: Into<Why>>(path: impl FnOnce() -> String) -> impl FnOnce(E) -> InvalidSpec {
    move |error| InvalidSpec { path: path(), why: error.into() }
}

/// # Errors
/// The first of what is wrong.
pub fn check(spec: &PodSpec) -> Checked {
    let mut names = HashSet::new();
    let inits = spec.init_containers.iter().flatten().map(|c| ("initContainers", c));
    let containers = inits.chain(spec.containers.iter().map(|c| ("containers", c)));
    for (number, (list, container)) in containers.enumerate() {
        let path = format!("spec.{list}[name={:?}]", shortened(&container.name));
        once(&mut names, &container.name, number, &path)?;
        check_container(container, &path)?;
    }
    for EphemeralContainer { name, .. } in spec.ephemeral_containers.iter().flatten() {
        let path = format!("spec.ephemeralContainers[name={:?}]", shortened(name));
        let number = names.len();
        once(&mut names, name, number, &path)?;
    }
    let mut volumes = HashSet::new();
    for (number, volume) in spec.volumes.iter().flatten().enumerate() {
        let path = format!("spec.volumes[{number}]");
        once(&mut volumes, &volume.name, number, &path)?;
        check_volume(volume, &path)?;
    }
    let optional = |name: &Option<String>, path: &str| match name.as_deref() {
        None | Some("") => Ok(()),
        Some(name) => object(name, path),
    };
    optional(&spec.service_account_name, "spec.serviceAccountName")?;
    if let Some(hostname) = spec.hostname.as_deref().filter(|name| !name.is_empty()) {
        DnsLabel::new(hostname).map_err(at(|| "spec.hostname".into()))?;
    }
    amounts(spec.overhead.iter().flatten(), "spec.overhead")?;
    resources(spec.resources.as_ref(), "spec")?;
    check_security(spec)
}

fn once(names: &mut HashSet<String>, name: &str, number: usize, path: &str) -> Checked {
    DnsLabel::new(name).map_err(at(|| format!("{path}.name")))?;
    if number >= MOST {
        return Err(at(|| path.to_owned())(Why::TooMany));
    }
    if !names.insert(name.to_owned()) {
        return Err(at(|| format!("{path}.name"))(Why::Duplicate(name.to_owned())));
    }
    Ok(())
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

fn object(name: &str, path: &str) -> Checked {
    DnsSubdomain::new(name).map(drop).map_err(at(|| path.to_owned()))
}

fn key(key: &str, path: &str) -> Checked {
    ConfigKey::new(key).map(drop).map_err(at(|| path.to_owned()))
}

fn item(path_in_volume: &str, path: &str) -> Checked {
    ItemPath::parse(path_in_volume).map(drop).map_err(at(|| path.to_owned()))
}

fn amounts<'a>(list: impl Iterator<Item = (&'a String, &'a Quantity)>, path: &str) -> Checked {
    for (resource, amount) in list {
        Amount::parse(&amount.0).map_err(|error| InvalidSpec {
            path: format!("{path}[{}]", shortened(resource)),
            why: Why::Amount(shortened(&amount.0), error),
        })?;
    }
    Ok(())
}

fn resources(resources: Option<&ResourceRequirements>, path: &str) -> Checked {
    let Some(resources) = resources else { return Ok(()) };
    amounts(resources.requests.iter().flatten(), &format!("{path}.resources.requests"))?;
    amounts(resources.limits.iter().flatten(), &format!("{path}.resources.limits"))
}

fn check_container(container: &Container, path: &str) -> Checked {
    resources(container.resources.as_ref(), path)?;
    for source in container.env_from.iter().flatten() {
        let names = [
            source.config_map_ref.as_ref().map(|r| (&r.name, "configMapRef")),
            source.secret_ref.as_ref().map(|r| (&r.name, "secretRef")),
        ];
        for (name, kind) in names.into_iter().flatten() {
            object(name, &format!("{path}.envFrom.{kind}.name"))?;
        }
    }
    for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
        let references = [
            from.config_map_key_ref.as_ref().map(|r| (&r.name, &r.key, "configMapKeyRef")),
            from.secret_key_ref.as_ref().map(|r| (&r.name, &r.key, "secretKeyRef")),
        ];
        for (name, of, kind) in references.into_iter().flatten() {
            object(name, &format!("{path}.env.valueFrom.{kind}.name"))?;
            key(of, &format!("{path}.env.valueFrom.{kind}.key"))?;
        }
    }
    for mount in container.volume_mounts.iter().flatten() {
        DnsLabel::new(&mount.name).map_err(at(|| format!("{path}.volumeMounts.name")))?;
        if let Some(sub_path) = mount.sub_path.as_deref().filter(|sub_path| !sub_path.is_empty()) {
            item(sub_path, &format!("{path}.volumeMounts.subPath"))?;
        }
    }
    for device in container.volume_devices.iter().flatten() {
        DnsLabel::new(&device.name).map_err(at(|| format!("{path}.volumeDevices.name")))?;
    }
    Ok(())
}

fn check_volume(volume: &Volume, path: &str) -> Checked {
    if let Some(source) = &volume.config_map {
        object(&source.name, &format!("{path}.configMap.name"))?;
        items(source.items.as_deref(), &format!("{path}.configMap"))?;
    }
    if let Some(source) = &volume.secret {
        object(source.secret_name.as_deref().unwrap_or_default(), &format!("{path}.secret.secretName"))?;
        items(source.items.as_deref(), &format!("{path}.secret"))?;
    }
    if let Some(source) = &volume.downward_api {
        fields(source.items.as_deref(), &format!("{path}.downwardAPI"))?;
    }
    if let Some(source) = &volume.persistent_volume_claim {
        object(&source.claim_name, &format!("{path}.persistentVolumeClaim.claimName"))?;
    }
    if let Some(limit) = volume.empty_dir.as_ref().and_then(|source| source.size_limit.as_ref()) {
        let name = "sizeLimit".to_owned();
        amounts([(&name, limit)].into_iter(), &format!("{path}.emptyDir"))?;
    }
    for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
        let path = format!("{path}.projected.sources");
        if let Some(map) = &source.config_map {
            object(&map.name, &format!("{path}.configMap.name"))?;
            items(map.items.as_deref(), &path)?;
        }
        if let Some(secret) = &source.secret {
            object(&secret.name, &format!("{path}.secret.name"))?;
            items(secret.items.as_deref(), &path)?;
        }
        if let Some(source) = &source.downward_api {
            fields(source.items.as_deref(), &path)?;
        }
        if let Some(token) = &source.service_account_token {
            item(&token.path, &format!("{path}.serviceAccountToken.path"))?;
        }
        if source.cluster_trust_bundle.is_some() {
            return Err(at(|| path)(Why::Unsupported("clusterTrustBundle")));
        }
        if source.pod_certificate.is_some() {
            return Err(at(|| path)(Why::Unsupported("podCertificate")));
        }
    }
    Ok(())
}

fn items(items: Option<&[KeyToPath]>, path: &str) -> Checked {
    for one in items.unwrap_or_default() {
        key(&one.key, &format!("{path}.items.key"))?;
        item(&one.path, &format!("{path}.items.path"))?;
    }
    Ok(())
}

fn fields(items: Option<&[DownwardAPIVolumeFile]>, path: &str) -> Checked {
    items.unwrap_or_default().iter().try_for_each(|one| item(&one.path, &format!("{path}.items.path")))
}

/// What of a pod's security would otherwise be passed over in silence: a VM has none of it.
fn check_security(spec: &PodSpec) -> Checked {
    let unsupported = |path: String, what| Err(at(|| path)(Why::Unsupported(what)));
    let host = [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)];
    if let Some((field, _)) = host.into_iter().find(|(_, wanted)| *wanted == Some(true)) {
        return unsupported(format!("spec.{field}"), "what is the host's");
    }
    if let Some(context) = &spec.security_context {
        if context.windows_options.is_some() {
            return unsupported("spec.securityContext.windowsOptions".into(), "what is Windows' own");
        }
        if context.se_linux_options.is_some() {
            return unsupported("spec.securityContext.seLinuxOptions".into(), "SELinux in a pod's VM");
        }
    }
    let inits = spec.init_containers.iter().flatten();
    for container in inits.chain(&spec.containers) {
        let Some(context) = &container.security_context else { continue };
        let path = |field| format!("spec.containers[name={:?}].securityContext.{field}", container.name);
        if context.windows_options.is_some() {
            return unsupported(path("windowsOptions"), "what is Windows' own");
        }
        if context.se_linux_options.is_some() {
            return unsupported(path("seLinuxOptions"), "SELinux in a pod's VM");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn refusal(more: Value) -> Option<String> {
        let mut spec = json!({"containers": [{"name": "a", "image": "i"}]});
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        check(&serde_json::from_value(spec).unwrap()).err().map(|error| error.path)
    }

    #[test]
    fn names_are_refused_wherever_they_stand() {
        let container = |more: Value| {
            let mut container = json!({"name": "a"});
            container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"containers": [container]})
        };
        let volume = |source: Value| {
            let mut volume = json!({"name": "v"});
            volume.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
            json!({"volumes": [volume]})
        };
        let projected = |source: Value| volume(json!({"projected": {"sources": [source]}}));
        for bad in ["/tmp/x", "../x", "a/../../x", "..", "a/b", "x?watch=true", "a\0b"] {
            let items = json!([{"key": "k", "path": bad}]);
            let keys = json!([{"key": bad, "path": "p"}]);
            let field = json!([{"path": bad, "fieldRef": {"fieldPath": "metadata.name"}}]);
            let cases = [
                ("spec.volumes[0].name", json!({"volumes": [{"name": bad, "emptyDir": {}}]})),
                ("spec.containers[name=", json!({"containers": [{"name": bad}]})),
                ("spec.initContainers[name=", json!({"initContainers": [{"name": bad}]})),
                ("spec.ephemeralContainers[name=", json!({"ephemeralContainers": [{"name": bad}]})),
                ("spec.volumes[0].configMap.name", volume(json!({"configMap": {"name": bad}}))),
                ("spec.volumes[0].configMap.items.key", volume(json!({"configMap": {"name": "m", "items": keys}}))),
                ("spec.volumes[0].secret.secretName", volume(json!({"secret": {"secretName": bad}}))),
                ("spec.volumes[0].secret.items.key", volume(json!({"secret": {"secretName": "m", "items": keys}}))),
                (
                    "spec.volumes[0].persistentVolumeClaim.claimName",
                    volume(json!({"persistentVolumeClaim": {"claimName": bad}})),
                ),
                ("spec.volumes[0].projected.sources.configMap.name", projected(json!({"configMap": {"name": bad}}))),
                ("spec.volumes[0].projected.sources.secret.name", projected(json!({"secret": {"name": bad}}))),
                (
                    "spec.volumes[0].projected.sources.items.key",
                    projected(json!({"secret": {"name": "s", "items": keys}})),
                ),
                ("spec.serviceAccountName", json!({"serviceAccountName": bad})),
                ("spec.hostname", json!({"hostname": bad})),
                (
                    "spec.containers[name=\"a\"].envFrom.configMapRef.name",
                    container(json!({"envFrom": [{"configMapRef": {"name": bad}}]})),
                ),
                (
                    "spec.containers[name=\"a\"].envFrom.secretRef.name",
                    container(json!({"envFrom": [{"secretRef": {"name": bad}}]})),
                ),
                (
                    "spec.containers[name=\"a\"].env.valueFrom.secretKeyRef.name",
                    container(
                        json!({"env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": bad, "key": "k"}}}]}),
                    ),
                ),
                (
                    "spec.containers[name=\"a\"].env.valueFrom.configMapKeyRef.key",
                    container(
                        json!({"env": [{"name": "E", "valueFrom": {"configMapKeyRef": {"name": "m", "key": bad}}}]}),
                    ),
                ),
                (
                    "spec.containers[name=\"a\"].volumeMounts.name",
                    container(json!({"volumeMounts": [{"name": bad, "mountPath": "/x"}]})),
                ),
                (
                    "spec.containers[name=\"a\"].volumeDevices.name",
                    container(json!({"volumeDevices": [{"name": bad, "devicePath": "/x"}]})),
                ),
            ];
            for (path, more) in cases {
                assert!(
                    refusal(more.clone()).is_some_and(|found| found.starts_with(path)),
                    "{path} {bad:?}: {:?}",
                    refusal(more)
                );
            }
            // Paths may have more than one name.
            if ItemPath::parse(bad).is_ok() {
                continue;
            }
            let cases = [
                ("spec.volumes[0].configMap.items.path", volume(json!({"configMap": {"name": "m", "items": items}}))),
                ("spec.volumes[0].secret.items.path", volume(json!({"secret": {"secretName": "m", "items": items}}))),
                ("spec.volumes[0].downwardAPI.items.path", volume(json!({"downwardAPI": {"items": field}}))),
                (
                    "spec.volumes[0].projected.sources.items.path",
                    projected(json!({"configMap": {"name": "m", "items": items}})),
                ),
                ("spec.volumes[0].projected.sources.items.path", projected(json!({"downwardAPI": {"items": field}}))),
                (
                    "spec.volumes[0].projected.sources.serviceAccountToken.path",
                    projected(json!({"serviceAccountToken": {"path": bad}})),
                ),
                (
                    "spec.containers[name=\"a\"].volumeMounts.subPath",
                    container(json!({"volumeMounts": [{"name": "v", "mountPath": "/x", "subPath": bad}]})),
                ),
            ];
            for (path, more) in cases {
                assert!(
                    refusal(more.clone()).is_some_and(|found| found.starts_with(path)),
                    "{path} {bad:?}: {:?}",
                    refusal(more)
                );
            }
        }
    }

    #[test]
    fn amounts_are_not_negative_and_names_not_there_twice() {
        let resources = |resources: Value| json!({"containers": [{"name": "a", "resources": resources}]});
        for bad in ["-200Gi", "x", "1e999999"] {
            assert!(refusal(resources(json!({"requests": {"memory": bad}}))).is_some(), "{bad}");
            assert!(refusal(resources(json!({"limits": {"cpu": bad}}))).is_some(), "{bad}");
            assert!(refusal(json!({"overhead": {"memory": bad}})).is_some(), "{bad}");
            assert!(refusal(json!({"volumes": [{"name": "v", "emptyDir": {"sizeLimit": bad}}]})).is_some(), "{bad}");
        }
        assert!(refusal(json!({"initContainers": [{"name": "a"}]})).is_some());
        assert!(refusal(json!({"volumes": [{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]})).is_some());
        assert!(refusal(json!({"hostNetwork": true})).is_some());
        assert!(refusal(json!({"securityContext": {"windowsOptions": {}}})).is_some());
        assert_eq!(
            refusal(json!({"volumes": [{"name": "v", "configMap": {"name": "kube-root-ca.crt",
            "items": [{"key": "ca.crt", "path": "a/b"}]}}]})),
            None
        );
    }
}
