//! `MutatingAdmissionPolicy`.
//!
//! When a policy has changed an object, the server's own mutators look at it again, and after them those policies that ask to be
//! (`reinvocationPolicy: IfNeeded`), once.

use std::{collections::HashSet, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use hypernetes_api::{ApiError, Reason, error::Cause};
use hypernetes_policy::{Binding, Matched, MutatingPolicy, Subject};
use hypernetes_schema::walk;
use serde_json::Value;

use super::{
    super::{Additions, Operation, Plugin, Request, Step, infrastructure_owned},
    checks::Checks,
    matched, name_of, of_tenant,
    parameters::{self, Missing, collect},
    shown::Shown,
    spend,
};

pub(in super::super) const PLUGIN: Plugin =
    Plugin { name: "MutatingAdmissionPolicy", about, step: Step::Mutate(mutate) };

/// What has been done to an object so far.
#[derive(Default)]
pub(in super::super) struct Reinvocation {
    /// It is the second time.
    pub again: bool,
    /// A policy has changed the object: all mutators look again.
    pub wanted: bool,
    /// Of the first time, what those policies that ask to be run again have run on, by policy, binding and parameter.
    ran: HashSet<Key>,
    /// The object as the policies have left it.
    left: Option<Value>,
    /// Something has changed it since these have run.
    stale: HashSet<Key>,
}

type Key = (String, String, String);

/// What is deleted is not changed; and what is infrastructure's to say nobody changes on its way.
fn about(request: &Request<'_>) -> bool {
    request.operation != Operation::Delete && super::about(request) && !request.call.resource.ty.is_own()
}

fn mutate<'a>(
    request: &'a Request<'a>,
    object: &'a mut Value,
    added: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    async move {
        let Some(policies) = of_tenant(request).await?.filter(|all| !all.mutating.bound.is_empty()) else {
            return Ok(());
        };
        if added.reinvocation.again && added.reinvocation.left.as_ref().is_some_and(|left| left != object) {
            added.reinvocation.went_stale();
        }
        let (checks, mut spent, mut refusals) = (Checks::default(), 0, Vec::new());
        for (policy, bindings) in policies.mutating.bound.iter() {
            let mut run = Run { request, checks: &checks, policy, spent: &mut spent, refusals: &mut refusals };
            run.policy(bindings, object, &mut added.reinvocation).await?;
        }
        added.reinvocation.left = Some(object.clone());
        match refusals.is_empty() {
            true => Ok(()),
            false => Err(refusal(request, name_of(object), refusals)),
        }
    }
    .boxed()
}

impl Reinvocation {
    /// All that have run would see another object now.
    fn went_stale(&mut self) {
        self.stale.extend(self.ran.drain());
    }
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
    reason: Option<Reason>,
}

impl Run<'_, '_> {
    async fn policy(
        &mut self,
        bindings: &[Arc<Binding>],
        object: &mut Value,
        reinvocation: &mut Reinvocation,
    ) -> Result<(), ApiError> {
        for binding in bindings {
            let seen = object.clone();
            let shown = Shown::of(self.request, &seen)?;
            let matched_in = match matched(&self.policy.matching, &shown) {
                Ok(Some(matched)) => matched,
                Ok(None) => return Ok(()),
                Err(why) => return Ok(self.refuse(None, format!("failed to configure policy: {why}"), None)),
            };
            if let Some(kind) = &self.policy.parameters
                && parameters::resource(self.request, kind).await?.is_none()
            {
                let why = format!("failed to configure policy: {}", parameters::unknown(kind));
                return Ok(self.refuse(None, why, None));
            }
            match matched(&binding.matching, &shown) {
                Ok(Some(_)) => {}
                Ok(None) => continue,
                Err(why) => {
                    self.refuse(Some(binding), format!("failed to configure binding: {why}"), None);
                    continue;
                }
            }
            let namespace = shown.about().namespace.to_owned();
            let found = match collect(self.request, self.policy.parameters.as_ref(), binding, &namespace).await {
                Ok(found) => found,
                Err(Missing::Error(error)) => return Err(error),
                Err(Missing::Said(why)) => {
                    self.refuse(Some(binding), format!("failed to configure binding: {why}"), None);
                    continue;
                }
            };
            for params in &found {
                let key = (
                    self.policy.name.clone(),
                    binding.name.clone(),
                    format!("{}/{}", walk::text(params, "metadata.namespace"), name_of(params)),
                );
                if reinvocation.again && !reinvocation.stale.contains(&key) {
                    continue;
                }
                let changed = self.one(binding, params, object, matched_in).await?;
                if changed {
                    reinvocation.went_stale();
                    reinvocation.wanted = true;
                }
                if self.policy.reinvoked {
                    reinvocation.ran.insert(key);
                }
            }
        }
        Ok(())
    }

