//! Follows the objects and does what follows from them.

mod event;
mod network;
mod pod;
mod port;

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Debug,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::StreamExt;
use hypernetes_api::{
    TenantId,
    types::network::{Network, Port, Subnet},
};
use hypernetes_client::{
    Api, Clients,
    shared::{self, Parsing, Which},
};
use hypernetes_runtime::{Error, Reconciler, Recorder, Subject, call, work};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Client, runtime::watcher};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use crate::{
    queue::Key,
    state::{Followed, State, last_written},
};

/// Objects that are written at the same time; half of that of one tenant.
const WORKERS: usize = 16;
/// Whose events they are.
const NAME: &str = "network-controller";

pub(crate) struct Controller {
    clients: Clients,
    state: Arc<State>,
    /// What was last said of an object that cannot be helped now. Empty: nothing yet.
    told: Mutex<HashMap<Key, String>>,
    events: Recorder,
}

/// Why work on an object has to be done again later.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Retry {
    #[error("writing: {0}")]
    Write(#[from] Box<kube::Error>),
    /// It may be a matter of moments: another watch tells of what is missing.
    #[error("waiting: {0}")]
    Soon(String),
}

impl From<Retry> for Error {
    fn from(retry: Retry) -> Self {
        match retry {
            Retry::Write(source) => Self::Api { doing: "writing", source },
            Retry::Soon(what) => Self::Waiting(what),
        }
    }
}

impl From<kube::Error> for Retry {
    fn from(error: kube::Error) -> Self {
        Self::Write(Box::new(error))
    }
}

impl Controller {
    pub fn new(clients: Clients, state: Arc<State>) -> Self {
        let events = Recorder::new(clients.clone(), NAME);
        Self { clients, state, told: Mutex::default(), events }
    }

    /// Acts until the future is dropped.
    pub async fn run(self: Arc<Self>) {
        let _resting = Resting(&self.state);
        let queue = self.state.act();
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            workers.spawn(work(Arc::clone(&self), queue.clone()));
        }
        while workers.join_next().await.is_some() {}
    }

    fn api<K>(&self, tenant: &TenantId) -> Api<K>
    where
        K: kube::Resource<DynamicType = ()>,
    {
        Api::all(self.clients.tenant(tenant))
    }

    /// Done, or nothing left of it: the next trouble is told anew.
    fn untell(&self, key: &Key) {
        self.told.lock().remove(key);
    }
}

#[async_trait]
impl Reconciler for Controller {
    const NAME: &'static str = NAME;
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        match key {
            Key::Network(tenant, name) => self.network(tenant, name).await?,
            Key::Subnet(tenant, name) => self.subnet(tenant, name).await?,
            Key::Port(tenant, name) => self.port(tenant, name).await?,
            Key::Pod(tenant, uid) => self.pod(tenant, uid).await?,
        }
        Ok(None)
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        let (kind, tenant, name) = match key {
            Key::Network(tenant, name) => ("Network", tenant, name),
            Key::Subnet(tenant, name) => ("Subnet", tenant, name),
            Key::Port(tenant, name) => ("Port", tenant, name),
            Key::Pod(tenant, uid) => {
                let pod = self.state.with(tenant, |has| has.pods.get(uid).cloned())?;
                return Some((&self.events, subject(tenant, "v1", "Pod", pod.namespace, pod.name, uid)));
            }
        };
        let version = "network.hypernetes.io/v1alpha1";
        Some((&self.events, subject(tenant, version, kind, String::new(), name.clone(), "")))
    }
}

fn subject(tenant: &TenantId, version: &str, kind: &str, namespace: String, name: String, uid: &str) -> Subject {
    Subject { tenant: tenant.clone(), api_version: version.into(), kind: kind.into(), namespace, name, uid: uid.into() }
}

/// Whether the API server answered with this code.
fn is(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

struct Resting<'a>(&'a State);

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        self.0.rest();
    }
}

/// Keeps the state as the API has it, until the future is dropped.
pub(crate) async fn follow_all(state: &State, client: Client) {
    tokio::join!(
        follow::<Network>(state, client.clone()),
        follow::<Subnet>(state, client.clone()),
        follow::<Port>(state, client.clone()),
        follow::<Namespace>(state, client.clone()),
        follow::<Pod>(state, client),
    );
}

/// Keeps one kind of the state as the API has it. After an interruption the whole list is compared.
async fn follow<K>(state: &State, client: Client)
where
    K: Followed + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let which = Which { parsing: Parsing::Own(last_written), ..Which::default() };
    let mut events = std::pin::pin!(shared::follow::<K>(client, &(), which));
    let mut before = BTreeSet::new();
    let mut listed = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => before = state.ids::<K>(),
            Ok(watcher::Event::InitApply(item) | watcher::Event::Apply(item)) => {
                // What is not of the kind's form stays as it was last told.
                let (tenant, Ok(object)) = (item.tenant, item.object) else { continue };
                before.remove(&(tenant.clone(), object.id()));
                // One tenant's object that cannot be taken in is no reason not to follow the others'.
                if let Err(mishap) = call(|| state.apply(&tenant, Arc::unwrap_or_clone(object))) {
                    tracing::error!(%tenant, kind = %K::kind(&()), %mishap, "taking in an object");
                }
            }
            Ok(watcher::Event::InitDone) => {
                for (tenant, id) in std::mem::take(&mut before) {
                    state.remove::<K>(&tenant, &id);
                }
                if !std::mem::replace(&mut listed, true) {
                    state.listed();
                }
            }
            Ok(watcher::Event::Delete(item)) => {
                state.saw::<K>(item.revision);
                if let Ok(object) = item.object {
                    state.remove::<K>(&item.tenant, &object.id());
                }
            }
            Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "watching"),
        }
    }
}
