//! How many policies and webhooks a tenant may have: each is looked at on every write, and kept compiled. And who binds one to parameters, or writes one
//! that looks at them, may read them.

use futures::{FutureExt, future::BoxFuture};
use hypernetes_api::{ApiError, ResourceId};
use hypernetes_policy::{Binding, ParameterKind, Which};
use hypernetes_store::Key;
use serde_json::Value;

use super::{
    super::{Additions, Operation, Plugin, Request, Step, name_of},
    parameters,
};
use crate::{
    authorization::{Attributes, is_cluster_admin},
    policies::GROUP,
    stored_form,
};

pub(in super::super) const PLUGIN: Plugin =
    Plugin { name: "AdmissionPolicyRules", about, step: Step::Validate(validate) };

/// Bytes of a tenant's policies, bindings and webhooks, as they are stored. Compiled they take up to fifty times as much.
const MOST_BYTES: usize = 512 << 10;

fn about(request: &Request<'_>) -> bool {
    matches!(request.operation, Operation::Create | Operation::Update)
        && request.call.resource.ty.group == GROUP
        && request.call.subresource.is_none()
}

fn validate<'a>(
    request: &'a Request<'a>,
    object: &'a Value,
    _: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    async move {
        // What a policy, a binding and a configuration say is in one of the two.
        let says_same = |old: &Value| old["spec"] == object["spec"] && old["webhooks"] == object["webhooks"];
        if request.old.is_some_and(says_same) {
            return Ok(());
        }
        let size = |object: &Value| object.to_string().len();
        let have = request.own().await?.map_or(0, |own| own.bytes);
        let added = size(object).saturating_sub(request.old.map_or(0, size));
        if added > 0 && have + added > MOST_BYTES {
            let why = format!("all admission policies, bindings and webhooks together may have {MOST_BYTES} bytes");
            return Err(request.forbidden(name_of(object), &why));
        }
        may_read(request, object).await
    }
    .boxed()
}

/// Whether who writes it may read what it makes everybody see.
async fn may_read(request: &Request<'_>, object: &Value) -> Result<(), ApiError> {
    let call = request.call;
    let unchanged = |field: &str| request.old.is_some_and(|old| old["spec"][field] == object["spec"][field]);
    if is_cluster_admin(&call.user) {
        return Ok(());
    }
    let is_binding = call.resource.plural.ends_with("bindings");
    if call.resource.plural.ends_with("webhookconfigurations") {
        return Ok(());
    }
    let (kind, verb, name, namespace) = if is_binding {
        let binding = Binding::of(object);
        let Some(parameters) = binding.parameters else { return Ok(()) };
        if unchanged("paramRef") && unchanged("policyName") {
            return Ok(());
        }
        let (verb, name) = match parameters.of {
            Which::Named(name) => ("get", name),
            Which::Selected(_) => ("list", String::new()),
        };
        (policy_kind(request, &binding.policy).await?, verb, name, parameters.namespace)
    } else {
        let Some(kind) = ParameterKind::of(&object["spec"]).filter(|_| !unchanged("paramKind")) else { return Ok(()) };
        (Some(kind), "get", "*".to_owned(), "*".to_owned())
    };
    // Of a kind that is not known, everything.
    let resource = match &kind {
        Some(kind) => parameters::resource(request, kind).await?.map(|found| found.resource.plural.clone()),
        None => None,
    };
    let some = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
    let (name_asked, namespace) = (some(&name), some(&namespace));
    let wanted = Attributes {
        verb,
        group: kind.as_ref().map_or("*", |kind| kind.group_version().0),
        resource: resource.as_deref().unwrap_or("*"),
        namespace: namespace.as_deref(),
        name: name_asked.as_deref(),
        ..Attributes::default()
    };
    if request.server.authorizer().allows(&call.user, &call.tenant()?, &wanted).await? {
        return Ok(());
    }
    let user = &call.user.name;
    let why = match (is_binding, kind) {
        (false, Some(kind)) => format!(
            "user {user} must have \"get\" permission on all objects of the referenced paramKind (kind={}, apiVersion={})",
            kind.kind, kind.api_version
        ),
        _ => format!("user {user} does not have \"{verb}\" permission on the object referenced by paramRef"),
    };
    Err(request.forbidden(name_of(object), &why))
}

/// The kind of the parameters of a binding's policy, if it is there.
async fn policy_kind(request: &Request<'_>, policy: &str) -> Result<Option<ParameterKind>, ApiError> {
    let call = request.call;
    let plural = call.resource.plural.replace("policybindings", "policies");
    let Ok(key) = Key::new(&ResourceId::new(GROUP, &plural), &call.tenant()?, "", policy) else {
        return Ok(None);
    };
    let Some(entry) = request.server.store.get(&key).await? else { return Ok(None) };
    Ok(ParameterKind::of(&stored_form::decode(&entry)?["spec"]))
}
