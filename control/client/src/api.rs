//! The typed way to one kind's objects: [`kube::Api`] with parsed names.
//!
//! kube joins names and namespaces to the URL as they come, so that `x?watch=true` would be another request, `a/status`
//! another resource and `#` a whole collection. Here what is no [`ObjectName`] never becomes a URL: nothing can have that
//! name, so the call answers at once that nothing has (404). Lint refuses `kube::Api` itself in the control plane,
//! the services of the cloud and on nodes.

use std::{fmt::Debug, sync::Arc};

use futures::{Stream, StreamExt};
use hypernetes_api::{InvalidName, ObjectName};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Client, Resource,
    api::{DeleteParams, ListParams, ObjectList, Patch, PatchParams, PostParams},
    core::{DynamicResourceScope, PartialObjectMeta, Request, Status},
    runtime::{WatchStreamExt, watcher},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::found_by::FoundBy;

type Result<T> = std::result::Result<T, kube::Error>;

/// What a deletion answers: the object where it is only marked, else that it is gone.
type Deleted<K> = either::Either<K, Status>;

/// The objects of one kind in one logical cluster, and perhaps in one namespace. Cheap to clone.
#[derive(Clone)]
#[allow(clippy::disallowed_types)] // this is what replaces it
pub struct Api<K> {
    /// Or that the namespace's name is none.
    inner: std::result::Result<kube::Api<K>, InvalidName>,
}

/// Nothing can be called that, so nothing is.
fn not_found(invalid: InvalidName) -> kube::Error {
    kube::Error::Api(Box::new(Status::failure(&invalid.to_string(), "NotFound").with_code(404)))
}

#[allow(clippy::disallowed_types)]
impl<K: Resource> Api<K> {
    /// Of the whole cluster.
    pub fn all(client: Client) -> Self
    where
        K: Resource<DynamicType = ()>,
    {
        Self { inner: Ok(kube::Api::all(client)) }
    }

    /// [`Api::all`] for a kind that is known only when the program runs.
    pub fn all_with(client: Client, kind: &K::DynamicType) -> Self {
        Self { inner: Ok(kube::Api::all_with(client, kind)) }
    }

    /// Of one namespace. Where that is no name, nothing is found there.
    pub fn namespaced(client: Client, namespace: &str) -> Self
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Self { inner: ObjectName::new(namespace).map(|namespace| kube::Api::namespaced(client, &namespace)) }
    }

    /// [`Api::namespaced`] for a kind that is known only when the program runs.
    pub fn namespaced_with(client: Client, namespace: &str, kind: &K::DynamicType) -> Self
    where
        K: Resource<Scope = DynamicResourceScope>,
    {
        Self { inner: ObjectName::new(namespace).map(|namespace| kube::Api::namespaced_with(client, &namespace, kind)) }
    }
}

#[allow(clippy::disallowed_types)]
impl<K> Api<K> {
    fn collection(&self) -> Result<&kube::Api<K>> {
        self.inner.as_ref().map_err(|invalid| not_found(invalid.clone()))
    }

    fn object(&self, name: &str) -> Result<(&kube::Api<K>, ObjectName)> {
        Ok((self.collection()?, ObjectName::new(name).map_err(not_found)?))
    }
}

/// Each is [`kube::Api`]'s call of the same name.
///
/// # Errors
/// kube's, and the API's own 404 where the name or the namespace is none.
impl<K: Clone + DeserializeOwned + Debug> Api<K> {
    pub async fn get(&self, name: &str) -> Result<K> {
        let (api, name) = self.object(name)?;
        api.get(&name).await
    }

    pub async fn get_opt(&self, name: &str) -> Result<Option<K>> {
        let Ok((api, name)) = self.object(name) else { return Ok(None) };
        api.get_opt(&name).await
    }

    pub async fn get_metadata_opt(&self, name: &str) -> Result<Option<PartialObjectMeta<K>>> {
        let Ok((api, name)) = self.object(name) else { return Ok(None) };
        api.get_metadata_opt(&name).await
    }

    pub async fn list(&self, parameters: &ListParams) -> Result<ObjectList<K>> {
        self.collection()?.list(parameters).await
    }

    pub async fn list_metadata(&self, parameters: &ListParams) -> Result<ObjectList<PartialObjectMeta<K>>> {
        self.collection()?.list_metadata(parameters).await
    }

    /// The object as it is and after each change; `None`: there is none. Begins again by itself when it is interrupted. What can be no
    /// object's name is never heard of.
    pub fn watch_object(&self, name: &str) -> impl Stream<Item = watcher::Result<Option<K>>> + Send + use<K>
    where
        K: Resource + Send + 'static,
    {
        let object = self.object(name).ok();
        let changes = object.map(|(api, name)| watcher::watch_object(api.clone(), &name).default_backoff());
        futures::stream::iter(changes).flatten()
    }

    pub async fn create(&self, parameters: &PostParams, object: &K) -> Result<K>
    where
        K: Serialize,
    {
        self.collection()?.create(parameters, object).await
    }

    /// [`Api::create`], of what is not made unless it is found again ([`FoundBy`]).
    pub async fn create_found_by(&self, parameters: &PostParams, object: &K, found_by: FoundBy) -> Result<K>
    where
        K: Resource + Serialize,
    {
        let api = self.collection()?;
        let bytes = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
        let request = Request::new(api.resource_url()).create(parameters, bytes);
        let mut request = request.map_err(kube::Error::BuildRequest)?;
        request.extensions_mut().insert("create");
        request.extensions_mut().insert(Arc::new(found_by));
        api.clone().into_client().request(request).await
    }

    pub async fn delete(&self, name: &str, parameters: &DeleteParams) -> Result<Deleted<K>> {
        let (api, name) = self.object(name)?;
        api.delete(&name, parameters).await
    }

