//! Defaulting: the table of defaults (`facts/defaults.txt`), and the few that are rules and not facts.

use crate::ObjectType;
use crate::facts::rows;
use crate::quantity::Quantity;
use crate::walk::{self, child};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::OnceLock;

const TABLE: &str = include_str!("../facts/defaults.txt");

struct Row {
    path: Vec<&'static str>,
    value: Value,
    conditions: Vec<Condition>,
}

struct Condition {
    path: Vec<&'static str>,
    equals: Option<Value>,
    holds: bool,
}

type Table = HashMap<&'static str, Vec<Row>>;

fn table() -> &'static Table {
    static PARSED: OnceLock<Table> = OnceLock::new();
    PARSED.get_or_init(|| {
        let mut table = Table::new();
        for line in rows(TABLE) {
            let mut words = line.split_whitespace();
            let (Some(definition), Some(path), Some(json)) = (words.next(), words.next(), words.next()) else {
                debug_assert!(false, "short line {line:?}");
                continue;
            };
            let Ok(value) = serde_json::from_str(json) else {
                debug_assert!(false, "not JSON in {line:?}");
                continue;
            };
            let mut conditions = Vec::new();
            while let (Some(word), Some(what)) = (words.next(), words.next()) {
                let (path, equals) = match what.split_once('=') {
                    Some((path, json)) => (path, serde_json::from_str(json).ok()),
                    None => (what, None),
                };
                conditions.push(Condition { path: path.split('.').collect(), equals, holds: word == "if" });
            }
            table.entry(definition).or_default().push(Row { path: path.split('.').collect(), value, conditions });
        }
        table
    })
}

pub(crate) fn set_defaults(ty: &ObjectType, object: &mut Value) {
    walk::structs_mut(ty.schema(), object, &mut |definition, fields| {
        if matches!(&*definition.name, "core.v1.Container" | "core.v1.EphemeralContainer") {
            pull_policy(fields);
        }
        for row in table().get(&*definition.name).into_iter().flatten() {
            row.set(fields);
        }
        match &*definition.name {
            "core.v1.PodSpec" => service_account(fields),
            "core.v1.ServiceSpec" => {
                target_ports(fields);
                cluster_ips(fields);
            }
            "core.v1.LimitRangeItem" => limits_of_containers(fields),
            _ => {}
        }
    });
    let Some(fields) = object.as_object_mut() else { return };
    match (ty.group.as_str(), ty.kind.as_str()) {
        ("", "Pod") => pod(fields),
        ("", "Namespace") => namespace_label(fields),
        ("", "Secret") => string_data(fields),
        ("apps", _) | ("batch", "Job") => copy_template_labels(&ty.kind, fields),
        _ => {}
    }
}

impl Row {
    fn set(&self, fields: &mut Map<String, Value>) {
        if !self.conditions.iter().all(|condition| condition.met(fields)) {
            return;
        }
        let Some((last, way)) = self.path.split_last() else { return };
        let target = way.iter().fold(fields, |fields, step| child(fields, step));
        target.entry(*last).or_insert_with(|| self.value.clone());
    }
}

impl Condition {
    fn met(&self, fields: &Map<String, Value>) -> bool {
        let Some((first, rest)) = self.path.split_first() else { return false };
        let found = fields.get(*first).and_then(|value| rest.iter().try_fold(value, |value, step| value.get(step)));
        let there = match &self.equals {
            Some(wanted) => found == Some(wanted),
            None => found.is_some(),
        };
        there == self.holds
    }
}

/// `Always` for images without a tag or with `latest`, else `IfNotPresent`.
fn pull_policy(container: &mut Map<String, Value>) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = if image_is_latest(image) { "Always" } else { "IfNotPresent" };
    container.entry("imagePullPolicy").or_insert_with(|| policy.into());
}

fn image_is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let name = image.rsplit('/').next().unwrap_or_default();
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// What was given as text is kept as `data`, and takes precedence: `stringData` is written and never read.
fn string_data(secret: &mut Map<String, Value>) {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let Some(Value::Object(texts)) = secret.remove("stringData") else { return };
    let data = child(secret, "data");
    data.extend(texts.into_iter().map(|(key, text)| (key, STANDARD.encode(text.as_str().unwrap_or_default()).into())));
}

