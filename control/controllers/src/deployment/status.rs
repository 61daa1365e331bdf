//! A deployment's status: counts and the conditions that `kubectl rollout status` reads.

use hypernetes_api::time::whole_seconds;
use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::rolling::{self, Bounds, Size};

pub const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const NEW_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
/// Upstream's "no deadline".
const NO_DEADLINE: i32 = i32::MAX;

pub fn find<'a>(conditions: &'a [DeploymentCondition], type_: &str) -> Option<&'a DeploymentCondition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Sets a condition unless it is so already; a transition is a change of its status.
pub fn set(conditions: &mut Vec<DeploymentCondition>, type_: &str, status: &str, reason: &str, message: String) {
    let old = find(conditions, type_);
    if old.is_some_and(|old| old.status == status && old.reason.as_deref() == Some(reason)) {
        return;
    }
    replace(conditions, type_, status, reason, message);
}

fn replace(conditions: &mut Vec<DeploymentCondition>, type_: &str, status: &str, reason: &str, message: String) {
    let now = Timestamp::now();
    let now = Some(Time(whole_seconds(now)));
    let transition = find(conditions, type_)
        .filter(|old| old.status == status)
        .map_or_else(|| now.clone(), |old| old.last_transition_time.clone());
    conditions.retain(|condition| condition.type_ != type_);
    conditions.push(DeploymentCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: now,
        last_transition_time: transition,
    });
}

/// Seconds that a rollout may go without progress.
pub fn deadline(deployment: &Deployment) -> Option<i32> {
    let deadline = deployment.spec.as_ref().and_then(|spec| spec.progress_deadline_seconds);
    deadline.filter(|seconds| *seconds != NO_DEADLINE)
}

fn sum(sets: &[&ReplicaSet], count: impl Fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32) -> i32 {
    rolling::total(sets.iter().filter_map(|set| set.status.as_ref()).map(count))
}

/// What the ReplicaSets' statuses say of the deployment.
pub fn calculate(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    old: &[ReplicaSet],
    mut conditions: Vec<DeploymentCondition>,
) -> DeploymentStatus {
    let bounds = Bounds::of(deployment);
    let sets: Vec<&ReplicaSet> = old.iter().chain(new).collect();
    let available = rolling::total(sets.iter().map(|set| Size::of(set).available));
    let replicas = sum(&sets, |status| status.replicas);
    let wanted = rolling::total(sets.iter().map(|set| Size::of(set).wanted));
    if available >= bounds.least() {
        let message = "Deployment has minimum availability.".to_owned();
        set(&mut conditions, AVAILABLE, "True", "MinimumReplicasAvailable", message);
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        set(&mut conditions, AVAILABLE, "False", "MinimumReplicasUnavailable", message);
    }
    let shown = |count: i32| (count != 0).then_some(count);
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: shown(replicas),
        updated_replicas: shown(new.and_then(|set| set.status.as_ref()).map_or(0, |status| status.replicas)),
        ready_replicas: shown(sum(&sets, |status| status.ready_replicas.unwrap_or(0))),
        available_replicas: shown(available),
        unavailable_replicas: shown(wanted.saturating_sub(available).max(0)),
        terminating_replicas: Some(sum(&sets, |status| status.terminating_replicas.unwrap_or(0))),
        collision_count: deployment.status.as_ref().and_then(|status| status.collision_count),
        conditions: Some(conditions),
    }
}

/// Every replica is of the newest template and available.
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = Bounds::of(deployment).replicas;
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn is_moving(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let number = |count: Option<i32>| count.unwrap_or(0);
    let outdated = |status: &DeploymentStatus| number(status.replicas).saturating_sub(number(status.updated_replicas));
    number(new.updated_replicas) > number(old.updated_replicas)
        || outdated(new) < outdated(old)
        || number(new.ready_replicas) > number(old.ready_replicas)
        || number(new.available_replicas) > number(old.available_replicas)
}

