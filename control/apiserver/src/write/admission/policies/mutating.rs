//! `MutatingAdmissionPolicy`.
//!
//! When a policy has changed an object, the server's own mutators look at it again, and after them those policies that ask to be
//! (`reinvocationPolicy: IfNeeded`), once.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use hypernetes_api::{ApiError, error::Cause};
use hypernetes_kinds::Served;
use hypernetes_policy::{Binding, MutatingPolicy, Subject};
use hypernetes_schema::walk;
use serde_json::Value;

use super::{
    super::{
        Additions, Plugin, Request, Step,
        checks::Checks,
        name_of,
        reinvocation::Reinvocation,
        shown::{self, Shown},
    },
    is_about,
    parameters::Missing,
    parameters_of, spend,
};

pub(in super::super) const PLUGIN: Plugin =
    Plugin { name: "MutatingAdmissionPolicy", about: shown::is_changed, step: Step::MutateByOwn(mutate) };

/// The reason of what is wrong with a policy, whose status is that of `Forbidden`.
const INVALID: &str = "Invalid";

fn mutate<'a>(
    request: &'a Request<'a>,
    object: &'a mut Value,
    added: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    async move {
        let Some(own) = request.own().await?.filter(|own| !own.mutating.bound.is_empty()) else {
            return Ok(());
        };
        added.reinvocation.look(object);
        let (checks, mut spent, mut refusals) = (Checks::default(), 0, Vec::new());
        for (policy, bindings) in own.mutating.bound.iter() {
            let mut run = Run { request, checks: &checks, policy, spent: &mut spent, refusals: &mut refusals };
            run.policy(bindings, object, &mut added.reinvocation).await?;
        }
        added.reinvocation.leave(object);
        match refusals.is_empty() {
            true => Ok(()),
            false => Err(refusal(request, name_of(object), refusals)),
        }
    }
    .boxed()
}

/// One policy's run on a write.
struct Run<'r, 'a> {
    request: &'a Request<'a>,
    checks: &'r Checks,
    policy: &'r MutatingPolicy,
    spent: &'r mut u64,
    refusals: &'r mut Vec<Refusal>,
}

struct Refusal {
    message: String,
    reason: Option<&'static str>,
}

impl Run<'_, '_> {
    async fn policy(
        &mut self,
        bindings: &[Arc<Binding>],
        object: &mut Value,
        reinvocation: &mut Reinvocation,
    ) -> Result<(), ApiError> {
        for binding in bindings {
            let shown = Shown::of(self.request, object)?;
            let about = match is_about(self.request, &shown, self.policy).await {
                Ok(Some(about)) => about,
                Ok(None) => return Ok(()),
                Err(Missing::Error(error)) => return Err(error),
                Err(Missing::Said(why)) => {
                    self.refuse(None, format!("failed to configure policy: {why}"), None);
                    return Ok(());
                }
            };
            let found = match parameters_of(self.request, &shown, &about, binding).await {
                Ok(found) => found,
                Err(Missing::Error(error)) => return Err(error),
                Err(Missing::Said(why)) => {
                    self.refuse(Some(binding), format!("failed to configure binding: {why}"), None);
                    continue;
                }
            };
            for params in &found {
                let param = format!("{}/{}", walk::text(params, "metadata.namespace"), name_of(params));
                let key = [self.policy.name.clone(), binding.name.clone(), param];
                if !reinvocation.runs(&key) {
                    continue;
                }
                let changed = self.one(binding, params, object, &about.version).await?;
                reinvocation.ran(key, changed.is_some(), self.policy.reinvoked);
                if let Some(changed) = changed {
                    *object = changed;
                }
            }
        }
        Ok(())
    }

    /// What becomes of the object; `None`: it stays as it is.
    async fn one(
        &mut self,
        binding: &Binding,
        params: &Value,
        object: &Value,
        version: &Served,
    ) -> Result<Option<Value>, ApiError> {
        let shown = Shown::of(self.request, object)?;
        if !shown.is_whole() {
            let why = format!("{}, Kind={}", shown.api_version(), shown.about().kind);
            // Upstream's, too, knows no way to merge what is sent to subresources.
            let why = format!(
                "error applying patch: failed to convert patch object to typed object: no corresponding type for {why}"
            );
            self.refuse(Some(binding), why, Some(INVALID));
            return Ok(None);
        }
        let (objects, sent) = (shown.in_version(version), shown.admission_request(version));
        let subject = Subject {
            object: &objects.object,
            old: &objects.old,
            request: &sent,
            namespace: shown.namespace(),
            params,
            resource: shown.resource_path(),
            authorizer: self.checks,
        };
        let mutated = self.checks.settle(self.request, || self.policy.mutate(subject, &version.ty)).await?;
        self.request.call.pause().await;
        for why in mutated.refusals {
            self.refuse(Some(binding), why, Some(INVALID));
        }
        if let Err(why) = spend(self.spent, mutated.cost) {
            self.refuse(Some(binding), why, Some(INVALID));
            return Ok(None);
        }
        let Some(changed) = mutated.object else { return Ok(None) };
        shown.stored(version, changed).or_else(|what| {
            // Whatever the policy says of failures: it is not let through without it either.
            self.deny(Some(binding), format!("{what} may not be changed by a policy"), Some(INVALID));
            Ok(None)
        })
    }

    /// What is wrong, where a failure is a refusal.
    fn refuse(&mut self, binding: Option<&Binding>, why: String, reason: Option<&'static str>) {
        if self.policy.fails {
            self.deny(binding, why, reason);
        }
    }

    fn deny(&mut self, binding: Option<&Binding>, why: String, reason: Option<&'static str>) {
        let policy = &self.policy.name;
        let message = match binding {
            Some(binding) => format!("policy '{policy}' with binding '{}' denied request: {why}", binding.name),
            None => format!("policy \"{policy}\" denied request: {why}"),
        };
        self.refusals.push(Refusal { message, reason });
    }
}

/// As upstream: the first one's words, `Forbidden` by its status, with the reason of what is wrong.
fn refusal(request: &Request<'_>, name: &str, refusals: Vec<Refusal>) -> ApiError {
    let mut error = request.forbidden(name, "");
    if let Some(first) = refusals.first() {
        error.message.clone_from(&first.message);
        if let Some(reason) = first.reason {
            error.given = Some(Box::new((error.code(), reason.to_owned())));
        }
    }
    if let Some(details) = &mut error.details {
        details.causes = refusals.into_iter().map(|one| Cause::said(one.message)).collect();
    }
    error
}
