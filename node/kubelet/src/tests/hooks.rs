//! What is done in a container besides what it is for: once it has started, before it is stopped, and when its pod's time is over.

use super::*;

fn hooked(name: &str, lifecycle: Value) -> Value {
    json!({"name": name, "image": "i", "lifecycle": lifecycle})
}

fn command(command: &str) -> Value {
    json!({"exec": {"command": [command]}})
}

impl Host {
    fn status(&self, uid: &str) -> Value {
        self.api.pod(uid).map(|pod| pod["status"].clone()).unwrap_or_default()
    }

    fn has_told(&self, kind: &str, reason: &str, message: &str) -> bool {
        let events = self.api.events();
        events.iter().any(|event| event["type"] == kind && event["reason"] == reason && event["message"] == message)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_runs_when_its_first_hook_has_ended_and_the_next_one_starts_then() {
    let host = Host::new().await;
    host.runtime.hang("ExecSync");
    let containers = json!([hooked("a", json!({"postStart": command("warm")})), {"name": "b", "image": "i"}]);
    host.api.put(ACME, "web", pod(json!({"containers": containers})));
    host.until("the hook is run", || host.runtime.done("web") == ["a: warm"]).await;
    let creating = |host: &Host| {
        let status = host.status("web");
        status["containerStatuses"][0]["state"]["waiting"]["reason"] == "ContainerCreating"
            && (&status["containerStatuses"][0]["ready"], &status["phase"]) == (&json!(false), &json!("Pending"))
    };
    host.until("it is not said to run", || creating(&host)).await;
    assert_eq!(host.runtime.configs("web").len(), 1, "the other one waits");
    host.runtime.answer_again("ExecSync");
    let ready = |status: &Value| {
        let containers = status["containerStatuses"].as_array().cloned().unwrap_or_default();
        containers.len() == 2 && containers.iter().all(|container| container["ready"] == true)
    };
    host.until("both run", || ready(&host.status("web")) && host.status("web")["phase"] == "Running").await;
    assert_eq!(host.runtime.done("web"), ["a: warm"], "it is run once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_whose_first_hook_fails_is_stopped() {
    let host = Host::new().await;
    host.runtime.fails("warm");
    let lifecycle = json!({"postStart": command("warm"), "preStop": command("cool")});
    let spec = json!({"containers": [hooked("a", lifecycle)], "restartPolicy": "Never"});
    host.api.put(ACME, "web", pod(spec));
    let status = host.until_failed("web").await;
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 137);
    assert_eq!(host.runtime.done("web"), ["a: warm", "a: cool", "a: stop"]);
    assert!(host.has_told("Warning", "FailedPostStartHook", "PostStartHook failed"));
    assert!(host.has_told("Normal", "Killing", "FailedPostStartHook"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_is_stopped_after_its_last_hook_and_in_its_time_whatever_that_does() {
    let host = Host::new().await;
    host.runtime.fails("odd");
    for (uid, hook) in [("good", "cool"), ("bad", "odd")] {
        let containers = json!([hooked("a", json!({"preStop": command(hook)}))]);
        host.api.put(ACME, uid, pod(json!({"containers": containers})));
        host.until_runs(uid).await;
        host.runtime.hang("RemovePodSandbox");
        host.api.delete(uid, 600);
        let stopped = [format!("a: {hook}"), "a: stop".to_owned()];
        host.until("it is stopped", || host.runtime.done(uid) == stopped).await;
        host.runtime.answer_again("RemovePodSandbox");
        host.until_gone(uid).await;
    }
    assert!(host.has_told("Warning", "FailedPreStopHook", "PreStopHook failed"));
    // One that hangs has the grace that there is, and less when the pod has to hurry; without any it is not run.
    host.runtime.hang("ExecSync");
    for (uid, grace) in [("slow", 600), ("forced", 0)] {
        let containers = json!([hooked("a", json!({"preStop": command("cool")}))]);
        host.api.put(ACME, uid, pod(json!({"containers": containers})));
        host.until_runs(uid).await;
        host.api.delete(uid, grace);
        if grace > 0 {
            host.until("the hook is run", || host.runtime.done(uid) == ["a: cool"]).await;
            host.api.delete(uid, 1);
        }
        host.until_gone(uid).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_active_for_too_long_is_ended() {
    let host = Host::new().await;
    let containers = json!([hooked("a", json!({"preStop": command("cool")}))]);
    for uid in ["long", "calm"] {
        host.api.put(ACME, uid, pod(json!({"activeDeadlineSeconds": 3600, "containers": containers})));
        host.until_runs(uid).await;
    }
    let mut shorter = host.api.pod("long").unwrap();
    shorter["spec"]["activeDeadlineSeconds"] = 1.into();
    host.api.put(ACME, "long", shorter);
    let status = host.until_failed("long").await;
    let message = "Pod was active on the node longer than the specified deadline";
    assert_eq!((&status["reason"], &status["message"]), (&json!("DeadlineExceeded"), &json!(message)));
    assert_eq!(host.runtime.done("long"), ["a: cool", "a: stop"]);
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 137);
    assert!(host.has_told("Normal", "DeadlineExceeded", message));
    assert!(host.runtime.runs("calm"));
    // Nor is it waited for what does not come.
    host.runtime.hang("RunPodSandbox");
    host.api.put(ACME, "stuck", pod(json!({"activeDeadlineSeconds": 1})));
    assert_eq!(host.until_failed("stuck").await["reason"], "DeadlineExceeded");
}

/// Time runs from when a node has taken the pod, whichever kubelet that was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pods_time_goes_on_while_there_is_no_kubelet() {
    let host = Host::prepared(HostileApi::new(&[]), |_, api, _| {
        for (uid, seconds) in [("over", 60), ("left", 1_000_000_000)] {
            let mut taken = pod(json!({"activeDeadlineSeconds": seconds}));
            taken["status"] = json!({"phase": "Running", "startTime": "2026-01-01T00:00:00Z"});
            api.put(ACME, uid, taken);
        }
    })
    .await;
    assert_eq!(host.until_failed("over").await["reason"], "DeadlineExceeded");
    host.until_runs("left").await;
    assert!(!host.runtime.runs("over") && !host.runtime.has_sandbox("over"));
}
