//! What is the server's to decide about a write, or a connection to a pod, that is valid: one table of plugins, run in its order on
//! every operation and subresource.
//!
//! ```text
//! valid object ─▶ what comes first ─▶ mutators ─▶ validate what they changed ─▶ validators ─▶ commit, with what both have added
//! ```
//!
//! Each plugin is a file: a name, what it is about, and a function that changes the object or judges it. Both may refuse, and may add guards
//! that the commit has to meet and operations that are carried out with it or not at all.

mod certificates;
mod checks;
mod claim_resize;
mod default_ingress_class;
mod default_storage_class;
mod default_tolerations;
mod host_isolation;
mod infrastructure_owned;
mod limit_ranger;
mod namespace_lifecycle;
mod namespace_rules;
mod node_restriction;
mod placement;
mod pod_security;
mod policies;
mod priority;
mod reinvocation;
mod resource_quota;
mod role_escalation;
mod runtime_class;
mod service_account;
mod shown;
#[cfg(test)]
mod tests;
mod webhooks;

use std::sync::Arc;

use futures::future::{self, BoxFuture};
use hypernetes_api::{ApiError, TenantId};
use hypernetes_store::{Entry, Guard, Key, Op, ResourceId};
use serde_json::Value;
use tokio::sync::{OnceCell, OwnedMutexGuard};

use self::reinvocation::Reinvocation;
pub(crate) use self::webhooks::Underway;
use super::{Operation, fields, text};
use crate::{Call, Inner, namespace_rules::Rules, policies::OfTenant, stored_form};

/// All of them: those that come first, the mutators, then the validators.
const CHAIN: &[Plugin] = &[
    namespace_lifecycle::PLUGIN,
    certificates::PLUGIN,
    limit_ranger::PLUGIN,
    default_tolerations::PLUGIN,
    service_account::PLUGIN,
    default_storage_class::PLUGIN,
    default_ingress_class::PLUGIN,
    runtime_class::PLUGIN,
    // After the server's own, which look again at what it changes.
    policies::mutating::PLUGIN,
    webhooks::mutating::PLUGIN,
    placement::PLUGIN,
    node_restriction::PLUGIN,
    role_escalation::PLUGIN,
    infrastructure_owned::PLUGIN,
    pod_security::PLUGIN,
    host_isolation::PLUGIN,
    priority::PLUGIN,
    claim_resize::PLUGIN,
    namespace_rules::PLUGIN,
    policies::bounds::PLUGIN,
    policies::validating::PLUGIN,
    webhooks::validating::PLUGIN,
    // Last, as upstream's: who is refused by another waits for no turn.
    resource_quota::PLUGIN,
];

struct Plugin {
    /// Upstream's, where upstream has it.
    name: &'static str,
    /// Whether it has anything to say of such a request.
    about: fn(&Request<'_>) -> bool,
    step: Step,
}

type Mutate = for<'a> fn(&'a Request<'a>, &'a mut Value, &'a mut Additions) -> BoxFuture<'a, Result<(), ApiError>>;
type Validate = for<'a> fn(&'a Request<'a>, &'a Value, &'a mut Additions) -> BoxFuture<'a, Result<(), ApiError>>;

enum Step {
    /// Judges before anybody changes anything.
    First(Validate),
    Mutate(Mutate),
    /// By rules of the tenant's own, which few have: it notes itself whether it has changed the object ([`Reinvocation`]), so that a write that it is
    /// not about is not copied for it.
    MutateByOwn(Mutate),
    Validate(Validate),
    /// Changes the object, and judges it when all have.
    Both(Mutate, Validate),
}

/// What asks to be let in.
pub(super) struct Request<'a> {
    pub server: &'a Inner,
    pub call: &'a Call,
    pub operation: Operation,
    /// The object as it is; none when it is new.
    pub old: Option<&'a Value>,
    /// Nothing may come of it.
    pub dry_run: bool,
    /// What the tenant has of its own in admission: as it was when it was first asked for.
    own: OnceCell<Option<Arc<OfTenant>>>,
}

/// What the commit has to meet and to do besides.
#[derive(Default)]
pub(super) struct Additions {
    pub guards: Vec<Guard>,
    pub ops: Vec<Op>,
    /// What the caller is told of what is let in.
    pub warnings: Vec<String>,
    /// Held until the commit is over.
    pub turn: Option<OwnedMutexGuard<()>>,
    /// Which policies and which webhooks have to look again.
    reinvocation: Reinvocation,
    webhooks_again: Reinvocation,
}

impl<'a> Request<'a> {
    pub fn new(server: &'a Inner, call: &'a Call, operation: Operation, old: Option<&'a Value>, dry_run: bool) -> Self {
        Self { server, call, operation, old, dry_run, own: OnceCell::new() }
    }
}

impl Request<'_> {
    /// What the tenant that it is a write of has of its own in admission; none, as most.
    async fn own(&self) -> Result<Option<&OfTenant>, ApiError> {
        let find = async || self.server.policies.of(&self.call.tenant()?).await;
        self.own.get_or_try_init(find).await.map(Option::as_deref)
    }

    /// Whether it is about a kind of a group.
    fn is(&self, group: &str, kind: &str) -> bool {
        self.call.resource.ty.group == group && self.call.resource.ty.kind == kind
    }

    /// Whether it makes a new object of the kind.
    fn creates(&self, group: &str, kind: &str) -> bool {
        self.operation == Operation::Create && self.is(group, kind)
    }

    /// Whether it says what an object of the kind shall be.
    fn writes(&self, group: &str, kind: &str) -> bool {
        matches!(self.operation, Operation::Create | Operation::Update) && self.is(group, kind)
    }

    fn forbidden(&self, name: &str, why: &str) -> ApiError {
        self.call.forbidden(name, why)
    }
}

