//! A tenant's admission webhooks: servers of its own, in its own network, that are asked about what is written.
//!
//! ```text
//! policies::OfTenant ─▶ Shown ─▶ webhooks that match, and whose conditions are met ─▶ call (relay, TLS, one POST) ─▶ what the answer means
//! ```
//!
//! Nobody else waits for them: a tenant has so many questions under way, and no more.

mod call;
pub(super) mod mutating;
mod trust;
pub(super) mod validating;

use std::{collections::HashMap, sync::Arc, time::Instant};

use hypernetes_api::{
    ApiError, Reason, TenantId,
    error::{Cause, Details},
};
use hypernetes_kinds::Served;
use hypernetes_policy::{Answer, Refusal, Subject, Webhook};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Request, checks::Checks, shown::Shown};

/// Questions of one tenant that are under way at once, on one server.
const AT_ONCE: usize = 32;

/// Which questions are under way.
#[derive(Default)]
pub(crate) struct Underway(Mutex<HashMap<TenantId, Arc<Semaphore>>>);

impl Underway {
    async fn turn(&self, tenant: &TenantId) -> Option<OwnedSemaphorePermit> {
        let turns = {
            let mut tenants = self.0.lock();
            // Who has none under way is not kept.
            tenants.retain(|known, turns| known == tenant || turns.available_permits() < AT_ONCE);
            tenants.entry(tenant.clone()).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE))).clone()
        };
        turns.acquire_owned().await.ok()
    }
}

/// Why a webhook is in the way.
enum Trouble {
    /// It could not be found out what it says.
    Call(String),
    /// It says no, and what it warns of besides.
    Refused(Refusal, Vec<String>),
    /// It is asked for what it cannot do, or the server has trouble of its own.
    Error(ApiError),
}

impl Trouble {
    /// As it is told; `None` where the webhook's configuration lets it pass.
    fn told(self, webhook: &Webhook) -> Option<ApiError> {
        match self {
            Self::Call(_) if !webhook.fails => None,
            Self::Call(why) => Some(internal(format!("failed calling webhook {:?}: {why}", webhook.name))),
            Self::Refused(refusal, warnings) => Some(ApiError { warnings, ..refused(refusal) }),
            Self::Error(error) => Some(error),
        }
    }
}

/// What upstream's server takes for its own trouble.
fn internal(why: String) -> ApiError {
    let message = format!("Internal error occurred: {why}");
    let causes = vec![Cause::said(why)];
    ApiError::internal(message).with_details(Details { causes, ..Details::default() })
}

/// With the code and the reason that the webhook gives, which need not be of one piece.
fn refused(Refusal { code, reason, message }: Refusal) -> ApiError {
    let mut error = ApiError::new(Reason::Forbidden, message);
    let code = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::BAD_REQUEST);
    error.given = Some(Box::new((code, reason)));
    error
}

/// Whether a webhook is to be asked, and about what version.
async fn is_asked(
    request: &Request<'_>,
    webhook: &Webhook,
    shown: &Shown<'_>,
    checks: &Checks,
) -> Result<Option<Arc<Served>>, ApiError> {
    let matched = shown.matched(&webhook.matching).map_err(ApiError::internal)?;
    let Some(version) = matched else { return Ok(None) };
    if !webhook.has_conditions() {
        return Ok(Some(version));
    }
    let (objects, sent) = (shown.in_version(&version), shown.admission_request(&version));
    let subject = Subject {
        object: &objects.object,
        old: &objects.old,
        request: &sent,
        namespace: &Value::Null,
        params: &Value::Null,
        resource: shown.resource_path(),
        authorizer: checks,
    };
    let (met, _) = checks.settle(request, || webhook.is_met(subject)).await?;
    match met {
        Ok(met) => Ok(met.then(|| version.clone())),
        Err(why) => Err(request.forbidden(shown.name(), &why)),
    }
}

/// Asks a webhook about a write as it is.
async fn answer(
    request: &Request<'_>,
    webhook: &Webhook,
    shown: &Shown<'_>,
    version: &Served,
    mutates: bool,
) -> Result<Answer, Trouble> {
    if request.dry_run && !webhook.dry_run {
        let why = format!("admission webhook {:?} does not support dry run", webhook.name);
        return Err(Trouble::Error(ApiError::bad_request(why)));
    }
    let tenant = request.call.tenant().map_err(Trouble::Error)?;
    let uid = uuid::Uuid::new_v4().to_string();
    let objects = shown.in_version(version);
    let review = webhook.review(&uid, shown.admission_request(version), &objects.object, &objects.old);
    let review = review.map_err(|why| Trouble::Call(format!("could not create admission objects: {why}")))?;
    let began = Instant::now();
    let asked = async {
        let _turn = request.server.underway.turn(&tenant).await;
        call::ask(request.server, &tenant, webhook, &review).await
    };
    let answered = tokio::time::timeout(call::LONGEST, asked).await;
    let answered = answered.unwrap_or_else(|_| Err("failed to call webhook: context deadline exceeded".into()));
    tracing::debug!(webhook = webhook.name, took = ?began.elapsed(), ok = answered.is_ok(), "asked a webhook");
    let review = answered.map_err(Trouble::Call)?;
    let answer = webhook.verify(&uid, mutates, &review);
    let answer = answer.map_err(|why| Trouble::Call(format!("received invalid webhook response: {why}")))?;
    for (key, value) in &answer.annotations {
        request.call.trail.annotate(format!("{}/{key}", webhook.name), value.clone());
    }
    if answer.allowed { Ok(answer) } else { Err(Trouble::Refused(answer.refusal, answer.warnings)) }
}
