//! A request that is known, and what those who answer it ask of it.

use std::sync::Arc;

use bytes::Bytes;
use http::header;
use hypernetes_api::{ApiError, TenantId, auth::UserInfo, names};
use hypernetes_client::{fence::Fence, found_by::FoundBy, shared::Wanted};
use hypernetes_kinds::{Behaviour, Home, Resource, Served, Subresource};
use hypernetes_schema::{Decoded, FieldValidation};
use hypernetes_store::Key;

use crate::{
    audit::event::Trail,
    fairness::account::Account,
    request::{Query, ResourceTarget, Scope},
};

/// A request that is known: who, what, where.
pub(crate) struct Call {
    pub user: UserInfo,
    pub scope: Scope,
    pub resource: Arc<Resource>,
    /// The version in which it is asked for.
    pub served: Arc<Served>,
    pub target: ResourceTarget,
    pub subresource: Option<Subresource>,
    pub query: Query,
    pub headers: http::HeaderMap,
    pub body: Bytes,
    /// Where a component in this process takes the objects of a watch from.
    pub handed: Option<Wanted>,
    /// In whose term a component in this process asks.
    pub fence: Option<Arc<Fence>>,
    /// By what such a component has to find again what it makes.
    pub found_by: Option<Arc<FoundBy>>,
    /// What it is charged to; none for the system's own.
    pub account: Option<Arc<Account>>,
    /// For who records it.
    pub trail: Arc<Trail>,
}

impl Call {
    /// The tenant whose objects it is about: the operator's own where they are projected.
    pub fn tenant(&self) -> Result<TenantId, ApiError> {
        match (&self.scope, self.resource.home) {
            (_, Home::Projected | Home::System) => Ok(TenantId::system()),
            (Scope::Tenant(tenant), _) => Ok(tenant.clone()),
            (Scope::All, _) => Err(ApiError::bad_request("this request has to name one logical cluster")),
        }
    }

    pub fn key(&self, name: &str) -> Result<Key, ApiError> {
        let namespace = self.target.namespace.as_deref().unwrap_or_default();
        Key::new(&self.resource.id, &self.tenant()?, namespace, name).map_err(|_| self.not_found(name))
    }

    /// The body as an object that can be stored.
    ///
    /// # Errors
    /// `BadRequest` for what has not the shape of its kind.
    pub fn decode(&self, validation: FieldValidation) -> Result<Decoded, ApiError> {
        let decoded = self.served.ty.decode(&self.body, validation)?;
        Ok(self.to_stored(decoded))
    }

    /// What is in the version that is asked for, as it is stored.
    pub fn to_stored(&self, Decoded { mut object, warnings }: Decoded) -> Decoded {
        if !self.served.is_stored() {
            hypernetes_kinds::set_defaults(&self.served.ty, &mut object);
            object = self.served.to_stored(object);
        }
        Decoded { object, warnings }
    }

    /// What is done through the subresource; none: the object itself is meant.
    pub fn through(&self) -> Option<&Behaviour> {
        self.subresource.as_ref().map(|one| &one.behaviour)
    }

    pub fn not_found(&self, name: &str) -> ApiError {
        ApiError::not_found(&self.resource.ty.group, &self.resource.plural, name)
    }

    /// Whether the caller is one of the system's own components, or a node.
    pub fn is_infrastructure(&self) -> bool {
        let groups = [names::GROUP_INFRASTRUCTURE, names::GROUP_NODES];
        self.user.tenant.is_system() && self.user.groups.iter().any(|group| groups.contains(&group.as_str()))
    }

    /// Between two pieces of what takes long.
    pub async fn pause(&self) {
        tokio::task::yield_now().await;
        if let Some(account) = &self.account {
            account.pace.pause().await;
        }
    }

    pub fn accept(&self) -> &str {
        self.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}
