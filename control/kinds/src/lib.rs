//! What upstream's API server says of an object's content: the rules of each kind, for new objects and for changes.
//!
//! The API server calls [`create`], [`update`] and [`status_update`], controllers [`errors_of_stored`]; each of the first three gives the `Invalid` status with every field
//! that is wrong, in upstream's words. The kinds have one file each, by group; [`table`](mod@table) lists them. Rules read
//! objects through [`field::Field`], which nothing makes panic: what has passed a schema is not taken for granted.
//!
//! A change does not have to mend what was wrong before it: of an update, errors that the old object has, too, with the
//! same value at the same place, are dropped. So objects that a newer version refuses can still be changed and deleted.
#![forbid(unsafe_code)]

mod apps;
mod autoscaling;
mod batch;
mod core;
mod discovery;
pub mod field;
pub mod format;
pub mod meta;
mod networking;
mod policy;
mod rbac;
pub mod selector;
mod table;

use std::collections::HashSet;

use field::{Errors, Field, FieldError};
use hypernetes_api::ApiError;
use hypernetes_schema::ObjectType;
use serde_json::Value;

/// The rules for a new object, after defaulting.
///
/// # Errors
/// `Invalid`, with a cause for each field that is wrong.
pub fn create(ty: &ObjectType, object: &Value) -> Result<(), ApiError> {
    answer(ty, object, errors_of_create(ty, object))
}

/// The rules for a change of an object: those for a new one but for what was wrong before, and what is for life.
///
/// # Errors
/// `Invalid`, with a cause for each field that is wrong.
pub fn update(ty: &ObjectType, object: &Value, old: &Value) -> Result<(), ApiError> {
    answer(ty, object, errors_of_update(ty, object, old))
}

/// The rules for a change through the `status` subresource.
///
/// # Errors
/// `Invalid`, with a cause for each field that is wrong.
pub fn status_update(ty: &ObjectType, object: &Value, old: &Value) -> Result<(), ApiError> {
    answer(ty, object, errors_of_status_update(ty, object, old))
}

/// What is wrong with an object that is there, whenever that was made: what every object of its kind has to keep.
pub fn errors_of_stored(ty: &ObjectType, object: &Value) -> Errors {
    let (mut errors, root) = (Errors::default(), Field::root(object));
    meta::metadata(ty, &root, &mut errors);
    if let Some(rules) = table::rules(&ty.group, &ty.kind) {
        (rules.check)(&root, &mut errors);
    }
    errors
}

/// What is wrong with a new object.
pub fn errors_of_create(ty: &ObjectType, object: &Value) -> Errors {
    let mut errors = errors_of_stored(ty, object);
    if let Some(create) = table::rules(&ty.group, &ty.kind).and_then(|rules| rules.create) {
        create(&Field::root(object), &mut errors);
    }
    errors
}

/// What is wrong with a change.
pub fn errors_of_update(ty: &ObjectType, object: &Value, old: &Value) -> Errors {
    let (new, before) = (Field::root(object), Field::root(old));
    let mut errors = Errors::default();
    meta::metadata_update(&new, &before, &mut errors);
    if let Some(update) = table::rules(&ty.group, &ty.kind).and_then(|rules| rules.update) {
        update(&new, &before, &mut errors);
    }
    table::immutable(&ty.group, &ty.kind, &new, &before, &mut errors);
    let found = errors_of_stored(ty, object);
    // Of more errors than are kept one cannot say which are new.
    let excused: HashSet<FieldError> = match found.is_empty() || found.overflown() {
        true => HashSet::new(),
        false => errors_of_stored(ty, old).into_vec().into_iter().collect(),
    };
    found.into_vec().into_iter().filter(|error| !excused.contains(error)).for_each(|error| errors.push(error));
    errors
}

/// What is wrong with a change of the status.
pub fn errors_of_status_update(ty: &ObjectType, object: &Value, old: &Value) -> Errors {
    let (new, before) = (Field::root(object), Field::root(old));
    let mut errors = Errors::default();
    meta::metadata_update(&new, &before, &mut errors);
    if let Some(status) = table::rules(&ty.group, &ty.kind).and_then(|rules| rules.status) {
        status(&new, &before, &mut errors);
    }
    errors
}

fn answer(ty: &ObjectType, object: &Value, errors: Errors) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    let causes = errors.into_vec().iter().map(FieldError::cause).collect();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    Err(ApiError::invalid(&ty.group, &ty.kind, name, causes))
}

#[cfg(test)]
mod tests;
