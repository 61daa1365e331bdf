//! The part of a list that a client wants.

use crate::Parameters;

/// Why there is no such page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// The parameter's name.
    #[error("{0} is not a number of 0 or more")]
    NotANumber(&'static str),
    /// The id that was given.
    #[error("there is nothing of the id {0:?} in the list")]
    NoSuchMarker(String),
}

/// What the parameters `limit` and `marker` say: so many items, from the one on that follows the one with that id.
#[derive(Debug)]
pub struct Page<'a> {
    /// None: the client does not care.
    pub limit: Option<usize>,
    marker: Option<&'a str>,
}

impl<'a> Page<'a> {
    /// # Errors
    /// [`PageError::NotANumber`]
    pub fn wanted(parameters: &'a Parameters) -> Result<Self, PageError> {
        Ok(Self { limit: number(parameters, "limit")?, marker: parameters.get("marker") })
    }

    /// Where in the list the page begins. `is` tells whether an item has an id.
    ///
    /// # Errors
    /// [`PageError::NoSuchMarker`]
    pub fn start<T>(&self, list: &[T], is: impl Fn(&T, &str) -> bool) -> Result<usize, PageError> {
        let Some(marker) = self.marker else { return Ok(0) };
        let position = list.iter().position(|item| is(item, marker));
        Ok(position.ok_or_else(|| PageError::NoSuchMarker(marker.to_owned()))? + 1)
    }
}

/// A parameter that counts something. None: it is not there.
///
/// # Errors
/// [`PageError::NotANumber`]
pub fn number(parameters: &Parameters, name: &'static str) -> Result<Option<usize>, PageError> {
    parameters.get(name).map(|text| text.parse().map_err(|_| PageError::NotANumber(name))).transpose()
}
