//! What every logical cluster and every namespace has from the start.
//!
//! Each Project gets its namespaces and its default network; each namespace its `default` service account and the
//! authority's certificate. What has been deleted of them comes again.

use std::time::Duration;

use async_trait::async_trait;
use futures::future::try_join_all;
use hypernetes_api::{
    TenantId, names,
    types::{
        identity::Project,
        network::{IN_USE, Network, Subnet},
    },
};
use hypernetes_client::Api;
use hypernetes_kinds::CLEANUP;
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    api::{DeleteParams, DynamicObject, ListParams, Patch},
    discovery::ApiResource,
};
use serde_json::json;

use crate::{
    Wiring, discovery, garbage,
    runtime::{Context, During, Error, Key, Reconciler, Recorder, Subject},
    volumes::{persistent, protection},
};

/// Namespaces of every logical cluster.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// The subnet of a tenant's default network.
const DEFAULT_CIDR: &str = "10.244.0.0/16";
/// How soon what a project has left is looked at again.
const AGAIN: Duration = Duration::from_secs(1);
const ROOT_CA: &str = "kube-root-ca.crt";

pub fn start(wiring: &Wiring<'_>, cluster_ca_pem: &str) {
    let informers = wiring.informers;
    let context = Context::new(informers, "tenancy-controller");

    let queue = wiring.queue();
    informers.of::<Project>().feed(&queue, |key, _| vec![key.clone()]);
    // One of a tenant's own that goes, comes again.
    informers.of::<Network>().feed(&queue, |key, _| project_of(&key.tenant));
    informers.of::<Subnet>().feed(&queue, |key, _| project_of(&key.tenant));
    informers.of::<Namespace>().feed(&queue, |key, _| project_of(&key.tenant));
    queue.add(Key::new(&TenantId::system(), "", TenantId::SYSTEM));
    wiring.drive(Projects { context: context.clone() }, queue);

    let queue = wiring.queue();
    informers.of::<Namespace>().feed(&queue, |key, _| vec![key.clone()]);
    let namespace = |key: &Key| vec![Key::new(&key.tenant, "", &key.namespace)];
    informers.of::<ServiceAccount>().feed(&queue, move |key, _| namespace(key));
    informers.named::<ConfigMap>(ROOT_CA).feed(&queue, move |key, _| namespace(key));
    wiring.drive(Namespaces { context, cluster_ca_pem: cluster_ca_pem.to_owned() }, queue);
}

fn project_of(tenant: &TenantId) -> Vec<Key> {
    vec![Key::new(&TenantId::system(), "", tenant.as_str())]
}

struct Projects {
    context: Context,
}

#[async_trait]
impl Reconciler for Projects {
    const NAME: &'static str = "tenancy";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Ok(tenant) = key.name.parse::<TenantId>() else {
            tracing::warn!(name = key.name, "a project whose name can be no tenant's");
            return Ok(None);
        };
        if tenant.is_system() {
            self.namespaces(&tenant).await?;
            return Ok(None);
        }
        let Some(project) = self.context.informers.of::<Project>().get(key) else {
            return self.remove(&tenant).await;
        };
        if !project.spec.enabled || project.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        // Beside each other: each is a write, and waits for the disk.
        tokio::try_join!(self.namespaces(&tenant), self.network(&tenant))?;
        if project.status.as_ref().is_none_or(|status| status.phase != "Ready") {
            let projects: Api<Project> = self.context.cluster(&TenantId::system());
            let patch = kube::api::Patch::Merge(json!({"status": {"phase": "Ready"}}));
            let written = projects.patch_status(&key.name, &self.context.patching(), &patch).await;
            let written = written.during("marking a project ready")?;
            self.context.informers.of::<Project>().observe(&TenantId::system(), written);
            tracing::info!(%tenant, name = project.spec.display_name, "tenant ready");
        }
        Ok(None)
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        self.context.told::<Project>(key)
    }
}

