//! Garbage collection: what has lost all its owners is deleted, and owners wait for their dependents, or let them go,
//! where their deletion says so (`propagationPolicy`).
//!
//! The rules are upstream's `garbagecollector` controller's. What it holds of each object, here only those have that
//! own or are owned; everything that is decided is decided on what the API says at that time.

mod collect;
mod graph;
mod kinds;
mod watch;

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use hypernetes_api::TenantId;
use tokio::sync::oneshot;

use self::{collect::Collector, kinds::Kinds, watch::Follower};
use crate::{
    WORKERS, Wiring,
    resource_quota::Counting,
    runtime::{Context, Queue, drive},
};

/// Finalizers that the API server sets for a propagation policy, and that are ours to remove.
pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";
/// Between attempts to learn which kinds there are.
const AGAIN: Duration = Duration::from_secs(1);

/// What is heard of all kinds here, `counting` is told of: nobody else hears of them all.
pub fn start(wiring: &Wiring<'_>, counting: Counting) {
    let context = Context::new(wiring.informers, "generic-garbage-collector");
    let (tasks, stop) = (wiring.tasks.clone(), wiring.stop.clone());
    let run = async move {
        let kinds = discover(&context).await;
        let follower = Follower { kinds: Arc::new(kinds), graph: Arc::default(), queue: Queue::default(), counting };
        let mut listed = Vec::new();
        for kind in follower.kinds.all() {
            let (synced, wait) = oneshot::channel();
            listed.push(wait);
            let client = context.informers.clients().all_tenants(context.informers.capability());
            tasks.spawn(stop.clone().run_until_cancelled_owned(follower.clone().follow(kind.clone(), client, synced)));
        }
        // An owner that is not listed yet would be looked for in vain, or one by one.
        join_all(listed).await;
        let (informers, queue) = (context.informers.clone(), follower.queue.clone());
        drive(&tasks, &informers, Collector { context, follower }, queue, WORKERS, &stop);
    };
    wiring.spawn(run);
}

async fn discover(context: &Context) -> Kinds {
    loop {
        match Kinds::discover(&context.client(&TenantId::system())).await {
            Ok(kinds) => return kinds,
            Err(error) => tracing::warn!(%error, "garbage is not collected yet"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}
