//! One worker for each pod; what happens to a pod reaches its worker and no other.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use hypernetes_client::tenant_of;
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, runtime::watcher};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    cri::POD_UID,
    volumes,
    worker::{self, Shared, Task},
};

/// How often everything is looked at though nothing was heard: a net under the events.
const RELIST: Duration = Duration::from_secs(60);
/// Between two attempts to remove what is left.
const AGAIN: Duration = Duration::from_secs(5);

struct Worker {
    pod: watch::Sender<Option<Pod>>,
    nudge: mpsc::Sender<()>,
}

pub async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut workers: HashMap<String, Worker> = HashMap::new();
    let pods: Api<Pod> = Api::all(shared.config.clients.all_tenants(&shared.config.all));
    let mine = format!("spec.nodeName={}", shared.config.node_name);
    let mut stream = watcher(pods, watcher::Config::default().fields(&mine)).boxed();
    let (event_sender, mut events) = mpsc::channel(256);
    tokio::spawn(follow_runtime(shared.clone(), event_sender));
    let (ended_sender, mut ended) = mpsc::channel::<String>(64);
    let mut tick = tokio::time::interval(RELIST);
    let mut listed: Option<HashSet<String>> = None;
    let mut cleaning: Option<tokio::task::JoinHandle<()>> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            event = stream.next() => match event {
                Some(Ok(watcher::Event::Init)) => listed = Some(HashSet::new()),
                Some(Ok(watcher::Event::InitApply(pod) | watcher::Event::Apply(pod))) => {
                    if let (Some(list), Some(uid)) = (&mut listed, &pod.metadata.uid) {
                        list.insert(uid.clone());
                    }
                    apply(&shared, &mut workers, pod, &ended_sender);
                }
                Some(Ok(watcher::Event::InitDone)) => {
                    let list = listed.take().unwrap_or_default();
                    for (uid, worker) in &workers {
                        if !list.contains(uid) {
                            let _ = worker.pod.send(None);
                        }
                    }
                    // Those that have a worker are the worker's to remove.
                    let known: HashSet<String> = list.into_iter().chain(workers.keys().cloned()).collect();
                    let orphans = Orphans::now(shared.clone(), known);
                    if let Some(earlier) = cleaning.replace(tokio::spawn(orphans.remove())) {
                        earlier.abort();
                    }
                }
                Some(Ok(watcher::Event::Delete(pod))) => {
                    if let Some(worker) = pod.metadata.uid.as_ref().and_then(|uid| workers.get(uid)) {
                        let _ = worker.pod.send(None);
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "watching pods");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                None => return,
            },
            Some(uid) = events.recv() => {
                if let Some(worker) = workers.get(&uid) {
                    let _ = worker.nudge.try_send(());
                }
            }
            Some(uid) = ended.recv() => drop(workers.remove(&uid)),
            _ = tick.tick() => for worker in workers.values() {
                let _ = worker.nudge.try_send(());
            },
        }
    }
}

fn apply(shared: &Arc<Shared>, workers: &mut HashMap<String, Worker>, pod: Pod, ended: &mpsc::Sender<String>) {
    let (Some(uid), Some(tenant)) = (pod.metadata.uid.clone(), tenant_of(&pod)) else { return };
    if let Some(worker) = workers.get(&uid) {
        let _ = worker.pod.send(Some(pod));
        return;
    }
    let (pod_sender, pod_receiver) = watch::channel(Some(pod));
    let (nudge, nudged) = mpsc::channel(1);
    let task =
        Task { shared: shared.clone(), tenant, uid: uid.clone(), pod: pod_receiver, nudge: nudge.clone(), nudged };
    let ended = ended.clone();
    let name = uid.clone();
    tokio::spawn(async move {
        worker::run(task).await;
        let _ = ended.send(name).await;
    });
    workers.insert(uid, Worker { pod: pod_sender, nudge });
}

/// What the runtime and this node's directories still have of pods that the API has no more.
struct Orphans {
    shared: Arc<Shared>,
    known: HashSet<String>,
    /// Pods that have a directory, by uid.
    left: HashSet<String>,
    /// Pods that came later are not looked at: Unix time in nanoseconds.
    since: i64,
}

impl Orphans {
    fn now(shared: Arc<Shared>, known: HashSet<String>) -> Self {
        let since = k8s_openapi::jiff::Timestamp::now().as_nanosecond();
        let since = i64::try_from(since).unwrap_or(i64::MAX);
        let entries = std::fs::read_dir(shared.config.root.join("pods")).into_iter().flatten().flatten();
        let mut left: HashSet<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        left.retain(|uid| !known.contains(uid));
        Self { shared, known, left, since }
    }

    /// Goes on until all is gone: a volume that is not given back is one that its tenant cannot use.
    async fn remove(mut self) {
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
            if self.known.contains(uid) || sandbox.created_at > self.since {
                continue;
            }
            tracing::info!(sandbox = sandbox.id, "removing the sandbox of a pod that is gone");
            if let Err(status) = self.shared.runtime.remove_sandbox(&sandbox.id).await {
                alive.insert(uid.clone());
                outcome = Err(format!("the sandbox {}: {status}", sandbox.id));
            }
        }
        for uid in self.left.difference(&alive).cloned().collect::<Vec<_>>() {
            match volumes::release(&self.shared, &uid).await {
                Ok(()) => {
                    let _ = std::fs::remove_dir_all(self.shared.pod_directory(&uid));
                    self.left.remove(&uid);
                }
                Err(error) => outcome = Err(format!("the pod {uid}: {error}")),
            }
        }
        outcome
    }
}

/// Whose containers change, by pod uid; connects again for ever.
async fn follow_runtime(shared: Arc<Shared>, events: mpsc::Sender<String>) {
    loop {
        let request = cri::GetEventsRequest {};
        match shared.runtime.runtime.clone().get_container_events(request).await {
            Ok(response) => {
                let mut stream = response.into_inner();
                while let Ok(Some(event)) = stream.message().await {
                    let metadata = event.pod_sandbox_status.and_then(|status| status.metadata);
                    if let Some(metadata) = metadata
                        && events.send(metadata.uid).await.is_err()
                    {
                        return;
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "the runtime's events"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