impl Projects {
    async fn namespaces(&self, tenant: &TenantId) -> Result<(), Error> {
        let cache = self.context.informers.of::<Namespace>();
        let api: Api<Namespace> = self.context.cluster(tenant);
        let missing = NAMESPACES.iter().filter(|name| !cache.has(&Key::new(tenant, "", name)));
        let made = missing.map(|name| {
            let namespace = json!({"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}});
            self.context.ensure(&cache, tenant, &api, "making a namespace", namespace)
        });
        try_join_all(made).await.map(drop)
    }

    async fn network(&self, tenant: &TenantId) -> Result<(), Error> {
        let (networks, subnets) = (self.context.informers.of::<Network>(), self.context.informers.of::<Subnet>());
        let name = names::DEFAULT_NETWORK;
        // As the network controller would, with a write less.
        let metadata = json!({"name": name, "finalizers": [IN_USE]});
        if !networks.has(&Key::new(tenant, "", name)) {
            let network = json!({
                "apiVersion": "network.hypernetes.io/v1alpha1", "kind": "Network",
                "metadata": metadata, "spec": {"description": "The network every tenant has"},
            });
            let api = self.context.cluster(tenant);
            self.context.ensure(&networks, tenant, &api, "making a network", network).await?;
        }
        let any = subnets.list(tenant, "").iter().any(|subnet| subnet.spec.network == name);
        if !any {
            let subnet = json!({
                "apiVersion": "network.hypernetes.io/v1alpha1", "kind": "Subnet",
                "metadata": metadata, "spec": {"network": name, "cidr": DEFAULT_CIDR},
            });
            let api = self.context.cluster(tenant);
            self.context.ensure(&subnets, tenant, &api, "making a subnet", subnet).await?;
        }
        Ok(())
    }

    /// Deletes all that a project that is gone has left: namespaces with all that is in them, and then what is in none. Looks
    /// again until nothing is there: what has finalizers takes its time.
    async fn remove(&self, tenant: &TenantId) -> Result<Option<Duration>, Error> {
        let client = self.context.client(tenant);
        let namespaces: Api<Namespace> = Api::all(client.clone());
        // The API server no longer knows a cluster whose project is gone under its name; nothing can be deleted there.
        let left = match namespaces.list(&ListParams::default()).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
                tracing::warn!(%tenant, "the project is gone, and its logical cluster cannot be reached to be emptied");
                return Ok(None);
            }
            other => other.during("listing what a project left")?,
        };
        let parameters = DeleteParams::default();
        for namespace in left.items.iter().filter(|namespace| namespace.metadata.deletion_timestamp.is_none()) {
            let name = namespace.metadata.name.as_deref().unwrap_or_default();
            if let Err(error) = namespaces.delete(name, &parameters).await {
                tracing::warn!(%tenant, name, %error, "a namespace of a project that is gone stays");
            }
        }
        let mut more = !left.items.is_empty();
        for (kind, namespaced) in discovery::stored(&client).await? {
            if discovery::is_projected(&kind) {
                continue;
            }
            let all = ListParams::default();
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
            let left = api.list_metadata(&all).await.during("listing what a project left")?.items;
            let whole = !namespaced && kind.kind != "Namespace";
            if whole && left.iter().any(|object| object.metadata.deletion_timestamp.is_none()) {
                api.delete_collection(&parameters, &all).await.during("deleting what a project left")?;
            }
            for object in &left {
                self.release(&client, &kind, &object.metadata).await?;
            }
            more |= !left.is_empty();
        }
        Ok(more.then_some(AGAIN))
    }

    /// Takes the finalizers away that are the tenant's own: whoever was to remove them is gone, too.
    async fn release(&self, client: &kube::Client, kind: &ApiResource, metadata: &ObjectMeta) -> Result<(), Error> {
        let finalizers = metadata.finalizers.as_deref().unwrap_or_default();
        let kept: Vec<&String> = finalizers.iter().filter(|name| is_systems(kind, name)).collect();
        if metadata.deletion_timestamp.is_none() || kept.len() == finalizers.len() {
            return Ok(());
        }
        let name = metadata.name.as_deref().unwrap_or_default();
        let api: Api<DynamicObject> = match metadata.namespace.as_deref() {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, kind),
            None => Api::all_with(client.clone(), kind),
        };
        // Of this version: others take theirs away at the same time.
        let patch = json!({"metadata": {"finalizers": kept, "resourceVersion": metadata.resource_version}});
        match api.patch(name, &self.context.patching(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            other => other.map(drop).during("taking finalizers away"),
        }
    }
}

/// Whether a finalizer is one that the system sets on objects of the kind, and takes away.
fn is_systems(kind: &ApiResource, finalizer: &str) -> bool {
    let domain = finalizer.split_once('/').map_or("", |(domain, _)| domain);
    domain == "hypernetes.io"
        || domain.ends_with(".hypernetes.io")
        || matches!(
            (kind.kind.as_str(), finalizer),
            (_, garbage::FOREGROUND | garbage::ORPHAN)
                | ("CustomResourceDefinition", CLEANUP)
                | ("PersistentVolumeClaim", protection::CLAIM)
                | ("PersistentVolume", protection::VOLUME | persistent::FINALIZER)
        )
}

struct Namespaces {
    context: Context,
    cluster_ca_pem: String,
}

#[async_trait]
impl Reconciler for Namespaces {
    const NAME: &'static str = "namespace-defaults";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(namespace) = self.context.informers.of::<Namespace>().get(key) else { return Ok(None) };
        if namespace.metadata.deletion_timestamp.is_none() {
            tokio::try_join!(self.account(key), self.authority(key))?;
        }
        Ok(None)
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        self.context.told::<Namespace>(key)
    }
}

impl Namespaces {
    async fn account(&self, key: &Key) -> Result<(), Error> {
        let accounts = self.context.informers.of::<ServiceAccount>();
        if !accounts.has(&Key::new(&key.tenant, &key.name, "default")) {
            let api: Api<ServiceAccount> = self.context.namespaced(&key.tenant, &key.name);
            let account = json!({"metadata": {"name": "default"}});
            self.context.ensure(&accounts, &key.tenant, &api, "making a service account", account).await?;
        }
        Ok(())
    }

    async fn authority(&self, key: &Key) -> Result<(), Error> {
        let api: Api<ConfigMap> = self.context.namespaced(&key.tenant, &key.name);
        let data = json!({"ca.crt": self.cluster_ca_pem});
        let maps = self.context.informers.named::<ConfigMap>(ROOT_CA);
        match maps.get(&Key::new(&key.tenant, &key.name, ROOT_CA)) {
            None => {
                let map = json!({"metadata": {"name": ROOT_CA}, "data": data});
                self.context.ensure(&maps, &key.tenant, &api, "making the authority's config map", map).await?;
            }
            Some(map) if map.data.as_ref().and_then(|data| data.get("ca.crt")) != Some(&self.cluster_ca_pem) => {
                self.context.merge(&api, ROOT_CA, "restoring the authority", json!({"data": data})).await?;
            }
            Some(_) => {}
        }
        Ok(())
    }
}
