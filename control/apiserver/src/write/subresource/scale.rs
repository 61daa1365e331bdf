//! `scale`: how many pods a workload wants, as `autoscaling/v1` has it for all of them.

use axum::body::Body;
use http::{Response, StatusCode};
use hypernetes_api::{ApiError, error::Cause};
use hypernetes_kinds::Scale;
use hypernetes_schema::{FieldValidation, managed};
use serde_json::{Value, json};

use super::{super::patch::Language, kind_of};
use crate::{
    Call, Inner,
    answer::json_response,
    request::options::{OptionsOf, WriteOptions},
    stored_form,
    write::{Operation, Proposal, Write, check_name, fields, now, text, transact},
};

pub(crate) async fn get(server: &Inner, call: &Call, scale: &Scale) -> Result<Response<Body>, ApiError> {
    let name = call.target.name.as_deref().unwrap_or_default();
    let entry = server.store.get(&call.key(name)?).await?;
    let object = stored_form::decode(&entry.ok_or_else(|| call.not_found(name))?)?;
    Ok(json_response(StatusCode::OK, &scale.of(&object)))
}

pub(crate) async fn update(server: &Inner, call: &Call, scale: &Scale) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::parse(call, OptionsOf::Update)?;
    let sent = kind_of(call)?.decode(&call.body, options.validation)?.object;
    let once = !text(&sent, &["metadata", "resourceVersion"]).is_empty();
    write(server, call, scale, &options, |_, old| scaled(call, scale, old, &sent, once)).await
}

pub(crate) async fn patch(server: &Inner, call: &Call, scale: &Scale) -> Result<Response<Body>, ApiError> {
    let language = Language::of(call)?;
    let options = language.options(call)?;
    let ty = kind_of(call)?;
    if language == Language::Apply {
        let applied = ty.decode(&call.body, options.validation)?.object;
        return write(server, call, scale, &options, |write, old| apply(write, scale, old, &applied)).await;
    }
    let propose = |_: &Write<'_>, old: &Value| {
        let patched = language.patched(&ty, scale.of(old), &call.body, &options)?.object;
        scaled(call, scale, old, &patched, false)
    };
    write(server, call, scale, &options, propose).await
}

async fn write(
    server: &Inner,
    call: &Call,
    scale: &Scale,
    options: &WriteOptions,
    propose: impl Fn(&Write<'_>, &Value) -> Result<Proposal, ApiError> + Send + Sync,
) -> Result<Response<Body>, ApiError> {
    let name = call.target.name.as_deref().unwrap_or_default();
    let write = Write { server, call, options };
    let of_old = |old: Option<&Value>| propose(&write, old.ok_or_else(|| call.not_found(name))?);
    let written = transact(&write, Some(name), of_old).await?;
    Ok(json_response(StatusCode::OK, &scale.of(&written.object)))
}

/// How many are wanted by a `Scale` that was sent.
fn replicas(call: &Call, sent: &Value) -> Result<i64, ApiError> {
    let name = call.target.name.as_deref().unwrap_or_default();
    check_name(name, sent)?;
    let replicas = sent["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let cause = Cause {
            reason: "FieldValueInvalid".into(),
            message: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
            field: "spec.replicas".into(),
        };
        return Err(ApiError::invalid("autoscaling", "Scale", name, vec![cause]));
    }
    Ok(replicas)
}

/// The workload as wanted, for the version and uid that were sent.
fn scaled(call: &Call, scale: &Scale, old: &Value, sent: &Value, once: bool) -> Result<Proposal, ApiError> {
    let replicas = replicas(call, sent)?;
    let mut object = old.clone();
    scale.put(&mut object, replicas);
    for precondition in ["resourceVersion", "uid"] {
        if let Some(wanted) = sent["metadata"].get(precondition) {
            fields(&mut object, &["metadata"]).insert(precondition.into(), wanted.clone());
        }
    }
    Ok(Proposal { operation: Operation::Update, object, warnings: Vec::new(), managed: false, once })
}

/// Server-side apply of a scale: what it owns of the workload is the number of replicas.
fn apply(write: &Write<'_>, scale: &Scale, old: &Value, applied: &Value) -> Result<Proposal, ApiError> {
    let replicas = replicas(write.call, applied)?;
    let ty = &write.call.resource.ty;
    let mut configuration = json!({
        "apiVersion": ty.api_version(), "kind": ty.kind,
        "metadata": {"name": old["metadata"]["name"], "namespace": old["metadata"]["namespace"]},
    });
    scale.put(&mut configuration, replicas);
    let configuration = ty.check(configuration, FieldValidation::Ignore)?.object;
    let now = now();
    let mut object = managed::apply(ty, Some(old), &configuration, write.writer(&now), write.options.force)?;
    let version = old["metadata"]["resourceVersion"].clone();
    fields(&mut object, &["metadata"]).insert("resourceVersion".into(), version);
    Ok(Proposal { operation: Operation::Update, object, warnings: Vec::new(), managed: true, once: false })
}
