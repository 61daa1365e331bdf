//! `ValidatingAdmissionWebhook`: all that are about a write are asked at once.

use futures::{FutureExt, future::BoxFuture, future::join_all};
use hypernetes_api::ApiError;
use serde_json::Value;

use super::{
    super::{Additions, Plugin, Request, Step, checks::Checks, shown, shown::Shown},
    answer, is_asked,
};

pub(in super::super) const PLUGIN: Plugin =
    Plugin { name: "ValidatingAdmissionWebhook", about: shown::is_subject, step: Step::Validate(validate) };

const FAILED_OPEN: &str = "failed-open.validating.webhook.admission.k8s.io/";

fn validate<'a>(
    request: &'a Request<'a>,
    object: &'a Value,
    added: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    async move {
        let Some(own) = request.own().await?.filter(|own| !own.validating_webhooks.is_empty()) else {
            return Ok(());
        };
        let (shown, checks) = (Shown::of(request, object)?, Checks::default());
        let mut asked = Vec::new();
        for webhook in own.validating_webhooks.iter() {
            if let Some(version) = is_asked(request, webhook, &shown, &checks).await? {
                asked.push((webhook, version));
            }
        }
        let shown = &shown;
        let answers = asked.iter().map(|(webhook, version)| answer(request, webhook, shown, version, false));
        let mut refused = None;
        for (at, answer) in join_all(answers).await.into_iter().enumerate() {
            let (webhook, _) = &asked[at];
            match answer {
                Ok(answer) => added.warnings.extend(answer.warnings),
                Err(trouble) => match trouble.told(webhook) {
                    Some(error) => refused = refused.or(Some(error)),
                    None => {
                        let key = format!("{FAILED_OPEN}round_0_index_{at}");
                        request.call.trail.annotate(key, webhook.name.clone());
                    }
                },
            }
        }
        refused.map_or(Ok(()), Err)
    }
    .boxed()
}
