//! What objects and their owners are called: their kinds, and the identity of each.

use std::{
    collections::HashMap,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use hypernetes_api::{ObjectName, TenantId};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Client, discovery::ApiResource};
use parking_lot::RwLock;

use crate::{discovery, runtime::Error};

/// Never collected, as upstream ignores them: there are many, and they go by their age.
const IGNORED: [&str; 1] = ["Event"];

/// Compared by group and kind: an owner reference may name any version.
pub struct Kind {
    pub resource: ApiResource,
    pub namespaced: bool,
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.resource.group == other.resource.group && self.resource.kind == other.resource.kind
    }
}
impl Eq for Kind {}

impl Hash for Kind {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.resource.group.hash(state);
        self.resource.kind.hash(state);
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.resource.plural, self.resource.group)
    }
}

/// Everything by which an owner reference names an object. One with a wrong name or kind is of nobody that exists,
/// although an object has that uid (KEP-2336: the coordinates count, too); and a tenant never names another's.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    pub tenant: TenantId,
    pub kind: Arc<Kind>,
    /// Empty for what is in no namespace.
    pub namespace: Box<str>,
    pub name: Box<str>,
    pub uid: Box<str>,
}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.uid.hash(state);
    }
}

pub type Id = Arc<Identity>;

/// Group and kind.
type Name = (String, String);

/// All of them: those that are built in, and what tenants have defined.
pub struct Kinds {
    by_name: HashMap<Name, Arc<Kind>>,
    defined: RwLock<HashMap<TenantId, HashMap<Name, Arc<Kind>>>>,
}

impl Kinds {
    /// # Errors
    /// When the API does not answer.
    pub async fn discover(client: &Client) -> Result<Self, Error> {
        let named = |kind: Arc<Kind>| ((kind.resource.group.clone(), kind.resource.kind.clone()), kind);
        let by_name = Self::served(client).await?.into_iter().map(named).collect();
        Ok(Self { by_name, defined: RwLock::default() })
    }

    /// Those that a cluster has at this moment: not all that are built in, and those that its tenant has defined.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn served(client: &Client) -> Result<Vec<Arc<Kind>>, Error> {
        let mut kinds = discovery::stored(client).await?;
        kinds.retain(|(resource, _)| !IGNORED.contains(&resource.kind.as_str()));
        Ok(kinds.into_iter().map(|(resource, namespaced)| Arc::new(Kind { resource, namespaced })).collect())
    }

    /// Those that are built in.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.by_name.values()
    }

    /// A tenant has defined a kind.
    pub fn define(&self, tenant: &TenantId, kind: &Arc<Kind>) {
        let name = (kind.resource.group.clone(), kind.resource.kind.clone());
        self.defined.write().entry(tenant.clone()).or_default().insert(name, kind.clone());
    }

    /// A tenant has it no more.
    pub fn undefine(&self, tenant: &TenantId, kind: &Kind) {
        let mut defined = self.defined.write();
        let Some(of_tenant) = defined.get_mut(tenant) else { return };
        of_tenant.remove(&(kind.resource.group.clone(), kind.resource.kind.clone()));
        if of_tenant.is_empty() {
            defined.remove(tenant);
        }
    }

    fn find(&self, tenant: &TenantId, name: &Name) -> Option<Arc<Kind>> {
        let built_in = self.by_name.get(name).cloned();
        built_in.or_else(|| self.defined.read().get(tenant)?.get(name).cloned())
    }

    /// Whom a reference in an object of this namespace (empty: of none) means. `None`: nobody whose absence could be
    /// told, because the kind is not known or cannot own across namespaces, or because nothing can have that name; such
    /// an owner holds for ever.
    pub fn owner(&self, dependent: &Identity, reference: &OwnerReference) -> Option<Identity> {
        let group = reference.api_version.split_once('/').map_or("", |(group, _)| group);
        let kind = self.find(&dependent.tenant, &(group.to_owned(), reference.kind.clone()))?;
        if kind.namespaced && dependent.namespace.is_empty() || ObjectName::new(&reference.name).is_err() {
            return None;
        }
        let tenant =
            if discovery::is_projected(&kind.resource) { TenantId::system() } else { dependent.tenant.clone() };
        let namespace = if kind.namespaced { dependent.namespace.clone() } else { Box::default() };
        Some(Identity {
            tenant,
            kind,
            namespace,
            name: reference.name.as_str().into(),
            uid: reference.uid.as_str().into(),
        })
    }
}

#[cfg(test)]
pub(super) fn of_names(names: &[(&str, &str, bool)]) -> Kinds {
    let kind = |(group, kind, namespaced): &(&str, &str, bool)| {
        let gvk = kube::core::GroupVersionKind::gvk(group, "v1", kind);
        let kind = Kind { resource: ApiResource::from_gvk(&gvk), namespaced: *namespaced };
        ((kind.resource.group.clone(), kind.resource.kind.clone()), Arc::new(kind))
    };
    Kinds { by_name: names.iter().map(kind).collect(), defined: RwLock::default() }
}
