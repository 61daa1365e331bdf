//! What is approved of without anybody's judgement: a node's certificates, in the operator's cluster.
//!
//! A client certificate, where whoever asks may have one: by a bootstrap token one for a node that there is not yet, by a node's
//! own credential that node's again. Upstream asks the API server by a SubjectAccessReview of `nodeclient` and `selfnodeclient`,
//! and so do we. A serving certificate, where the node itself asks, for names and addresses that are its Node's: upstream leaves
//! that to the operator, whose part we are.

use std::collections::BTreeSet;

use hypernetes_api::names;
use hypernetes_certificates::{
    request::SigningRequest,
    signer::{self, Grant, Signer},
};
use hypernetes_client::Api;
use k8s_openapi::api::{
    authorization::v1::SubjectAccessReview, certificates::v1::CertificateSigningRequest, core::v1::Node,
};
use kube::api::Patch;
use serde_json::json;

use super::{APPROVED, Requests};
use crate::runtime::{During, Error, Key};

/// Names and addresses of a node, its own name first among them.
pub(super) fn addresses(node: &Node) -> BTreeSet<String> {
    let listed = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let listed = listed.map(|address| address.address.clone());
    node.metadata.name.iter().cloned().chain(listed).collect()
}

/// Whether all that a serving certificate would say is what the node's object says.
fn is_the_nodes(grant: &Grant, node: &Node) -> bool {
    let known = addresses(node);
    grant.dns.iter().all(|name| known.contains(name))
        && grant.addresses.iter().all(|address| known.contains(&address.to_string()))
}

impl Requests {
    /// Leaves what it does not know to those who may approve.
    pub(super) async fn approve(&self, key: &Key, request: &CertificateSigningRequest) -> Result<(), Error> {
        let spec = &request.spec;
        let Some(signer) = Signer::parse(&spec.signer_name).filter(|_| key.tenant.is_system()) else { return Ok(()) };
        let Ok(read) = SigningRequest::parse(&spec.request.0) else { return Ok(()) };
        let usages = spec.usages.clone().unwrap_or_default();
        let (Some(node), Ok(grant)) = (signer::node_of(&read), signer.grant(&read, &usages, &key.tenant)) else {
            return Ok(());
        };
        let own = spec.username.as_deref() == Some(&format!("{}{node}", names::USER_NODE_PREFIX));
        let known = self.context.informers.of::<Node>().get(&Key::new(&key.tenant, "", node));
        let message = match signer {
            Signer::ApiserverClient => return Ok(()),
            Signer::ApiserverClientKubelet if own => {
                if !self.may(request, "selfnodeclient").await? {
                    return Ok(());
                }
                "Auto approving self kubelet client certificate after SubjectAccessReview."
            }
            Signer::ApiserverClientKubelet => {
                // Whose name is taken is not whoever comes with a token.
                if known.is_some() || !self.may(request, "nodeclient").await? {
                    return Ok(());
                }
                "Auto approving kubelet client certificate after SubjectAccessReview."
            }
            Signer::KubeletServing => {
                if !own || !known.is_some_and(|node| is_the_nodes(&grant, &node)) {
                    return Ok(());
                }
                "Auto approving kubelet serving certificate: its names and addresses are those of the Node."
            }
        };
        let meta = &request.metadata;
        let patch = json!({
            "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
            "status": {"conditions": [
                {"type": APPROVED, "status": "True", "reason": "AutoApproved", "message": message},
            ]},
        });
        let patch = Patch::Merge(patch);
        let written = self.api(key).patch_subresource("approval", &key.name, &self.context.patching(), &patch).await;
        let written = written.during("approving of a certificate")?;
        self.context.informers.of::<CertificateSigningRequest>().observe(&key.tenant, written);
        Ok(())
    }

    /// Whether whoever made a request may have such a certificate.
    async fn may(&self, request: &CertificateSigningRequest, kind: &str) -> Result<bool, Error> {
        let spec = &request.spec;
        let review = json!({"metadata": {}, "spec": {
            "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra,
            "resourceAttributes": {"group": "certificates.k8s.io", "version": "*", "verb": "create",
                "resource": "certificatesigningrequests", "subresource": kind},
        }});
        let reviews: Api<SubjectAccessReview> = self.context.cluster(&hypernetes_api::TenantId::system());
        let answer = self.context.create(&reviews, "asking who may have a certificate", review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serving_certificate_has_what_is_the_nodes() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1"}, "status": {"addresses": [
            {"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "n1"}]}}))
        .unwrap();
        let is = |dns: &[&str], addresses: &[&str]| {
            let grant = Grant {
                common_name: "system:node:n1".into(),
                organizations: vec!["system:nodes".into()],
                dns: dns.iter().map(|name| (*name).to_owned()).collect(),
                addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
                server: true,
                key_encipherment: false,
            };
            is_the_nodes(&grant, &node)
        };
        assert!(is(&["n1"], &["10.0.0.1"]) && is(&["n1"], &[]) && is(&[], &["10.0.0.1"]));
        assert!(!is(&["n2"], &[]) && !is(&["n1", "n2"], &[]) && !is(&["n1"], &["10.0.0.2"]));
        assert!(!is(&["n1"], &["10.0.0.1", "fd00::1"]) && !is(&["localhost"], &[]));
    }
}
