//! Which resources there are: those that are built in, shared by all tenants, and what a tenant has of its own besides.
//!
//! ```text
//! built in ──▶ the operator's view ─┐
//!         └──▶ every tenant's view ─┴─▶ a tenant's own view, made when it gets resources of its own
//! ```

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, OnceLock},
};

use hypernetes_api::TenantId;
use hypernetes_schema::{ObjectType, openapi};
use parking_lot::RwLock;

use crate::{
    admissionregistration, apiextensions, apps, authentication, authorization, autoscaling, batch, certificates,
    coordination, core, discovery,
    documents::{Document, Documents, Swagger},
    dynamic_resources, flowcontrol, networking, node, own, policy, rbac,
    resource::{Home, Resource, Served},
    scheduling, sent, storage,
    subresource::Behaviour,
};

fn families() -> Vec<Resource> {
    let mut all: Vec<Resource> = [
        core::resources(),
        apps::resources(),
        batch::resources(),
        autoscaling::resources(),
        coordination::resources(),
        discovery::resources(),
        networking::resources(),
        policy::resources(),
        rbac::resources(),
        scheduling::resources(),
        node::resources(),
        storage::resources(),
        dynamic_resources::resources(),
        flowcontrol::resources(),
        admissionregistration::resources(),
        certificates::resources(),
        authentication::resources(),
        authorization::resources(),
        own::identity::resources(),
        own::network::resources(),
        own::volume::resources(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let sent = sent::kinds().into_iter().map(|ty| ty.group);
    let groups: Vec<String> = all.iter().map(|one| one.ty.group.clone()).chain(sent).collect();
    all.extend(apiextensions::resources(groups));
    all
}

type Name = (String, String, String);
type GroupVersion = (String, String);

fn name(ty: &ObjectType, last: &str) -> Name {
    (ty.group.clone(), ty.version.clone(), last.to_owned())
}

struct Builtin {
    resources: Vec<Arc<Resource>>,
    /// Of these and of the kinds that are only sent, by group, version and kind.
    kinds: HashMap<Name, Arc<ObjectType>>,
}

static BUILTIN: LazyLock<Builtin> = LazyLock::new(|| {
    let resources: Vec<Arc<Resource>> = families().into_iter().map(Arc::new).collect();
    let served = resources.iter().flat_map(|resource| resource.served.iter().map(|served| served.ty.clone()));
    let kinds = served.chain(sent::kinds().into_iter().map(Arc::new));
    let kinds = kinds.map(|ty| (name(&ty, &ty.kind), ty)).collect();
    Builtin { resources, kinds }
});

/// Every resource that is built in, by family.
pub fn builtin() -> &'static [Arc<Resource>] {
    &BUILTIN.resources
}

/// The built-in resource of a group, version and kind.
pub fn builtin_of(group: &str, version: &str, kind: &str) -> Option<&'static Arc<Resource>> {
    builtin().iter().find(|resource| resource.is(group, kind) && resource.ty.version == version)
}

/// The shape of a kind that is compiled in, also of one that is only sent (`Scale`, `Binding`, `DeleteOptions` …). The core
/// group is `""`; `DeleteOptions` belongs to it and to every other group.
pub fn kind(group: &str, version: &str, kind: &str) -> Option<Arc<ObjectType>> {
    let (group, version) = if kind == "DeleteOptions" { ("", "v1") } else { (group, version) };
    BUILTIN.kinds.get(&(group.to_owned(), version.to_owned(), kind.to_owned())).cloned()
}

/// Every kind that is compiled in, in no order.
pub fn all_kinds() -> impl Iterator<Item = Arc<ObjectType>> {
    BUILTIN.kinds.values().cloned()
}

/// A resource as one of its versions serves it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub resource: Arc<Resource>,
    pub served: Arc<Served>,
}

/// The resources that one tenant sees.
pub struct View {
    endpoints: Vec<Endpoint>,
    by_plural: HashMap<String, Vec<Endpoint>>,
    /// The view that this one has more than.
    base: Option<Arc<View>>,
    /// Groups and versions in which it has more: the documents of all others are the base's.
    own: Vec<GroupVersion>,
    documents: Documents,
    swagger: OnceLock<Arc<Swagger>>,
}

impl View {
    fn new(resources: &[Arc<Resource>]) -> Self {
        let served = |resource: &Arc<Resource>| {
            let resource = resource.clone();
            resource.served.clone().into_iter().map(move |served| Endpoint { resource: resource.clone(), served })
        };
        Self::of_endpoints(resources.iter().flat_map(served).collect())
    }

    fn of_endpoints(endpoints: Vec<Endpoint>) -> Self {
        let mut by_plural = HashMap::<String, Vec<Endpoint>>::new();
        for one in &endpoints {
            by_plural.entry(one.resource.plural.clone()).or_default().push(one.clone());
        }
        Self {
            endpoints,
            by_plural,
            base: None,
            own: Vec::new(),
            documents: Documents::default(),
            swagger: OnceLock::new(),
        }
    }

