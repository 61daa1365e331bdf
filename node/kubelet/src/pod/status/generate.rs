//! The pod's status, from what the runtime says and what is known of its containers beside that. A pure function of these.

use std::{collections::HashMap, net::IpAddr};

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, PodSpec};
use serde_json::{Value, json};

use crate::{
    node::cri::Container,
    pod::{
        containers::Supervision,
        spec::{deadline, qos, restart::restarts},
    },
};

fn time(nanos: i64) -> Value {
    match jiff::Timestamp::from_second(nanos / 1_000_000_000) {
        Ok(time) if nanos > 0 => time.to_string().into(),
        _ => Value::Null,
    }
}

fn state(container: &Container) -> Value {
    let status = &container.status;
    let id = format!("hyperd://{}", container.id);
    match status.state() {
        cri::ContainerState::ContainerRunning => json!({"running": {"startedAt": time(status.started_at)}}),
        cri::ContainerState::ContainerExited => {
            let mut terminated = json!({
                "exitCode": status.exit_code, "reason": status.reason, "startedAt": time(status.started_at),
                "finishedAt": time(status.finished_at), "containerID": id,
            });
            if !status.message.is_empty() {
                terminated["message"] = status.message.clone().into();
            }
            json!({"terminated": terminated})
        }
        _ => json!({"waiting": {"reason": "ContainerCreating"}}),
    }
}

fn container_status(
    wanted: &ContainerSpec,
    containers: &[Container],
    supervision: Option<&Supervision>,
    initialized: bool,
) -> Value {
    let of_name: Vec<&Container> = containers.iter().filter(|c| c.name == wanted.name).collect();
    let latest = of_name.first();
    let waiting = supervision.and_then(|s| s.waiting.as_ref());
    let runs = latest.is_some_and(|c| c.status.state() == cri::ContainerState::ContainerRunning);
    let running = runs && supervision.is_none_or(Supervision::begun);
    let started = running && supervision.is_some_and(Supervision::started);
    let ready = running && supervision.is_some_and(Supervision::ready);
    let mut status = json!({
        "name": wanted.name, "image": wanted.image, "imageID": "", "restartCount": 0,
        "ready": ready, "started": started, "state": {}, "lastState": {},
    });
    if let Some(latest) = latest {
        status["imageID"] = latest.status.image_ref.clone().into();
        status["containerID"] = format!("hyperd://{}", latest.id).into();
        status["restartCount"] = latest.attempt.into();
        status["state"] = state(latest);
        if let Some(previous) = of_name.get(1) {
            status["lastState"] = state(previous);
        }
    }
    if runs && !running {
        status["state"] = json!({"waiting": {"reason": "ContainerCreating"}});
    } else if !running && let Some((reason, message)) = waiting {
        let previous = status["state"].take();
        if previous.get("terminated").is_some() {
            status["lastState"] = previous;
        }
        status["state"] = json!({"waiting": {"reason": reason, "message": message}});
    } else if latest.is_none() {
        let reason = if initialized { "ContainerCreating" } else { "PodInitializing" };
        status["state"] = json!({"waiting": {"reason": reason}});
    }
    status
}

/// What is known of a pod.
pub struct Seen<'a> {
    pub containers: &'a [Container],
    pub supervised: &'a HashMap<String, Supervision>,
    pub addresses: &'a [String],
    pub sandbox_ready: bool,
    pub host: IpAddr,
    /// It has been active for longer than it may be, and its containers have been stopped.
    pub overdue: bool,
}