fn name_of(object: &Value) -> &str {
    text(object, &["metadata", "name"])
}

/// What a plugin that has nothing to wait for answers.
fn ready<'a>(result: Result<(), ApiError>) -> BoxFuture<'a, Result<(), ApiError>> {
    Box::pin(future::ready(result))
}

/// Whether the object is another then.
///
/// # Errors
/// The first refusal.
pub(super) async fn mutate(request: &Request<'_>, object: &mut Value, added: &mut Additions) -> Result<bool, ApiError> {
    let mut before = None;
    pass(request, object, added, &mut before).await?;
    let by_own = added.reinvocation.wanted || added.webhooks_again.wanted;
    if by_own {
        (added.reinvocation.again, added.webhooks_again.again) = (true, true);
        pass(request, object, added, &mut before).await?;
    }
    Ok(by_own || before.is_some_and(|before| before != *object))
}

/// All mutators once; `before` is the object as it was before the first of the server's own.
async fn pass(
    request: &Request<'_>,
    object: &mut Value,
    added: &mut Additions,
    before: &mut Option<Value>,
) -> Result<(), ApiError> {
    for plugin in chain().filter(|plugin| (plugin.about)(request)) {
        let done = match plugin.step {
            Step::First(_) if added.reinvocation.again => Ok(()),
            Step::First(validate) => validate(request, object, added).await,
            Step::Mutate(mutate) | Step::Both(mutate, _) => {
                before.get_or_insert_with(|| object.clone());
                mutate(request, object, added).await
            }
            Step::MutateByOwn(mutate) => mutate(request, object, added).await,
            Step::Validate(_) => Ok(()),
        };
        done.inspect_err(|error| refused(plugin, error))?;
    }
    Ok(())
}

/// # Errors
/// The first refusal.
pub(super) async fn validate(request: &Request<'_>, object: &Value, added: &mut Additions) -> Result<(), ApiError> {
    for plugin in chain().filter(|plugin| (plugin.about)(request)) {
        if let Step::Validate(validate) | Step::Both(_, validate) = plugin.step {
            validate(request, object, added).await.inspect_err(|error| refused(plugin, error))?;
        }
    }
    Ok(())
}

fn refused(plugin: &Plugin, error: &ApiError) {
    tracing::debug!(plugin = plugin.name, %error, "not admitted");
}

#[cfg(not(test))]
fn chain() -> impl Iterator<Item = &'static Plugin> {
    CHAIN.iter()
}

#[cfg(test)]
use tests::chain;

/// A connection to a pod, or a token of a service account: what is stored under `old` stays as it is. `object` says what is wanted of it.
///
/// # Errors
/// The first refusal.
pub(crate) async fn admit_use(
    server: &Inner,
    call: &Call,
    operation: Operation,
    old: &Value,
    object: &mut Value,
    dry_run: bool,
) -> Result<(), ApiError> {
    let request = Request::new(server, call, operation, Some(old), dry_run);
    // There is no commit that could meet or do anything.
    let mut added = Additions::default();
    mutate(&request, object, &mut added).await?;
    validate(&request, object, &mut added).await
}

/// An object of a kind that is the operator's, for all tenants.
async fn projected(request: &Request<'_>, group: &str, plural: &str, name: &str) -> Result<Option<Value>, ApiError> {
    // A name that is none is nobody's.
    let Ok(key) = Key::new(&ResourceId::new(group, plural), &TenantId::system(), "", name) else { return Ok(None) };
    let entry = request.server.store.get(&key).await?;
    entry.as_ref().map(stored_form::decode).transpose()
}

/// The namespace that it is in, as it was a moment ago; none: it is in none.
fn namespace_of(request: &Request<'_>) -> Result<Option<Entry>, ApiError> {
    let Some(namespace) = &request.call.target.namespace else { return Ok(None) };
    let key = Key::new(&ResourceId::new("", "namespaces"), &request.call.tenant()?, "", namespace);
    Ok(key.ok().and_then(|key| request.server.store.stored().recent(&key)))
}

/// That this namespace is as it was seen: for a change, which does not guard it as a creation does.
fn namespace_guard(request: &Request<'_>) -> Result<Option<Guard>, ApiError> {
    Ok(namespace_of(request)?.map(|namespace| Guard::Unchanged(namespace.key.clone(), namespace.mod_revision)))
}

/// The limit ranges and quotas of the namespace, with all that was written until it was what is guarded of it.
async fn rules_of(request: &Request<'_>, added: &Additions) -> Result<Option<Arc<Rules>>, ApiError> {
    let Some(namespace) = &request.call.target.namespace else { return Ok(None) };
    let guarded = added.guards.iter().find(|guard| guard.key().plural() == "namespaces");
    request.server.rules.of(&request.call.tenant()?, namespace, guarded.and_then(Guard::wanted)).await
}

/// The same, with all that was written until now: what is refused is refused for what is there.
async fn rules_now(request: &Request<'_>) -> Result<Option<Arc<Rules>>, ApiError> {
    let Some(namespace) = &request.call.target.namespace else { return Ok(None) };
    let now = request.server.store.revision().await?;
    request.server.rules.of(&request.call.tenant()?, namespace, Some(now)).await
}
