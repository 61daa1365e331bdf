//! Writes a pod's status to the API when it has changed.

use std::collections::HashMap;

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use serde_json::{Value, json};

use super::generate::{self, Seen};
use crate::{
    identity::PodId,
    node::{Shared, api::ApiError},
    pod::{containers::Supervision, events::tell, objects::Objects, rejection::Rejection, spec::qos},
};

/// What was written last; nothing at first.
#[derive(Default)]
pub struct StatusManager {
    reported: Value,
}

impl StatusManager {
    /// Writes the pod's status, if it is another than what was written last.
    pub async fn report(
        &mut self,
        shared: &Shared,
        id: &PodId,
        pod: &Pod,
        spec: &PodSpec,
        supervised: &HashMap<String, Supervision>,
        overdue: bool,
    ) {
        let Ok(containers) = shared.runtime.containers(&id.uid).await else { return };
        let mut addresses = Vec::new();
        let mut sandbox_ready = false;
        if let Ok(sandboxes) = shared.runtime.sandboxes(&id.uid).await
            && let Some(sandbox) = sandboxes.iter().find(|s| s.state == cri::PodSandboxState::SandboxReady as i32)
            && let Ok(Some(found)) = shared.runtime.sandbox_status(&sandbox.id).await
        {
            sandbox_ready = true;
            if let Some(network) = found.network {
                addresses.push(network.ip);
                addresses.extend(network.additional_ips.into_iter().map(|ip| ip.ip));
            }
        }
        addresses.retain(|address| !address.is_empty());
        let host = shared.config.bind.ip();
        let seen = Seen { containers: &containers, supervised, addresses: &addresses, sandbox_ready, host, overdue };
        let mut status = generate::of(pod, spec, &seen);
        shared.redact.clean_status(&mut status);
        // Times of transition are kept where nothing changed: compare without what is always new.
        if status == self.reported {
            return;
        }
        match Objects::of(shared, id).report(&status).await {
            Ok(()) => self.reported = status,
            Err(error) => tracing::debug!(pod = %id.uid, %error, "the pod's status was not written"),
        }
    }

    /// Says why the node does not run the pod; upstream's words.
    ///
    /// # Errors
    /// When the status was not written.
    pub async fn reject(
        &mut self,
        shared: &Shared,
        id: &PodId,
        pod: &Pod,
        rejection: &Rejection,
    ) -> Result<(), ApiError> {
        let mut status = json!({
            "phase": "Failed", "reason": rejection.reason, "message": format!("Pod was rejected: {}", rejection.message),
        });
        if let Some(spec) = &pod.spec {
            status["qosClass"] = qos::class(spec).into();
        }
        shared.redact.clean_status(&mut status);
        if status != self.reported {
            tell(shared, id, true, rejection.reason, &rejection.message).await;
            Objects::of(shared, id).report(&status).await?;
            self.reported = status;
        }
        Ok(())
    }
}
