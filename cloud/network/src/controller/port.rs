//! Ports get their addresses.

use hypernetes_api::{TenantId, types::network::Port};
use kube::{
    Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{Controller, Retry, is};
use crate::{address_book::Refusal, queue::Key, state::is_accepted, taken::is_taken};

impl Controller {
    pub(super) async fn port(&self, tenant: &TenantId, name: &str) -> Result<(), Retry> {
        let key = Key::Port(tenant.clone(), name.to_owned());
        let found = self.state.with(tenant, |has| {
            let port = has.ports.get(name).cloned()?;
            let spec = &port.spec;
            let placed = has.place(name, &spec.network, &spec.fixed_ips, &spec.mac_address);
            let of_pod = spec.pod.as_ref().is_some_and(|pod| has.pods.contains_key(&pod.uid));
            Some((port, placed, of_pod))
        });
        let Some((port, placed, of_pod)) = found.filter(|(port, ..)| port.metadata.deletion_timestamp.is_none()) else {
            self.untell(&key);
            return Ok(());
        };
        let placement = match placed {
            Ok(placement) => placement,
            Err(refusal) => {
                // A port that was accepted once works on; a new one is not to be used.
                if port.status.as_ref().is_none_or(|status| status.phase.is_empty()) {
                    self.set_status(tenant, &port, json!({"phase": "Build"})).await?;
                }
                let why = format!("The port cannot have an address: {refusal}");
                return self.trouble(&key, tenant, port.object_ref(&()), reason(&refusal), why).await;
            }
        };
        self.untell(&key);
        let mut port = port;
        if port.spec.fixed_ips != placement.fixed_ips || port.spec.mac_address != placement.mac_address {
            let mut changed = (*port).clone();
            changed.spec.fixed_ips = placement.fixed_ips;
            changed.spec.mac_address = placement.mac_address;
            match self.api::<Port>(tenant).replace(name, &PostParams::default(), &changed).await {
                Ok(written) => {
                    self.state.wrote(tenant, written.clone());
                    port = written.into();
                }
                Err(error) if is(&error, 404) => return Ok(()),
                Err(error) => return Err(self.not_placed(tenant, &changed, error)),
            }
        }
        // With a pod, its host is to be told as well.
        if is_accepted(&port) || of_pod {
            return Ok(());
        }
        self.set_status(tenant, &port, json!({"phase": "Down"})).await
    }

    /// A port was not written. Where that is for what it was given, it gets something else the next time.
    pub(super) fn not_placed(&self, tenant: &TenantId, port: &Port, error: kube::Error) -> Retry {
        if is_taken(&error) {
            self.state.with(tenant, |has| {
                has.is_elsewhere(&port.name_any(), &port.spec.network, &port.spec.fixed_ips);
            });
            self.state.tell();
            return Retry::Soon("another server was faster with the address".to_owned());
        }
        if is(&error, 409) {
            // Another server has made it, or changed it: it has what it says, and what it was to get of this one is free.
            self.state.with(tenant, |has| has.restore(&port.name_any()));
            self.state.tell();
            return Retry::Soon("another server was faster with the port".to_owned());
        }
        error.into()
    }

    /// Merges into the status of this very port; one that is gone needs none.
    pub(super) async fn set_status(&self, tenant: &TenantId, port: &Port, status: Value) -> Result<(), Retry> {
        let patch = json!({"metadata": {"uid": port.uid()}, "status": status});
        let api = self.api::<Port>(tenant);
        match api.patch_status(&port.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(port) => self.state.wrote(tenant, port),
            Err(error) if is(&error, 404) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// An event's reason.
fn reason(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Namespace(_) | Refusal::Network(_) | Refusal::Leaving(_) => "NoNetwork",
        Refusal::OtherSubnet { .. } | Refusal::Address(_) => "InvalidAddress",
        Refusal::Allocation(_) => "NoAddress",
        Refusal::Mac(_) => "InvalidHardwareAddress",
    }
}
