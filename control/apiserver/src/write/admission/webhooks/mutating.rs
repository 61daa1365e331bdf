//! `MutatingAdmissionWebhook`: one after the other, each sees what those before it have made of the object.

use futures::{FutureExt, future::BoxFuture};
use hypernetes_api::ApiError;
use hypernetes_policy::Webhook;
use hypernetes_schema::{FieldValidation, patch};
use serde_json::{Value, json};

use super::{
    super::{Additions, Plugin, Request, Step, checks::Checks, shown, shown::Shown},
    Trouble, answer, internal, is_asked,
};

pub(in super::super) const PLUGIN: Plugin =
    Plugin { name: "MutatingAdmissionWebhook", about: shown::is_subject, step: Step::MutateByOwn(mutate) };

const MUTATION: &str = "mutation.webhook.admission.k8s.io/";
const FAILED_OPEN: &str = "failed-open.mutation.webhook.admission.k8s.io/";

fn mutate<'a>(
    request: &'a Request<'a>,
    object: &'a mut Value,
    added: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    async move {
        let Some(own) = request.own().await?.filter(|own| !own.mutating_webhooks.is_empty()) else {
            return Ok(());
        };
        added.webhooks_again.look(object);
        let (checks, round) = (Checks::default(), u8::from(added.webhooks_again.again));
        for (at, webhook) in own.mutating_webhooks.iter().enumerate() {
            let key = [webhook.configuration.clone(), webhook.name.clone(), at.to_string()];
            if !added.webhooks_again.runs(&key) {
                continue;
            }
            let place = format!("round_{round}_index_{at}");
            let asked = ask(request, webhook, object, &checks, &mut added.warnings).await;
            let changed = match asked {
                Ok(Answered::NotAsked) => continue,
                Ok(Answered::Unchanged) => false,
                Ok(Answered::Changed(changed)) => {
                    *object = changed;
                    true
                }
                Err(trouble) => {
                    if let Some(error) = trouble.told(webhook) {
                        return Err(error);
                    }
                    request.call.trail.annotate(format!("{FAILED_OPEN}{place}"), webhook.name.clone());
                    false
                }
            };
            let told = json!({"configuration": webhook.configuration, "webhook": webhook.name, "mutated": changed});
            request.call.trail.annotate(format!("{MUTATION}{place}"), told.to_string());
            added.webhooks_again.ran(key, changed, webhook.reinvoked);
        }
        added.webhooks_again.leave(object);
        Ok(())
    }
    .boxed()
}

/// What came of a webhook.
enum Answered {
    NotAsked,
    Unchanged,
    Changed(Value),
}

/// What the webhook makes of the object, if it is asked.
async fn ask(
    request: &Request<'_>,
    webhook: &Webhook,
    object: &Value,
    checks: &Checks,
    warnings: &mut Vec<String>,
) -> Result<Answered, Trouble> {
    let shown = Shown::of(request, object).map_err(Trouble::Error)?;
    let version = is_asked(request, webhook, &shown, checks).await.map_err(Trouble::Error)?;
    let Some(version) = version else { return Ok(Answered::NotAsked) };
    let mut answer = answer(request, webhook, &shown, &version, true).await?;
    warnings.append(&mut answer.warnings);
    let Some(patch) = answer.patch else { return Ok(Answered::Unchanged) };
    let undecodable = |error: serde_json::Error| {
        let why = if error.is_eof() { "unexpected end of JSON input".to_owned() } else { error.to_string() };
        Trouble::Call(format!("received undecodable patch in webhook response: {why}"))
    };
    let operations: Value = serde_json::from_slice(&patch).map_err(undecodable)?;
    if operations.as_array().is_some_and(Vec::is_empty) {
        return Ok(Answered::Unchanged);
    }
    let error = |why: String| Trouble::Error(internal(why));
    if !shown.is_whole() || request.call.resource.ty.is_own() {
        let name = &webhook.name;
        let why = "attempted to modify the object, which is not supported for this operation";
        return Err(error(format!("admission webhook {name:?} {why}")));
    }
    let current = shown.in_version(&version).object.clone().into_owned();
    // As upstream: the whole patch is carried out, or it is an error; a test that fails is one.
    let patched = patch::webhook_patch(current, operations).map_err(error)?;
    let decoded = version.ty.check(patched, FieldValidation::Ignore).map_err(|refused| error(refused.message))?;
    match shown.stored(&version, decoded.object) {
        Ok(changed) => Ok(changed.map_or(Answered::Unchanged, Answered::Changed)),
        Err(what) => {
            let why = format!("admission webhook {:?}: {what} may not be changed by a webhook", webhook.name);
            Err(Trouble::Error(request.forbidden(shown.name(), &why)))
        }
    }
}
