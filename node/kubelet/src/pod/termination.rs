//! The end of a pod: its containers have their time, then all goes that the node has of it, then the API hears that it is gone.

use std::{io, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use hypernetes_api::Uid;
use k8s_openapi::api::core::v1::Pod;
use tokio::{sync::watch, time::Instant};

use crate::{
    identity::PodId,
    node::{Shared, cri::Running},
    pod::{
        containers::{handler::Handler, hooks},
        events::tell,
        objects::Objects,
        sandbox,
        spec::grace::grace_of,
        volumes,
    },
};

/// Graceful deletion: containers get their time, then everything goes, then the API hears that it has.
pub async fn terminate(shared: &Arc<Shared>, id: &PodId, pod: &Pod, changes: &mut watch::Receiver<Option<Pod>>) {
    let grace = grace_of(pod);
    if !grace.is_zero() {
        say_that_it_ends(shared, id, pod);
    }
    let (deadline, told) = watch::channel(Instant::now() + grace);
    let stopped: BoxFuture<'_, ()> = Box::pin(stop_containers(shared, id, pod, told));
    tokio::select! {
        () = stopped => {}
        () = hurry(changes, &deadline) => {}
    }
    remove(shared, id).await;
    for attempt in 0..60 {
        match Objects::of(shared, id).gone().await {
            Ok(()) => return,
            // Gone, or another of its name, here or on another node.
            Err(error) if matches!(error.code(), Some(403 | 404 | 409)) => return,
            Err(error) => {
                tracing::warn!(pod = %id.uid, attempt, %error, "saying that the pod is gone");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Brings the deadline nearer whenever the pod is to end earlier. Does not end.
async fn hurry(pod: &mut watch::Receiver<Option<Pod>>, deadline: &watch::Sender<Instant>) {
    while pod.changed().await.is_ok() {
        let now = Instant::now();
        let wanted = pod.borrow_and_update().as_ref().map_or(now, |pod| now + grace_of(pod));
        deadline.send_if_modified(|deadline| {
            let sooner = wanted < *deadline;
            *deadline = wanted.min(*deadline);
            sooner
        });
    }
    std::future::pending().await
}

/// Nobody waits for these events: the pod's time runs.
fn say_that_it_ends(shared: &Arc<Shared>, id: &PodId, pod: &Pod) {
    let names: Vec<String> = pod.spec.iter().flat_map(|spec| &spec.containers).map(|c| c.name.clone()).collect();
    let (shared, id) = (shared.clone(), id.clone());
    tokio::spawn(async move {
        for name in names {
            tell(&shared, &id, false, "Killing", &format!("Stopping container {name}")).await;
        }
    });
}

/// Asks all containers to end before a deadline, after their hooks. One that does not, or whose VM does not answer, ends with its VM.
pub async fn stop_containers(shared: &Shared, id: &PodId, pod: &Pod, deadline: watch::Receiver<Instant>) {
    let running = match shared.runtime.running(&id.uid).await {
        Ok(running) => running,
        Err(status) => {
            tracing::warn!(pod = %id.uid, %status, "asking which containers run");
            return;
        }
    };
    let stops = running.into_iter().map(|one| stop_container(shared, id, pod, one, deadline.clone()));
    futures::future::join_all(stops).await;
}

async fn stop_container(shared: &Shared, id: &PodId, pod: &Pod, running: Running, deadline: watch::Receiver<Instant>) {
    let spec = pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let container = spec.into_iter().find(|container| container.name == running.name);
    let handler = Handler {
        runtime: shared.runtime.clone(),
        container_id: running.id,
        sandbox: running.sandbox,
        ports: container.and_then(|container| container.ports.clone()).unwrap_or_default(),
    };
    if let Err(status) = hooks::stop(shared, id, container, &handler, deadline).await {
        tracing::warn!(pod = %id.uid, container = handler.container_id, %status, "stopping a container");
    }
}

/// Removes all that the node has of the pod, however long that takes.
pub async fn remove(shared: &Shared, id: &PodId) {
    loop {
        let failure = match sandbox::remove_all(shared, id).await {
            // Only now, when no VM has them open any more.
            Ok(()) => release(shared, &id.uid).await.err(),
            Err(status) => Some(status.to_string()),
        };
        let Some(error) = failure else { break };
        tracing::warn!(pod = %id.uid, error, "removing a pod");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    if let Err(error) = remove_files(shared, id) {
        tracing::warn!(pod = %id.uid, %error, "removing a pod's files");
    }
}

fn remove_files(shared: &Shared, id: &PodId) -> io::Result<()> {
    shared.pods.remove(id.uid.clone())?;
    // A name that is none has no directory.
    id.log_name().map_or(Ok(()), |name| shared.logs.remove(&id.tenant, name))
}

/// Ends what runs of a pod that is over, and gives back the volumes that others may want.
///
/// # Errors
/// Words for the log: it is to be tried again.
pub async fn stop(shared: &Shared, id: &PodId) -> Result<(), String> {
    sandbox::stop_all(shared, id).await.map_err(|status| status.to_string())?;
    release(shared, &id.uid).await
}

/// Gives back what is published for a pod.
///
/// # Errors
/// Words for the log: it is to be tried again.
pub async fn release(shared: &Shared, uid: &Uid) -> Result<(), String> {
    match shared.pods.find(uid.clone()) {
        Ok(Some(dir)) => volumes::release(shared, &dir).await.map_err(|error| error.to_string()),
        Ok(None) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
