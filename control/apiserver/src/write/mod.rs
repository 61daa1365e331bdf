//! The one way of a write.
//!
//! ```text
//! decode ─▶ propose ─▶ default ─▶ prepare ─▶ validate ─▶ mutators ─▶ validate what they changed ─▶ validators ─▶ commit
//! ```
//!
//! What an operation makes of an object is its own file (`create`, `update`, `patch`, `delete`, `subresource`); everything
//! behind it is [`transact`], for main resources and subresources alike. Admission comes after validation: it sees only
//! names that are some.

pub(crate) mod admission;
mod create;
mod delete;
mod fence;
mod found_again;
mod patch;
pub(crate) mod subresource;
pub(crate) mod unique;
mod update;

use std::time::Duration;

use axum::body::Body;
use http::{Response, StatusCode, header};
use hypernetes_api::{ApiError, Reason, time};
use hypernetes_schema::{
    managed::{self, Writer},
    walk::fields,
};
use hypernetes_store::{Entry, Guard, Op, Revision, Txn, TxnError, timed_out};
use serde_json::Value;

pub(crate) use create::create;
pub(crate) use delete::{delete, delete_collection};
pub(crate) use patch::patch;
pub(crate) use update::update;

use self::unique::Uniques;
use crate::{Call, Inner, read, request::options::WriteOptions, stored_form, warnings};

/// Attempts of a write that others write beside: each means that somebody else got on. Upstream tries an update of whatever version
/// there is until the request's time is over.
const ATTEMPTS: usize = 64;
/// What a change costs besides the request: the store's writer, and whoever of the server's own follows the resource. As
/// measured with an object of no size and one of 900 KiB, where a small `get` costs 100 µs.
const COMMIT: Duration = Duration::from_micros(500);
const COMMIT_KIB: Duration = Duration::from_micros(12);
const CHANGED: &str = "the object has been modified; please apply your changes to the latest version and try again";

/// As objects have it.
fn now() -> String {
    time::now().to_string()
}

fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    path.iter().fold(object, |value, name| &value[*name]).as_str().unwrap_or_default()
}

/// What happens to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    /// Somebody is connected to what it stands for.
    Connect,
}

/// An object as a caller wants it to be.
struct Proposal {
    operation: Operation,
    object: Value,
    warnings: Vec<String>,
    /// Its managed fields are what they shall be.
    managed: bool,
    /// It was made for one version of the object, and not for another one that may come between.
    once: bool,
}

/// A write on its way: who writes, what, and how.
struct Write<'a> {
    server: &'a Inner,
    call: &'a Call,
    options: &'a WriteOptions,
}

/// What came of it.
struct Written {
    operation: Operation,
    entry: Entry,
    object: Value,
    warnings: Vec<String>,
    /// It is no more.
    gone: bool,
}

impl Written {
    /// The object, with the warnings that it caused.
    fn answer(&self, call: &Call) -> Result<Response<Body>, ApiError> {
        let mut response = read::one(call, &self.entry)?;
        if self.operation == Operation::Create {
            *response.status_mut() = StatusCode::CREATED;
        }
        for warning in warnings::headers(&self.warnings) {
            response.headers_mut().append(header::WARNING, warning);
        }
        Ok(response)
    }
}

