//! One pod's worker: what is there is compared with what should be, at each word of the API, the runtime or a probe.
//!
//! The states that a pod goes through on this node, and what moves it:
//!
//! ```text
//!   bound to this node
//!     │ refused by admission            │ admitted, or taken before
//!     ▼                                 ▼
//!   Rejected                         Syncing ◀─────────┐ the object changes; the runtime, a probe or the manager
//!     │ the status says Failed          │              │ nudges; a back-off, a volume or a token is due
//!     │                                 ├──▶ Waiting ──┘
//!     │                                 ├──▶ Overdue ──┐ activeDeadlineSeconds: containers are stopped within their grace
//!     │                                 │ ◀────────────┘
//!     │                                 │ the phase is Succeeded or Failed
//!     │                                 ▼
//!     └────────────────────────────▶ Over: no sandbox runs, volumes are given back, logs stay
//!
//!   any of these
//!     │ a deletionTimestamp             │ the API has the object no more
//!     ▼                                 │
//!   Terminating: within its grace       │
//!     │ no container runs               │
//!     ▼                                 ▼
//!   Removing: sandboxes, volumes, directory and logs, again and again until they are gone
//!     │
//!     ▼
//!   Gone: after Terminating the API is told to drop the object; the manager forgets the worker
//! ```
//!
//! None of it is kept but in the object and in the runtime: a worker that was lost begins anew, and finds where its pod is.

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    identity::PodId,
    node::Shared,
    pod::{rejection::Rejection, sync::PodSync, termination},
};

/// What a worker is given.
pub struct Task {
    pub shared: Arc<Shared>,
    pub id: PodId,
    /// Why the node does not take the pod.
    pub rejection: Option<Rejection>,
    /// None when the pod is gone from the API.
    pub pod: watch::Receiver<Option<Pod>>,
    pub nudge: mpsc::Sender<()>,
    pub nudged: mpsc::Receiver<()>,
}

/// Goes on until the pod is gone. What it knows of the pod it finds again: it may be called anew after it was lost.
pub fn run(task: &mut Task) -> BoxFuture<'_, ()> {
    Box::pin(work(task))
}

async fn work(task: &mut Task) {
    let (shared, id) = (task.shared.clone(), task.id.clone());
    let mut pod_sync = PodSync::new(shared.clone(), id.clone(), task.rejection.clone(), task.nudge.clone());
    loop {
        let pod = task.pod.borrow_and_update().clone();
        let Some(pod) = pod else {
            drop(pod_sync);
            termination::remove(&shared, &id).await;
            return;
        };
        if pod.metadata.deletion_timestamp.is_some() {
            drop(pod_sync);
            termination::terminate(&shared, &id, &pod, &mut task.pod).await;
            return;
        }
        let sync: BoxFuture<'_, _> = Box::pin(pod_sync.sync(&pod));
        let next = tokio::select! {
            next = sync => next,
            // Whatever is being waited for: a pod that is to end does not wait for it.
            () = ending(task.pod.clone()) => continue,
        };
        tokio::select! {
            changed = task.pod.changed() => if changed.is_err() { return },
            _ = task.nudged.recv() => {}
            () = until(next) => {}
        }
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Until the pod is being deleted, or is gone.
async fn ending(mut pod: watch::Receiver<Option<Pod>>) {
    let ends = |pod: &Option<Pod>| pod.as_ref().is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
    if pod.wait_for(ends).await.is_err() {
        std::future::pending::<()>().await;
    }
}
