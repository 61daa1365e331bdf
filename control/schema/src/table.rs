//! `meta.k8s.io/v1` Tables, what `kubectl get` prints: one line a column.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::ObjectType;

/// The `includeObject` query parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    None,
    /// The object's metadata as `PartialObjectMetadata`: the default.
    #[default]
    Metadata,
    Object,
}

impl IncludeObject {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "None" => Some(Self::None),
            "" | "Metadata" => Some(Self::Metadata),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// What a cell shows.
#[derive(Clone, Copy)]
enum Cell {
    /// The text or number at a path; `<none>` where there is none.
    Path(&'static str),
    /// The same, and this where there is none.
    PathOr(&'static str, &'static str),
    /// How many entries a map or list has.
    Count(&'static str),
    /// Time since an RFC 3339 time at a path.
    Age(&'static str),
    Of(fn(&Value) -> Value),
}

use Cell::{Age, Count, Of, Path, PathOr};

/// Name, whether it is shown only with `-o wide`, content. Columns are upstream's (`printersinternal`), ours are our own.
type Column = (&'static str, bool, Cell);

const NAME: Column = ("Name", false, Path("metadata.name"));
const AGE: Column = ("Age", false, Age("metadata.creationTimestamp"));

const POD: &[Column] = &[
    NAME,
    ("Ready", false, Of(pod_ready)),
    ("Status", false, Of(pod_status)),
    ("Restarts", false, Of(pod_restarts)),
    AGE,
    ("IP", true, Path("status.podIP")),
    ("Node", true, Path("spec.nodeName")),
    ("Nominated Node", true, Path("status.nominatedNodeName")),
    ("Readiness Gates", true, Of(|_| "<none>".into())),
];
const DEPLOYMENT: &[Column] = &[
    NAME,
    ("Ready", false, Of(|o| ratio(o, "status.readyReplicas", "spec.replicas"))),
    ("Up-to-date", false, PathOr("status.updatedReplicas", "0")),
    ("Available", false, PathOr("status.availableReplicas", "0")),
    AGE,
    ("Containers", true, Of(|o| containers(o, "name"))),
    ("Images", true, Of(|o| containers(o, "image"))),
    ("Selector", true, Of(selector)),
];
const REPLICA_SET: &[Column] = &[
    NAME,
    ("Desired", false, PathOr("spec.replicas", "0")),
    ("Current", false, PathOr("status.replicas", "0")),
    ("Ready", false, PathOr("status.readyReplicas", "0")),
    AGE,
    ("Containers", true, Of(|o| containers(o, "name"))),
    ("Images", true, Of(|o| containers(o, "image"))),
    ("Selector", true, Of(selector)),
];
const STATEFUL_SET: &[Column] =
    &[NAME, ("Ready", false, Of(|o| ratio(o, "status.readyReplicas", "spec.replicas"))), AGE];
const DAEMON_SET: &[Column] = &[
    NAME,
    ("Desired", false, PathOr("status.desiredNumberScheduled", "0")),
    ("Current", false, PathOr("status.currentNumberScheduled", "0")),
    ("Ready", false, PathOr("status.numberReady", "0")),
    ("Up-to-date", false, PathOr("status.updatedNumberScheduled", "0")),
    ("Available", false, PathOr("status.numberAvailable", "0")),
    AGE,
];
const JOB: &[Column] = &[
    NAME,
    ("Status", false, Of(job_status)),
    ("Completions", false, Of(|o| ratio(o, "status.succeeded", "spec.completions"))),
    AGE,
];
const NODE: &[Column] = &[
    NAME,
    ("Status", false, Of(node_status)),
    ("Roles", false, Of(|_| "<none>".into())),
    AGE,
    ("Version", false, Path("status.nodeInfo.kubeletVersion")),
    ("Internal-IP", true, Of(|o| node_address(o, "InternalIP"))),
    ("External-IP", true, Of(|o| node_address(o, "ExternalIP"))),
    ("OS-Image", true, Path("status.nodeInfo.osImage")),
    ("Kernel-Version", true, Path("status.nodeInfo.kernelVersion")),
    ("Container-Runtime", true, Path("status.nodeInfo.containerRuntimeVersion")),
];
const NAMESPACE: &[Column] = &[NAME, ("Status", false, Path("status.phase")), AGE];
const CONFIG_MAP: &[Column] = &[NAME, ("Data", false, Of(|o| data_count(o, &["data", "binaryData"]))), AGE];
const SECRET: &[Column] =
    &[NAME, ("Type", false, Path("type")), ("Data", false, Of(|o| data_count(o, &["data"]))), AGE];
const SERVICE_ACCOUNT: &[Column] = &[NAME, ("Secrets", false, Count("secrets")), AGE];
const SERVICE: &[Column] = &[
    NAME,
    ("Type", false, Path("spec.type")),
    ("Cluster-IP", false, Path("spec.clusterIP")),
    ("External-IP", false, Of(|_| "<none>".into())),
    ("Port(s)", false, Of(service_ports)),
    AGE,
    ("Selector", true, Of(|o| labels(&at(o, "spec.selector").cloned().unwrap_or_default()))),
];
const EVENT: &[Column] = &[
    ("Last Seen", false, Of(event_seen)),
    ("Type", false, Path("type")),
    ("Reason", false, Path("reason")),
    ("Object", false, Of(event_object)),
    ("Message", false, Path("message")),
    ("Name", true, Path("metadata.name")),
];
const PERSISTENT_VOLUME: &[Column] = &[
    NAME,
    ("Capacity", false, Path("spec.capacity.storage")),
    ("Access Modes", false, Of(access_modes)),
    ("Reclaim Policy", false, Path("spec.persistentVolumeReclaimPolicy")),
    ("Status", false, Path("status.phase")),
    ("Claim", false, Of(claim)),
    ("StorageClass", false, PathOr("spec.storageClassName", "")),
    ("Reason", false, PathOr("status.reason", "")),
    AGE,
];
const PERSISTENT_VOLUME_CLAIM: &[Column] = &[
    NAME,
    ("Status", false, Path("status.phase")),
    ("Volume", false, PathOr("spec.volumeName", "")),
    ("Capacity", false, PathOr("status.capacity.storage", "")),
    ("Access Modes", false, Of(access_modes)),
    ("StorageClass", false, PathOr("spec.storageClassName", "")),
    AGE,
];
const STORAGE_CLASS: &[Column] = &[
    ("Name", false, Of(storage_class_name)),
    ("Provisioner", false, Path("provisioner")),
    ("ReclaimPolicy", false, PathOr("reclaimPolicy", "Delete")),
    ("VolumeBindingMode", false, PathOr("volumeBindingMode", "Immediate")),
    ("AllowVolumeExpansion", false, PathOr("allowVolumeExpansion", "false")),
    AGE,
];
const BINDING: &[Column] =
    &[NAME, ("Role", false, Of(|o| format!("{}/{}", text(o, "roleRef.kind"), text(o, "roleRef.name")).into())), AGE];
const ROLE: &[Column] = &[NAME, ("Created At", false, Path("metadata.creationTimestamp"))];
const LEASE: &[Column] = &[NAME, ("Holder", false, PathOr("spec.holderIdentity", "")), AGE];
const PROJECT: &[Column] = &[
    NAME,
    ("Display Name", false, Path("spec.displayName")),
    ("Domain", false, Path("spec.domain")),
    ("Enabled", false, Path("spec.enabled")),
    AGE,
];
const NAMED: &[Column] = &[NAME, ("Display Name", false, Path("spec.displayName")), AGE];
const ROLE_ASSIGNMENT: &[Column] = &[
    NAME,
    ("Role", false, Path("spec.role")),
    ("User", false, Path("spec.user")),
    ("Project", false, Path("spec.project")),
    AGE,
];
const NETWORK: &[Column] =
    &[NAME, ("Status", false, PathOr("status.phase", "Build")), ("Segment", true, Path("status.segmentId")), AGE];
const SUBNET: &[Column] = &[
    NAME,
    ("Network", false, Path("spec.network")),
    ("CIDR", false, Path("spec.cidr")),
    ("Gateway", true, Path("spec.gateway")),
    AGE,
];
const PORT: &[Column] = &[
    NAME,
    ("Network", false, Path("spec.network")),
    ("Address", false, Of(port_addresses)),
    ("MAC", true, Path("spec.macAddress")),
    ("Status", false, PathOr("status.phase", "Down")),
    ("Host", true, Path("status.host")),
    ("Pod", false, Of(|o| pod_reference(o, "spec.pod"))),
    AGE,
];
const VOLUME: &[Column] = &[
    NAME,
    ("Size", false, Of(volume_size)),
    ("Type", false, PathOr("spec.volumeType", "")),
    ("Status", false, PathOr("status.phase", "Creating")),
    AGE,
];
const ATTACHMENT: &[Column] = &[
    NAME,
    ("Node", false, Path("spec.node")),
    ("Pod", false, Of(|o| pod_reference(o, "spec.pod"))),
    ("Status", false, PathOr("status.phase", "Pending")),
    AGE,
];
const OTHER: &[Column] = &[NAME, AGE];

fn columns_of(ty: &ObjectType) -> &'static [Column] {
    match (ty.group.as_str(), ty.kind.as_str()) {
        ("", "Pod") => POD,
        ("", "Node") => NODE,
        ("", "Namespace") => NAMESPACE,
        ("", "ConfigMap") => CONFIG_MAP,
        ("", "Secret") => SECRET,
        ("", "ServiceAccount") => SERVICE_ACCOUNT,
        ("", "Service") => SERVICE,
        ("", "Event") => EVENT,
        ("", "PersistentVolume") => PERSISTENT_VOLUME,
        ("", "PersistentVolumeClaim") => PERSISTENT_VOLUME_CLAIM,
        ("", "ReplicationController") | ("apps", "ReplicaSet") => REPLICA_SET,
        ("apps", "Deployment") => DEPLOYMENT,
        ("apps", "StatefulSet") => STATEFUL_SET,
        ("apps", "DaemonSet") => DAEMON_SET,
        ("batch", "Job") => JOB,
        ("storage.k8s.io", "StorageClass") => STORAGE_CLASS,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => BINDING,
        ("rbac.authorization.k8s.io", _) => ROLE,
        ("coordination.k8s.io", "Lease") => LEASE,
        ("identity.hypernetes.io", "Project") => PROJECT,
        ("identity.hypernetes.io", "RoleAssignment") => ROLE_ASSIGNMENT,
        ("identity.hypernetes.io", _) => NAMED,
        ("network.hypernetes.io", "Network") => NETWORK,
        ("network.hypernetes.io", "Subnet") => SUBNET,
        ("network.hypernetes.io", "Port") => PORT,
        ("volume.hypernetes.io", "Volume") => VOLUME,
        ("volume.hypernetes.io", "Attachment") => ATTACHMENT,
        _ => OTHER,
    }
}

/// The `columnDefinitions` of a kind's tables.
pub fn columns(ty: &ObjectType) -> Value {
    let definition = |(name, wide, cell): &Column| {
        let format = if *name == "Name" { "name" } else { "" };
        let kind = if matches!(cell, Count(_)) { "integer" } else { "string" };
        json!({"name": name, "type": kind, "format": format, "description": "", "priority": i32::from(*wide)})
    };
    columns_of(ty).iter().map(definition).collect()
}

/// An object as a row; ages are told as of `now`.
pub fn row(ty: &ObjectType, object: &Value, include: IncludeObject, now: Timestamp) -> Value {
    let cells: Vec<Value> = columns_of(ty).iter().map(|(_, _, cell)| show(cell, object, now)).collect();
    let mut row = json!({"cells": cells});
    match include {
        IncludeObject::None => {}
        IncludeObject::Object => row["object"] = object.clone(),
        IncludeObject::Metadata => {
            row["object"] = json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
            });
        }
    }
    row
}

/// The table of one object. A watch sends one per event, of which only the first needs `columns`; `metadata` is the table's own.
pub fn table(
    ty: &ObjectType,
    object: &Value,
    metadata: Value,
    include: IncludeObject,
    with_columns: bool,
    now: Timestamp,
) -> Value {
    let definitions = if with_columns { columns(ty) } else { json!([]) };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": definitions, "rows": [row(ty, object, include, now)],
    })
}

