//! Events: what users are told of an object that cannot be helped now.

use hypernetes_api::TenantId;
use hypernetes_client::Api;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::api::PostParams;

use super::{Controller, Retry};
use crate::queue::Key;

/// Events of objects without a namespace are kept here, as upstream keeps them.
const NAMESPACE: &str = "default";

impl Controller {
    /// Tells a trouble once: not the first time, for it may be gone in a moment, and not the same words again.
    ///
    /// # Errors
    /// [`Retry::Soon`] the first time.
    pub(super) async fn trouble(
        &self,
        key: &Key,
        tenant: &TenantId,
        about: ObjectReference,
        reason: &str,
        why: String,
    ) -> Result<(), Retry> {
        {
            let mut told = self.told.lock();
            match told.get_mut(key) {
                None => {
                    told.insert(key.clone(), String::new());
                    return Err(Retry::Soon(why));
                }
                Some(before) if *before == why => return Ok(()),
                Some(before) => before.clone_from(&why),
            }
        }
        tracing::info!(%tenant, object = about.name, reason, why);
        let namespace = about.namespace.clone().unwrap_or_else(|| NAMESPACE.to_owned());
        let now = Time(jiff::Timestamp::now());
        let event = Event {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}.", about.name.as_deref().unwrap_or_default())),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: about,
            reason: Some(reason.to_owned()),
            message: Some(why),
            type_: Some("Warning".to_owned()),
            source: Some(EventSource { component: Some("network-controller".to_owned()), host: None }),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            ..Event::default()
        };
        let events: Api<Event> = Api::namespaced(self.clients.tenant(tenant), &namespace);
        if let Err(error) = events.create(&PostParams::default(), &event).await {
            tracing::warn!(%tenant, %error, "writing an event");
        }
        Ok(())
    }
}
