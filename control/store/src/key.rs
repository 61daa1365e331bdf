//! Keys: `/<group>/<resource>/<tenant>/<namespace>/<name>`. The tenant is in every one of them.

use std::{fmt, sync::Arc};

use hypernetes_api::{AllTenants, InvalidName, ObjectName, PathSegment, ResourceId, TenantId};

/// The key of one object. Its parts contain no `/`: a namespace is an [`ObjectName`], a name a [`PathSegment`], which is all
/// that any version has stored: what has a key can be read and deleted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// `namespace` is empty for what is cluster-scoped.
    ///
    /// # Errors
    /// When the namespace or the name is none: nothing has such a key.
    pub fn new(resource: &ResourceId, tenant: &TenantId, namespace: &str, name: &str) -> Result<Self, InvalidName> {
        PathSegment::new(name)?;
        if !namespace.is_empty() {
            ObjectName::new(namespace)?;
        }
        Ok(Self(format!("/{}/{}/{tenant}/{namespace}/{name}", resource.group, resource.plural).into()))
    }

    /// Reads back what an engine has stored.
    pub fn parse(text: &str) -> Option<Self> {
        (text.starts_with('/') && text.split('/').count() == 6).then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn part(&self, index: usize) -> &str {
        self.0.split('/').nth(index).unwrap_or_default()
    }

    /// Where the slashes are, of which every key has five.
    fn slashes(&self) -> [usize; 5] {
        let mut found = [0; 5];
        let slashes = self.0.bytes().enumerate().filter(|(_, byte)| *byte == b'/');
        found.iter_mut().zip(slashes).for_each(|(place, (index, _))| *place = index);
        found
    }

    /// `/<group>/<plural>/`.
    pub fn resource(&self) -> &str {
        &self.0[..=self.slashes()[2]]
    }

    /// The texts of all prefixes that it is under.
    pub fn prefixes(&self) -> [&str; 4] {
        let slashes = self.slashes();
        [0, 2, 3, 4].map(|slash| &self.0[..=slashes[slash]])
    }

    pub fn group(&self) -> &str {
        self.part(1)
    }

    pub fn plural(&self) -> &str {
        self.part(2)
    }

    pub fn tenant(&self) -> &str {
        self.part(3)
    }

    pub fn namespace(&self) -> &str {
        self.part(4)
    }

    pub fn name(&self) -> &str {
        self.part(5)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a list or a watch covers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(Arc<str>);

impl Prefix {
    /// Everything of one resource in one tenant, or in one namespace of it.
    ///
    /// # Errors
    /// When the namespace is no name: nothing is in it.
    pub fn tenant(resource: &ResourceId, tenant: &TenantId, namespace: Option<&str>) -> Result<Self, InvalidName> {
        let base = format!("/{}/{}/{tenant}/", resource.group, resource.plural);
        Ok(Self(match namespace {
            Some(namespace) => format!("{base}{}/", ObjectName::new(namespace)?).into(),
            None => base.into(),
        }))
    }

    /// Everything of one resource in every tenant: for whoever was given the capability.
    pub fn all_tenants(resource: &ResourceId, _capability: &AllTenants) -> Self {
        Self(format!("/{}/{}/", resource.group, resource.plural).into())
    }

    /// The whole store: for engines' own upkeep and for deleting a tenant.
    pub fn everything(_capability: &AllTenants) -> Self {
        Self("/".into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `/<group>/<plural>/`, when it is about one resource.
    pub fn resource(&self) -> Option<&str> {
        let third = self.0.bytes().enumerate().filter(|(_, byte)| *byte == b'/').nth(2);
        third.map(|(slash, _)| &self.0[..=slash])
    }

    /// The tenant, when it is about one alone.
    pub fn of_tenant(&self) -> Option<&str> {
        self.0.split('/').nth(3).filter(|tenant| !tenant.is_empty())
    }

    pub fn contains(&self, key: &Key) -> bool {
        key.as_str().starts_with(&*self.0)
    }
}
