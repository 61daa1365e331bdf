//! Networks get a segment, and neither networks nor subnets go while they are in use.

use hypernetes_api::{
    TenantId,
    subnet::SubnetRange,
    types::network::{IN_USE, Network, Subnet},
};
use kube::{
    Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Controller, Retry, is};
use crate::{queue::Key, taken::is_taken};

impl Controller {
    pub(super) async fn network(&self, tenant: &TenantId, name: &str) -> Result<(), Retry> {
        let (network, in_use, subnets) = {
            let mut inner = self.state.lock();
            let Some(has) = inner.tenants.get_mut(tenant) else { return Ok(()) };
            let Some(network) = has.networks.get(name).cloned() else { return Ok(()) };
            let subnets: Vec<_> = has.subnets.values().filter(|s| s.spec.network == name).cloned().collect();
            (network, has.network_in_use(name), subnets)
        };
        if network.metadata.deletion_timestamp.is_some() {
            if in_use {
                return Ok(());
            }
            // Subnets that nobody uses go with their network, as Neutron has it.
            for subnet in subnets.iter().filter(|subnet| subnet.metadata.deletion_timestamp.is_none()) {
                match self.api::<Subnet>(tenant).delete(&subnet.name_any(), &DeleteParams::default()).await {
                    Err(error) if !is(&error, 404) => return Err(error.into()),
                    _ => {}
                }
            }
            return if subnets.is_empty() { self.let_go(tenant, &*network).await } else { Ok(()) };
        }
        let version = self.hold(tenant, &*network).await?;
        let uid = network.uid().unwrap_or_default();
        let status = network.status.clone().unwrap_or_default();
        let segment = self.state.lock().segments.allocate(&uid);
        let Some(segment) = segment else {
            return Err(Retry::Soon("all segments are taken".to_owned()));
        };
        if status.phase == "Active" && status.segment_id == segment {
            return Ok(());
        }
        // Over what this server knows, and not over a segment that another one has given it meanwhile.
        let metadata = json!({"uid": uid, "resourceVersion": version});
        let patch = json!({"metadata": metadata, "status": {"phase": "Active", "segmentId": segment}});
        let api = self.api::<Network>(tenant);
        match api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(network) => self.state.wrote(tenant, network),
            Err(error) if is(&error, 404) => {}
            Err(error) if is(&error, 409) => return Err(Retry::Soon("the network was changed by others".to_owned())),
            Err(error) if is_taken(&error) => {
                self.state.lock().segments.is_elsewhere(&uid, segment);
                return Err(Retry::Soon(format!("the segment {segment} was taken by another network")));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    pub(super) async fn subnet(&self, tenant: &TenantId, name: &str) -> Result<(), Retry> {
        let (subnet, in_use, shadowed) = {
            let mut inner = self.state.lock();
            let Some(has) = inner.tenants.get_mut(tenant) else { return Ok(()) };
            let Some(subnet) = has.subnets.get(name).cloned() else { return Ok(()) };
            let range = SubnetRange::parse(&subnet.spec);
            let other = range.as_ref().ok().and_then(|range| has.overlapping(&subnet.spec.network, range));
            let why = match (&range, other) {
                (Err(error), _) => Some(error.to_string()),
                (_, Some(other)) if other != name => Some(format!("it overlaps with the subnet {other:?}")),
                _ => None,
            };
            let in_use = has.subnet_in_use(&subnet);
            (subnet, in_use, why)
        };
        if subnet.metadata.deletion_timestamp.is_some() {
            return if in_use { Ok(()) } else { self.let_go(tenant, &*subnet).await };
        }
        self.hold(tenant, &*subnet).await?;
        let key = Key::Subnet(tenant.clone(), name.to_owned());
        match shadowed {
            None => {
                self.untell(&key);
                Ok(())
            }
            Some(why) => {
                let why = format!("No addresses are given from this subnet: {why}");
                self.trouble(&key, tenant, subnet.object_ref(&()), "InvalidSubnet", why).await
            }
        }
    }

    /// Adds the finalizer. Gives the version that has it; none: the object is gone.
    async fn hold<K>(&self, tenant: &TenantId, object: &K) -> Result<Option<String>, Retry>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        if object.finalizers().iter().any(|finalizer| finalizer == IN_USE) {
            return Ok(object.resource_version());
        }
        let mut finalizers = object.finalizers().to_vec();
        finalizers.push(IN_USE.to_owned());
        self.set_finalizers(tenant, object, &finalizers).await
    }

    /// Removes the finalizer.
    async fn let_go<K>(&self, tenant: &TenantId, object: &K) -> Result<(), Retry>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        let others: Vec<String> = object.finalizers().iter().filter(|f| *f != IN_USE).cloned().collect();
        if others.len() == object.finalizers().len() {
            return Ok(());
        }
        self.set_finalizers(tenant, object, &others).await.map(drop)
    }

    async fn set_finalizers<K>(
        &self,
        tenant: &TenantId,
        object: &K,
        finalizers: &[String],
    ) -> Result<Option<String>, Retry>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        let patch = json!({"metadata": {
            "uid": object.uid(), "resourceVersion": object.resource_version(), "finalizers": finalizers,
        }});
        let api = self.api::<K>(tenant);
        match api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(written) => Ok(written.resource_version()),
            Err(error) if is(&error, 404) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
