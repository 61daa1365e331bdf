//! In what form an answer is wanted.

use hypernetes_api::ApiError;
use hypernetes_kinds::IncludeObject;

use crate::Call;

/// In what form an answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Object,
    Table(IncludeObject),
    /// `PartialObjectMetadata`.
    Metadata,
}

impl Form {
    /// The first form of an `Accept` header that is known here; JSON for everything else, as kubectl expects.
    pub fn of(call: &Call) -> Result<Self, ApiError> {
        for option in call.accept().split(',') {
            let mut parameters = option.split(';').map(str::trim);
            if !matches!(parameters.next(), Some("application/json" | "*/*" | "application/*")) {
                continue;
            }
            let parameter = |name: &str| option.split(';').map(str::trim).find_map(|p| p.strip_prefix(name));
            match parameter("as=") {
                Some("Table") => {
                    let text = call.query.get("includeObject");
                    let include = IncludeObject::parse(text)
                        .ok_or_else(|| ApiError::bad_request(format!("includeObject: {text:?} is not known")))?;
                    return Ok(Self::Table(include));
                }
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => return Ok(Self::Metadata),
                _ => return Ok(Self::Object),
            }
        }
        Ok(Self::Object)
    }
}