/// Sets how the rollout progresses; true when it has just been found to take too long.
pub fn judge_progress(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    old: &[ReplicaSet],
    status: &mut DeploymentStatus,
    now: Timestamp,
) -> bool {
    let before = deployment.status.clone().unwrap_or_default();
    let complete = is_complete(deployment, status);
    let moving = is_moving(&before, status);
    let all_new = status.replicas == status.updated_replicas;
    let conditions = status.conditions.get_or_insert_default();
    let name = new.and_then(|set| set.metadata.name.as_deref());
    let says = |what: &str| match name {
        Some(name) => format!("ReplicaSet {name:?} has {what}."),
        None => format!("Deployment {:?} has {what}.", deployment.metadata.name.as_deref().unwrap_or_default()),
    };
    let mut timed_out = false;
    match deadline(deployment) {
        None => conditions.retain(|condition| condition.type_ != PROGRESSING),
        Some(seconds) => {
            let current = find(conditions, PROGRESSING).cloned();
            let reason = current.as_ref().and_then(|current| current.reason.as_deref()).unwrap_or_default();
            // A rollout that has once come to its end stays so: pods that fail later are no rollout.
            if !(all_new && reason == NEW_AVAILABLE) {
                if complete {
                    set(conditions, PROGRESSING, "True", NEW_AVAILABLE, says("successfully progressed"));
                } else if moving {
                    let message = match name {
                        Some(name) => format!("ReplicaSet {name:?} is progressing."),
                        None => "Deployment is progressing.".to_owned(),
                    };
                    replace(conditions, PROGRESSING, "True", "ReplicaSetUpdated", message);
                } else if reason != TIMED_OUT
                    && reason != NEW_AVAILABLE
                    && let Some(since) = current.and_then(|current| current.last_update_time)
                    && since.0.duration_until(now).as_secs() >= i64::from(seconds)
                {
                    timed_out = true;
                    set(conditions, PROGRESSING, "False", TIMED_OUT, says("timed out progressing"));
                }
            }
        }
    }
    let failure = new.into_iter().chain(old).find_map(|set| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE).cloned()
    });
    match failure {
        Some(failure) => set(
            conditions,
            REPLICA_FAILURE,
            "True",
            failure.reason.as_deref().unwrap_or_default(),
            failure.message.unwrap_or_default(),
        ),
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
    }
    timed_out
}

/// When the deadline of a rollout that does not move is over.
pub fn overdue_after(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<std::time::Duration> {
    let seconds = deadline(deployment)?;
    if is_complete(deployment, status) {
        return None;
    }
    let condition = find(status.conditions.as_deref()?, PROGRESSING)?;
    if matches!(condition.reason.as_deref(), Some(TIMED_OUT | NEW_AVAILABLE)) {
        return None;
    }
    let passed = condition.last_update_time.as_ref()?.0.duration_until(now).as_secs();
    let rest = i64::from(seconds).saturating_sub(passed).max(0).saturating_add(1);
    Some(std::time::Duration::from_secs(rest.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment() -> Deployment {
        serde_json::from_value(json!({"metadata": {"name": "d", "generation": 2},
            "spec": {"replicas": 2, "selector": {}, "template": {}, "progressDeadlineSeconds": 60}}))
        .unwrap()
    }

    fn set_of(replicas: i32, available: i32) -> ReplicaSet {
        serde_json::from_value(json!({"metadata": {"name": "d-1"}, "spec": {"replicas": replicas, "selector": {}},
            "status": {"replicas": replicas, "readyReplicas": available, "availableReplicas": available}}))
        .unwrap()
    }

    fn reason(status: &DeploymentStatus) -> Option<(&str, &str)> {
        let condition = find(status.conditions.as_deref()?, PROGRESSING)?;
        Some((condition.status.as_str(), condition.reason.as_deref()?))
    }

    #[test]
    fn a_rollout_progresses_and_ends_or_times_out() {
        let mut deployment = deployment();
        let now = Timestamp::now();
        let new = set_of(2, 0);
        let mut status = calculate(&deployment, Some(&new), &[], Vec::new());
        assert!(!judge_progress(&deployment, Some(&new), &[], &mut status, now));
        assert_eq!(reason(&status), Some(("True", "ReplicaSetUpdated")));
        assert_eq!(status.unavailable_replicas, Some(2));

        deployment.status = Some(status.clone());
        let later = now + jiff::SignedDuration::from_secs(61);
        let mut stuck = calculate(&deployment, Some(&new), &[], status.conditions.clone().unwrap());
        assert!(judge_progress(&deployment, Some(&new), &[], &mut stuck, later));
        assert_eq!(reason(&stuck), Some(("False", "ProgressDeadlineExceeded")));

        let done = set_of(2, 2);
        let mut status = calculate(&deployment, Some(&done), &[], stuck.conditions.unwrap());
        judge_progress(&deployment, Some(&done), &[], &mut status, later);
        assert_eq!(reason(&status), Some(("True", "NewReplicaSetAvailable")));
        assert!(is_complete(&deployment, &status));
    }
}