    pub async fn delete_collection(
        &self,
        parameters: &DeleteParams,
        which: &ListParams,
    ) -> Result<either::Either<ObjectList<K>, Status>> {
        self.collection()?.delete_collection(parameters, which).await
    }

    pub async fn patch<P: Serialize + Debug>(
        &self,
        name: &str,
        parameters: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<K> {
        let (api, name) = self.object(name)?;
        api.patch(&name, parameters, patch).await
    }

    pub async fn patch_metadata<P: Serialize + Debug>(
        &self,
        name: &str,
        parameters: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<PartialObjectMeta<K>> {
        let (api, name) = self.object(name)?;
        api.patch_metadata(&name, parameters, patch).await
    }

    pub async fn patch_status<P: Serialize + Debug>(
        &self,
        name: &str,
        parameters: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<K> {
        let (api, name) = self.object(name)?;
        api.patch_status(&name, parameters, patch).await
    }

    pub async fn patch_subresource<P: Serialize + Debug>(
        &self,
        subresource: &'static str,
        name: &str,
        parameters: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<K> {
        let (api, name) = self.object(name)?;
        api.patch_subresource(subresource, &name, parameters, patch).await
    }

    pub async fn replace(&self, name: &str, parameters: &PostParams, object: &K) -> Result<K>
    where
        K: Serialize,
    {
        let (api, name) = self.object(name)?;
        api.replace(&name, parameters, object).await
    }

    pub async fn replace_status(&self, name: &str, parameters: &PostParams, object: &K) -> Result<K>
    where
        K: Serialize,
    {
        let (api, name) = self.object(name)?;
        api.replace_status(&name, parameters, object).await
    }

    pub async fn create_subresource<I, T>(
        &self,
        subresource: &'static str,
        name: &str,
        parameters: &PostParams,
        object: &I,
    ) -> Result<T>
    where
        I: Serialize,
        T: DeserializeOwned,
    {
        let (api, name) = self.object(name)?;
        api.create_subresource(subresource, &name, parameters, object).await
    }

    pub async fn replace_subresource<I: Serialize>(
        &self,
        subresource: &'static str,
        name: &str,
        parameters: &PostParams,
        object: &I,
    ) -> Result<K> {
        let (api, name) = self.object(name)?;
        api.replace_subresource(subresource, &name, parameters, object).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use http::{Request, Response};
    use http_body_util::Full;
    use k8s_openapi::api::core::v1::Pod;
    use kube::client::Body;
    use serde_json::json;

    use super::*;
    use crate::Clients;

    const HOSTILE: [&str; 11] =
        ["", ".", "..", "a/b", "/", "x?watch=true&timeoutSeconds=99999999999", "x#", "#", "%2e%2e", "a b", "a\r\nb"];

    /// A client of a server that counts what it is asked, and answers 500.
    fn counted() -> (kube::Client, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = count.clone();
        let clients = Clients::in_process(tower::service_fn(move |_: Request<Body>| {
            counter.fetch_add(1, Ordering::Relaxed);
            let answer = Response::builder().status(500).body(Full::new(bytes::Bytes::from_static(b"{}")));
            async move { answer }
        }));
        (clients.tenant(&"acme".parse().unwrap()), count)
    }

    #[tokio::test]
    async fn what_is_no_name_is_not_found_and_nothing_is_sent() {
        let (client, asked) = counted();
        let not_found = |error: kube::Error| matches!(&error, kube::Error::Api(status) if status.code == 404);
        let patch = Patch::Merge(json!({}));
        let all: Api<Pod> = Api::namespaced(client.clone(), "default");
        for name in HOSTILE {
            assert!(all.get_opt(name).await.unwrap().is_none() && all.get_metadata_opt(name).await.unwrap().is_none());
            let (get, put) = (PatchParams::default(), PostParams::default());
            assert!(not_found(all.get(name).await.unwrap_err()));
            assert!(not_found(all.delete(name, &DeleteParams::default()).await.err().unwrap()));
            assert!(not_found(all.patch(name, &get, &patch).await.unwrap_err()));
            assert!(not_found(all.patch_status(name, &get, &patch).await.unwrap_err()));
            assert!(not_found(all.patch_subresource("approval", name, &get, &patch).await.unwrap_err()));
            assert!(not_found(all.patch_metadata(name, &get, &patch).await.unwrap_err()));
            assert!(not_found(all.replace(name, &put, &Pod::default()).await.unwrap_err()));
            assert!(not_found(all.replace_status(name, &put, &Pod::default()).await.unwrap_err()));
            let bound = all.create_subresource::<_, Status>("binding", name, &put, &json!({})).await;
            assert!(not_found(bound.unwrap_err()));
            let inside: Api<Pod> = Api::namespaced(client.clone(), name);
            assert!(not_found(inside.list(&ListParams::default()).await.unwrap_err()));
            assert!(not_found(inside.create(&put, &Pod::default()).await.unwrap_err()));
            let deleted = inside.delete_collection(&DeleteParams::default(), &ListParams::default()).await;
            assert!(not_found(deleted.err().unwrap()));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 0);
        assert!(all.get("system:a").await.is_err());
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    /// Who makes paths of text past [`Api`], as those who use kube alone do, still does not leave the cluster or wait.
    #[tokio::test]
    #[allow(clippy::disallowed_types)]
    async fn what_kube_alone_would_send_is_refused() {
        let (client, asked) = counted();
        let api: kube::Api<Pod> = kube::Api::namespaced(client, "default");
        for name in ["..", "/", "../../x", "x?watch=true&timeoutSeconds=99999999999", "#", "%2e%2e"] {
            assert!(matches!(api.get(name).await.unwrap_err(), kube::Error::Service(_)), "{name}");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 0);
    }
}
