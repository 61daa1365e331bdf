//! Where the next page of a list begins, and how much there is after this one.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hypernetes_api::ApiError;
use hypernetes_store::{Key, Prefix, Revision};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What a list that is not the last page says of the next.
#[derive(Debug)]
pub struct Next {
    pub token: String,
    /// So many objects come after this page. None where it is selected: what comes is not known before it is looked at.
    pub remaining: Option<u64>,
}

/// What is in a token. Whoever has one may have made it: it is believed in nothing but what its bearer is answered.
#[derive(Serialize, Deserialize)]
pub struct Place {
    after: String,
    revision: u64,
    /// So that only the first page counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remaining: Option<u64>,
}

impl Place {
    pub fn new(after: &Key, revision: Revision, remaining: Option<u64>) -> Self {
        Self { after: after.as_str().into(), revision: revision.0, remaining }
    }

    /// # Errors
    /// When it is no token.
    pub fn parse(token: &str) -> Result<Self, ApiError> {
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid())?;
        serde_json::from_slice(&bytes).map_err(|_| invalid())
    }

    /// The last key of the page before.
    ///
    /// # Errors
    /// When it is of another list.
    pub fn after(&self, prefix: &Prefix) -> Result<Key, ApiError> {
        Key::parse(&self.after).filter(|key| prefix.contains(key)).ok_or_else(invalid)
    }

    pub fn revision(&self) -> Revision {
        Revision(self.revision)
    }

    /// What is left after a page of so many, if it was counted.
    pub fn remaining_after(&self, page: usize) -> Option<u64> {
        Some(self.remaining?.saturating_sub(page as u64))
    }

    pub fn token(&self) -> Result<String, ApiError> {
        let token = serde_json::to_vec(self).map_err(|error| ApiError::internal(error.to_string()))?;
        Ok(URL_SAFE_NO_PAD.encode(token))
    }
}

fn invalid() -> ApiError {
    ApiError::bad_request("continue key is not valid")
}

/// The metadata of a list.
pub fn metadata(revision: Revision, next: Option<&Next>) -> Value {
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if let Some(next) = next {
        metadata["continue"] = next.token.as_str().into();
        if let Some(remaining) = next.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    metadata
}
