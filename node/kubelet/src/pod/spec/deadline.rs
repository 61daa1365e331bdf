//! How long a pod may be active on its node.

use jiff::{SignedDuration, Timestamp};
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::{node::cri::Container, pod::spec::restart::restarts};

/// Upstream's words for a pod that was active for longer.
pub const REASON: &str = "DeadlineExceeded";
pub const MESSAGE: &str = "Pod was active on the node longer than the specified deadline";

/// When a pod has been active for as long as it may be, counted from when its node has said that it has it.
pub fn of(pod: &Pod) -> Option<Timestamp> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    let start = pod.status.as_ref()?.start_time.as_ref()?.0;
    start.checked_add(SignedDuration::from_secs(seconds)).ok()
}

/// Whether all that the pod is for had ended by itself, and for good, before then.
pub fn is_met(deadline: Timestamp, spec: &PodSpec, containers: &[Container]) -> bool {
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let nanos = i64::try_from(deadline.as_nanosecond()).unwrap_or(i64::MAX);
    !spec.containers.is_empty()
        && spec.containers.iter().all(|wanted| {
            let latest = containers.iter().find(|container| container.name == wanted.name);
            latest.is_some_and(|latest| {
                latest.status.state() == cri::ContainerState::ContainerExited
                    && latest.status.finished_at < nanos
                    && !restarts(policy, latest.status.exit_code)
            })
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(seconds: Value, start: Value) -> Pod {
        let spec =
            json!({"containers": [{"name": "a"}], "restartPolicy": "OnFailure", "activeDeadlineSeconds": seconds});
        serde_json::from_value(json!({"spec": spec, "status": {"startTime": start}})).unwrap()
    }

    #[test]
    fn time_runs_from_the_start_on() {
        let start = json!("2026-01-01T00:00:00Z");
        assert_eq!(of(&pod(json!(90), start.clone())).unwrap().to_string(), "2026-01-01T00:01:30Z");
        for (seconds, start) in [(json!(null), start.clone()), (json!(90), json!(null)), (json!(i64::MAX), start)] {
            assert_eq!(of(&pod(seconds, start)), None);
        }
    }

    #[test]
    fn what_has_ended_in_time_has_not_been_too_slow() {
        let pod = pod(json!(90), json!("2026-01-01T00:00:00Z"));
        let (deadline, spec) = (of(&pod).unwrap(), pod.spec.unwrap());
        let ended = |state: cri::ContainerState, seconds: i64, exit_code: i32| {
            let finished_at = (deadline.as_second() + seconds) * 1_000_000_000;
            let status = cri::ContainerStatus { state: state.into(), finished_at, exit_code, ..Default::default() };
            is_met(deadline, &spec, &[Container { id: "1".into(), name: "a".into(), attempt: 0, status }])
        };
        assert!(ended(cri::ContainerState::ContainerExited, -1, 0));
        assert!(!ended(cri::ContainerState::ContainerExited, -1, 1), "it would be started again");
        assert!(!ended(cri::ContainerState::ContainerExited, 1, 0), "it was stopped");
        assert!(!ended(cri::ContainerState::ContainerRunning, -1, 0));
        assert!(!is_met(deadline, &spec, &[]));
    }
}
