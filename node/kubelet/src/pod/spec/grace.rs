//! How long a pod is given to end.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

/// Longest time that a pod is given to end, whatever it asks for.
const MAX_GRACE: Duration = Duration::from_secs(24 * 60 * 60);
const DEFAULT_GRACE: i64 = 30;

/// A grace period, bounded. Seconds below zero are none, as upstream's API has it.
pub fn grace(seconds: Option<i64>) -> Duration {
    Duration::from_secs(u64::try_from(seconds.unwrap_or(DEFAULT_GRACE)).unwrap_or(0)).min(MAX_GRACE)
}

/// The deletion's, or else the pod's own.
pub fn grace_of(pod: &Pod) -> Duration {
    let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    grace(pod.metadata.deletion_grace_period_seconds.or(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grace_is_bounded() {
        assert_eq!(grace(None), Duration::from_secs(30));
        assert_eq!(grace(Some(-5)), Duration::ZERO);
        for seconds in [1_000_000_000_000_000_000, i64::MAX] {
            assert_eq!(grace(Some(seconds)), MAX_GRACE);
        }
    }
}
