//! What a controller makes is made only if it finds that again ([`FoundBy`]), whatever admission has made of it.

use std::collections::BTreeMap;

use hypernetes_api::ApiError;
use hypernetes_client::found_by::FoundBy;
use serde_json::Value;

use super::text;
use crate::Call;

/// # Errors
/// `Forbidden` for what would be made again and again.
pub(super) fn check(call: &Call, found_by: &FoundBy, object: &Value) -> Result<(), ApiError> {
    let metadata = &object["metadata"];
    let labels = metadata["labels"].as_object().into_iter().flatten();
    let labels: BTreeMap<String, String> =
        labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
    let mut owners = metadata["ownerReferences"].as_array().into_iter().flatten();
    let controller = owners.find(|owner| owner["controller"] == true).and_then(|owner| owner["uid"].as_str());
    let found = found_by.finds(Some(&labels), controller);
    found.map_err(|lost| call.forbidden(text(object, &["metadata", "name"]), &lost.to_string()))
}
