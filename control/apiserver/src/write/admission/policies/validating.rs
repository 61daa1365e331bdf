//! `ValidatingAdmissionPolicy`.

use std::collections::BTreeMap;

use futures::{FutureExt, future::BoxFuture};
use hypernetes_api::{ApiError, Reason, error::Cause};
use hypernetes_policy::{Binding, Outcome, Subject, ValidatingPolicy, Verdict};
use serde_json::{Value, json};

use super::{
    super::{
        Additions, Plugin, Request, Step,
        checks::Checks,
        shown::{self, Shown},
    },
    is_about,
    parameters::Missing,
    parameters_of, spend,
};

pub(in super::super) const PLUGIN: Plugin =
    Plugin { name: "ValidatingAdmissionPolicy", about: shown::is_subject, step: Step::Validate(validate) };

const FAILURE: &str = "validation.policy.admission.k8s.io/validation_failure";
/// Bytes of one annotation's value.
const LONGEST_ANNOTATION: usize = 10 << 10;

fn validate<'a>(
    request: &'a Request<'a>,
    object: &'a Value,
    added: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    async move {
        let Some(own) = request.own().await?.filter(|own| !own.validating.bound.is_empty()) else {
            return Ok(());
        };
        let shown = Shown::of(request, object)?;
        let (checks, mut spent, mut denied) = (Checks::default(), 0, None);
        for (policy, bindings) in own.validating.bound.iter() {
            let mut judged =
                Judged { request, shown: &shown, checks: &checks, policy, spent: &mut spent, denied: &mut denied };
            judged.policy(bindings, added).await?;
        }
        match denied {
            None => Ok(()),
            Some(Denied { message, reason }) => Err(refusal(request, shown.name(), message, reason.as_deref())),
        }
    }
    .boxed()
}

/// The first thing that refuses it.
struct Denied {
    message: String,
    reason: Option<String>,
}

/// One policy's judgement of a write.
struct Judged<'j, 'a> {
    request: &'a Request<'a>,
    shown: &'j Shown<'a>,
    checks: &'j Checks,
    policy: &'j ValidatingPolicy,
    spent: &'j mut u64,
    denied: &'j mut Option<Denied>,
}

impl Judged<'_, '_> {
    async fn policy(&mut self, bindings: &[std::sync::Arc<Binding>], added: &mut Additions) -> Result<(), ApiError> {
        let about = match is_about(self.request, self.shown, self.policy).await {
            Ok(Some(about)) => about,
            Ok(None) => return Ok(()),
            Err(Missing::Error(error)) => return Err(error),
            Err(Missing::Said(why)) => {
                self.misconfigured(None, &why);
                return Ok(());
            }
        };
        let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let sent = self.shown.admission_request(&about.version);
        for binding in bindings {
            let found = match parameters_of(self.request, self.shown, &about, binding).await {
                Ok(found) => found,
                Err(Missing::Error(error)) => return Err(error),
                Err(Missing::Said(why)) => {
                    self.misconfigured(Some(binding), &why);
                    continue;
                }
            };
            let objects = self.shown.in_version(&about.version);
            for params in &found {
                let subject = Subject {
                    object: &objects.object,
                    old: &objects.old,
                    request: &sent,
                    namespace: self.shown.namespace(),
                    params,
                    resource: self.shown.resource_path(),
                    authorizer: self.checks,
                };
                let outcome = self.checks.settle(self.request, || self.policy.validate(subject)).await?;
                if let Err(why) = spend(self.spent, outcome.cost) {
                    self.deny(binding, why, None);
                    return Ok(());
                }
                self.tell(binding, outcome, &mut annotations, added);
                self.request.call.pause().await;
            }
        }
        for (key, values) in annotations {
            self.request.call.trail.annotate(format!("{}/{key}", self.policy.name), values.join(", "));
        }
        Ok(())
    }

    /// Does with an outcome what the binding says.
    fn tell(
        &mut self,
        binding: &Binding,
        outcome: Outcome,
        annotations: &mut BTreeMap<String, Vec<String>>,
        added: &mut Additions,
    ) {
        for (at, verdict) in outcome.verdicts.into_iter().enumerate() {
            let Verdict::Denied { message, reason } = verdict else { continue };
            for action in &binding.actions {
                match action.as_str() {
                    "Deny" => self.deny(binding, message.clone(), reason.clone()),
                    "Warn" => added.warnings.push(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {message}",
                        self.policy.name, binding.name
                    )),
                    "Audit" => {
                        let failure = json!([{
                            "message": message, "policy": binding.policy, "binding": binding.name,
                            "expressionIndex": at, "validationActions": binding.actions,
                        }]);
                        self.request.call.trail.annotate(FAILURE.into(), failure.to_string());
                    }
                    _ => {}
                }
            }
        }
        for (key, mut value) in outcome.annotations {
            value.truncate(value.floor_char_boundary(LONGEST_ANNOTATION));
            let values = annotations.entry(key).or_default();
            if !values.contains(&value) {
                values.push(value);
            }
        }
        for why in outcome.failed_annotations {
            self.deny(binding, why, None);
        }
    }

    fn deny(&mut self, binding: &Binding, why: String, reason: Option<String>) {
        let (policy, binding) = (&self.policy.name, &binding.name);
        self.denied.get_or_insert_with(|| Denied {
            message: format!("ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {why}"),
            reason,
        });
    }

    /// What cannot be carried out as it is configured.
    fn misconfigured(&mut self, binding: Option<&Binding>, why: &str) {
        match binding {
            _ if !self.policy.fails => {}
            Some(binding) => self.deny(binding, format!("failed to configure binding: {why}"), None),
            None => {
                let policy = &self.policy.name;
                self.denied.get_or_insert_with(|| Denied {
                    message: format!(
                        "ValidatingAdmissionPolicy '{policy}' denied request: failed to configure policy: {why}"
                    ),
                    reason: None,
                });
            }
        }
    }
}

/// As upstream: `Invalid` unless the policy says otherwise, in the words of `Forbidden`.
fn refusal(request: &Request<'_>, name: &str, message: String, reason: Option<&str>) -> ApiError {
    let mut error = request.forbidden(name, &message);
    error.reason = match reason {
        Some("Forbidden") => Reason::Forbidden,
        Some("Unauthorized") => Reason::Unauthorized,
        Some("RequestEntityTooLarge") => Reason::RequestEntityTooLarge,
        _ => Reason::Invalid,
    };
    if let Some(details) = &mut error.details {
        details.causes.push(Cause::said(message));
    }
    error
}
