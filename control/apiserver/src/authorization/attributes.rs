//! What is asked of authorization.

use crate::request::selectors::Selector;

/// A question: may this user do this here?
#[derive(Debug, Clone, Default)]
pub struct Attributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: Option<&'a str>,
    pub name: Option<&'a str>,
    /// For what is no resource: its path.
    pub path: Option<&'a str>,
    /// What a list or watch is narrowed to.
    pub selected: Option<&'a Selector>,
    /// In all logical clusters at once.
    pub everywhere: bool,
}

impl Attributes<'_> {
    /// The only value that a field of what is asked for may have.
    pub fn requires(&self, field: &str) -> Option<&str> {
        self.selected.and_then(|selected| selected.requires(field))
    }

    /// The plural, with the subresource behind a slash.
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}
