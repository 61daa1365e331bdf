//! Whether somebody may: checks are put together here, and answered by whom the caller gives.

use super::{Overload, Sig, member, opaque, text};
use crate::cost::Cost;
use crate::errors::{EvalError, Result};
use crate::types::Opaque;
use crate::value::check::{Attributes, AuthorizationRequest, Authorizer, Check, Decision, Of, Resource, checked};
use crate::value::{OpaqueValue, Value};

const AUTHORIZER: Sig = Sig::Opaque(Opaque::Authorizer);
const PATH: Sig = Sig::Opaque(Opaque::PathCheck);
const GROUP: Sig = Sig::Opaque(Opaque::GroupCheck);
const RESOURCE: Sig = Sig::Opaque(Opaque::ResourceCheck);
const DECISION: Sig = Sig::Opaque(Opaque::Decision);

/// A check costs so much that two fit into an expression.
const CHECK: Cost = Cost::Fixed(350_000);

macro_rules! narrows {
    ($name:literal, $id:literal, $cost:expr, $field:ident) => {
        member($name, $id, &[RESOURCE, Sig::String], RESOURCE, $cost, |context, args| {
            let said = text(args, 1)?.to_owned();
            context.meter.grow(said.len())?;
            let mut check = of(args)?.clone();
            if let Of::Resource(resource) = &mut check.of {
                resource.$field = said;
            }
            Ok(checked(check))
        })
    };
}

pub(super) const ROWS: &[Overload] = &[
    member("path", "authorizer_path", &[AUTHORIZER, Sig::String], PATH, Cost::One, |_, args| {
        let path = text(args, 1)?;
        if path.trim().is_empty() {
            return Err(EvalError::new("path must not be empty"));
        }
        with(args, Of::Path(path.to_owned()))
    }),
    member("group", "authorizer_group", &[AUTHORIZER, Sig::String], GROUP, Cost::One, |_, args| {
        with(args, Of::Group(text(args, 1)?.to_owned()))
    }),
    member(
        "serviceAccount",
        "authorizer_serviceaccount",
        &[AUTHORIZER, Sig::String, Sig::String],
        AUTHORIZER,
        Cost::One,
        |_, args| {
            let (namespace, name) = (text(args, 1)?, text(args, 2)?);
            if !is_name(name, 253, true) {
                return Err(EvalError::new("Invalid service account name"));
            }
            if !is_name(namespace, 63, false) {
                return Err(EvalError::new("Invalid service account namespace"));
            }
            let service_account = Some((namespace.to_owned(), name.to_owned()));
            Ok(checked(Check { service_account, of: Of::Authorizer }))
        },
    ),
    member("resource", "groupcheck_resource", &[GROUP, Sig::String], RESOURCE, Cost::One, |_, args| {
        let resource = text(args, 1)?;
        if resource.trim().is_empty() {
            return Err(EvalError::new("resource must not be empty"));
        }
        let Of::Group(group) = &of(args)?.of else { return Err(EvalError::NO_SUCH_OVERLOAD) };
        let (group, resource) = (group.clone(), resource.to_owned());
        with(args, Of::Resource(Box::new(Resource { group, resource, ..Resource::default() })))
    }),
    narrows!("subresource", "resourcecheck_subresource", Cost::One, subresource),
    narrows!("namespace", "resourcecheck_namespace", Cost::One, namespace),
    narrows!("name", "resourcecheck_name", Cost::One, name),
    narrows!("fieldSelector", "authorizer_fieldselector", Cost::Selector, field_selector),
    narrows!("labelSelector", "authorizer_labelselector", Cost::Selector, label_selector),
    member("check", "pathcheck_check", &[PATH, Sig::String], DECISION, CHECK, |context, args| {
        decide(context.authorizer, args)
    }),
    member("check", "resourcecheck_check", &[RESOURCE, Sig::String], DECISION, CHECK, |context, args| {
        decide(context.authorizer, args)
    }),
    member("errored", "decision_errored", &[DECISION], Sig::Bool, Cost::One, |_, args| {
        Ok(Value::Bool(decision(args)?.error.is_some()))
    }),
    member("error", "decision_error", &[DECISION], Sig::String, Cost::One, |_, args| {
        Ok(Value::text(decision(args)?.error.as_deref().unwrap_or_default()))
    }),
    member("allowed", "decision_allowed", &[DECISION], Sig::Bool, Cost::One, |_, args| {
        Ok(Value::Bool(decision(args)?.allowed))
    }),
    member("reason", "decision_reason", &[DECISION], Sig::String, Cost::One, |_, args| {
        Ok(Value::text(decision(args)?.reason.as_str()))
    }),
];

fn of<'v>(args: &'v [Value<'_>]) -> Result<&'v Check> {
    match opaque(args, 0)? {
        OpaqueValue::Check(check) => Ok(check),
        _ => Err(EvalError::NO_SUCH_OVERLOAD),
    }
}

fn with<'a>(args: &[Value<'a>], next: Of) -> Result<Value<'a>> {
    Ok(checked(Check { service_account: of(args)?.service_account.clone(), of: next }))
}

fn decision<'v>(args: &'v [Value<'_>]) -> Result<&'v Decision> {
    match &of(args)?.of {
        Of::Decision(decision) => Ok(decision),
        _ => Err(EvalError::NO_SUCH_OVERLOAD),
    }
}

fn decide<'a>(authorizer: Option<&dyn Authorizer>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let (check, verb) = (of(args)?, text(args, 1)?);
    let attributes = match &check.of {
        Of::Path(path) => Attributes::Path(path),
        Of::Resource(of) => Attributes::Resource {
            group: &of.group,
            resource: &of.resource,
            subresource: &of.subresource,
            namespace: &of.namespace,
            name: &of.name,
            field_selector: &of.field_selector,
            label_selector: &of.label_selector,
        },
        _ => return Err(EvalError::NO_SUCH_OVERLOAD),
    };
    let service_account = check.service_account.as_ref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
    let request = AuthorizationRequest { service_account, verb, of: attributes };
    let decision = match authorizer {
        Some(authorizer) => authorizer.authorize(&request),
        None => return Err(EvalError::new("there is no authorizer here")),
    };
    Ok(checked(Check { service_account: check.service_account.clone(), of: Of::Decision(decision) }))
}

/// A label of DNS, or several with dots between them.
fn is_name(text: &str, most: usize, dots: bool) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= most && if dots { text.split('.').all(is_label) } else { is_label(text) }
}
