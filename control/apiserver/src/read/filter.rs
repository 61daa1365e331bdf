//! What of a resource a watch is about, and what changes mean to it.

use std::sync::Arc;

use hypernetes_api::ApiError;
use hypernetes_kinds::Resource;
use hypernetes_store::{Change, Entry};

use crate::{read::selection, request::selectors::Selector, stored_form::Event, with_defaults};

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
        let Some(entry) = entry else { return Ok(None) };
        Ok(selection::matches(&self.selector, entry, &self.resource)?.then_some(entry))
    }

    /// What a change means: an object may come into what is selected, change, or leave it.
    ///
    /// # Errors
    /// When what it is about is damaged.
    pub fn means(&self, change: &Change) -> Result<Option<(Event, Entry)>, ApiError> {
        let shown = with_defaults::before(change);
        let now = self.selected(change.now.as_ref())?.cloned();
        let before = self.selected(shown.as_ref())?.cloned();
        Ok(match (before, now) {
            (None, None) => None,
            (None, Some(now)) => Some((Event::Added, now)),
            (Some(_), Some(now)) => Some((Event::Modified, now)),
            // The object as it was, at the revision at which it went.
            (Some(before), None) => Some((Event::Deleted, before)),
        })
    }
}
