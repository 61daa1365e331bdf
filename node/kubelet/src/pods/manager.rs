//! One worker for each pod; what happens to a pod reaches its worker and no other.

use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::{FutureExt, StreamExt};
use hypernetes_api::Uid;
use hypernetes_client::Seen;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::{
    api::{ApiResource, DynamicObject},
    runtime::watcher,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{admission, orphans::Orphans, panic_guard, runtime_events, validation};
use crate::{
    identity::PodId,
    node::Shared,
    pod::{
        events::tell,
        rejection::Rejection,
        spec::restart::backoff,
        status::is_over,
        worker::{self, Task},
    },
};

/// How often everything is looked at though nothing was heard: a net under the events.
const RELIST: Duration = Duration::from_secs(60);

struct Worker {
    id: PodId,
    pod: watch::Sender<Option<Pod>>,
    nudge: mpsc::Sender<()>,
    /// The node has not taken the pod: it counts for nothing.
    rejected: bool,
}

pub async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut node = shared.node.subscribe();
    tokio::select! {
        () = stop.cancelled() => return,
        // Its taints say which pods are taken.
        known = node.wait_for(Option::is_some) => if known.is_err() { return },
    }
    let (ended_sender, mut ended) = mpsc::channel(64);
    let mut manager = Manager { shared: shared.clone(), workers: HashMap::new(), ended: ended_sender };
    // Any object at all: one that is no pod, or none at all, must not keep the others from being read.
    let resource = ApiResource::erase::<Pod>(&());
    #[expect(clippy::disallowed_types, reason = "a collection's URL has no name in it")]
    let pods: kube::Api<Seen<DynamicObject>> =
        kube::Api::all_with(shared.config.clients.all_tenants(&shared.config.all), &resource);
    let mine = format!("spec.nodeName={}", shared.config.node_name);
    let mut stream = watcher(pods, watcher::Config::default().fields(&mine)).boxed();
    let (event_sender, mut events) = mpsc::channel(256);
    tokio::spawn(runtime_events::follow(shared.clone(), event_sender));
    let mut tick = tokio::time::interval(RELIST);
    let mut listed = Vec::new();
    let mut cleaning: Option<tokio::task::JoinHandle<()>> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            event = stream.next() => match event {
                Some(Ok(watcher::Event::Init)) => listed.clear(),
                Some(Ok(watcher::Event::InitApply(object))) => listed.push(Found::new(object)),
                Some(Ok(watcher::Event::InitDone)) => {
                    let orphans = manager.take_list(std::mem::take(&mut listed));
                    if let Some(earlier) = cleaning.replace(tokio::spawn(orphans.remove())) {
                        earlier.abort();
                    }
                }
                Some(Ok(watcher::Event::Apply(object))) => manager.apply(Found::new(object)),
                Some(Ok(watcher::Event::Delete(object))) => {
                    let uid = Found::new(object).pod.metadata.uid;
                    if let Some(worker) = uid.and_then(|uid| manager.workers.get(&*uid)) {
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
                let uid: String = uid;
                if let Some(worker) = manager.workers.get(&*uid) {
                    let _ = worker.nudge.try_send(());
                }
            }
            Some(uid) = ended.recv() => {
                manager.workers.remove::<Uid>(&uid);
                shared.pod_gone.notify_one();
            }
            _ = tick.tick() => for worker in manager.workers.values() {
                let _ = worker.nudge.try_send(());
            },
        }
    }
}

/// A pod as the API gives it, which may be none.
struct Found {
    pod: Pod,
    is_pod: bool,
}

impl Found {
    fn new(seen: Seen<DynamicObject>) -> Self {
        let object = match seen {
            Seen::Object(object) => object,
            Seen::Unreadable(metadata) => return Self { pod: Pod { metadata, ..Pod::default() }, is_pod: false },
        };
        let metadata = object.metadata.clone();
        match serde_json::to_value(object).and_then(serde_json::from_value) {
            Ok(pod) => Self { pod, is_pod: true },
            Err(error) => {
                tracing::warn!(uid = metadata.uid, %error, "an object that is no pod");
                Self { pod: Pod { metadata, ..Pod::default() }, is_pod: false }
            }
        }
    }
}

struct Manager {
    shared: Arc<Shared>,
    workers: HashMap<Uid, Worker>,
    ended: mpsc::Sender<Uid>,
}

