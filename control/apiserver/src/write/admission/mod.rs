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
mod default_ingress_class;
mod default_storage_class;
mod default_tolerations;
mod host_isolation;
mod infrastructure_owned;
mod namespace_lifecycle;
mod node_restriction;
mod placement;
mod priority;
mod role_escalation;
mod runtime_class;
mod service_account;
#[cfg(test)]
mod tests;

use futures::future::{self, BoxFuture};
use hypernetes_api::{ApiError, TenantId};
use hypernetes_store::{Guard, Key, Op, ResourceId};
use serde_json::Value;

use super::{Operation, fields, text};
use crate::{Call, Inner, stored_form};

/// All of them: those that come first, the mutators, then the validators.
const CHAIN: &[Plugin] = &[
    namespace_lifecycle::PLUGIN,
    certificates::PLUGIN,
    default_tolerations::PLUGIN,
    service_account::PLUGIN,
    default_storage_class::PLUGIN,
    default_ingress_class::PLUGIN,
    runtime_class::PLUGIN,
    placement::PLUGIN,
    node_restriction::PLUGIN,
    role_escalation::PLUGIN,
    infrastructure_owned::PLUGIN,
    host_isolation::PLUGIN,
    priority::PLUGIN,
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
    Validate(Validate),
}

/// What asks to be let in.
pub(super) struct Request<'a> {
    pub server: &'a Inner,
    pub call: &'a Call,
    pub operation: Operation,
    /// The object as it is; none when it is new.
    pub old: Option<&'a Value>,
    /// Nothing may come of it.
    #[allow(dead_code, reason = "for plugins that ask somebody else: webhooks")]
    pub dry_run: bool,
}

/// What the commit has to meet and to do besides.
#[derive(Default)]
pub(super) struct Additions {
    pub guards: Vec<Guard>,
    pub ops: Vec<Op>,
}

impl Request<'_> {
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
    for plugin in chain().filter(|plugin| (plugin.about)(request)) {
        let done = match plugin.step {
            Step::First(validate) => validate(request, object, added).await,
            Step::Mutate(mutate) => {
                before.get_or_insert_with(|| object.clone());
                mutate(request, object, added).await
            }
            Step::Validate(_) => Ok(()),
        };
        done.inspect_err(|error| refused(plugin, error))?;
    }
    Ok(before.is_some_and(|before| before != *object))
}

/// # Errors
/// The first refusal.
pub(super) async fn validate(request: &Request<'_>, object: &Value, added: &mut Additions) -> Result<(), ApiError> {
    for plugin in chain().filter(|plugin| (plugin.about)(request)) {
        if let Step::Validate(validate) = plugin.step {
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
    let request = Request { server, call, operation, old: Some(old), dry_run };
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