impl Write<'_> {
    /// Who is noted in managed fields; `now` is RFC 3339.
    fn writer<'a>(&'a self, now: &'a str) -> Writer<'a> {
        let subresource = self.call.subresource.as_ref().map_or("", |one| one.name);
        Writer { manager: &self.options.manager, subresource, now }
    }

    fn conflict(&self, name: &str, why: &str) -> ApiError {
        ApiError::conflict(&self.call.resource.ty.group, &self.call.resource.plural, name, why)
    }

    /// What the server itself sets or keeps of each part.
    fn prepare(&self, object: &mut Value, old: Option<&Value>) {
        if old.is_none() {
            let metadata = fields(object, &["metadata"]);
            metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
            metadata.insert("creationTimestamp".into(), now().into());
        }
        self.prepare_again(object, old);
    }

    /// The same of an object that admission has changed.
    fn prepare_again(&self, object: &mut Value, old: Option<&Value>) {
        let resource = &self.call.resource;
        match old {
            None => resource.prepare_create(object),
            Some(old) => resource.prepare_change(self.call.through(), object, old),
        }
        // A status that has no subresource of its own is infrastructure's, too.
        if resource.guarded_status && !resource.has_status() && !self.call.is_infrastructure() {
            let kept = old.map_or(Value::Null, |old| old["status"].clone());
            let fields = fields(object, &[]);
            fields.remove("status");
            if !kept.is_null() {
                fields.insert("status".into(), kept);
            }
        }
    }

    /// A change is compared with the object as it was stored, or, where that is an error, as it would have been stored today:
    /// what a default of a newer version adds is no change of the caller's.
    fn validate(&self, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        let resource = &self.call.resource;
        let Some(old) = old else { return resource.validate_create(object) };
        let through = self.call.through();
        resource.validate_change(through, object, old).or_else(|_| {
            let mut defaulted = old.clone();
            resource.set_defaults(&mut defaulted);
            resource.validate_change(through, object, &defaulted)
        })
    }

    /// An update is of the object that the URL names, of the version and the uid that it names.
    fn check_identity(&self, name: &str, object: &Value, old: &Value) -> Result<(), ApiError> {
        check_name(name, object)?;
        let (wanted, have) =
            (text(object, &["metadata", "resourceVersion"]), text(old, &["metadata", "resourceVersion"]));
        if !wanted.is_empty() && wanted != have {
            return Err(self.conflict(name, CHANGED));
        }
        let (wanted, have) = (text(object, &["metadata", "uid"]), text(old, &["metadata", "uid"]));
        if !wanted.is_empty() && wanted != have {
            return Err(self.conflict(name, &precondition_failed("UID", wanted, have)));
        }
        Ok(())
    }

    fn commit_error(&self, name: &str, error: TxnError) -> ApiError {
        match error {
            TxnError::Conflict { current: Some(_), .. } => self.conflict(name, CHANGED),
            TxnError::Conflict { current: None, .. } => self.call.not_found(name),
            TxnError::NoSpace(why) => {
                ApiError::new(Reason::InsufficientStorage, format!("the server has no room to store this: {why}"))
            }
            // In etcd's words, which clients look for; of upstream it is a 500.
            TxnError::TooLarge(_) => ApiError::new(Reason::RequestEntityTooLarge, "etcdserver: request is too large"),
            TxnError::Unavailable(_) => timed_out(&error),
            TxnError::Quota { .. } => crate::fairness::budget::over_quota(self.call, name, &error),
            TxnError::Unknown(_) => timed_out(&format_args!("{error}: it may have been written")),
        }
    }
}

fn precondition_failed(what: &str, wanted: &str, have: &str) -> String {
    format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {have}")
}

/// Sets the namespace that the path names; another one in the object is an error.
fn place(call: &Call, object: &mut Value) -> Result<(), ApiError> {
    let Some(namespace) = &call.target.namespace else { return Ok(()) };
    match text(object, &["metadata", "namespace"]) {
        "" => {
            fields(object, &["metadata"]).insert("namespace".into(), namespace.clone().into());
            Ok(())
        }
        given if given == namespace => Ok(()),
        _ => {
            let message = "the namespace of the provided object does not match the namespace sent on the request";
            Err(ApiError::bad_request(message))
        }
    }
}

/// The name in a body has to be the URL's.
fn check_name(name: &str, object: &Value) -> Result<(), ApiError> {
    match text(object, &["metadata", "name"]) {
        given if given == name => Ok(()),
        "" => {
            let message =
                format!("the name of the object ({name} based on URL) was undeterminable: name must be provided");
            Err(ApiError::bad_request(message))
        }
        given => Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        ))),
    }
}

/// Marked for deletion, and nobody has anything left to do for it.
fn is_gone(object: &Value) -> bool {
    let metadata = &object["metadata"];
    let finalizers = |value: &Value| value.as_array().is_some_and(|list| !list.is_empty());
    let graceful = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0;
    let holds = finalizers(&metadata["finalizers"])
        || (object["kind"] == "Namespace" && finalizers(&object["spec"]["finalizers"]));
    metadata["deletionTimestamp"].is_string() && !holds && !graceful
}

