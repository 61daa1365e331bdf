//! Certificate signing requests: approved of where that needs nobody's judgement, signed by the built-in signers, and cleared
//! away when they have served (upstream's csrapproving, csrsigning and csrcleaner).
//!
//! ```text
//! Pending ──approve (here, or by whoever may)──▶ Approved ──sign──▶ Issued ──an hour──▶ gone
//!    │ └─ a day ─▶ gone     deny ─▶ Denied           └─ refused ─▶ Failed ─ an hour ─▶ gone
//! ```
//!
//! Private keys are not here: [`CertificateAuthorities`] signs what it is told.

mod approve;
mod clean;
mod sign;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use hypernetes_certificates::issue::CertificateAuthorities;
use hypernetes_client::Api;
use jiff::Timestamp;
use k8s_openapi::api::{
    certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
    core::v1::Node,
};
use kube::{
    Resource,
    api::{DeleteParams, Preconditions},
};

use crate::{
    Wiring,
    runtime::{Context, During, Error, Key, Reconciler, Recorder, Subject},
};

const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";

pub fn start(wiring: &Wiring<'_>, authorities: Arc<dyn CertificateAuthorities>) {
    let context = Context::new(wiring.informers, "certificate-controller");
    let queue = wiring.queue();
    let requests = wiring.informers.of::<CertificateSigningRequest>();
    requests.feed(&queue, |key, _| vec![key.clone()]);
    // What a node may have a certificate for, its object says.
    let waiting = queue.clone();
    wiring.informers.of::<Node>().subscribe(move |_, before, now| {
        if before.map(approve::addresses) != now.map(approve::addresses) {
            let pending = requests.all().into_iter().filter(|(key, one)| key.tenant.is_system() && !is_decided(one));
            pending.for_each(|(key, _)| waiting.add(key));
        }
    });
    let lifetimes =
        sign::Lifetimes { system: wiring.limits.system_certificates, tenants: wiring.limits.tenant_certificates };
    wiring.drive(Requests { context, authorities, lifetimes }, queue);
}

struct Requests {
    context: Context,
    authorities: Arc<dyn CertificateAuthorities>,
    lifetimes: sign::Lifetimes,
}

fn condition<'a>(request: &'a CertificateSigningRequest, kind: &str) -> Option<&'a CertificateSigningRequestCondition> {
    let conditions = request.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().find(|condition| condition.type_ == kind)
}

fn certificate(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let certificate = request.status.as_ref()?.certificate.as_ref()?;
    Some(certificate.0.as_slice()).filter(|bytes| !bytes.is_empty())
}

/// Whether somebody has approved of it or denied it, or it cannot be signed.
fn is_decided(request: &CertificateSigningRequest) -> bool {
    [APPROVED, DENIED, FAILED].iter().any(|kind| condition(request, kind).is_some())
}

#[async_trait]
impl Reconciler for Requests {
    const NAME: &'static str = "certificates";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(request) = self.context.informers.of::<CertificateSigningRequest>().get(key) else { return Ok(None) };
        if request.meta().deletion_timestamp.is_some() {
            return Ok(None);
        }
        let left = Timestamp::now().duration_until(clean::end(&request));
        let Some(left) = Duration::try_from(left).ok().filter(|left| !left.is_zero()) else {
            self.delete(key, &request).await?;
            return Ok(None);
        };
        if !is_decided(&request) {
            self.approve(key, &request).await?;
        } else if condition(&request, APPROVED).is_some()
            && condition(&request, FAILED).is_none()
            && certificate(&request).is_none()
        {
            self.sign(key, &request).await?;
        }
        Ok(Some(left))
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        self.context.told::<CertificateSigningRequest>(key)
    }
}

impl Requests {
    fn api(&self, key: &Key) -> Api<CertificateSigningRequest> {
        self.context.cluster(&key.tenant)
    }

    async fn delete(&self, key: &Key, request: &CertificateSigningRequest) -> Result<(), Error> {
        let meta = request.meta();
        let same = Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() };
        let parameters = DeleteParams { preconditions: Some(same), ..Default::default() };
        match self.api(key).delete(&key.name, &parameters).await.during("clearing away a request that has served") {
            Err(error) if error.code() == Some(404) => Ok(()),
            other => other.map(drop),
        }
    }
}
