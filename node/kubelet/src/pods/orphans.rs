//! Pods that are gone from the API while the kubelet was not looking: what is left of them is removed.

use std::{collections::HashSet, sync::Arc, time::Duration};

use hypernetes_api::{PathComponent, TenantId, Uid};

use crate::{
    node::{Shared, cri::POD_UID},
    pod::termination,
};

/// Between two attempts to remove what is left.
const AGAIN: Duration = Duration::from_secs(5);

/// What the runtime and this node's directories still have of pods that the API has no more.
pub struct Orphans {
    shared: Arc<Shared>,
    known: HashSet<Uid>,
    /// Pods that have a directory, by uid.
    left: HashSet<Uid>,
    /// Directories of logs.
    logs: Vec<(TenantId, PathComponent)>,
    /// Pods that came later are not looked at: Unix time in nanoseconds.
    since: i64,
}

impl Orphans {
    /// What there is now. `known`: pods that are not to be removed.
    pub fn now(shared: Arc<Shared>, known: HashSet<Uid>) -> Self {
        let since = k8s_openapi::jiff::Timestamp::now().as_nanosecond();
        let since = i64::try_from(since).unwrap_or(i64::MAX);
        let uids = shared.pods.uids().unwrap_or_default().into_iter();
        let left = uids.filter(|uid| !known.contains(uid)).collect();
        let logs = shared.logs.of_others(&known);
        Self { shared, known, left, logs, since }
    }

    /// Goes on until all is gone: a volume that is not given back is one that its tenant cannot use.
    pub async fn remove(mut self) {
        while let Err(error) = self.attempt().await {
            tracing::warn!(error, "removing what is left of pods that are gone");
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn attempt(&mut self) -> Result<(), String> {
        let sandboxes = self.shared.runtime.all_sandboxes().await.map_err(|status| status.to_string())?;
        let mut outcome = Ok(());
        // Pods whose VM may still have their volumes open.
        let mut alive = HashSet::new();
        for sandbox in sandboxes {
            let Some(uid) = sandbox.labels.get(POD_UID) else { continue };
            if self.known.contains(&**uid) || sandbox.created_at > self.since {
                continue;
            }
            tracing::info!(sandbox = sandbox.id, "removing the sandbox of a pod that is gone");
            if let Err(status) = self.shared.runtime.remove_sandbox(&sandbox.id).await {
                alive.insert(uid.clone());
                outcome = Err(format!("the sandbox {}: {status}", sandbox.id));
            }
        }
        let left: Vec<Uid> = self.left.iter().filter(|uid| !alive.contains(&***uid)).cloned().collect();
        for uid in left {
            match self.remove_directory(&uid).await {
                Ok(()) => drop(self.left.remove(&uid)),
                Err(error) => outcome = Err(format!("the pod {uid}: {error}")),
            }
        }
        for (tenant, name) in std::mem::take(&mut self.logs) {
            if let Err(error) = self.shared.logs.remove(&tenant, name) {
                tracing::warn!(%error, "removing the logs of a pod that is gone");
            }
        }
        outcome
    }

    async fn remove_directory(&self, uid: &Uid) -> Result<(), String> {
        termination::release(&self.shared, uid).await?;
        self.shared.pods.remove(uid.clone()).map_err(|error| error.to_string())
    }
}
