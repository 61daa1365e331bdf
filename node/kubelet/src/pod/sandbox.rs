//! The pod's sandbox, as CRI calls it: its VM.

use std::collections::HashMap;

use hypernetes_api::{DnsLabel, names};
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::{
    identity::PodId,
    node::{
        Shared,
        cri::{LOG_BYTES, POD_NAME, POD_NAMESPACE, POD_UID},
        tenant_limits,
    },
    pod::{
        spec::{resources, user_namespace},
        sync_error::SyncError,
    },
};

/// Makes a sandbox for the pod; its id.
///
/// # Errors
/// What keeps it from being made.
pub async fn run(shared: &Shared, id: &PodId, pod: &Pod, spec: &PodSpec, attempt: u32) -> Result<String, SyncError> {
    let logs = shared.logs.make(id).map_err(SyncError::of("FailedCreatePodSandBox"))?;
    let labels = [(POD_NAME, &*id.name), (POD_NAMESPACE, &*id.namespace), (POD_UID, &*id.uid)]
        .map(|(label, value)| (label.to_owned(), value.to_owned()));
    let mut annotations: HashMap<String, String> =
        pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect();
    annotations.insert(names::TENANT_ANNOTATION.into(), id.tenant.to_string());
    // Whatever the pod says itself.
    let limits = tenant_limits::of(shared, &id.tenant).await.map_err(SyncError::of("FailedCreatePodSandBox"))?;
    annotations.insert(LOG_BYTES.into(), limits.log_bytes.to_string());
    let sysctls = spec.security_context.as_ref().and_then(|context| context.sysctls.clone()).unwrap_or_default();
    let config = cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: id.name.to_string(),
            uid: id.uid.to_string(),
            namespace: id.namespace.to_string(),
            attempt,
        }),
        hostname: hostname(spec, id),
        log_directory: logs.root().display().to_string(),
        labels: labels.into(),
        annotations,
        linux: Some(cri::LinuxPodSandboxConfig {
            resources: Some(resources::of_sandbox(spec)),
            security_context: user_namespace::of(spec, &id.uid).map(|users| cri::LinuxSandboxSecurityContext {
                namespace_options: Some(cri::NamespaceOption { userns_options: Some(users), ..Default::default() }),
                ..Default::default()
            }),
            sysctls: sysctls.into_iter().map(|sysctl| (sysctl.name, sysctl.value)).collect(),
            ..Default::default()
        }),
        ..Default::default()
    };
    shared.runtime.run_sandbox(config).await.map_err(SyncError::runtime("FailedCreatePodSandBox"))
}

/// The name that the pod's VM has: its own, or what can be a host's of the pod's.
fn hostname(spec: &PodSpec, id: &PodId) -> String {
    let own = spec.hostname.as_deref().and_then(|name| DnsLabel::new(name).ok());
    own.map_or_else(
        || id.name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned(),
        |name| name.to_string(),
    )
}

/// Ends the pod's sandboxes; what has run can still be looked at.
pub async fn stop_all(shared: &Shared, id: &PodId) -> Result<(), tonic::Status> {
    for sandbox in shared.runtime.sandboxes(&id.uid).await? {
        shared.runtime.stop_sandbox(&sandbox.id).await?;
    }
    Ok(())
}

/// Removes the pod's sandboxes. All that can be removed is, though another cannot.
pub async fn remove_all(shared: &Shared, id: &PodId) -> Result<(), tonic::Status> {
    let mut outcome = Ok(());
    for sandbox in shared.runtime.sandboxes(&id.uid).await? {
        if let Err(status) = shared.runtime.remove_sandbox(&sandbox.id).await {
            outcome = Err(status);
        }
    }
    outcome
}
