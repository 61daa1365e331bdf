//! Kinds that tenants define: each is followed from when it is served until it is not any more.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{kinds::Kind, watch::Follower};
use crate::{
    definitions::Definition,
    runtime::{Context, Key},
};

/// A kind that is followed, and what ends that.
struct Followed {
    kind: Arc<Kind>,
    end: CancellationToken,
}

pub fn follow(context: &Context, follower: &Follower, tasks: &TaskTracker, stop: &CancellationToken) {
    let followed: Mutex<HashMap<Key, Followed>> = Mutex::default();
    let (clients, follower) = (context.informers.clients().clone(), follower.clone());
    let (tasks, stop) = (tasks.clone(), stop.clone());
    context.informers.of::<Definition>().subscribe(move |key, _, now| {
        let kind = now.and_then(|one| Some(Kind { resource: one.kind()?, namespaced: one.is_namespaced() }));
        let mut followed = followed.lock();
        let same = |there: &Followed| kind.as_ref().is_some_and(|kind| there.kind.resource == kind.resource);
        if followed.get(key).is_some_and(same) {
            return;
        }
        if let Some(before) = followed.remove(key) {
            before.end.cancel();
            follower.kinds.undefine(&key.tenant, &before.kind);
        }
        let Some(kind) = kind.map(Arc::new) else { return };
        follower.kinds.define(&key.tenant, &kind);
        let end = stop.child_token();
        followed.insert(key.clone(), Followed { kind: kind.clone(), end: end.clone() });
        // Nobody waits for its first list: an owner of this kind that is not listed is looked for.
        let (synced, _) = oneshot::channel();
        let run = follower.clone().follow(kind, Some(key.tenant.clone()), clients.tenant(&key.tenant), synced);
        tasks.spawn(end.run_until_cancelled_owned(run));
    });
}