/// The old and the new name of the service account's field tell the same.
fn service_account(spec: &mut Map<String, Value>) {
    if let Some(old) = spec.get("serviceAccount").cloned() {
        spec.entry("serviceAccountName").or_insert(old);
    }
    if let Some(name) = spec.get("serviceAccountName").cloned() {
        spec.insert("serviceAccount".into(), name);
    }
    // On the host's network a container's ports are the host's.
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        for list in ["containers", "initContainers"] {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                    if let Some(port) = port.as_object_mut()
                        && let Some(number) = port.get("containerPort").cloned()
                    {
                        port.entry("hostPort").or_insert(number);
                    }
                }
            }
        }
    }
}

fn target_ports(spec: &mut Map<String, Value>) {
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(port) = port.as_object_mut() else { continue };
        let unset = port.get("targetPort").is_none_or(|target| target == &json!(0) || target == "");
        if unset && let Some(number) = port.get("port").cloned() {
            port.insert("targetPort".into(), number);
        }
    }
}

/// The old field for one address and the new one for several tell the same.
fn cluster_ips(spec: &mut Map<String, Value>) {
    let listed = spec.get("clusterIPs").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if !listed && let Some(address) = spec.get("clusterIP").filter(|address| *address != "").cloned() {
        spec.insert("clusterIPs".into(), json!([address]));
    }
}

/// Of a limit range for containers: the default limit is the largest, the default request that limit, or else the smallest.
fn limits_of_containers(item: &mut Map<String, Value>) {
    if item.get("type").and_then(Value::as_str) != Some("Container") {
        return;
    }
    for (into, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
        let amounts = item.get(from).and_then(Value::as_object).cloned().unwrap_or_default();
        let into = child(item, into);
        for (name, amount) in amounts {
            into.entry(name).or_insert(amount);
        }
    }
}

/// Limits are requests too, where those are not given.
fn pod(pod: &mut Map<String, Value>) {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) else { continue };
            let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { continue };
            let requests = child(resources, "requests");
            for (name, limit) in limits {
                requests.entry(name).or_insert(limit);
            }
        }
    }
}

fn namespace_label(namespace: &mut Map<String, Value>) {
    let name = namespace.get("metadata").map(|m| walk::text(m, "name").to_owned()).unwrap_or_default();
    // Until a generated name is known there is nothing to label.
    if !name.is_empty() {
        let labels = child(child(namespace, "metadata"), "labels");
        labels.insert("kubernetes.io/metadata.name".into(), name.into());
    }
}

/// Workloads of `apps` take their labels from the pod template when they have none.
fn copy_template_labels(kind: &str, object: &mut Map<String, Value>) {
    if kind != "ReplicaSet" && kind != "DaemonSet" && kind != "Job" {
        return;
    }
    let labels = object.get("spec").and_then(|spec| walk::get(spec, "template.metadata.labels")).cloned();
    if let Some(labels @ Value::Object(_)) = labels {
        let metadata = child(object, "metadata");
        if metadata.get("labels").and_then(Value::as_object).is_none_or(Map::is_empty) {
            metadata.insert("labels".into(), labels);
        }
    }
}

