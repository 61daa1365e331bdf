//! What has been approved of becomes a certificate, or is told why it does not.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use hypernetes_certificates::{
    issue::{SignError, lifetime},
    request::SigningRequest,
    signer::Signer,
};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::Patch;
use serde_json::{Value, json};

use super::{FAILED, Requests};
use crate::runtime::{During, Error, Key};

/// For how long certificates are good that do not ask for less.
pub(super) struct Lifetimes {
    pub system: Duration,
    pub tenants: Duration,
}

impl Requests {
    /// Leaves other signers' requests to them.
    pub(super) async fn sign(&self, key: &Key, request: &CertificateSigningRequest) -> Result<(), Error> {
        let Some(signer) = Signer::parse(&request.spec.signer_name) else { return Ok(()) };
        let status = match self.certificate(key, signer, request).await {
            Ok(certificate) => json!({"certificate": STANDARD.encode(certificate)}),
            Err(SignError::Refused(why)) => {
                let conditions = request.status.as_ref().and_then(|status| status.conditions.clone());
                let mut conditions: Vec<Value> =
                    conditions.into_iter().flatten().map(serde_json::to_value).collect::<Result<_, _>>()?;
                conditions.push(json!({
                    "type": FAILED, "status": "True", "reason": "SignerValidationFailure", "message": why,
                }));
                json!({"conditions": conditions})
            }
            Err(error @ SignError::Authority { .. }) => return Err(Error::Outside(Box::new(error))),
        };
        let meta = &request.metadata;
        let patch = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version}, "status": status});
        let patch = Patch::Merge(patch);
        let written = self.api(key).patch_status(&key.name, &self.context.patching(), &patch).await;
        let written = written.during("giving out a certificate")?;
        self.context.informers.of::<CertificateSigningRequest>().observe(&key.tenant, written);
        Ok(())
    }

    async fn certificate(
        &self,
        key: &Key,
        signer: Signer,
        request: &CertificateSigningRequest,
    ) -> Result<String, SignError> {
        let refused = |why: &dyn std::fmt::Display| SignError::Refused(why.to_string());
        let spec = &request.spec;
        let read = SigningRequest::parse(&spec.request.0).map_err(|error| refused(&error))?;
        let usages = spec.usages.clone().unwrap_or_default();
        let grant = signer.grant(&read, &usages, &key.tenant).map_err(|refusal| refused(&refusal))?;
        let longest = if key.tenant.is_system() { self.lifetimes.system } else { self.lifetimes.tenants };
        let lifetime = lifetime(spec.expiration_seconds, longest);
        self.authorities.sign(&key.tenant, &grant, &read.public_key, lifetime).await
    }
}
