//! What of a resource a watch is about, and what changes mean to it.

use std::sync::Arc;

use hypernetes_api::ApiError;
use hypernetes_kinds::Resource;
use hypernetes_store::{Change, Entry};

use crate::{read::selection, request::selectors::Selector, stored_form::Event};

pub struct Filter {
    pub resource: Arc<Resource>,
    pub selector: Selector,
}

impl Filter {
    /// The entry, if it is selected.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn selected<'e>(&self, entry: Option<&'e Entry>) -> Result<Option<&'e Entry>, ApiError> {
        let Some(entry) = entry.filter(|_| !self.selector.is_empty()) else { return Ok(entry) };
        Ok(self.selector.matches(&selection::of(entry, &self.resource)?).then_some(entry))
    }

    /// What a change means: an object may come into what is selected, change, or leave it.
    ///
    /// # Errors
    /// When what it is about is damaged.
    pub fn means<'c>(&self, change: &'c Change) -> Result<Option<(Event, &'c Entry)>, ApiError> {
        let now = self.selected(change.now.as_ref())?;
        let before = self.selected(change.before.as_ref())?;
        Ok(match (before, now) {
            (None, None) => None,
            (None, Some(now)) => Some((Event::Added, now)),
            (Some(_), Some(now)) => Some((Event::Modified, now)),
            // The object as it was, at the revision at which it went.
            (Some(before), None) => Some((Event::Deleted, before)),
        })
    }
}
