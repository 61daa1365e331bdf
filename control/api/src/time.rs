//! Times as Kubernetes' objects have them (`metav1.Time`): whole seconds.

use jiff::{Timestamp, Unit};

pub fn now() -> Timestamp {
    whole_seconds(Timestamp::now())
}

/// The nearest whole second.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    time.round(Unit::Second).unwrap_or(time)
}
