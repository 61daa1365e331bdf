//! What is wrong with an object, for new ones and for changes: `metadata`'s rules and those of its record.
//!
//! The API server calls the `validate` functions, controllers [`Resource::errors_of_stored`]; each of the first gives the
//! `Invalid` status with every field that is wrong, in upstream's words. Rules read objects through [`Field`], which nothing
//! makes panic: what has passed a schema is not taken for granted.
//!
//! A change does not have to mend what was wrong before it: of an update, errors that the old object has, too, with the
//! same value at the same place, are dropped. So objects that a newer version refuses can still be changed and deleted.

use std::collections::HashSet;

use hypernetes_api::ApiError;
use serde_json::Value;

use crate::{
    field::{Errors, Field, FieldError},
    meta,
    resource::Resource,
};

impl Resource {
    /// The rules for a new object, after defaulting.
    ///
    /// # Errors
    /// `Invalid`, with a cause for each field that is wrong.
    pub fn validate_create(&self, object: &Value) -> Result<(), ApiError> {
        self.answer(object, self.errors_of_create(object))
    }

    /// The rules for a change of an object: those for a new one but for what was wrong before, and what is for life.
    ///
    /// # Errors
    /// `Invalid`, with a cause for each field that is wrong.
    pub fn validate_update(&self, object: &Value, old: &Value) -> Result<(), ApiError> {
        self.answer(object, self.errors_of_update(object, old))
    }

    /// The rules for a change through the `status` endpoint.
    ///
    /// # Errors
    /// `Invalid`, with a cause for each field that is wrong.
    pub fn validate_status_update(&self, object: &Value, old: &Value) -> Result<(), ApiError> {
        self.answer(object, self.errors_of_status_update(object, old))
    }

    /// What is wrong with an object that is there, whenever that was made: what every object of its kind has to keep.
    pub fn errors_of_stored(&self, object: &Value) -> Errors {
        let (mut errors, root) = (Errors::default(), Field::root(object));
        meta::metadata(self.names, self.ty.namespaced, &root, &mut errors);
        if let Some(check) = self.rules.check {
            check(&root, &mut errors);
        }
        errors
    }

    /// What is wrong with a new object.
    pub fn errors_of_create(&self, object: &Value) -> Errors {
        let mut errors = self.errors_of_stored(object);
        if let Some(create) = self.rules.create {
            create(&Field::root(object), &mut errors);
        }
        errors
    }

    /// What is wrong with a change.
    pub fn errors_of_update(&self, object: &Value, old: &Value) -> Errors {
        let (new, before) = (Field::root(object), Field::root(old));
        let mut errors = Errors::default();
        meta::metadata_update(&new, &before, &mut errors);
        if let Some(update) = self.rules.update {
            update(&new, &before, &mut errors);
        }
        for path in self.rules.immutable {
            new.walk(path).kept(&mut errors, &before.walk(path));
        }
        let found = self.errors_of_stored(object);
        // Of more errors than are kept one cannot say which are new.
        let excused: HashSet<FieldError> = match found.is_empty() || found.overflown() {
            true => HashSet::new(),
            false => self.errors_of_stored(old).into_vec().into_iter().collect(),
        };
        found.into_vec().into_iter().filter(|error| !excused.contains(error)).for_each(|error| errors.push(error));
        errors
    }

    /// What is wrong with a change of the status.
    pub fn errors_of_status_update(&self, object: &Value, old: &Value) -> Errors {
        let (new, before) = (Field::root(object), Field::root(old));
        let mut errors = Errors::default();
        meta::metadata_update(&new, &before, &mut errors);
        if let Some(status) = self.rules.status {
            status(&new, &before, &mut errors);
        }
        errors
    }

    fn answer(&self, object: &Value, errors: Errors) -> Result<(), ApiError> {
        if errors.is_empty() {
            return Ok(());
        }
        let causes = errors.into_vec().iter().map(FieldError::cause).collect();
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        Err(ApiError::invalid(&self.ty.group, &self.ty.kind, name, causes))
    }
}