impl Manager {
    /// Takes up all pods that there are, and lets go of those that are gone; what is left of others.
    fn take_list(&mut self, mut list: Vec<Found>) -> Orphans {
        let has_directory = |pod: &Pod| {
            let uid = pod.metadata.uid.as_deref().and_then(|uid| Uid::new(uid).ok());
            uid.is_some_and(|uid| matches!(self.shared.pods.find(uid), Ok(Some(_))))
        };
        // What was taken before is so still; then who was first.
        list.sort_by_cached_key(|found| {
            let created = found.pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (!has_directory(&found.pod), created, found.pod.metadata.uid.clone())
        });
        let known: HashSet<Uid> =
            list.iter().filter_map(|found| Uid::new(found.pod.metadata.uid.as_deref()?).ok()).collect();
        for (uid, worker) in &self.workers {
            if !known.contains(uid) {
                let _ = worker.pod.send(None);
            }
        }
        list.into_iter().for_each(|found| self.apply(found));
        // Those that have a worker are the worker's to remove.
        Orphans::now(self.shared.clone(), known.into_iter().chain(self.workers.keys().cloned()).collect())
    }

    /// One pod's object cannot keep the others from being seen, whatever is in it.
    fn apply(&mut self, found: Found) {
        let uid = found.pod.metadata.uid.clone();
        if std::panic::catch_unwind(AssertUnwindSafe(|| self.take_up(found))).is_err() {
            self.shared.panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!(uid, "taking up a pod has panicked");
        }
    }

    fn take_up(&mut self, Found { pod, is_pod }: Found) {
        let id = match PodId::of(&pod) {
            Ok(id) => id,
            Err(error) => {
                tracing::warn!(%error, "a pod that has no names is passed over");
                return;
            }
        };
        if let Some(worker) = self.workers.get(&id.uid) {
            if worker.id != id {
                tracing::warn!(pod = %worker.id, now = %id, "a pod that is said to be another is passed over");
            } else if is_pod || pod.metadata.deletion_timestamp.is_some() {
                let _ = worker.pod.send(Some(pod));
            }
            return;
        }
        let rejection = if is_pod { self.rejection(&id, &pod) } else { Some(Rejection::undecodable()) };
        self.start(id, pod, rejection);
    }

    /// Why the node does not take a pod, if it does not.
    fn rejection(&self, id: &PodId, pod: &Pod) -> Option<Rejection> {
        if is_over(pod) || pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let spec = pod.spec.clone().unwrap_or_default();
        if let Err(error) = validation::check(&spec) {
            return Some(Rejection::invalid(error.to_string()));
        }
        // A pod's directory is made when it is taken, and nothing but its end takes it back.
        if matches!(self.shared.pods.find(id.uid.clone()), Ok(Some(_))) {
            return None;
        }
        let others: Vec<PodSpec> = self.workers.values().filter_map(Worker::counts).collect();
        let node = self.shared.node.borrow().clone().unwrap_or_default();
        admission::admit(&self.shared.allocatable, &node, &others, &spec).err()
    }

    fn start(&mut self, id: PodId, pod: Pod, rejection: Option<Rejection>) {
        let rejected = rejection.is_some();
        if !rejected
            && !is_over(&pod)
            && let Err(error) = self.shared.pods.make(id.uid.clone())
        {
            tracing::warn!(pod = %id, %error, "making a pod's directory");
        }
        let (pod_sender, pod_receiver) = watch::channel(Some(pod));
        let (nudge, nudged) = mpsc::channel(1);
        let mut task = Task {
            shared: self.shared.clone(),
            id: id.clone(),
            rejection,
            pod: pod_receiver,
            nudge: nudge.clone(),
            nudged,
        };
        let (ended, shared, name) = (self.ended.clone(), self.shared.clone(), id.clone());
        tokio::spawn(async move {
            let lost = |times| lost(shared.clone(), name.clone(), times).boxed();
            panic_guard::persist(&mut task, worker::run, lost).await;
            let _ = ended.send(name.uid).await;
        });
        self.workers.insert(id.uid.clone(), Worker { id, pod: pod_sender, nudge, rejected });
    }
}

/// A worker has panicked: counted, told to the pod's tenant, and waited for.
async fn lost(shared: Arc<Shared>, id: PodId, times: u32) -> Duration {
    shared.panics.fetch_add(1, Ordering::Relaxed);
    tracing::error!(pod = %id, times, "a pod's worker has panicked");
    let text = "an internal error of the node: it is tried again later";
    tell(&shared, &id, true, "FailedSync", text).await;
    backoff(times)
}

impl Worker {
    /// What the pod takes of the node: a pod that is over takes nothing.
    fn counts(&self) -> Option<PodSpec> {
        let pod = self.pod.borrow();
        let pod = pod.as_ref().filter(|pod| !self.rejected && !is_over(pod))?;
        Some(pod.spec.clone().unwrap_or_default())
    }
}
