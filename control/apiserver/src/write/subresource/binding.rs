//! `pods/binding`: the scheduler's decision.

use axum::body::Body;
use http::{Response, StatusCode};
use hypernetes_api::{ApiError, ObjectName, error::Cause};
use hypernetes_kinds::Endpoint;
use serde_json::{Value, json};

use super::{decode, success};
use crate::{
    Call, Inner,
    answer::json_response,
    request::{
        self, ResourceTarget,
        options::{OptionsOf, WriteOptions},
    },
    write::{Operation, Proposal, Write, fields, now, precondition_failed, text, transact},
};

pub(crate) async fn create(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::parse(call, OptionsOf::Create)?;
    let binding = decode(call, options.validation)?.object;
    let name = call.target.name.as_deref().unwrap_or_default();
    let node = node(name, &binding)?;
    let write = Write { server, call, options: &options };
    let propose = |old: Option<&Value>| {
        let old = old.ok_or_else(|| call.not_found(name))?;
        let object = bound(name, old, &binding, &node)?;
        // Managed fields do not tell of it, as upstream's do not.
        Ok(Proposal { operation: Operation::Update, object, warnings: Vec::new(), managed: true, once: false })
    };
    transact(&write, Some(name), propose).await?;
    Ok(json_response(StatusCode::CREATED, &success()))
}

/// What is sent to `bindings`, as it is sent to the pod that it names.
///
/// # Errors
/// `BadRequest` when it names none.
pub(crate) fn to_pod(server: &Inner, call: Call) -> Result<Call, ApiError> {
    let validation = WriteOptions::parse(&call, OptionsOf::Create)?.validation;
    let binding = call.served.ty.decode(&call.body, validation)?.object;
    let name = text(&binding, &["metadata", "name"]);
    if name.is_empty() {
        return Err(ApiError::bad_request("Name parameter required."));
    }
    let name = Some(name.to_owned());
    let view = server.definitions.registry().view(&call.tenant()?);
    let Endpoint { resource, served } = view.find("", "v1", "pods").cloned().ok_or_else(request::not_found)?;
    let subresource = resource.subresource("binding").cloned();
    let target =
        ResourceTarget { plural: resource.plural.clone(), name, subresource: Some("binding".into()), ..call.target };
    Ok(Call { resource, served, subresource, target, ..call })
}

/// The node that a binding names.
fn node(pod: &str, binding: &Value) -> Result<ObjectName, ApiError> {
    let mut causes = Vec::new();
    let mut say = |reason: &str, field: &str, message: String| {
        causes.push(Cause { reason: reason.into(), message, field: field.into() });
    };
    let (kind, node) = (text(binding, &["target", "kind"]), text(binding, &["target", "name"]));
    if !matches!(kind, "" | "Node") {
        let message = format!("Unsupported value: {kind:?}: supported values: \"Node\", \"<empty>\"");
        say("FieldValueNotSupported", "target.kind", message);
    }
    let parsed = ObjectName::new(node);
    match &parsed {
        Err(_) if node.is_empty() => say("FieldValueRequired", "target.name", "Required value".into()),
        Err(error) => say("FieldValueInvalid", "target.name", format!("Invalid value: {node:?}: {error}")),
        Ok(_) => {}
    }
    match parsed {
        Ok(node) if causes.is_empty() => Ok(node),
        _ => Err(ApiError::invalid("", "Binding", pod, causes)),
    }
}

fn bound(name: &str, old: &Value, binding: &Value, node: &ObjectName) -> Result<Value, ApiError> {
    let refuse = |why: &str| Err(ApiError::conflict("", "pods/binding", name, why));
    for (what, field) in [("UID", "uid"), ("ResourceVersion", "resourceVersion")] {
        let (wanted, have) = (text(binding, &["metadata", field]), text(old, &["metadata", field]));
        if !wanted.is_empty() && wanted != have {
            return refuse(&precondition_failed(what, wanted, have));
        }
    }
    if old["metadata"]["deletionTimestamp"].is_string() {
        return refuse(&format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let taken = text(old, &["spec", "nodeName"]);
    if !taken.is_empty() {
        return refuse(&format!("pod {name} is already assigned to node {taken:?}"));
    }
    if old["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return refuse(&format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut pod = old.clone();
    fields(&mut pod, &["spec"]).insert("nodeName".into(), node.as_str().into());
    let annotations = binding["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    if !annotations.is_empty() {
        fields(&mut pod, &["metadata", "annotations"]).extend(annotations);
    }
    let condition =
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now()});
    match fields(&mut pod, &["status"]).entry("conditions").or_insert_with(|| json!([])) {
        Value::Array(conditions) => {
            conditions.retain(|c| c["type"] != "PodScheduled");
            conditions.push(condition);
        }
        other => *other = json!([condition]),
    }
    Ok(pod)
}
