//! Hooks of a container's life: what is done once it has started, and before it is stopped. Nobody is told what they say: it may be a secret.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container as ContainerSpec, LifecycleHandler};
use tokio::{sync::watch, time::Instant};

use super::handler::Handler;
use crate::{identity::PodId, node::Shared, pod::events::tell};

const AGENT: &str = "kube-lifecycle/1.36";
/// For a command, which otherwise ends with its container.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// What a container has to end in, however long its hook took: upstream's.
const LEAST: Duration = Duration::from_secs(2);

/// # Errors
/// Why it has failed. Over HTTP any answer is good, as upstream has it.
async fn run(handler: &Handler, hook: &LifecycleHandler) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        return handler.run(exec, LONGEST).await;
    }
    if let Some(http) = &hook.http_get {
        return handler.get(http, AGENT).await.map(drop);
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("there is no such hook".into())
}

/// The hook of a container that has started.
pub fn post_start(container: &ContainerSpec) -> Option<&LifecycleHandler> {
    container.lifecycle.as_ref()?.post_start.as_ref()
}

/// Runs that; false: it has failed, which has been told.
pub async fn has_started(shared: &Shared, id: &PodId, handler: &Handler, hook: &LifecycleHandler) -> bool {
    let Err(why) = run(handler, hook).await else { return true };
    tracing::debug!(pod = %id.uid, container = handler.container_id, why, "a hook after the start");
    tell(shared, id, true, "FailedPostStartHook", "PostStartHook failed").await;
    false
}

/// Stops a container: its hook first, and itself in what is then left until the deadline, which may come nearer meanwhile.
///
/// # Errors
/// When the runtime does not answer, or not in time.
pub async fn stop(
    shared: &Shared,
    id: &PodId,
    container: Option<&ContainerSpec>,
    handler: &Handler,
    mut deadline: watch::Receiver<Instant>,
) -> Result<(), tonic::Status> {
    let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
    let mut least = Duration::ZERO;
    let pre_stop = container.and_then(|container| container.lifecycle.as_ref()?.pre_stop.as_ref());
    if let Some(hook) = pre_stop
        && !left(*deadline.borrow()).is_zero()
    {
        least = LEAST;
        let ran = run(handler, hook);
        tokio::pin!(ran);
        loop {
            let until = *deadline.borrow_and_update();
            tokio::select! {
                outcome = &mut ran => {
                    if let Err(why) = outcome {
                        tracing::debug!(pod = %id.uid, container = handler.container_id, why, "a hook before the end");
                        tell(shared, id, true, "FailedPreStopHook", "PreStopHook failed").await;
                    }
                    break;
                }
                () = tokio::time::sleep_until(until) => break,
                Ok(()) = deadline.changed() => {}
            }
        }
    }
    loop {
        let grace = left(*deadline.borrow_and_update()).max(least);
        tokio::select! {
            stopped = shared.runtime.stop_container(&handler.container_id, grace) => return stopped,
            Ok(()) = deadline.changed() => {}
        }
    }
}

/// A deadline that stays as it is.
pub fn deadline(grace: Duration) -> watch::Receiver<Instant> {
    watch::channel(Instant::now() + grace).1
}
