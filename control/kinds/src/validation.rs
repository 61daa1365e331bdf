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
    fault::{WHOLE, of_schema},
    field::{ErrorKind, Errors, Field, FieldError},
    meta,
    resource::{Change, Resource},
    subresource::Behaviour,
};

impl Resource {
    /// The rules for a new object, after defaulting.
    ///
    /// # Errors
    /// `Invalid`, with a cause for each field that is wrong.
    pub fn validate_create(&self, object: &Value) -> Result<(), ApiError> {
        self.answer(object, self.errors_of_create(object))
    }

    /// The rules for a change that comes through a subresource or, with none, through the object's own endpoint.
    ///
    /// # Errors
    /// `Invalid`, with a cause for each field that is wrong.
    pub fn validate_change(&self, through: Option<&Behaviour>, object: &Value, old: &Value) -> Result<(), ApiError> {
        match through {
            None | Some(Behaviour::Scale(_) | Behaviour::Finalize) => self.validate_update(object, old),
            Some(Behaviour::Approval) => self.validate_approval_update(object, old),
            // What is bound is set what no update may. The others change no object.
            Some(Behaviour::Status | Behaviour::Bind) => self.validate_status_update(object, old),
            Some(Behaviour::Evict | Behaviour::IssueToken | Behaviour::Connect(_)) => Ok(()),
        }
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

    /// The rules for a change through the `approval` endpoint.
    ///
    /// # Errors
    /// `Invalid`, with a cause for each field that is wrong.
    fn validate_approval_update(&self, object: &Value, old: &Value) -> Result<(), ApiError> {
        self.answer(object, self.errors_of_part(self.rules.approval, object, old))
    }

    /// What is wrong with an object that is there, whenever that was made: what every object of its kind has to keep.
    pub fn errors_of_stored(&self, object: &Value) -> Errors {
        let (mut errors, root) = (Errors::default(), Field::root(object));
        meta::metadata(self, &root, &mut errors);
        self.rules.check.inspect(|check| check(&root, &mut errors));
        errors
    }

    /// What is wrong with an object as it is written, be it new or changed, besides its metadata.
    fn errors_of_content(&self, object: &Value) -> Errors {
        let (mut errors, root) = (Errors::default(), Field::root(object));
        for check in [self.rules.check, self.rules.written].into_iter().flatten() {
            check(&root, &mut errors);
        }
        if let Some(structural) = self.ty.structural() {
            structural.faults(object).into_iter().for_each(|fault| errors.push(of_schema(fault)));
        }
        errors
    }

    /// What is wrong with a new object.
    pub fn errors_of_create(&self, object: &Value) -> Errors {
        let (mut errors, root) = (Errors::default(), Field::root(object));
        let mut content = self.errors_of_content(object);
        self.hold_to_rules(object, None, &mut content);
        self.rules.create.inspect(|create| create(&root, &mut content));
        if !self.rules.metadata_last || content.is_empty() {
            meta::generated_name(self, &root, &mut errors);
            meta::metadata(self, &root, &mut errors);
            self.rules.named.inspect(|named| named(&root, &mut errors));
        }
        errors.append(content);
        errors
    }

    /// What is wrong with a change.
    pub fn errors_of_update(&self, object: &Value, old: &Value) -> Errors {
        let (new, before) = (Field::root(object), Field::root(old));
        let of_metadata = |object: &Field<'_>| {
            let mut errors = Errors::default();
            meta::metadata(self, object, &mut errors);
            errors
        };
        let (metadata, content) = (of_metadata(&new), self.errors_of_content(object));
        // Of more errors than are kept one cannot say which are new.
        let mut excused: HashSet<FieldError> = HashSet::new();
        let any = !metadata.is_empty() || !content.is_empty();
        let all = !metadata.overflown() && !content.overflown();
        if any && all {
            excused.extend(of_metadata(&before).into_vec());
            excused.extend(self.errors_of_content(old).into_vec());
        }
        let mut change = Errors::default();
        self.rules.update.inspect(|update| update(&new, &before, &mut change));
        self.hold_to_rules(object, Some(old), &mut change);
        for path in self.rules.immutable {
            new.walk(path).kept(&mut change, &before.walk(path));
        }
        let mut errors = metadata.without(&excused);
        meta::metadata_update(&new, &before, &mut errors);
        let content = content.without(&excused);
        let (first, second) = if self.rules.change_first { (change, content) } else { (content, change) };
        errors.append(first);
        errors.append(second);
        errors
    }

    /// What is wrong with a change of the status.
    pub fn errors_of_status_update(&self, object: &Value, old: &Value) -> Errors {
        let mut errors = self.errors_of_part(self.rules.status, object, old);
        // Of a kind that a tenant has defined all is looked at: what its status may be is said where the rest is.
        if self.ty.is_defined() {
            errors.append(self.new_errors_of_content(object, old));
            self.hold_to_rules(object, Some(old), &mut errors);
        }
        errors
    }

    /// What is wrong with an object as it is written that was not wrong before.
    fn new_errors_of_content(&self, object: &Value, old: &Value) -> Errors {
        let content = self.errors_of_content(object);
        if content.is_empty() || content.overflown() {
            return content;
        }
        content.without(&self.errors_of_content(old).into_vec().into_iter().collect())
    }

    /// The rules in CEL of a kind that a tenant has defined. Where something is missing or of another type, they are not asked.
    fn hold_to_rules(&self, object: &Value, old: Option<&Value>, errors: &mut Errors) {
        let Some(rules) = self.expressions() else { return };
        if errors.block_rules() {
            let detail = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            let (path, value, detail) = (WHOLE.to_owned(), "null".to_owned(), detail.to_owned());
            return errors.push(FieldError { kind: ErrorKind::Invalid, path, value, detail, of_change: false });
        }
        rules.evaluate(object, old, errors);
    }

    fn errors_of_part(&self, rule: Option<Change>, object: &Value, old: &Value) -> Errors {
        let (new, before) = (Field::root(object), Field::root(old));
        let mut errors = Errors::default();
        meta::metadata_update(&new, &before, &mut errors);
        if let Some(rule) = rule {
            rule(&new, &before, &mut errors);
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