    /// Whether the object is another then.
    async fn one(
        &mut self,
        binding: &Binding,
        params: &Value,
        object: &mut Value,
        matched_in: Matched<'_>,
    ) -> Result<bool, ApiError> {
        let seen = object.clone();
        let shown = Shown::of(self.request, &seen)?;
        if !shown.is_whole() {
            let about = shown.about();
            let why = format!("{}, Kind={}", shown.api_version(), about.kind);
            // Upstream's, too, knows no way to merge what is sent to subresources.
            let why = format!(
                "error applying patch: failed to convert patch object to typed object: no corresponding type for {why}"
            );
            self.refuse(Some(binding), why, Some(Reason::Invalid));
            return Ok(false);
        }
        let (objects, served) = (shown.in_version(matched_in), shown.served(matched_in));
        let sent = shown.admission_request(matched_in);
        let subject = Subject {
            object: &objects.object,
            old: &objects.old,
            request: &sent,
            namespace: shown.namespace(),
            params,
            resource: shown.resource_path(),
            authorizer: self.checks,
        };
        let mutated = self.checks.settle(self.request, || self.policy.mutate(subject, &served.ty)).await?;
        self.request.call.pause().await;
        for why in mutated.refusals {
            self.refuse(Some(binding), why, Some(Reason::Invalid));
        }
        if let Err(why) = spend(self.spent, mutated.cost) {
            self.refuse(Some(binding), why, Some(Reason::Invalid));
            return Ok(false);
        }
        let Some(changed) = mutated.object else { return Ok(false) };
        let mut changed = if served.is_stored() { changed } else { served.to_stored(changed) };
        self.request.call.resource.set_defaults(&mut changed);
        if let Some(what) = not_its_own(&seen, &changed) {
            // Whatever the policy says of failures: it is not let through without it either.
            self.deny(Some(binding), format!("{what} may not be changed by a policy"), Some(Reason::Invalid));
            return Ok(false);
        }
        let differs = changed != seen;
        *object = changed;
        Ok(differs)
    }

    /// What is wrong, where a failure is a refusal.
    fn refuse(&mut self, binding: Option<&Binding>, why: String, reason: Option<Reason>) {
        if self.policy.fails {
            self.deny(binding, why, reason);
        }
    }

    fn deny(&mut self, binding: Option<&Binding>, why: String, reason: Option<Reason>) {
        let policy = &self.policy.name;
        let message = match binding {
            Some(binding) => format!("policy '{policy}' with binding '{}' denied request: {why}", binding.name),
            None => format!("policy \"{policy}\" denied request: {why}"),
        };
        self.refusals.push(Refusal { message, reason });
    }
}

/// What a policy changed that is not a tenant's to change on a request of infrastructure: which object it is, who made it, where a pod runs, and
/// who has to act before it goes.
fn not_its_own(before: &Value, after: &Value) -> Option<&'static str> {
    const FIELDS: [&str; 8] = [
        "apiVersion",
        "kind",
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "metadata.creationTimestamp",
        "metadata.deletionTimestamp",
        "metadata.resourceVersion",
    ];
    if let Some(field) = FIELDS.into_iter().find(|field| walk::get(before, field) != walk::get(after, field)) {
        return Some(field);
    }
    let node = |object: &Value| walk::text(object, "spec.nodeName").to_owned();
    if before["kind"] == "Pod" && node(before) != node(after) {
        return Some("spec.nodeName");
    }
    let owned = |object| infrastructure_owned::owned(object);
    (owned(before) != owned(after)).then_some("a finalizer of infrastructure")
}

/// As upstream: the first one's words, `Forbidden` by its status, with the reason of what is wrong.
fn refusal(request: &Request<'_>, name: &str, refusals: Vec<Refusal>) -> ApiError {
    let mut error = request.forbidden(name, "");
    error.other_code = Some(error.code());
    if let Some(first) = refusals.first() {
        error.message.clone_from(&first.message);
        error.reason = first.reason.unwrap_or(error.reason);
    }
    if let Some(details) = &mut error.details {
        let causes = refusals.into_iter().map(|one| one.message);
        details.causes = causes.map(|message| Cause { reason: String::new(), message, field: String::new() }).collect();
    }
    error
}
