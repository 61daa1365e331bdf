//! What `kubectl get pods` shows: readiness, one word for the state, restarts.

use serde_json::Value;

use crate::columns::{Ago, Cell, Column, Shown, age, column, list, name, number, path, since, text, wide};

pub(super) fn columns() -> Vec<Column> {
    vec![
        name(),
        column("Ready", Cell::Of(|pod| format!("{}/{}", Seen::of(pod).ready, Seen::of(pod).all).into())),
        column("Status", Cell::Of(|pod| Seen::of(pod).reason.into())),
        column("Restarts", Cell::AsOf(restarts)),
        age(),
        wide("IP", path("status.podIP")),
        wide("Node", path("spec.nodeName")),
        wide("Nominated Node", path("status.nominatedNodeName")),
        wide("Readiness Gates", Cell::Of(gates)),
    ]
}

/// How often, and how long ago the last time.
fn restarts(pod: &Value) -> Shown {
    let seen = Seen::of(pod);
    let times = seen.restarts;
    match seen.last_restart.map(since) {
        Some(Shown::Ago(ago)) if times > 0 => Shown::Ago(Ago { before: format!("{times} ("), after: " ago)", ..ago }),
        Some(_) if times > 0 => Shown::Always(format!("{times} (<unknown> ago)").into()),
        _ => Shown::Always(times.to_string().into()),
    }
}

fn gates(pod: &Value) -> Value {
    let gates: Vec<&str> = list(pod, "spec.readinessGates").map(|gate| text(gate, "conditionType")).collect();
    if gates.is_empty() {
        return "<none>".into();
    }
    let met =
        |gate: &&&str| list(pod, "status.conditions").any(|c| text(c, "type") == **gate && text(c, "status") == "True");
    format!("{}/{}", gates.iter().filter(met).count(), gates.len()).into()
}

/// What is seen of a pod at a glance.
struct Seen<'v> {
    ready: usize,
    all: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<&'v str>,
}

/// Why a container has ended, where nothing says it by name.
fn ended(terminated: &Value) -> String {
    match text(terminated, "reason") {
        "" if number(terminated, "signal") != 0 => format!("Signal:{}", number(terminated, "signal")),
        "" => format!("ExitCode:{}", number(terminated, "exitCode")),
        reason => reason.to_owned(),
    }
}

impl<'v> Seen<'v> {
    fn of(pod: &'v Value) -> Self {
        let reason = match text(pod, "status.reason") {
            "" => text(pod, "status.phase"),
            reason => reason,
        };
        let gated = list(pod, "status.conditions").any(|condition| {
            text(condition, "type") == "PodScheduled" && text(condition, "reason") == "SchedulingGated"
        });
        let reason = if gated { "SchedulingGated" } else { reason };
        let sidecars = list(pod, "spec.initContainers").filter(|one| is_sidecar(one)).count();
        let mut seen = Self {
            ready: 0,
            all: list(pod, "spec.containers").count() + sidecars,
            reason: reason.to_owned(),
            restarts: 0,
            last_restart: None,
        };
        if !seen.initializes(pod) {
            seen.runs(pod);
        }
        if !text(pod, "metadata.deletionTimestamp").is_empty() {
            let over = matches!(text(pod, "status.phase"), "Succeeded" | "Failed");
            match text(pod, "status.reason") {
                "NodeLost" => seen.reason = "Unknown".into(),
                _ if !over => seen.reason = "Terminating".into(),
                _ => {}
            }
        }
        seen
    }

    fn restarted(&mut self, status: &'v Value) {
        self.restarts += number(status, "restartCount");
        let at = text(status, "lastState.terminated.finishedAt");
        // RFC 3339 in UTC: the later one is the larger text.
        if !at.is_empty() && self.last_restart.is_none_or(|last| last < at) {
            self.last_restart = Some(at);
        }
    }

    /// Whether an init container is still to end, or a sidecar to begin. What restarts until then is these.
    fn initializes(&mut self, pod: &'v Value) -> bool {
        let specs: Vec<&Value> = list(pod, "spec.initContainers").collect();
        let (mut of_sidecars, mut last_of_sidecars) = (0, None);
        for (index, status) in list(pod, "status.initContainerStatuses").enumerate() {
            let spec = specs.iter().find(|spec| text(spec, "name") == text(status, "name"));
            let sidecar = spec.is_some_and(|spec| is_sidecar(spec));
            self.restarted(status);
            let (terminated, waiting) = (&status["state"]["terminated"], &status["state"]["waiting"]);
            let begun = sidecar && status["started"] == true;
            if begun {
                of_sidecars += number(status, "restartCount");
                last_of_sidecars = last_of_sidecars.max(Some(text(status, "lastState.terminated.finishedAt")));
                self.ready += usize::from(status["ready"] == true);
                continue;
            }
            if terminated.is_object() && number(terminated, "exitCode") == 0 {
                continue;
            }
            self.reason = if terminated.is_object() {
                format!("Init:{}", ended(terminated))
            } else if !matches!(text(waiting, "reason"), "" | "PodInitializing") {
                format!("Init:{}", text(waiting, "reason"))
            } else {
                format!("Init:{index}/{}", specs.len())
            };
            return true;
        }
        self.restarts = of_sidecars;
        self.last_restart = last_of_sidecars.filter(|at| !at.is_empty());
        false
    }

    fn runs(&mut self, pod: &'v Value) {
        let mut running = false;
        let statuses: Vec<&Value> = list(pod, "status.containerStatuses").collect();
        for status in statuses.into_iter().rev() {
            self.restarted(status);
            let (terminated, waiting) = (&status["state"]["terminated"], &status["state"]["waiting"]);
            if !text(waiting, "reason").is_empty() {
                self.reason = text(waiting, "reason").to_owned();
            } else if terminated.is_object() {
                self.reason = ended(terminated);
            } else if status["ready"] == true && status["state"]["running"].is_object() {
                running = true;
                self.ready += 1;
            }
        }
        // Some have ended well, and others run.
        if self.reason == "Completed" && running {
            let ready = list(pod, "status.conditions").any(|c| c["type"] == "Ready" && c["status"] == "True");
            self.reason = if ready { "Running" } else { "NotReady" }.into();
        }
    }
}

fn is_sidecar(container: &Value) -> bool {
    text(container, "restartPolicy") == "Always"
}
