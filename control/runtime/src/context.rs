//! What reconcilers share: clients of tenants, events, errors, and writing of statuses.

use std::fmt::Debug;

use hypernetes_api::TenantId;
use hypernetes_client::Api;
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Resource,
    api::{Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{Cache, Informers, Key, Object, Recorder, Subject};

/// A reconciliation did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing}: {source}")]
    Api { doing: &'static str, source: Box<kube::Error> },
    #[error("an object that is to be written has no valid form: {0}")]
    Form(#[from] serde_json::Error),
    /// What it needs is not there yet.
    #[error("{0}")]
    Waiting(String),
    /// What it acts on beside the API failed.
    #[error(transparent)]
    Outside(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// HTTP code of the API's answer.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            _ => None,
        }
    }

    /// The answer's message, for events.
    pub fn message(&self) -> String {
        match self {
            Self::Api { source, .. } => match &**source {
                kube::Error::Api(status) => status.message.clone(),
                other => other.to_string(),
            },
            other => other.to_string(),
        }
    }

    /// Others wrote at the same time, or what was to be written has gone: the next attempt knows more.
    pub fn is_passing(&self) -> bool {
        matches!(self.code(), Some(404 | 409)) || matches!(self, Self::Waiting(_))
    }
}

/// Says what an API call was for.
pub trait During<T> {
    fn during(self, doing: &'static str) -> Result<T, Error>;
}

impl<T> During<T> for Result<T, kube::Error> {
    fn during(self, doing: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Api { doing, source: Box::new(source) })
    }
}

/// What a reconciler acts with. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    pub informers: Informers,
    pub events: Recorder,
    /// Who writes: the manager of the fields and the source of the events.
    pub component: &'static str,
}

impl Context {
    pub fn new(informers: &Informers, component: &'static str) -> Self {
        let events = Recorder::new(informers.clients().clone(), component);
        Self { informers: informers.clone(), events, component }
    }

    /// The object of a key, as events name it; also of one that the cache does not have.
    pub fn subject<K: Object>(&self, key: &Key) -> Subject {
        let uid = self.informers.of::<K>().get(key).and_then(|object| object.meta().uid.clone());
        Subject {
            tenant: key.tenant.clone(),
            api_version: K::api_version(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: uid.unwrap_or_default(),
        }
    }

    /// What a reconciler of that kind tells its mishaps with ([`Reconciler::told`](super::Reconciler::told)).
    pub fn told<K: Object>(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        Some((&self.events, self.subject::<K>(key)))
    }

    pub fn client(&self, tenant: &TenantId) -> kube::Client {
        self.informers.clients().tenant(tenant)
    }

    pub fn namespaced<K>(&self, tenant: &TenantId, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client(tenant), namespace)
    }

    pub fn cluster<K>(&self, tenant: &TenantId) -> Api<K>
    where
        K: Resource<DynamicType = ()>,
    {
        Api::all(self.client(tenant))
    }

    pub fn posting(&self) -> PostParams {
        PostParams { field_manager: Some(self.component.into()), ..Default::default() }
    }

    pub fn patching(&self) -> PatchParams {
        PatchParams { field_manager: Some(self.component.into()), ..Default::default() }
    }

    /// Makes an object, given as JSON without type.
    pub async fn create<K>(&self, api: &Api<K>, doing: &'static str, object: Value) -> Result<K, Error>
    where
        K: Resource + Clone + Serialize + DeserializeOwned + Debug,
    {
        let object: K = serde_json::from_value(object)?;
        api.create(&self.posting(), &object).await.during(doing)
    }

    /// Makes an object unless it is there. The cache has it at once: whoever looks next need not wait for the watch, and makes it no
    /// second time. False: it was there.
    pub async fn ensure<K>(
        &self,
        cache: &Cache<K>,
        tenant: &TenantId,
        api: &Api<K>,
        doing: &'static str,
        object: Value,
    ) -> Result<bool, Error>
    where
        K: Object + Serialize,
    {
        match self.create(api, doing, object).await {
            Ok(made) => cache.observe(tenant, made),
            Err(error) if error.code() == Some(409) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// A merge patch (RFC 7386).
    pub async fn merge<K>(&self, api: &Api<K>, name: &str, doing: &'static str, patch: Value) -> Result<K, Error>
    where
        K: Resource + Clone + DeserializeOwned + Debug,
    {
        api.patch(name, &self.patching(), &Patch::Merge(patch)).await.during(doing)
    }
}

/// Writes a status if it differs from the old one; `None` when nothing was to be written.
/// Refused as a conflict when the object is not the version that `object` is.
pub async fn write_status<K, S>(
    context: &Context,
    api: &Api<K>,
    object: &K,
    old: &S,
    new: &S,
) -> Result<Option<K>, Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
    S: Serialize,
{
    let (old, mut new) = (serde_json::to_value(old)?, serde_json::to_value(new)?);
    if old == new {
        return Ok(None);
    }
    // A merge patch removes what is null, and leaves what it does not name.
    if let (Some(old), Some(new)) = (old.as_object(), new.as_object_mut()) {
        for name in old.keys() {
            new.entry(name).or_insert(Value::Null);
        }
    }
    let meta = object.meta();
    let patch = json!({
        "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
        "status": new,
    });
    let name = meta.name.as_deref().unwrap_or_default();
    let written = api.patch_status(name, &context.patching(), &Patch::Merge(patch)).await;
    written.during("writing a status").map(Some)
}
