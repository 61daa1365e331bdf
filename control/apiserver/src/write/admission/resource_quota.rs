//! What all objects of a namespace may come to: upstream's ResourceQuota. What an object takes is written into the quotas in the transaction
//! that writes the object: whoever writes beside, on whichever server, there is never more than a quota allows.
//!
//! ```text
//! a namespace without quotas ─▶ let in
//! else: is there room? ─▶ the server's turn in this namespace ─▶ is there still? ─▶ object and quotas are written, or neither
//! ```
//!
//! A quota counts what its status says (`hard`) as soon as somebody has added up what there is (`used`): the controller does, and
//! [`super::namespace_rules`] sees to it that nothing is made meanwhile that it does not see.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use hypernetes_api::ApiError;
use hypernetes_kinds::registry;
use hypernetes_quota::{Amounts, Counted, Quota, admit, amounts};
use hypernetes_schema::managed::{self, Writer};
use hypernetes_store::{Entry, Guard, Op};
use jiff::Timestamp;
use serde_json::Value;

use super::{Additions, Operation, Plugin, Request, Step, fields, namespace_guard, rules_now, rules_of, text};
use crate::{namespace_rules::Rules, stored_form, write::now};

pub(super) const PLUGIN: Plugin = Plugin { name: "ResourceQuota", about, step: Step::Validate(validate) };

/// Who writes what is used, as managed fields name upstream's.
const MANAGER: &str = "kube-apiserver";

fn about(request: &Request<'_>) -> bool {
    let call = request.call;
    let subresource = call.subresource.as_ref().map(|one| one.name);
    call.target.namespace.is_some()
        && !request.is("", "Namespace")
        && match request.operation {
            Operation::Create => subresource.is_none(),
            // Of what others take nothing can change.
            Operation::Update => ["Pod", "Service", "PersistentVolumeClaim"].iter().any(|kind| request.is("", kind)),
            Operation::Delete | Operation::Connect => false,
        }
}

fn validate<'a>(
    request: &'a Request<'a>,
    object: &'a Value,
    added: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    check(request, object, added).boxed()
}

async fn check(request: &Request<'_>, object: &Value, added: &mut Additions) -> Result<(), ApiError> {
    let call = request.call;
    // What is made guards its namespace already, and is made where there are no quotas most of the time.
    if request.old.is_none() && rules_of(request, added).await?.is_none_or(|rules| rules.quotas.is_empty()) {
        return Ok(());
    }
    let Some(counted) = Counted::of(&call.resource.ty.group, &call.resource.plural) else { return Ok(()) };
    let subresource = call.subresource.as_ref().map(|one| one.name);
    if let Some(old) = request.old {
        if !counted.is_changed(subresource, old, object) {
            return Ok(());
        }
        added.guards.extend(namespace_guard(request)?);
    }
    let room = |rules: &Rules| {
        let quotas = rules.quotas.iter().map(quota);
        let is_of_status = subresource == Some("status");
        admit(quotas, &counted, request.old, object, is_of_status, Timestamp::now())
            .map_err(|why| request.forbidden(text(object, &["metadata", "name"]), &why))
    };
    // Of what has just become less this may not have heard: before it refuses it has.
    let look = async |added: &Additions| {
        let rules = rules_of(request, added).await?.unwrap_or_default();
        if let Ok(used) = room(&rules) {
            return Ok((used, rules));
        }
        let rules = rules_now(request).await?.unwrap_or_default();
        Ok::<_, ApiError>((room(&rules)?, rules))
    };
    let (used, rules) = look(added).await?;
    if used.is_empty() {
        return Ok(());
    }
    let turn = rules.turn.clone().lock_owned().await;
    let (used, rules) = look(added).await?;
    for (place, used) in used {
        take(&rules.quotas[place], &used, added)?;
    }
    added.turn = Some(turn);
    Ok(())
}

/// Read once of each version of it. One that cannot be read counts nothing.
fn quota(entry: &Entry) -> &Quota {
    let read = || Arc::new(Quota::of(&stored_form::decode(entry).unwrap_or_default()));
    entry.form(read)
}

/// Writes what is used into a quota, with the object.
fn take(entry: &Entry, used: &Amounts, added: &mut Additions) -> Result<(), ApiError> {
    let old = stored_form::decode(entry)?;
    let mut new = old.clone();
    fields(&mut new, &["status"]).insert("used".into(), amounts::write(used));
    if let Some(resource) = registry::builtin_of("", "v1", "ResourceQuota") {
        let writer = Writer { manager: MANAGER, subresource: "status", now: &now() };
        managed::track_update(&resource.ty, Some(&old), &mut new, writer);
    }
    added.guards.push(Guard::Unchanged(entry.key.clone(), entry.mod_revision));
    added.ops.push(Op::Put(entry.key.clone(), stored_form::encode(&new)?));
    Ok(())
}