fn show(cell: &Cell, object: &Value, now: Timestamp) -> Value {
    let scalar = |path: &str, missing: &str| match at(object, path) {
        None | Some(Value::Null) => missing.into(),
        Some(Value::String(text)) if text.is_empty() => missing.into(),
        Some(Value::Array(_) | Value::Object(_)) => missing.into(),
        Some(value) => value.clone(),
    };
    match cell {
        Path(path) => scalar(path, "<none>"),
        PathOr(path, missing) => scalar(path, missing),
        Count(path) => match at(object, path) {
            Some(Value::Array(list)) => list.len().into(),
            Some(Value::Object(map)) => map.len().into(),
            _ => 0.into(),
        },
        Age(path) => age(text(object, path), now).into(),
        Of(make) => make(object),
    }
}

fn at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(value, |value, name| value.get(name))
}

fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, path: &str) -> i64 {
    at(value, path).and_then(Value::as_i64).unwrap_or(0)
}

fn list<'v>(value: &'v Value, path: &str) -> impl Iterator<Item = &'v Value> {
    at(value, path).and_then(Value::as_array).into_iter().flatten()
}

fn age(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => duration(now.as_second() - time.as_second()),
        Err(_) => "<unknown>".into(),
    }
}

/// As `duration.HumanDuration` of apimachinery: two units at most, the smaller ones only while they matter.
pub fn duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let with = |whole: i64, unit: &str, rest: i64, small: &str| {
        if rest == 0 { format!("{whole}{unit}") } else { format!("{whole}{unit}{rest}{small}") }
    };
    match seconds {
        i64::MIN..-1 => "<invalid>".into(),
        -1..=0 => "0s".into(),
        1..120 => format!("{seconds}s"),
        120..600 => with(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => with(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => with(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => with(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

fn ratio(object: &Value, have: &str, want: &str) -> Value {
    format!("{}/{}", number(object, have), at(object, want).and_then(Value::as_i64).unwrap_or(1)).into()
}

fn containers(object: &Value, field: &str) -> Value {
    let names: Vec<&str> = list(object, "spec.template.spec.containers").map(|c| text(c, field)).collect();
    names.join(",").into()
}

fn labels(map: &Value) -> Value {
    let empty = Map::new();
    let pairs: Vec<String> = map
        .as_object()
        .unwrap_or(&empty)
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() { "<none>".into() } else { pairs.join(",").into() }
}

fn selector(object: &Value) -> Value {
    labels(&at(object, "spec.selector.matchLabels").cloned().unwrap_or_default())
}

fn data_count(object: &Value, fields: &[&str]) -> Value {
    let count: usize = fields.iter().filter_map(|f| object.get(*f)?.as_object()).map(Map::len).sum();
    count.into()
}

fn pod_ready(pod: &Value) -> Value {
    let ready = list(pod, "status.containerStatuses").filter(|c| c["ready"] == true).count();
    format!("{ready}/{}", list(pod, "spec.containers").count()).into()
}

fn pod_restarts(pod: &Value) -> Value {
    list(pod, "status.containerStatuses").map(|c| number(c, "restartCount")).sum::<i64>().to_string().into()
}

/// What upstream's printer makes of phase, reasons and states.
fn pod_status(pod: &Value) -> Value {
    let mut reason = match text(pod, "status.reason") {
        "" => text(pod, "status.phase").to_owned(),
        reason => reason.to_owned(),
    };
    let ended = |terminated: &Value| match text(terminated, "reason") {
        "" if number(terminated, "signal") != 0 => format!("Signal:{}", number(terminated, "signal")),
        "" => format!("ExitCode:{}", number(terminated, "exitCode")),
        reason => reason.to_owned(),
    };
    let inits = list(pod, "spec.initContainers").count();
    let mut initializing = false;
    for (index, status) in list(pod, "status.initContainerStatuses").enumerate() {
        let (terminated, waiting) = (&status["state"]["terminated"], &status["state"]["waiting"]);
        if terminated.is_object() && number(terminated, "exitCode") == 0 {
            continue;
        }
        reason = if terminated.is_object() {
            format!("Init:{}", ended(terminated))
        } else if !matches!(text(waiting, "reason"), "" | "PodInitializing") {
            format!("Init:{}", text(waiting, "reason"))
        } else {
            format!("Init:{index}/{inits}")
        };
        initializing = true;
        break;
    }
    if !initializing {
        let mut running = false;
        let statuses: Vec<&Value> = list(pod, "status.containerStatuses").collect();
        for status in statuses.iter().rev() {
            let (terminated, waiting) = (&status["state"]["terminated"], &status["state"]["waiting"]);
            if !text(waiting, "reason").is_empty() {
                reason = text(waiting, "reason").to_owned();
            } else if terminated.is_object() {
                reason = ended(terminated);
            } else if status["ready"] == true && status["state"]["running"].is_object() {
                running = true;
            }
        }
        if reason == "Completed" && running {
            reason = "Running".into();
        }
    }
    if pod["metadata"]["deletionTimestamp"].is_string() {
        reason = if text(pod, "status.reason") == "NodeLost" { "Unknown".into() } else { "Terminating".into() };
    }
    reason.into()
}

fn job_status(job: &Value) -> Value {
    let holds = |kind: &str| list(job, "status.conditions").any(|c| c["type"] == kind && c["status"] == "True");
    for (condition, shown) in [("Complete", "Complete"), ("Failed", "Failed"), ("Suspended", "Suspended")] {
        if holds(condition) {
            return shown.into();
        }
    }
    "Running".into()
}

fn node_status(node: &Value) -> Value {
    let ready = list(node, "status.conditions").find(|c| c["type"] == "Ready");
    let mut status = match ready.map(|c| text(c, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    status.into()
}

fn node_address(node: &Value, kind: &str) -> Value {
    let found = list(node, "status.addresses").find(|a| a["type"] == kind);
    found.map_or("<none>", |a| text(a, "address")).into()
}

fn service_ports(service: &Value) -> Value {
    let ports: Vec<String> = list(service, "spec.ports")
        .map(|port| {
            let protocol = match text(port, "protocol") {
                "" => "TCP",
                protocol => protocol,
            };
            match number(port, "nodePort") {
                0 => format!("{}/{protocol}", number(port, "port")),
                node => format!("{}:{node}/{protocol}", number(port, "port")),
            }
        })
        .collect();
    if ports.is_empty() { "<none>".into() } else { ports.join(",").into() }
}

fn event_seen(event: &Value) -> Value {
    let times =
        ["lastTimestamp", "series.lastObservedTime", "eventTime", "firstTimestamp", "metadata.creationTimestamp"];
    let time = times.iter().map(|path| text(event, path)).find(|time| !time.is_empty()).unwrap_or_default();
    age(time, Timestamp::now()).into()
}

fn event_object(event: &Value) -> Value {
    format!("{}/{}", text(event, "involvedObject.kind").to_lowercase(), text(event, "involvedObject.name")).into()
}

fn access_modes(object: &Value) -> Value {
    let short = |mode: &Value| match mode.as_str() {
        Some("ReadWriteOnce") => "RWO",
        Some("ReadOnlyMany") => "ROX",
        Some("ReadWriteMany") => "RWX",
        Some("ReadWriteOncePod") => "RWOP",
        _ => "",
    };
    let modes: Vec<&str> = list(object, "spec.accessModes").map(short).collect();
    modes.join(",").into()
}

fn claim(volume: &Value) -> Value {
    match text(volume, "spec.claimRef.name") {
        "" => "".into(),
        name => format!("{}/{name}", text(volume, "spec.claimRef.namespace")).into(),
    }
}

fn storage_class_name(class: &Value) -> Value {
    let default = class["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true";
    let name = text(class, "metadata.name");
    if default { format!("{name} (default)").into() } else { name.into() }
}

fn port_addresses(port: &Value) -> Value {
    let addresses: Vec<&str> = list(port, "spec.fixedIps").map(|ip| text(ip, "ipAddress")).collect();
    if addresses.is_empty() { "<none>".into() } else { addresses.join(",").into() }
}

fn pod_reference(object: &Value, path: &str) -> Value {
    match at(object, path) {
        Some(pod) if pod.is_object() => format!("{}/{}", text(pod, "namespace"), text(pod, "name")).into(),
        _ => "<none>".into(),
    }
}

fn volume_size(volume: &Value) -> Value {
    let bytes = at(volume, "spec.sizeBytes").and_then(Value::as_u64).unwrap_or(0);
    if bytes.is_multiple_of(1 << 30) { format!("{}Gi", bytes >> 30).into() } else { bytes.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(group: &str, version: &str, kind: &str, object: Value) -> Vec<Value> {
        let ty = ObjectType::builtin(group, version, kind).unwrap();
        let now = "2026-01-01T00:10:30Z".parse().unwrap();
        let table = table(&ty, &object, json!({}), IncludeObject::None, true, now);
        assert_eq!(
            table["columnDefinitions"].as_array().unwrap().len(),
            table["rows"][0]["cells"].as_array().unwrap().len()
        );
        table["rows"][0]["cells"].as_array().unwrap().clone()
    }

    #[test]
    fn pods_are_shown_as_kubectl_users_know_them() {
        let pod = |status: Value| {
            let object = json!({"metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"containers": [{}, {}]}, "status": status});
            row("", "v1", "Pod", object)[..5]
                .iter()
                .map(|c| c.as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(pod(json!({"phase": "Pending"})), "p 0/2 Pending 0 10m");
        let running = json!({"ready": true, "restartCount": 2, "state": {"running": {}}});
        let failing = json!({"ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}});
        assert_eq!(
            pod(json!({"phase": "Running", "containerStatuses": [running, failing]})),
            "p 1/2 CrashLoopBackOff 5 10m"
        );
        let done = json!({"ready": false, "state": {"terminated": {"reason": "Completed", "exitCode": 0}}});
        assert_eq!(pod(json!({"phase": "Succeeded", "containerStatuses": [done, done]})), "p 0/2 Completed 0 10m");
    }

    #[test]
    fn ages_have_two_units_at_most() {
        for (seconds, shown) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (700, "11m"),
            (10_860, "3h1m"),
            (90_000, "25h"),
            (180_000, "2d2h"),
            (864_000, "10d"),
        ] {
            assert_eq!(duration(seconds), shown);
        }
    }

    #[test]
    fn every_kind_has_a_table() {
        for ty in ObjectType::all_builtin() {
            let cells = row(&ty.group, &ty.version, &ty.kind, json!({"metadata": {"name": "n"}}));
            assert!(!cells.is_empty());
        }
    }
}
