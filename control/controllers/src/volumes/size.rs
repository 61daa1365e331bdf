//! How large a claim wants its volume.

use hypernetes_schema::quantity::{ParseQuantityError, Quantity};
use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim},
    apimachinery::pkg::api::resource,
};

const GIB: u64 = 1 << 30;
/// What ext4 can hold in one file, and the volume service's own limit.
const MOST: u64 = 16 << 40;

/// No volume can be of the size that is asked for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    #[error("the claim asks for no size (spec.resources.requests.storage)")]
    Missing,
    #[error("{0:?} is no size: {1}")]
    Unreadable(String, ParseQuantityError),
    #[error("{0:?} is no size: it must be more than 0")]
    Nothing(String),
    #[error("{0:?} is more than the 16Ti that a volume can have")]
    TooLarge(String),
}

fn storage(quantities: Option<&std::collections::BTreeMap<String, resource::Quantity>>) -> Option<&str> {
    quantities.and_then(|quantities| quantities.get("storage")).map(|quantity| quantity.0.as_str())
}

fn requested_text(claim: &PersistentVolumeClaim) -> Option<&str> {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    storage(resources.and_then(|resources| resources.requests.as_ref()))
}

/// What a claim asks for, to be compared. Nothing readable asks for more than there is.
pub fn requested(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    requested_text(claim).map_or_else(|| Quantity::parse("0"), Quantity::parse).ok()
}

pub fn capacity(volume: &PersistentVolume) -> Option<Quantity> {
    let spec = volume.spec.as_ref()?;
    Quantity::parse(storage(spec.capacity.as_ref())?).ok()
}

/// In bytes, rounded up to whole GiB, as Cinder has them.
///
/// # Errors
/// When it is no size, or too large a one.
pub fn to_provision(claim: &PersistentVolumeClaim) -> Result<u64, SizeError> {
    let text = requested_text(claim).ok_or(SizeError::Missing)?;
    let shown = || text.chars().take(80).collect::<String>();
    let quantity = Quantity::parse(text).map_err(|error| SizeError::Unreadable(shown(), error))?;
    if quantity.is_negative() || quantity.is_zero() {
        return Err(SizeError::Nothing(shown()));
    }
    let bytes = u64::try_from(quantity.value()).unwrap_or(u64::MAX);
    if bytes > MOST {
        return Err(SizeError::TooLarge(shown()));
    }
    Ok(bytes.div_ceil(GIB) * GIB)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(size: &str) -> Result<u64, SizeError> {
        let claim = json!({"metadata": {}, "spec": {"resources": {"requests": {"storage": size}}}});
        to_provision(&serde_json::from_value(claim).unwrap())
    }

    #[test]
    fn sizes_are_whole_gibibytes() {
        for (text, gib) in [("1", 1), ("1Gi", 1), ("1025Mi", 2), ("2G", 2), ("1e3", 1), ("16Ti", 16384), ("100m", 1)] {
            assert_eq!(asked(text), Ok(gib * GIB), "{text}");
        }
    }

    #[test]
    fn nonsense_has_no_size() {
        for text in ["", "-1Gi", "0", "1GB", "ten", "17Ti", "8Ei", "1e60", "9223372036854775807", &"9".repeat(500)] {
            assert!(asked(text).is_err(), "{text}");
        }
        assert_eq!(to_provision(&PersistentVolumeClaim::default()), Err(SizeError::Missing));
    }
}
