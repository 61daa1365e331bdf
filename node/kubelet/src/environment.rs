//! A container's environment.

use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, ResourceFieldSelector, Secret};

use crate::{
    identity::PodId,
    node::{Shared, api::ApiError},
    objects::Objects,
};

/// Most bytes of a container's environment, and of its command: the kernel takes no more either.
pub const MAX_BYTES: usize = 2 << 20;

pub type Environment = Vec<(String, String)>;

/// Resolves `env` and `envFrom`; what refers to something that is not there is an error unless optional.
pub async fn of(shared: &Shared, id: &PodId, pod: &Pod, wanted: &ContainerSpec) -> Result<Environment, String> {
    let namespace = &id.namespace;
    let objects = Objects::of(shared, id);
    let unreachable = |error: ApiError| error.to_string();
    let mut env: Environment = Vec::new();
    for source in wanted.env_from.clone().unwrap_or_default() {
        let prefix = source.prefix.unwrap_or_default();
        if let Some(reference) = source.config_map_ref {
            match objects.config_map(&reference.name).await.map_err(unreachable)? {
                Some(map) => put_all(&mut env, &prefix, map.data.unwrap_or_default()),
                None if reference.optional == Some(true) => {}
                None => return Err(format!("configmap {:?} not found", reference.name)),
            }
        }
        if let Some(reference) = source.secret_ref {
            match objects.secret(&reference.name).await.map_err(unreachable)? {
                Some(secret) => put_all(&mut env, &prefix, secret_texts(secret)),
                None if reference.optional == Some(true) => {}
                None => return Err(format!("secret {:?} not found", reference.name)),
            }
        }
    }
    for variable in wanted.env.clone().unwrap_or_default() {
        let value = match variable.value_from {
            None => Some(expand(&variable.value.unwrap_or_default(), &env)),
            Some(from) => {
                if let Some(key) = from.config_map_key_ref {
                    let map = objects.config_map(&key.name).await.map_err(unreachable)?;
                    let found = map.and_then(|m| m.data?.remove(&key.key));
                    required(found, key.optional, || {
                        format!("couldn't find key {} in ConfigMap {namespace}/{}", key.key, key.name)
                    })?
                } else if let Some(key) = from.secret_key_ref {
                    let secret = objects.secret(&key.name).await.map_err(unreachable)?;
                    let found = secret.and_then(|s| secret_texts(s).remove(&key.key));
                    required(found, key.optional, || {
                        format!("couldn't find key {} in Secret {namespace}/{}", key.key, key.name)
                    })?
                } else if let Some(field) = from.field_ref {
                    Some(
                        field_of(pod, &field.field_path)
                            .ok_or_else(|| format!("fieldPath {:?} is not known", field.field_path))?,
                    )
                } else if let Some(resource) = from.resource_field_ref {
                    Some(resource_of(wanted, &resource)?)
                } else {
                    None
                }
            }
        };
        if let Some(value) = value {
            env.retain(|(name, _)| *name != variable.name);
            env.push((variable.name, value));
        }
        // Values that are made of values double with each variable.
        if env.iter().map(|(name, value)| name.len() + value.len() + 1).sum::<usize>() > MAX_BYTES {
            return Err("the environment is larger than 2 MiB".into());
        }
    }
    Ok(env)
}

/// What a container asks for or may use of a resource, as the downward API gives it.
pub fn resource_of(wanted: &ContainerSpec, selector: &ResourceFieldSelector) -> Result<String, String> {
    let resources = wanted.resources.clone().unwrap_or_default();
    let found = match selector.resource.split_once('.') {
        Some(("limits", name)) => resources.limits.and_then(|list| list.get(name).cloned()),
        Some(("requests", name)) => resources.requests.and_then(|list| list.get(name).cloned()),
        _ => return Err(format!("resource {:?} is not known", selector.resource)),
    };
    Ok(found.map_or_else(|| "0".into(), |quantity| quantity.0))
}

fn required(
    found: Option<String>,
    optional: Option<bool>,
    message: impl Fn() -> String,
) -> Result<Option<String>, String> {
    if found.is_none() && optional != Some(true) { Err(message()) } else { Ok(found) }
}

fn put_all(env: &mut Environment, prefix: &str, values: impl IntoIterator<Item = (String, String)>) {
    for (name, value) in values {
        let name = format!("{prefix}{name}");
        env.retain(|(have, _)| *have != name);
        env.push((name, value));
    }
}

fn secret_texts(secret: Secret) -> std::collections::BTreeMap<String, String> {
    let data = secret.data.unwrap_or_default();
    data.into_iter().map(|(name, value)| (name, String::from_utf8_lossy(&value.0).into_owned())).collect()
}

/// A field of the pod that the downward API gives.
pub fn field_of(pod: &Pod, path: &str) -> Option<String> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let entry = |map: &Option<std::collections::BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|map| map.get(key).cloned()).unwrap_or_default()
    };
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        return match map {
            "metadata.labels" => Some(entry(&pod.metadata.labels, key)),
            "metadata.annotations" => Some(entry(&pod.metadata.annotations, key)),
            _ => None,
        };
    }
    let lines = |map: &Option<std::collections::BTreeMap<String, String>>| {
        let lines: Vec<String> = map.iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
        lines.join("\n")
    };
    Some(match path {
        "metadata.name" => name,
        "metadata.namespace" => namespace,
        "metadata.uid" => pod.metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(&pod.metadata.labels),
        "metadata.annotations" => lines(&pod.metadata.annotations),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.podIP" | "status.podIPs" => status.and_then(|s| s.pod_ip.clone()).unwrap_or_default(),
        "status.hostIP" | "status.hostIPs" => status.and_then(|s| s.host_ip.clone()).unwrap_or_default(),
        _ => return None,
    })
}

/// `$(NAME)` becomes the variable's value, `$$(NAME)` stays `$(NAME)`; what is not known stays as it is.
pub fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    // A value of values may be larger than memory: what is longer than this is refused by whoever asked.
    while let Some(at) = rest.find('$').filter(|_| out.len() <= MAX_BYTES) {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match env.iter().find(|(have, _)| have == name) {
                Some((_, value)) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_expanded_as_kubernetes_does() {
        let env = vec![("A".to_owned(), "1".to_owned())];
        for (text, expanded) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$", "$"),
            ("$(A", "$(A"),
            ("a$b", "a$b"),
        ] {
            assert_eq!(expand(text, &env), expanded);
        }
        let large = vec![("A".to_owned(), "x".repeat(MAX_BYTES))];
        assert!((MAX_BYTES..3 * MAX_BYTES).contains(&expand(&"$(A)".repeat(1000), &large).len()));
    }
}