/// `status` of a pod. Times of conditions that have not changed are kept from the pod as the API has it.
pub fn of(pod: &Pod, spec: &PodSpec, seen: &Seen<'_>) -> Value {
    let Seen { containers, supervised, addresses, sandbox_ready, host, overdue } = *seen;
    let inits = spec.init_containers.clone().unwrap_or_default();
    let succeeded = |name: &str| {
        containers
            .iter()
            .find(|c| c.name == name)
            .is_some_and(|c| c.status.state() == cri::ContainerState::ContainerExited && c.status.exit_code == 0)
    };
    let initialized = inits.iter().all(|init| succeeded(&init.name));
    let statuses = |specs: &[ContainerSpec]| -> Vec<Value> {
        specs
            .iter()
            .map(|wanted| container_status(wanted, containers, supervised.get(&wanted.name), initialized))
            .collect()
    };
    let (init_statuses, container_statuses) = (statuses(&inits), statuses(&spec.containers));
    let phase = if overdue { "Failed" } else { phase(spec, &init_statuses, &container_statuses) };
    let over = matches!(phase, "Succeeded" | "Failed");
    let all_ready = !over && !container_statuses.is_empty() && container_statuses.iter().all(|s| s["ready"] == true);
    let earlier = serde_json::to_value(pod.status.clone().unwrap_or_default()).unwrap_or_default();
    let now = jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default().to_string();
    let unready: Vec<&str> =
        container_statuses.iter().filter(|s| s["ready"] != true).filter_map(|s| s["name"].as_str()).collect();
    let condition = |kind: &str, holds: bool, reason: &str, message: String| {
        let status = if holds { "True" } else { "False" };
        let before = earlier["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == kind);
        let since = before.filter(|c| c["status"] == status).and_then(|c| c["lastTransitionTime"].as_str());
        let mut condition = json!({"type": kind, "status": status, "lastProbeTime": null,
            "lastTransitionTime": since.unwrap_or(&now)});
        if !holds {
            condition["reason"] = reason.into();
            condition["message"] = message.into();
        }
        condition
    };
    let not_ready = if over { "PodCompleted" } else { "ContainersNotReady" };
    let which = if over { String::new() } else { format!("containers with unready status: [{}]", unready.join(" ")) };
    let mut conditions = vec![
        condition("PodReadyToStartContainers", sandbox_ready, "", String::new()),
        condition(
            "Initialized",
            initialized || over,
            "ContainersNotInitialized",
            "init containers have not completed".into(),
        ),
        condition("Ready", all_ready, not_ready, which.clone()),
        condition("ContainersReady", all_ready, not_ready, which),
    ];
    conditions.push(condition("PodScheduled", true, "", String::new()));
    let mut status = json!({
        "phase": phase, "conditions": conditions, "containerStatuses": container_statuses,
        "hostIP": host, "hostIPs": [{"ip": host}], "startTime": earlier["startTime"].as_str().unwrap_or(&now),
        "qosClass": qos::class(spec),
    });
    if overdue {
        (status["reason"], status["message"]) = (deadline::REASON.into(), deadline::MESSAGE.into());
    }
    if !inits.is_empty() {
        status["initContainerStatuses"] = init_statuses.into();
    }
    if let Some(first) = addresses.first() {
        status["podIP"] = first.clone().into();
        status["podIPs"] = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    }
    status
}

fn phase(spec: &PodSpec, inits: &[Value], containers: &[Value]) -> &'static str {
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let code = |status: &Value| status["state"]["terminated"]["exitCode"].as_i64();
    let failed_init = inits.iter().any(|s| code(s).is_some_and(|code| code != 0)) && policy == "Never";
    if failed_init {
        return "Failed";
    }
    if inits.iter().any(|s| code(s) != Some(0)) {
        return "Pending";
    }
    let ended = |s: &Value| code(s).is_some_and(|code| !restarts(policy, i32::try_from(code).unwrap_or(-1)));
    if !containers.is_empty() && containers.iter().all(ended) {
        return if containers.iter().all(|s| code(s) == Some(0)) { "Succeeded" } else { "Failed" };
    }
    // Running once everything was started at least once.
    let begun = |s: &Value| {
        !s["state"]["running"].is_null()
            || code(s).is_some()
            || s["lastState"].as_object().is_some_and(|l| !l.is_empty())
    };
    if !containers.is_empty() && containers.iter().all(begun) { "Running" } else { "Pending" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, attempt: u32, state: cri::ContainerState, exit_code: i32) -> Container {
        let status =
            cri::ContainerStatus { state: state.into(), exit_code, reason: "Error".into(), ..Default::default() };
        Container { id: format!("{name}-{attempt}"), name: name.into(), attempt, status }
    }

    fn status(policy: &str, containers: &[Container], waiting: Option<&str>) -> Value {
        let spec: PodSpec =
            serde_json::from_value(json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]}))
                .unwrap();
        let supervision = Supervision { waiting: waiting.map(|w| (w.to_owned(), String::new())), ..Default::default() };
        let supervised = [("a".to_owned(), supervision)].into();
        let host = std::net::Ipv4Addr::LOCALHOST.into();
        let seen =
            Seen { containers, supervised: &supervised, addresses: &[], sandbox_ready: true, host, overdue: false };
        of(&Pod::default(), &spec, &seen)
    }

    #[test]
    fn phases_follow_policy_and_exit_codes() {
        use cri::ContainerState::{ContainerExited as Exited, ContainerRunning as Running};
        assert_eq!(status("Always", &[], None)["phase"], "Pending");
        assert_eq!(status("Always", &[container("a", 0, Running, 0)], None)["phase"], "Running");
        assert_eq!(status("Never", &[container("a", 0, Exited, 0)], None)["phase"], "Succeeded");
        assert_eq!(status("Never", &[container("a", 0, Exited, 3)], None)["phase"], "Failed");
        assert_eq!(status("OnFailure", &[container("a", 0, Exited, 0)], None)["phase"], "Succeeded");
        let looping =
            status("Always", &[container("a", 2, Exited, 3), container("a", 1, Exited, 3)], Some("CrashLoopBackOff"));
        assert_eq!(looping["phase"], "Running");
        let shown = &looping["containerStatuses"][0];
        assert_eq!(
            (&shown["state"]["waiting"]["reason"], &shown["restartCount"]),
            (&json!("CrashLoopBackOff"), &json!(2))
        );
        assert_eq!(shown["lastState"]["terminated"]["exitCode"], 3);
        assert_eq!(status("Always", &[], Some("ErrImagePull"))["phase"], "Pending");
    }
}
