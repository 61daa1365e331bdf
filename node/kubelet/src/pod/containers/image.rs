//! A container's image: pulled where the policy says so, with the credentials that the pod names.

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, PodSpec};
use serde_json::Value;

use crate::{
    identity::PodId,
    node::{Shared, tenant_limits},
    pod::{events::tell, objects::Objects},
};

/// Why there is no image.
pub struct ImageError {
    pub reason: &'static str,
    pub message: String,
}

/// Pulls the image where the policy says so; its reference in the runtime.
///
/// # Errors
/// In the words that kubelet users know.
pub async fn ensure(
    shared: &Shared,
    id: &PodId,
    spec: &PodSpec,
    wanted: &ContainerSpec,
    attempt: u32,
) -> Result<String, ImageError> {
    let name = wanted.image.clone().unwrap_or_default();
    let failed = |reason: &'static str, message: String| ImageError { reason, message };
    let present = shared.runtime.image(name.clone(), &id.tenant).await.map_err(|s| match s.code() {
        tonic::Code::InvalidArgument => {
            failed("InvalidImageName", format!("Failed to apply default image tag {name:?}: {}", s.message()))
        }
        _ => failed("ImageInspectError", s.message().to_owned()),
    })?;
    let policy = wanted.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
    match (present, policy) {
        (Some(present), "Never" | "IfNotPresent") => {
            if attempt == 0 {
                let text = format!("Container image {name:?} already present on machine");
                tell(shared, id, false, "Pulled", &text).await;
            }
            return Ok(present.id);
        }
        (None, "Never") => {
            let message = format!("Container image {name:?} is not present with pull policy of Never");
            return Err(failed("ErrImageNeverPull", message));
        }
        _ => {}
    }
    tell(shared, id, false, "Pulling", &format!("Pulling image {name:?}")).await;
    let auth = pull_secret(shared, id, spec, &name).await;
    let limits = tenant_limits::of(shared, &id.tenant).await;
    let max_bytes = limits.map_err(|error| failed("ErrImagePull", error.to_string()))?.image_bytes;
    match shared.runtime.pull(name.clone(), &id.tenant, max_bytes, auth).await {
        Ok(reference) => {
            tell(shared, id, false, "Pulled", &format!("Successfully pulled image {name:?}")).await;
            Ok(reference)
        }
        Err(status) => Err(failed("ErrImagePull", status.message().to_owned())),
    }
}

/// Credentials for an image's registry from the pod's `imagePullSecrets`.
async fn pull_secret(shared: &Shared, id: &PodId, spec: &PodSpec, image: &str) -> Option<cri::AuthConfig> {
    let objects = Objects::of(shared, id);
    for reference in spec.image_pull_secrets.as_deref().unwrap_or_default() {
        // As upstream: one that is not there, or is no name, is passed over.
        let Ok(Some(secret)) = objects.secret(&reference.name).await else { continue };
        let data = secret.data.unwrap_or_default();
        let Some(config) = data.get(".dockerconfigjson") else { continue };
        let Ok(config) = serde_json::from_slice::<Value>(&config.0) else { continue };
        for (registry, entry) in config["auths"].as_object().into_iter().flatten() {
            let host = registry.trim_start_matches("https://").trim_start_matches("http://");
            let host = host.split('/').next().unwrap_or_default();
            if image.split('/').next() == Some(host) {
                let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
                return Some(cri::AuthConfig {
                    username: text("username"),
                    password: text("password"),
                    auth: text("auth"),
                    ..Default::default()
                });
            }
        }
    }
    None
}
