//! Finds what a request is about in the runtime.

use http::StatusCode;
use hypernetes_api::{Uid, names};
use k8s_cri::v1 as cri;

use super::request::{ContainerPath, Refusal};
use crate::node::{
    Shared,
    cri::{Container, POD_NAME, POD_NAMESPACE, POD_UID},
};

/// The newest sandbox of a tenant's pod.
pub(super) async fn sandbox_of(
    shared: &Shared,
    tenant: &str,
    namespace: &str,
    pod: &str,
) -> Result<cri::PodSandbox, Refusal> {
    let listed = shared.runtime.sandboxes_labelled(vec![(POD_NAME, pod), (POD_NAMESPACE, namespace)]).await;
    let listed = listed.map_err(|status| Refusal::of_runtime(shared, &status))?;
    let own = listed.into_iter().filter(|s| s.annotations.get(names::TENANT_ANNOTATION).is_some_and(|t| t == tenant));
    own.max_by_key(|sandbox| sandbox.created_at)
        .ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("pod {pod:?} has not been started on this node")))
}

/// The newest container of a name in a pod, or the one before it.
pub(super) async fn container_of(
    shared: &Shared,
    path: &ContainerPath,
    previous: bool,
) -> Result<(Uid, Container), Refusal> {
    let ContainerPath { tenant, namespace, pod, container } = path;
    let sandbox = sandbox_of(shared, tenant, namespace, pod).await?;
    let uid = Uid::new(sandbox.labels.get(POD_UID).map_or("", String::as_str))
        .map_err(|error| Refusal(StatusCode::NOT_FOUND, error.to_string()))?;
    let found = shared.runtime.containers(&uid).await.map_err(|status| Refusal::of_runtime(shared, &status))?;
    let mut found = found.into_iter().filter(|c| c.name == *container);
    if previous {
        let missing = format!("previous terminated container {container:?} in pod {pod:?} not found");
        return found.nth(1).map(|container| (uid, container)).ok_or_else(|| Refusal::bad(missing));
    }
    let waiting = format!("container {container:?} in pod {pod:?} is waiting to start: ContainerCreating");
    found.next().map(|container| (uid, container)).ok_or_else(|| Refusal::bad(waiting))
}
