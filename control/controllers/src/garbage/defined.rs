//! Kinds that tenants define: each is followed from when it is served until it is not any more.

use std::{collections::HashMap, sync::Arc};

use hypernetes_api::TenantId;
use kube::Client;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{kinds::Kind, watch::Follower};
use crate::{definitions::Definition, runtime::Context};

/// A kind that is followed, and what ends that.
struct Followed {
    kind: Arc<Kind>,
    end: CancellationToken,
}

/// What is followed of a tenant, by the names of the definitions.
struct Tenant {
    /// One for all of them: it takes more room than a kind does.
    client: Client,
    kinds: HashMap<String, Followed>,
}

pub fn follow(context: &Context, follower: &Follower, tasks: &TaskTracker, stop: &CancellationToken) {
    let tenants: Mutex<HashMap<TenantId, Tenant>> = Mutex::default();
    let (clients, follower) = (context.informers.clients().clone(), follower.clone());
    let (tasks, stop) = (tasks.clone(), stop.clone());
    context.informers.of::<Definition>().subscribe(move |key, _, now| {
        let kind = now.and_then(|one| Some(Kind { resource: one.kind()?, namespaced: one.is_namespaced() }));
        let mut tenants = tenants.lock();
        let before = tenants.get(&key.tenant).and_then(|tenant| tenant.kinds.get(&key.name));
        let same = |there: &Followed| kind.as_ref().is_some_and(|kind| there.kind.resource == kind.resource);
        if before.is_some_and(same) {
            return;
        }
        if let Some(tenant) = tenants.get_mut(&key.tenant)
            && let Some(before) = tenant.kinds.remove(&key.name)
        {
            before.end.cancel();
            follower.kinds.undefine(&key.tenant, &before.kind);
        }
        let Some(kind) = kind.map(Arc::new) else {
            if tenants.get(&key.tenant).is_some_and(|tenant| tenant.kinds.is_empty()) {
                tenants.remove(&key.tenant);
            }
            return;
        };
        follower.kinds.define(&key.tenant, &kind);
        let tenant = tenants
            .entry(key.tenant.clone())
            .or_insert_with(|| Tenant { client: clients.tenant(&key.tenant), kinds: HashMap::new() });
        let end = stop.child_token();
        tenant.kinds.insert(key.name.clone(), Followed { kind: kind.clone(), end: end.clone() });
        // Nobody waits for its first list: an owner of this kind that is not listed is looked for.
        let (synced, _) = oneshot::channel();
        let run = follower.clone().follow(kind, Some(key.tenant.clone()), tenant.client.clone(), synced);
        tasks.spawn(end.run_until_cancelled_owned(run));
    });
}