    /// This one, and more.
    fn with(self: &Arc<Self>, own: &[Arc<Resource>]) -> Self {
        let own = Self::new(own).endpoints;
        let of_own = own.iter().map(|one| (one.served.ty.group.clone(), one.served.ty.version.clone())).collect();
        let endpoints = self.endpoints.iter().cloned().chain(own).collect();
        Self { base: Some(self.clone()), own: of_own, ..Self::of_endpoints(endpoints) }
    }

    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Endpoint> {
        let is = |one: &&Endpoint| one.served.ty.group == group && one.served.ty.version == version;
        self.by_plural.get(plural)?.iter().find(is)
    }

    pub fn all(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Those of a group and version; empty where there is no such.
    pub fn of(&self, group: &str, version: &str) -> Vec<&Endpoint> {
        let is = |one: &&Endpoint| one.served.ty.group == group && one.served.ty.version == version;
        self.endpoints.iter().filter(is).collect()
    }

    /// The OpenAPI v3 document of a group and version, made when it is first asked for, which takes tens of milliseconds.
    pub fn document(&self, group: &str, version: &str) -> Option<Document> {
        let key = (group.to_owned(), version.to_owned());
        if let Some(base) = &self.base
            && !self.own.contains(&key)
        {
            return base.document(group, version);
        }
        let endpoints = self.of(group, version);
        if endpoints.is_empty() {
            return None;
        }
        let make = || {
            let resources: Vec<openapi::Resource> = endpoints.into_iter().map(described).collect();
            openapi::document(group, version, &resources)
        };
        Some(self.documents.get_or_make(&format!("openapi/v3/apis/{group}/{version}"), make))
    }

    /// The OpenAPI v2 document, made when it is first asked for: what a tenant has of its own stands behind what all have.
    pub fn swagger(&self) -> Arc<Swagger> {
        let made = self.swagger.get_or_init(|| {
            let base = self.base.as_ref().map(|base| base.swagger());
            let mut told: Vec<GroupVersion> = match base {
                Some(_) => self.own.clone(),
                None => self
                    .endpoints
                    .iter()
                    .map(|one| (one.served.ty.group.clone(), one.served.ty.version.clone()))
                    .collect(),
            };
            told.sort_unstable();
            told.dedup();
            let documents: Vec<Document> =
                told.iter().filter_map(|(group, version)| self.document(group, version)).collect();
            Arc::new(Swagger::new(&documents, base.as_deref()))
        });
        made.clone()
    }

    /// A document about the view, kept under a name.
    pub fn kept(&self, name: &str, make: impl FnOnce() -> Vec<u8>) -> Document {
        self.documents.get_or_make(name, make)
    }
}

fn described(Endpoint { resource, served }: &Endpoint) -> openapi::Resource {
    let verbs = |verbs: Vec<&'static str>| verbs.into_iter().map(str::to_owned).collect();
    // What a node answers is no object.
    let told = resource.subresources.iter().filter(|one| !matches!(one.behaviour, Behaviour::Connect(_)));
    let subresources = told.filter_map(|one| {
        let ty = match one.body {
            None => served.ty.clone(),
            Some((group, version, name)) => kind(group, version, name)?,
        };
        Some(openapi::Subresource { name: one.name.to_owned(), ty, verbs: verbs(one.shown_verbs()) })
    });
    openapi::Resource {
        ty: served.ty.clone(),
        plural: resource.plural.clone(),
        verbs: verbs(resource.shown_verbs()),
        subresources: subresources.collect(),
    }
}

/// Every tenant's view.
pub struct Registry {
    operator: Arc<View>,
    shared: Arc<View>,
    own: RwLock<HashMap<TenantId, Arc<View>>>,
}

impl Default for Registry {
    fn default() -> Self {
        let seen: Vec<_> = builtin().iter().filter(|resource| resource.home != Home::System).cloned().collect();
        Self { operator: Arc::new(View::new(builtin())), shared: Arc::new(View::new(&seen)), own: RwLock::default() }
    }
}

impl Registry {
    /// What a tenant sees.
    pub fn view(&self, tenant: &TenantId) -> Arc<View> {
        self.own.read().get(tenant).unwrap_or(self.builtin(tenant)).clone()
    }

    /// What of it is built in.
    pub fn builtin(&self, tenant: &TenantId) -> &Arc<View> {
        if tenant.is_system() { &self.operator } else { &self.shared }
    }

    /// Who has resources of their own.
    pub fn tenants(&self) -> Vec<TenantId> {
        self.own.read().keys().cloned().collect()
    }

    /// Gives a tenant resources of its own besides the built-in ones, instead of those that it had.
    pub fn set_own(&self, tenant: &TenantId, resources: Vec<Arc<Resource>>) {
        let base = self.builtin(tenant);
        let mut own = self.own.write();
        if resources.is_empty() {
            own.remove(tenant);
        } else {
            own.insert(tenant.clone(), Arc::new(base.with(&resources)));
        }
    }
}
