//! Objects instead of their text, between a client and a server that are in one process.
//!
//! A request says by its extension [`Wanted`] that whoever answers it may hand over the objects themselves. A server in the
//! same process does; to every other one nothing of it is sent, and it answers in JSON. Who asks so need not know which it is:
//! [`follow`].

use std::{
    any::{Any, TypeId},
    fmt::Debug,
    sync::{Arc, Mutex},
};

use futures::{SinkExt, Stream, StreamExt, channel::mpsc, stream::BoxStream};
use hypernetes_api::{TenantId, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Client, Resource, runtime::watcher};
use serde::de::DeserializeOwned;

use crate::watch::{self, Seen};

/// One version of an object, in this process's memory.
pub trait Version: Send + Sync {
    fn tenant(&self) -> &str;
    fn revision(&self) -> u64;
    /// Its JSON.
    fn json(&self) -> &[u8];
    /// What `make` makes of it, once for all who ask for the same type while one of them has it; none when it makes none.
    fn typed(&self, of: TypeId, make: &dyn Fn() -> Option<Typed>) -> Option<Typed>;
}

/// An object of a type.
pub type Typed = Arc<dyn Any + Send + Sync>;

/// What a server tells of objects.
pub enum Told {
    /// It is there.
    Present(Arc<dyn Version>),
    /// All that were there have been told.
    Listed,
    /// It came, or changed.
    Changed(Arc<dyn Version>),
    /// It went, at this revision.
    Gone(Arc<dyn Version>, u64),
}

/// Ends when something was missed.
pub type Objects = BoxStream<'static, Told>;

/// A request's extension: where the objects are put by a server that has them.
#[derive(Clone, Default)]
pub struct Wanted(Arc<Mutex<Option<Objects>>>);

impl Wanted {
    pub fn give(&self, objects: Objects) {
        if let Ok(mut place) = self.0.lock() {
            *place = Some(objects);
        }
    }

    fn take(&self) -> Option<Objects> {
        self.0.lock().ok()?.take()
    }
}

/// An object that is followed, without its managed fields and the annotation that says whose it is.
pub struct Item<K> {
    pub tenant: TenantId,
    pub revision: u64,
    /// Or what tells which object it is, where it is no `K`.
    pub object: Result<Arc<K>, ObjectMeta>,
    /// What it was parsed of, where that is in this process's memory anyway.
    pub version: Option<Arc<dyn Version>>,
}

/// What of a kind is followed, and how.
#[derive(Default)]
pub struct Which {
    /// Only what has this name.
    pub name: Option<&'static str>,
    /// Whose all are, where the client is of one cluster: of all clusters each object says it.
    pub tenant: Option<TenantId>,
    pub parsing: Parsing,
}

/// Who has the same object.
#[derive(Clone, Copy, Default)]
pub enum Parsing {
    /// All who follow the kind as the same type, while one of them keeps it.
    #[default]
    Shared,
    /// Whoever follows, alone, and without what this takes away ([`tidy`]). For who keeps nothing of the object or something else
    /// than others: what is shared is remembered with the version, which takes more room than what is looked for in it.
    Own(fn(&mut ObjectMeta)),
}

impl<K: Resource> Item<K> {
    pub fn meta(&self) -> &ObjectMeta {
        match &self.object {
            Ok(object) => object.meta(),
            Err(metadata) => metadata,
        }
    }
}

/// Takes away what nobody who follows a kind needs.
pub fn tidy(meta: &mut ObjectMeta) {
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove(names::TENANT_ANNOTATION);
        if annotations.is_empty() {
            meta.annotations = None;
        }
    }
}

/// What a version is, for who asks alone; none if it is no `K`.
pub fn parsed<K: Resource + DeserializeOwned>(version: &dyn Version) -> Option<K> {
    parsed_without(version, tidy)
}

fn parsed_without<K: Resource + DeserializeOwned>(version: &dyn Version, tidy: fn(&mut ObjectMeta)) -> Option<K> {
    let mut object: K = serde_json::from_slice(version.json()).ok()?;
    tidy(object.meta_mut());
    Some(object)
}

impl Parsing {
    fn tidy(self) -> fn(&mut ObjectMeta) {
        match self {
            Self::Shared => tidy,
            Self::Own(tidy) => tidy,
        }
    }
}