/// Carries out one write, whoever writes beside. `propose` says what shall become of the object of that name (none: of a
/// new one), and is asked again when it has changed meanwhile.
///
/// # Errors
/// What `propose`, validation and admission refuse; `Conflict` where the caller's version is not the current one.
async fn transact<F>(write: &Write<'_>, name: Option<&str>, propose: F) -> Result<Written, ApiError>
where
    F: Fn(Option<&Value>) -> Result<Proposal, ApiError> + Send + Sync,
{
    let Write { server, call, options, .. } = *write;
    let ty = &call.resource.ty;
    let mut own = String::new();
    for _ in 0..ATTEMPTS {
        let current = match name {
            Some(name) => server.store.get(&call.key(name)?).await?,
            None => None,
        };
        let old = current.as_ref().map(stored_form::decode).transpose()?;
        let Proposal { operation, mut object, mut warnings, managed, once } = propose(old.as_ref())?;
        let generated = operation == Operation::Create && text(&object, &["metadata", "name"]).is_empty();
        if generated {
            create::name(&mut object);
        }
        if operation != Operation::Delete {
            place(call, &mut object)?;
            if let (Some(name), Some(old)) = (name, &old) {
                write.check_identity(name, &object, old)?;
            }
            call.resource.set_defaults(&mut object);
            write.prepare(&mut object, old.as_ref());
        }
        if operation == Operation::Create
            && let Some(why) = call.served.closed
        {
            return Err(ApiError::new(Reason::MethodNotAllowed, why));
        }
        own = text(&object, &["metadata", "name"]).to_owned();
        if operation != Operation::Delete {
            write.validate(&object, old.as_ref())?;
        }
        if operation == Operation::Create && name.is_some() {
            // An apply that creates is a creation, too.
            create::authorize(server, call, &own).await?;
        }
        let key = call.key(&own)?;
        let request = admission::Request::new(server, call, operation, old.as_ref(), options.dry_run);
        let mut added = admission::Additions::default();
        let told = |mut error: ApiError, added: &mut admission::Additions| {
            error.warnings.splice(0..0, warnings.iter().cloned().chain(added.warnings.drain(..)));
            error
        };
        let changed = admission::mutate(&request, &mut object, &mut added).await;
        let changed = changed.map_err(|error| told(error, &mut added))?;
        if operation != Operation::Delete && changed {
            // A status that is made of the object is made of what it is now, and what the server keeps is kept from admission, too.
            write.prepare_again(&mut object, old.as_ref());
            write.validate(&object, old.as_ref())?;
        }
        let valid = admission::validate(&request, &object, &mut added).await;
        valid.map_err(|error| told(error, &mut added))?;
        if let (Operation::Create, Some(found_by)) = (operation, &call.found_by) {
            found_again::check(call, found_by, &object)?;
        }
        // Whoever waits for a turn waits until this is written.
        let admission::Additions { mut guards, mut ops, warnings: more, turn: _turn, .. } = added;
        warnings.extend(more);
        if operation != Operation::Delete && !managed {
            managed::track_update(ty, old.as_ref(), &mut object, write.writer(&now()));
        }
        let value = stored_form::encode(&object)?;
        let gone = operation != Operation::Create && is_gone(&object);
        let (created, modified) =
            current.as_ref().map_or_else(Default::default, |entry| (entry.create_revision, entry.mod_revision));
        let written = |created: Revision, modified: Revision, mut object: Value| {
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.insert("resourceVersion".into(), modified.to_string().into());
            }
            let entry = stored_form::outside(key.clone(), &value, created, modified);
            Written { operation, entry, object, warnings, gone }
        };
        if !gone && ops.is_empty() && current.as_ref().is_some_and(|entry| stored_form::is_of(entry, &value)) {
            return Ok(written(created, modified, object));
        }
        let now = (!gone).then_some(&object);
        let uniques = Uniques::of_change(&call.resource, &call.tenant()?, &own, old.as_ref(), now);
        let refused = |cause| ApiError::invalid(&ty.group, &ty.kind, &own, vec![cause]);
        if let Some(fence) = &call.fence {
            guards.push(fence::guard(server.store.stored(), fence)?);
        }
        if options.dry_run {
            for key in uniques.guarded() {
                if let (Some(_), Some(cause)) = (server.store.get(key).await?, uniques.refusal(key)) {
                    return Err(refused(cause));
                }
            }
            let taken = operation == Operation::Create && server.store.get(&key).await?.is_some();
            if taken {
                return Err(ApiError::already_exists(&ty.group, &call.resource.plural, &own));
            }
            return Ok(written(created, modified, object));
        }
        guards.push(match current {
            None => Guard::Absent(key.clone()),
            Some(_) => Guard::Unchanged(key.clone(), modified),
        });
        ops.push(if gone { Op::Delete(key.clone()) } else { Op::Put(key.clone(), value.clone()) });
        guards.extend_from_slice(&uniques.guards);
        ops.extend_from_slice(&uniques.ops);
        if let Some(account) = &call.account {
            account.pace.charge(COMMIT + COMMIT_KIB * u32::try_from(value.len() >> 10).unwrap_or(u32::MAX));
        }
        match server.store.commit(Txn { guards, ops }).await {
            Ok(revision) if operation == Operation::Create => return Ok(written(revision, revision, object)),
            Ok(revision) => return Ok(written(created, revision, object)),
            Err(TxnError::Conflict { key: changed, .. }) if changed == key => match operation {
                Operation::Create if name.is_none() && !generated => {
                    return Err(ApiError::already_exists(&ty.group, &call.resource.plural, &own));
                }
                // Its object was made for a version that is none any more.
                Operation::Update if once => return Err(write.conflict(&own, CHANGED)),
                // Somebody else was faster; it starts again from what is there now.
                _ => {}
            },
            Err(TxnError::Conflict { key: changed, .. }) if let Some(cause) = uniques.refusal(&changed) => {
                return Err(refused(cause));
            }
            // What admission looked at has changed, and is looked at again.
            Err(TxnError::Conflict { .. }) => {}
            Err(error) => return Err(write.commit_error(&own, error)),
        }
    }
    Err(write.conflict(&own, CHANGED))
}
