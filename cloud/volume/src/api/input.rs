//! What a client may say of a volume.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{Error, view::GIB};

/// Cinder's limit of names, descriptions, and keys and values of metadata.
const MAX_TEXT_CHARS: usize = 255;
const MAX_METADATA: usize = 128;

#[derive(Deserialize)]
pub(super) struct Envelope {
    pub volume: Input,
}

#[derive(Deserialize)]
pub(super) struct Input {
    pub name: Option<String>,
    pub description: Option<String>,
    /// In GiB.
    size: Option<Value>,
    pub volume_type: Option<String>,
    pub metadata: Option<BTreeMap<String, String>>,
    multiattach: Option<bool>,
    snapshot_id: Option<String>,
    source_volid: Option<String>,
    #[serde(rename = "imageRef")]
    image: Option<String>,
    backup_id: Option<String>,
}

impl Input {
    /// What is there has its form, and nothing is asked for that there is not.
    ///
    /// # Errors
    /// [`Error::BadRequest`]
    pub fn check(&self) -> Result<(), Error> {
        for (field, text) in [("name", &self.name), ("description", &self.description)] {
            if text.as_ref().is_some_and(|text| text.chars().count() > MAX_TEXT_CHARS) {
                let message = format!("Invalid input for field {field}: longer than {MAX_TEXT_CHARS} characters.");
                return Err(Error::BadRequest(message));
            }
        }
        for (what, source) in [
            ("A volume from a snapshot", &self.snapshot_id),
            ("A volume from another", &self.source_volid),
            ("A volume from an image", &self.image),
            ("A volume from a backup", &self.backup_id),
        ] {
            if source.is_some() {
                return Err(Error::not_supported(what));
            }
        }
        if self.multiattach == Some(true) {
            return Err(Error::not_supported("A volume for several servers"));
        }
        self.metadata.as_ref().map_or(Ok(()), check_metadata)
    }

    /// # Errors
    /// [`Error::BadRequest`] for what is no whole number of GiB, or more than `max` bytes.
    pub fn size_bytes(&self, max: u64) -> Result<u64, Error> {
        // A number, or its text: Cinder takes both.
        let gibibytes = match &self.size {
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) => text.parse().ok(),
            _ => None,
        };
        let bytes = gibibytes.filter(|size| *size > 0).and_then(|size| size.checked_mul(GIB));
        let bytes = bytes
            .ok_or_else(|| Error::BadRequest("Invalid input for field size: want a whole number of GiB.".into()))?;
        if bytes > max {
            let message = format!("Invalid input for field size: more than {} GiB.", max / GIB);
            return Err(Error::BadRequest(message));
        }
        Ok(bytes)
    }
}

pub(super) fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), Error> {
    let fits = |text: &str| text.chars().count() <= MAX_TEXT_CHARS;
    if metadata.len() > MAX_METADATA {
        return Err(Error::BadRequest(format!("Invalid volume metadata: more than {MAX_METADATA} entries.")));
    }
    if metadata.iter().any(|(key, value)| key.is_empty() || !fits(key) || !fits(value)) {
        return Err(Error::BadRequest("Invalid volume metadata: a key or value is empty or too long.".into()));
    }
    Ok(())
}
