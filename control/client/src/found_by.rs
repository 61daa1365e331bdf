//! Whose what is made is, and what it is selected by: what goes with the request of a controller that makes something and has to
//! find it again.
//!
//! A request says it by its extension, which is no part of what is sent: only who is in the server's process can say it, and only
//! against itself. The API server makes nothing that would not be found so, whatever became of it on its way; so there is no
//! moment at which it is there and does not count.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// A request's extension.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundBy {
    /// The owner's uid.
    pub owner: String,
    pub selector: LabelSelector,
}

/// Why it would not be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    #[error("it would not be selected by whom it is made for")]
    Unselected,
    #[error("it would not be owned by whom it is made for")]
    Foreign,
}

impl FoundBy {
    /// Whether the owner finds what has these labels. `controller` is the uid of whoever manages it: what nobody manages is taken in.
    ///
    /// # Errors
    /// Why not.
    pub fn finds(&self, labels: Option<&BTreeMap<String, String>>, controller: Option<&str>) -> Result<(), Lost> {
        if controller.is_some_and(|uid| uid != self.owner) {
            return Err(Lost::Foreign);
        }
        if matches(&self.selector, labels) { Ok(()) } else { Err(Lost::Unselected) }
    }
}

/// Whether labels are selected. An empty selector selects everything, an unknown operator nothing.
pub fn matches(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let label = |key: &str| labels.and_then(|labels| labels.get(key));
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| label(key) == Some(value));
    let expressions = selector.match_expressions.iter().flatten();
    equal
        && expressions.into_iter().all(|term| {
            let (have, values) = (label(&term.key), term.values.as_deref().unwrap_or_default());
            match term.operator.as_str() {
                "In" => have.is_some_and(|have| values.contains(have)),
                "NotIn" => have.is_none_or(|have| !values.contains(have)),
                "Exists" => have.is_some(),
                "DoesNotExist" => have.is_none(),
                _ => false,
            }
        })
}
