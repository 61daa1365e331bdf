//! `delete` and `deletecollection`.

use std::sync::Arc;

use axum::body::Body;
use futures::{StreamExt, stream::FuturesUnordered};
use http::{Response, StatusCode};
use hypernetes_api::{ApiError, Reason, time};
use hypernetes_kinds::Resource;
use hypernetes_schema::FieldValidation;
use serde_json::{Value, json};

use super::{Operation, Proposal, Write, Written, fields, precondition_failed, text, transact};
use crate::{
    Call, Inner,
    answer::json_response,
    fairness::ticket::Ticket,
    read::{self, Reading, Wanted, list},
    request::{
        Scope,
        options::{DeleteOptions, ListOptions, MAX_GRACE, WriteOptions},
    },
};

pub(crate) async fn delete(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    let options = DeleteOptions::parse(call)?;
    let name = call.target.name.as_deref().unwrap_or_default();
    let written = delete_one(server, call, name, &options).await?;
    // A pod is told as it was; of everything else that it is gone.
    if !written.gone || call.resource.ty.kind == "Pod" {
        return written.answer(call);
    }
    let mut details = json!({"name": name, "kind": call.resource.plural, "uid": written.object["metadata"]["uid"]});
    if !call.resource.ty.group.is_empty() {
        details["group"] = call.resource.ty.group.clone().into();
    }
    let status = json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success", "details": details});
    Ok(json_response(StatusCode::OK, &status))
}

/// Deletes an object, or marks it for those who have something to do before.
pub(super) async fn delete_one(
    server: &Inner,
    call: &Call,
    name: &str,
    options: &DeleteOptions,
) -> Result<Written, ApiError> {
    let write_options = WriteOptions {
        dry_run: options.dry_run,
        validation: FieldValidation::Ignore,
        manager: String::new(),
        force: false,
    };
    let write = Write { server, call, options: &write_options };
    let propose = |old: Option<&Value>| {
        let mut object = old.cloned().ok_or_else(|| call.not_found(name))?;
        for (what, wanted, have) in [
            ("UID", &options.uid, text(&object, &["metadata", "uid"])),
            ("ResourceVersion", &options.resource_version, text(&object, &["metadata", "resourceVersion"])),
        ] {
            if let Some(wanted) = wanted.as_ref().filter(|wanted| *wanted != have) {
                return Err(write.conflict(name, &precondition_failed(what, wanted, have)));
            }
        }
        mark_deleted(&call.resource, &mut object, options);
        Ok(Proposal { operation: Operation::Delete, object, warnings: Vec::new(), managed: true, once: false })
    };
    transact(&write, Some(name), propose).await
}

/// Sets the marks of deletion: when, how gracefully, and who has to act first.
fn mark_deleted(resource: &Resource, object: &mut Value, options: &DeleteOptions) {
    let phase = text(object, &["status", "phase"]);
    let running = object["kind"] == "Pod"
        && !text(object, &["spec", "nodeName"]).is_empty()
        && !matches!(phase, "Succeeded" | "Failed");
    let own = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    // A pod that no kubelet has ends at once, as does everything else.
    let grace = if running { options.grace.unwrap_or(own).clamp(0, MAX_GRACE) } else { 0 };
    let earlier = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
    let first = !object["metadata"]["deletionTimestamp"].is_string();
    resource.mark_deleted(object);
    let metadata = fields(object, &["metadata"]);
    if first || earlier.is_some_and(|earlier| grace < earlier) {
        let at = jiff::Timestamp::now().saturating_add(jiff::SignedDuration::from_secs(grace));
        let at = at.unwrap_or(jiff::Timestamp::MAX);
        metadata.insert("deletionTimestamp".into(), time::whole_seconds(at).to_string().into());
        metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
    }
    let finalizer = match options.policy.as_deref() {
        Some("Foreground") => "foregroundDeletion",
        Some("Orphan") => "orphan",
        _ => return,
    };
    if !first {
        return;
    }
    match metadata.entry("finalizers").or_insert_with(|| json!([])) {
        Value::Array(list) if list.iter().any(|f| f == finalizer) => {}
        Value::Array(list) => list.push(finalizer.into()),
        other => *other = json!([finalizer]),
    }
}

/// Deletions of a collection that wait for the disk together.
const TOGETHER: usize = 32;

/// Answers the objects as they were, as upstream does.
pub(crate) async fn delete_collection(
    server: &Inner,
    call: &Arc<Call>,
    ticket: &mut Ticket,
) -> Result<Response<Body>, ApiError> {
    if call.scope == Scope::All {
        return Err(ApiError::bad_request("a collection is deleted in one logical cluster at a time"));
    }
    let (options, wanted) = (DeleteOptions::parse(call)?, Wanted::of(call, Reading::List)?);
    let selection = ListOptions::parse(call, false)?;
    let (listing, next) = read::range(server, call, &selection, Some(ticket)).await?;
    for some in listing.entries.chunks(TOGETHER) {
        let deletions: FuturesUnordered<_> =
            some.iter().map(|entry| delete_one(server, call, entry.key.name(), &options)).collect();
        for deleted in deletions.collect::<Vec<_>>().await {
            match deleted {
                Err(error) if error.reason == Reason::NotFound => {}
                other => drop(other?),
            }
            call.pause().await;
        }
    }
    list::answer(call, wanted, listing, next).await
}