fn of_version<K>(version: Arc<dyn Version>, at: u64, parsing: Parsing) -> Option<Item<K>>
where
    K: Resource + DeserializeOwned + Send + Sync + 'static,
{
    let typed = match parsing {
        Parsing::Shared => {
            let make = || -> Option<Typed> { Some(Arc::new(parsed::<K>(&*version)?)) };
            version.typed(TypeId::of::<K>(), &make).and_then(|object| object.downcast::<K>().ok())
        }
        Parsing::Own(tidy) => parsed_without(&*version, tidy).map(Arc::new),
    };
    let object = typed.ok_or_else(|| {
        let text = String::from_utf8_lossy(version.json());
        let error = serde_json::from_str::<K>(&text).err();
        watch::unreadable::<K>(&text, &error.map_or_else(String::new, |error| error.to_string()))
    });
    Some(Item { tenant: version.tenant().parse().ok()?, revision: at, object, version: Some(version) })
}

/// One that came as text; none that does not say whose it is, where that is not known.
fn of_seen<K: Resource>(seen: Seen<K>, which: &Which) -> Option<Item<K>> {
    let tenant = which.tenant.clone().or_else(|| crate::tenant_of(&seen))?;
    let revision = seen.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0);
    let object = match seen {
        Seen::Object(mut object) => {
            which.parsing.tidy()(object.meta_mut());
            Ok(Arc::new(object))
        }
        Seen::Unreadable(metadata) => Err(metadata),
    };
    Some(Item { tenant, revision, object, version: None })
}

type Event<K> = watcher::Result<watcher::Event<Item<K>>>;

/// All of a kind that the client sees, as [`watch`](crate::watch) has it: of a server in this process without its text.
pub fn follow<K>(client: Client, kind: &K::DynamicType, which: Which) -> impl Stream<Item = Event<K>> + Send + use<K>
where
    K: Resource + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
    K::DynamicType: Clone + Send + Sync,
{
    use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
    let (sender, receiver) = mpsc::channel(1);
    let kind = kind.clone();
    let selector = which.name.map(|name| format!("metadata.name={name}"));
    let run = async move {
        let mut sender = sender;
        let parsing = which.parsing;
        let mut tell = async |event: Event<K>| sender.send(event).await.is_ok();
        // What is done once is not kept room for while the rest goes on.
        while let Some(mut objects) = Box::pin(ask::<K>(&client, &kind, selector.as_deref())).await {
            if !tell(Ok(Init)).await {
                return;
            }
            while let Some(told) = objects.next().await {
                let event = match told {
                    Told::Present(version) => of_version(version.clone(), version.revision(), parsing).map(InitApply),
                    Told::Listed => Some(InitDone),
                    Told::Changed(version) => of_version(version.clone(), version.revision(), parsing).map(Apply),
                    Told::Gone(version, at) => of_version(version, at, parsing).map(Delete),
                };
                if let Some(event) = event
                    && !tell(Ok(event)).await
                {
                    return;
                }
            }
        }
        // Another process, or one that does not answer now.
        let selected = watcher::Config { field_selector: selector, ..watcher::Config::default() };
        let mut events = Box::pin(watch::watch_with::<K>(client, &kind, selected));
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(InitApply(seen)) => of_seen(seen, &which).map(InitApply).map(Ok),
                Ok(Apply(seen)) => of_seen(seen, &which).map(Apply).map(Ok),
                Ok(Delete(seen)) => of_seen(seen, &which).map(Delete).map(Ok),
                Ok(Init) => Some(Ok(Init)),
                Ok(InitDone) => Some(Ok(InitDone)),
                Err(error) => Some(Err(error)),
            };
            if let Some(event) = event
                && !tell(event).await
            {
                return;
            }
        }
    };
    // What is told and telling it are one task: it goes no further when nobody listens.
    let run = futures::stream::once(run).filter_map(async |()| None);
    futures::stream::select(receiver, run)
}

/// The objects themselves, of a server that has them.
async fn ask<K>(client: &Client, kind: &K::DynamicType, selector: Option<&str>) -> Option<Objects>
where
    K: Resource,
{
    let wanted = Wanted::default();
    let parameters = kube::core::params::WatchParams { field_selector: selector.map(Into::into), ..Default::default() };
    let mut request = kube::core::Request::new(K::url_path(kind, None)).watch(&parameters, "").ok()?.map(Into::into);
    request.extensions_mut().insert("watch");
    request.extensions_mut().insert(wanted.clone());
    let response = client.send(request).await.ok()?;
    wanted.take().filter(|_| response.status().is_success())
}
