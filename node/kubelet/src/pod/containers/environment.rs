//! A container's environment.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, Secret};

use crate::{
    identity::PodId,
    node::{Shared, api::ApiError},
    pod::{
        objects::Objects,
        spec::{
            downward_api,
            expansion::{Environment, MAX_BYTES, expand},
        },
    },
};

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
                        downward_api::field_of(pod, &field.field_path)
                            .ok_or_else(|| format!("fieldPath {:?} is not known", field.field_path))?,
                    )
                } else if let Some(resource) = from.resource_field_ref {
                    Some(downward_api::resource_of(wanted, &resource)?)
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

fn secret_texts(secret: Secret) -> BTreeMap<String, String> {
    let data = secret.data.unwrap_or_default();
    data.into_iter().map(|(name, value)| (name, String::from_utf8_lossy(&value.0).into_owned())).collect()
}
