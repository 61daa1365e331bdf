//! What fields of a body may say.

use serde::{Deserialize, Deserializer};

use crate::Error;

/// A name that a client chooses.
pub(super) fn check_name(name: &str, limit: usize) -> Result<&str, Error> {
    if name.trim().is_empty() {
        return Err(Error::BadRequest("Invalid input for field 'name': it is empty.".into()));
    }
    if name.chars().count() > limit {
        return Err(Error::BadRequest(format!("Invalid input for field 'name': longer than {limit} characters.")));
    }
    Ok(name)
}

/// `None`: the field is not there; `Some(None)`: it is null.
pub(super) fn nullable<'de, T: Deserialize<'de>, D: Deserializer<'de>>(d: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(d).map(Some)
}

/// # Errors
/// [`Error::BadRequest`] when a field that cannot be changed is given another value.
pub(super) fn check_unchanged(field: &str, given: Option<&str>, is: &str) -> Result<(), Error> {
    match given {
        Some(given) if given != is => Err(Error::BadRequest(format!("The field '{field}' cannot be changed."))),
        _ => Ok(()),
    }
}
