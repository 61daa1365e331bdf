//! Pods get a port, from the moment they are there until they are finished or gone.

use std::sync::Arc;

use hypernetes_api::{
    TenantId,
    types::network::{PodReference, Port, PortSpec, port_of_pod},
};
use k8s_openapi::{
    api::core::v1::ObjectReference,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use serde_json::json;

use super::{Controller, Retry, is};
use crate::{
    address_book::{POD_OWNER, Placement, PodRecord, Refusal},
    queue::Key,
    state::is_accepted,
};

impl Controller {
    pub(super) async fn pod(&self, tenant: &TenantId, uid: &str) -> Result<(), Retry> {
        let key = Key::Pod(tenant.clone(), uid.to_owned());
        let name = port_of_pod(uid);
        let (pod, port) = self.state.with(tenant, |has| (has.pods.get(uid).cloned(), has.ports.get(&name).cloned()));
        let Some(pod) = pod.filter(|pod| !pod.finished) else {
            self.untell(&key);
            return self.remove_port(tenant, &name).await;
        };
        let port = match port.filter(|port| port.metadata.deletion_timestamp.is_none()) {
            Some(port) => port,
            None => match self.state.with(tenant, |has| has.place_pod(&pod)) {
                Ok((network, placement)) => self.make_port(tenant, &pod, network, placement).await?,
                Err(refusal) => {
                    if matches!(refusal, Refusal::Namespace(_)) {
                        // Its watch will tell, and the pod comes again.
                        return Ok(());
                    }
                    let why = format!("The pod has no network port: {refusal}");
                    return self.trouble(&key, tenant, reference(&pod), "FailedCreatePort", why).await;
                }
            },
        };
        self.untell(&key);
        let status = port.status.clone().unwrap_or_default();
        if is_accepted(&port) && status.host == pod.node {
            return Ok(());
        }
        let spec = &port.spec;
        let placed = self.state.with(tenant, |has| has.place(&name, &spec.network, &spec.fixed_ips, &spec.mac_address));
        if spec.fixed_ips.is_empty() || placed.is_err() {
            // Somebody wrote another port of this name, or changed it: it is treated as any port.
            self.state.queue.add(Key::Port(tenant.clone(), name));
            return Ok(());
        }
        let status =
            if is_accepted(&port) { json!({"host": pod.node}) } else { json!({"phase": "Down", "host": pod.node}) };
        self.set_status(tenant, &port, status).await
    }

    async fn make_port(
        &self,
        tenant: &TenantId,
        pod: &PodRecord,
        network: String,
        placement: Placement,
    ) -> Result<Arc<Port>, Retry> {
        let owner = OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            ..OwnerReference::default()
        };
        let spec = PortSpec {
            network,
            fixed_ips: placement.fixed_ips,
            mac_address: placement.mac_address,
            device_owner: POD_OWNER.to_owned(),
            device_id: pod.uid.clone(),
            pod: Some(PodReference { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() }),
            ..PortSpec::default()
        };
        let metadata =
            ObjectMeta { name: Some(pod.port()), owner_references: Some(vec![owner]), ..ObjectMeta::default() };
        let port = Port { metadata, spec, status: None };
        match self.api::<Port>(tenant).create(&PostParams::default(), &port).await {
            Ok(made) => {
                self.state.wrote(tenant, made.clone());
                Ok(Arc::new(made))
            }
            Err(error) => Err(self.not_placed(tenant, &port, error)),
        }
    }

    /// Removes a pod's port and frees its addresses; they are free at once where there never was a port.
    async fn remove_port(&self, tenant: &TenantId, name: &str) -> Result<(), Retry> {
        let port = self.state.with(tenant, |has| has.ports.get(name).cloned());
        let Some(port) = port else {
            self.state.with(tenant, |has| has.release(name));
            return Ok(());
        };
        let preconditions = Preconditions { uid: port.uid(), resource_version: None };
        let options = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.api::<Port>(tenant).delete(name, &options).await {
            Err(error) if !is(&error, 404) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

fn reference(pod: &PodRecord) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.namespace.clone()),
        name: Some(pod.name.clone()),
        uid: Some(pod.uid.clone()),
        ..ObjectReference::default()
    }
}
