//! The tables of facts are of definitions that some kind has, and every kind can be described and shown by its record.

use std::collections::{BTreeMap, BTreeSet};

use hypernetes_schema::{FieldValidation, Schema, defaults, facts, protobuf};

use super::*;

/// Every definition that a kind is made of, with its fields.
fn definitions() -> BTreeMap<String, BTreeSet<String>> {
    fn collect(schema: &Arc<Schema>, seen: &mut BTreeMap<String, BTreeSet<String>>) {
        match schema.as_ref() {
            Schema::Object(shape) => {
                let names = shape.fields.iter().map(|field| field.name.to_string()).collect();
                if seen.insert(shape.name.to_string(), names).is_none() {
                    shape.fields.iter().for_each(|field| collect(&field.schema, seen));
                }
            }
            Schema::Map { values, .. } => collect(values, seen),
            Schema::List { items, .. } => collect(items, seen),
            _ => {}
        }
    }
    let mut seen = BTreeMap::new();
    registry::all_kinds().for_each(|ty| collect(ty.schema(), &mut seen));
    seen
}

#[test]
fn every_fact_is_of_a_field_that_exists() {
    let definitions = definitions();
    let known = |(definition, field): &(&str, &str)| {
        definitions.get(*definition).is_some_and(|fields| *field == "-" || fields.contains(*field))
    };
    let unknown: Vec<_> = facts::named().filter(|fact| !known(fact)).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn every_default_is_of_a_known_definition() {
    let known = definitions();
    let unknown: Vec<_> = defaults::definitions().filter(|definition| !known.contains_key(*definition)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn every_field_of_a_numbered_definition_has_a_number() {
    let mut missing = Vec::new();
    let seen = definitions();
    for (definition, names) in &seen {
        let Some(numbered) = protobuf::numbered(definition) else { continue };
        for name in names {
            let envelope = matches!(name.as_str(), "apiVersion" | "kind");
            // Dynamic resource allocation's alpha fields change from release to release, and no client sends them.
            let alpha = name == "nodeAllocatableResourceMappings" || definition.contains("NodeAllocatable");
            if !envelope && !alpha && !numbered.contains(&name.as_str()) {
                missing.push(format!("{definition} {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    for core in ["core.v1.Pod", "apps.v1.DeploymentSpec", "meta.v1.ObjectMeta", "rbac.v1.RoleRef"] {
        assert!(seen.contains_key(core) && protobuf::numbered(core).is_some(), "{core}");
    }
}

/// Every reference leads somewhere, and nothing is said in words that OpenAPI 3.0 does not have.
#[test]
fn documents_are_closed() {
    const COMPONENTS: &str = "#/components/schemas/";
    fn check(value: &Value, schemas: &Value, path: &str) {
        match value {
            Value::Object(fields) => {
                if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                    let name = reference.strip_prefix(COMPONENTS).unwrap_or_default();
                    assert!(schemas[name].is_object(), "{path}: {reference}");
                }
                assert!(!fields.get("type").is_some_and(Value::is_array), "{path}");
                fields.iter().for_each(|(name, inner)| check(inner, schemas, &format!("{path}/{name}")));
            }
            Value::Array(items) => items.iter().for_each(|inner| check(inner, schemas, path)),
            _ => {}
        }
    }
    let view = Registry::default().view(&hypernetes_api::TenantId::system());
    for resource in registry::builtin() {
        let (group, version) = (&resource.ty.group, &resource.ty.version);
        let document: Value = serde_json::from_slice(&view.document(group, version).unwrap().bytes).unwrap();
        check(&document, &document["components"]["schemas"], &resource.plural);
    }
}

/// What kube-apiserver 1.36.2 gave: of each kind its columns (name, type, format, priority), and objects with their cells. Those
/// that change with time are null.
const UPSTREAM: &str = include_str!("tables-1.36.2.jsonl");

/// What of an object is its own, whoever stored it. Empty is as good as absent: Go writes some of what is not there.
fn content(object: &Value) -> Value {
    fn full(value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                let fields = fields.iter().map(|(name, value)| (name.clone(), full(value)));
                fields.filter(|(_, value)| !is_empty(value)).collect::<serde_json::Map<_, _>>().into()
            }
            Value::Array(items) => items.iter().map(full).collect(),
            other => other.clone(),
        }
    }
    fn is_empty(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            _ => false,
        }
    }
    let mut object = full(object);
    let fields = object.as_object_mut().unwrap();
    ["metadata", "status", "apiVersion", "kind"].iter().for_each(|name| drop(fields.remove(*name)));
    // Allocated, and not defaulted.
    if let Some(spec) = fields.get_mut("spec").and_then(Value::as_object_mut) {
        ["ipFamilies", "ipFamilyPolicy"].iter().for_each(|name| drop(spec.remove(*name)));
    }
    object
}

/// What is filled in of what is left open.
#[test]
fn defaults_are_upstreams() {
    let mut wrong = Vec::new();
    for case in UPSTREAM.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let (version, kind) = (case["apiVersion"].as_str().unwrap(), case["kind"].as_str().unwrap());
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        if case["sent"].is_null() {
            continue;
        }
        let resource = of((group, version, kind));
        let mut ours = resource.ty.check(case["sent"].clone(), FieldValidation::Warn).unwrap().object;
        resource.set_defaults(&mut ours);
        let (ours, mut theirs) = (content(&ours), content(&case["object"]));
        if kind == "Job" {
            // A job's selector, and the labels that it selects by, are made and not defaulted.
            theirs["spec"].as_object_mut().unwrap().remove("selector");
            theirs["spec"]["template"]["metadata"] = ours["spec"]["template"]["metadata"].clone();
        }
        if ours != theirs {
            wrong.push(format!("{kind}\n  upstream {theirs}\n  ours     {ours}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn cells_at(resource: &Resource, object: &Value, now: &str) -> Value {
    let mut text = String::new();
    resource.cells(object).show(now.parse().unwrap(), |piece| text.push_str(piece));
    serde_json::from_str(&text).unwrap()
}

fn cells(resource: &Resource, object: &Value) -> Value {
    cells_at(resource, object, "2027-01-01T00:00:00Z")
}

#[test]
fn cells_that_are_made_once_tell_the_time_whenever_they_are_shown() {
    let pod = json!({
        "metadata": {"name": "a \"pod\"", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"phase": "Running", "containerStatuses": [{"name": "c", "ready": true, "restartCount": 2,
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:01:00Z"}}}]},
    });
    let made = of(("", "v1", "Pod")).cells(&pod);
    for (now, restarts, age) in [
        ("2026-01-01T00:01:30Z", "2 (30s ago)", "90s"),
        ("2026-01-01T00:11:00Z", "2 (10m ago)", "11m"),
        ("2026-01-03T00:01:00Z", "2 (2d ago)", "2d"),
    ] {
        let mut text = String::new();
        made.show(now.parse().unwrap(), |piece| text.push_str(piece));
        let cells: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&cells[0], &cells[3], &cells[4]), (&"a \"pod\"".into(), &restarts.into(), &age.into()), "{cells}");
    }
    let unknown = cells(of(("", "v1", "ConfigMap")), &json!({"metadata": {"name": "n"}}));
    assert_eq!(unknown, json!(["n", 0, "<unknown>"]));
}

/// How tables look, and what the status of a new object is.
#[test]
fn tables_and_first_statuses_are_upstreams() {
    let mut wrong = Vec::new();
    for line in UPSTREAM.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let (version, kind) = (case["apiVersion"].as_str().unwrap(), case["kind"].as_str().unwrap());
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = of((group, version, kind));
        if let Some(columns) = case["columns"].as_array() {
            let ours = resource.column_definitions();
            let shown = |c: &Value| json!([c["name"], c["type"], c["format"], c["priority"]]);
            let ours: Vec<Value> = ours.as_array().unwrap().iter().map(shown).collect();
            if &ours != columns {
                wrong.push(format!("{kind}\n  upstream {}\n  ours     {}", case["columns"], json!(ours)));
            }
            continue;
        }
        let row = cells(resource, &case["object"]);
        let (ours, theirs) = (row.as_array().unwrap(), case["cells"].as_array().unwrap());
        if ours.len() != theirs.len()
            || ours.iter().zip(theirs).any(|(ours, theirs)| !theirs.is_null() && ours != theirs)
        {
            wrong.push(format!("{kind} {}\n  upstream {}\n  ours     {}", case["object"], case["cells"], row));
        }
        let mut new = case["object"].clone();
        new["status"] = Value::Null;
        resource.prepare_create(&mut new);
        // When a phase began is the engine's to say.
        let mut theirs = case["firstStatus"].clone();
        if let Some(status) = theirs.as_object_mut() {
            status.remove("lastPhaseTransitionTime");
        }
        if new.get("status").unwrap_or(&Value::Null) != &theirs {
            wrong.push(format!("{kind} is new with\n  upstream {theirs}\n  ours     {}", new["status"]));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_resource_has_a_table() {
    for resource in registry::builtin() {
        let row = cells(resource, &json!({"metadata": {"name": "n"}}));
        assert_eq!(row.as_array().unwrap().len(), resource.column_definitions().as_array().unwrap().len());
    }
}

fn defaulted(group: &str, version: &str, kind: &str, object: Value) -> Value {
    let resource = of((group, version, kind));
    let mut object = resource.ty.check(object, FieldValidation::Strict).unwrap().object;
    resource.set_defaults(&mut object);
    let once = object.clone();
    resource.set_defaults(&mut object);
    assert_eq!(once, object, "defaulting twice changes nothing");
    resource.ty.check(once, FieldValidation::Strict).expect("defaults fit the schema").object
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