/// Upstream's quality of service class of a pod, from its containers' CPU and memory.
pub(crate) fn qos_class(spec: &Value) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    let containers = walk::list(spec, "containers").iter().chain(walk::list(spec, "initContainers"));
    for container in containers {
        for resource in ["cpu", "memory"] {
            let amount = |which: &str| {
                let text = container.get("resources")?.get(which)?.get(resource)?.as_str()?;
                Quantity::parse(text).ok().filter(|q| !q.is_zero())
            };
            let (limit, request) = (amount("limits"), amount("requests"));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FieldValidation;

    fn defaulted(group: &str, version: &str, kind: &str, object: Value) -> Value {
        let ty = ObjectType::builtin(group, version, kind).unwrap();
        let mut object = ty.check(object, FieldValidation::Strict).unwrap().object;
        ty.set_defaults(&mut object);
        let once = object.clone();
        ty.set_defaults(&mut object);
        assert_eq!(once, object, "defaulting twice changes nothing");
        ty.check(once, FieldValidation::Strict).expect("defaults fit the schema").object
    }

    #[test]
    fn text_of_a_secret_becomes_data() {
        let given = json!({"metadata": {"name": "s"}, "data": {"a": "b2xk"}, "stringData": {"a": "new", "b": "x"}});
        let secret = defaulted("", "v1", "Secret", given);
        assert_eq!((&secret["data"], &secret["stringData"]), (&json!({"a": "bmV3", "b": "eA=="}), &Value::Null));
    }

    #[test]
    fn a_pod_gets_what_upstream_sets() {
        let pod = defaulted(
            "",
            "v1",
            "Pod",
            json!({"metadata": {"name": "web"}, "spec": {
                "containers": [{"name": "a", "image": "nginx", "ports": [{"containerPort": 80}],
                    "livenessProbe": {"httpGet": {"port": 80}}, "resources": {"limits": {"cpu": "0.5"}}}],
                "volumes": [{"name": "c", "configMap": {"name": "x"}}, {"name": "e"}]}}),
        );
        let spec = &pod["spec"];
        assert_eq!(spec["restartPolicy"], "Always");
        assert_eq!(spec["dnsPolicy"], "ClusterFirst");
        assert_eq!(spec["terminationGracePeriodSeconds"], 30);
        assert_eq!(spec["securityContext"], json!({}));
        let container = &spec["containers"][0];
        assert_eq!(container["imagePullPolicy"], "Always");
        assert_eq!(container["ports"][0]["protocol"], "TCP");
        assert_eq!(container["livenessProbe"]["httpGet"], json!({"path": "/", "port": 80, "scheme": "HTTP"}));
        assert_eq!(container["livenessProbe"]["failureThreshold"], 3);
        assert_eq!(container["resources"]["requests"], json!({"cpu": "500m"}));
        assert_eq!(spec["volumes"][0]["configMap"]["defaultMode"], 420);
        assert_eq!(spec["volumes"][1]["emptyDir"], json!({}));
    }

    #[test]
    fn limits_of_containers_have_defaults() {
        let limits = json!([{"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1", "memory": "1Gi"}}, {"type": "Pod", "max": {"cpu": "1"}}]);
        let range = defaulted("", "v1", "LimitRange", json!({"metadata": {"name": "l"}, "spec": {"limits": limits}}));
        let first = &range["spec"]["limits"][0];
        assert_eq!(first["default"], json!({"cpu": "2"}));
        assert_eq!(first["defaultRequest"], json!({"cpu": "2", "memory": "1Gi"}));
        assert_eq!(range["spec"]["limits"][1], json!({"type": "Pod", "max": {"cpu": "1"}}));
    }

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, latest) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.27", false),
            ("localhost:5000/nginx", true),
            ("localhost:5000/nginx:1", false),
            ("nginx@sha256:00", false),
        ] {
            assert_eq!(image_is_latest(image), latest, "{image}");
        }
    }

    #[test]
    fn workloads_and_services() {
        let deployment = defaulted(
            "apps",
            "v1",
            "Deployment",
            json!({"metadata": {"name": "d"}, "spec": {"selector": {}, "template": {"spec": {"containers": []}}}}),
        );
        assert_eq!(deployment["spec"]["replicas"], 1);
        assert_eq!(
            deployment["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
        );
        assert_eq!(deployment["spec"]["template"]["spec"]["restartPolicy"], "Always");
        let recreate = defaulted(
            "apps",
            "v1",
            "Deployment",
            json!({"spec": {"selector": {}, "strategy": {"type": "Recreate"}, "template": {}}}),
        );
        assert_eq!(recreate["spec"]["strategy"], json!({"type": "Recreate"}));
        let service = defaulted("", "v1", "Service", json!({"spec": {"ports": [{"port": 80}]}}));
        assert_eq!(service["spec"]["ports"][0], json!({"port": 80, "protocol": "TCP", "targetPort": 80}));
        assert_eq!(service["spec"]["type"], "ClusterIP");
        let namespace = defaulted("", "v1", "Namespace", json!({"metadata": {"name": "x"}}));
        assert_eq!(namespace["metadata"]["labels"]["kubernetes.io/metadata.name"], "x");
        assert_eq!(namespace["spec"]["finalizers"], json!(["kubernetes"]));
    }

    #[test]
    fn every_default_is_of_a_known_definition() {
        let mut known = std::collections::BTreeSet::new();
        for ty in ObjectType::all_builtin() {
            fn collect(schema: &std::sync::Arc<crate::Schema>, known: &mut std::collections::BTreeSet<String>) {
                match schema.as_ref() {
                    crate::Schema::Object(fields) if known.insert(fields.name.to_string()) => {
                        fields.fields.iter().for_each(|f| collect(&f.schema, known));
                    }
                    crate::Schema::List { items, .. } => collect(items, known),
                    crate::Schema::Map { values, .. } => collect(values, known),
                    _ => {}
                }
            }
            collect(ty.schema(), &mut known);
        }
        let unknown: Vec<_> = table().keys().filter(|definition| !known.contains(**definition)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
