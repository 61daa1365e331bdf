mod protobuf;
mod tables;

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    field::{Errors, FieldError},
    *,
};

fn of(kind: (&str, &str, &str)) -> &'static Arc<Resource> {
    registry::builtin_of(kind.0, kind.1, kind.2).unwrap()
}

fn said(errors: Errors) -> Vec<String> {
    errors.into_vec().iter().map(FieldError::cause).map(|cause| cause.field + ": " + &cause.message).collect()
}

fn errors(kind: (&str, &str, &str), metadata: Value) -> Vec<String> {
    let resource = of(kind);
    said(resource.errors_of_create(&json!({"metadata": metadata})))
}

#[test]
fn names_are_what_paths_and_stores_can_hold() {
    let map = ("", "v1", "ConfigMap");
    let named = |name: &str| errors(map, json!({"name": name, "namespace": "default"}));
    for good in ["a", "a.b", "kube-root-ca.crt", &"a".repeat(253)] {
        assert_eq!(named(good), Vec::<String>::new(), "{good}");
    }
    for bad in ["", "A", "a/b", "../x", "..", "-a", "a_b", "a\u{0}", "é", &"a".repeat(254)] {
        assert_eq!(named(bad).len(), 1, "{bad}");
    }
    assert_eq!(named("")[0], "metadata.name: Required value: name or generateName is required");
    let dots = "metadata.name: Invalid value: \"a.b\": must not contain dots";
    assert_eq!(errors(("", "v1", "Namespace"), json!({"name": "a.b"})), [dots]);
    let role = ("rbac.authorization.k8s.io", "v1", "ClusterRole");
    assert!(errors(role, json!({"name": "system:node"})).is_empty());
    assert_eq!(errors(role, json!({"name": "a/b"})), ["metadata.name: Invalid value: \"a/b\": may not contain '/'"]);
}

#[test]
fn labels_are_words() {
    let labels = |labels: Value| errors(("", "v1", "Namespace"), json!({"name": "a", "labels": labels})).len();
    assert_eq!(labels(json!({"app.kubernetes.io/name": "Web_1", "empty": ""})), 0);
    for bad in [json!({"a b": "c"}), json!({"a": "b c"}), json!({"/a": "b"}), json!({"a": "x".repeat(64)})] {
        assert_eq!(labels(bad.clone()), 1, "{bad}");
    }
}

/// The components that it is for would not see it.
#[test]
fn an_object_of_our_own_has_a_spec() {
    for (group, kind) in [("network", "Network"), ("volume", "Volume"), ("identity", "Project")] {
        let group = format!("{group}.hypernetes.io");
        let resource = of((&group, "v1alpha1", kind));
        let without = json!({"metadata": {"name": "a"}});
        assert_eq!(said(resource.errors_of_create(&without)), ["spec: Required value"], "{kind}");
        let with = json!({"metadata": {"name": "a"}, "spec": {}});
        assert!(resource.errors_of_create(&with).is_empty(), "{kind}");
        // One that was stored before can be labelled, and deleted.
        assert!(resource.errors_of_update(&without, &without).is_empty(), "{kind}");
    }
}

#[test]
fn what_is_for_life_stays() {
    let resource = of(("storage.k8s.io", "v1", "StorageClass"));
    let object =
        |provisioner: &str, uid: &str| json!({"metadata": {"name": "a", "uid": uid}, "provisioner": provisioner});
    assert!(resource.errors_of_update(&object("a", "1"), &object("a", "1")).is_empty());
    assert_eq!(resource.errors_of_update(&object("b", "2"), &object("a", "1")).len(), 2);
}

#[test]
fn what_was_wrong_before_may_stay_and_nothing_else() {
    let resource = of(("", "v1", "ConfigMap"));
    let object = |labels: Value| json!({"metadata": {"name": "a", "namespace": "d", "labels": labels}});
    let old = object(json!({"a": "b c"}));
    assert!(!resource.errors_of_create(&old).is_empty());
    assert!(resource.errors_of_update(&object(json!({"a": "b c", "new": "good"})), &old).is_empty());
    let worse = said(resource.errors_of_update(&object(json!({"a": "b c", "new": "not good"})), &old));
    assert!(worse.len() == 1 && worse[0].contains("\"not good\""), "{worse:?}");
    let other = said(resource.errors_of_update(&object(json!({"a": "c d"})), &old));
    assert!(other.len() == 1 && other[0].contains("\"c d\""), "{other:?}");
    // Of so many errors that not all are kept, none is excused.
    let many: serde_json::Map<String, Value> =
        (0..=field::MAX_ERRORS).map(|i| (format!("a{i}"), "b c".into())).collect();
    let many = object(Value::Object(many));
    assert!(!resource.errors_of_update(&many, &many).is_empty());
}

#[test]
fn conversions_undo_each_other() {
    for resource in registry::builtin() {
        for served in resource.served.iter().filter(|served| !served.is_stored()) {
            // Every field of the version that is served, filled with its own name.
            let hypernetes_schema::Schema::Object(shape) = served.ty.schema().as_ref() else { panic!() };
            let fields: serde_json::Map<String, Value> =
                shape.fields.iter().map(|field| (field.name.to_string(), field.name.to_string().into())).collect();
            let mut object = Value::Object(fields);
            object["apiVersion"] = served.ty.api_version().into();
            object["kind"] = served.ty.kind.clone().into();
            let stored = served.to_stored(object.clone());
            assert_eq!(stored["apiVersion"], resource.ty.api_version());
            assert_eq!(served.from_stored(stored), object, "{}", resource.plural);
        }
    }
}

/// An object as the API server validates it: of the schema's shape, with defaults.
fn object(kind: (&str, &str, &str), mut object: Value) -> (&'static Arc<Resource>, Value) {
    let resource = of(kind);
    if object["metadata"].is_null() {
        object["metadata"] = json!({});
    }
    object["metadata"]["name"] = "a".into();
    if resource.ty.namespaced {
        object["metadata"]["namespace"] = "d".into();
    }
    let mut object = resource.ty.check(object, hypernetes_schema::FieldValidation::Strict).unwrap().object;
    resource.set_defaults(&mut object);
    (resource, object)
}

fn created(kind: (&str, &str, &str), new: Value) -> Vec<String> {
    let (resource, object) = object(kind, new);
    said(resource.errors_of_create(&object))
}

/// What is said of a change by a merge patch.
fn changed(kind: (&str, &str, &str), old: Value, patch: Value) -> Vec<String> {
    fn merge(into: &mut Value, patch: &Value) {
        match patch {
            Value::Object(fields) => {
                if !into.is_object() {
                    *into = json!({});
                }
                for (name, value) in fields {
                    match value {
                        Value::Null => drop(into.as_object_mut().unwrap().remove(name)),
                        value => merge(&mut into[name.as_str()], value),
                    }
                }
            }
            value => *into = value.clone(),
        }
    }
    let (resource, old) = object(kind, old);
    let mut new = old.clone();
    merge(&mut new, &patch);
    resource.set_defaults(&mut new);
    said(resource.errors_of_update(&new, &old))
}

const POD: (&str, &str, &str) = ("", "v1", "Pod");
const DEPLOYMENT: (&str, &str, &str) = ("apps", "v1", "Deployment");

fn pod() -> Value {
    json!({"spec": {
        "containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1"}}}],
        "nodeName": "n", "tolerations": [{"key": "a", "operator": "Exists"}]}})
}

fn deployment() -> Value {
    json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
        "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[test]
fn names_in_a_pod_never_leave_its_directory() {
    let bad = ["/tmp/x", "../x", "..", "a/b", "A", ""];
    let volume = |name: &str| json!({"name": name, "emptyDir": {}});
    let container = |name: &str| json!({"name": name, "image": "i"});
    for name in bad {
        for spec in [
            json!({"containers": [container(name)]}),
            json!({"containers": [container("c")], "initContainers": [container(name)]}),
            json!({"containers": [container("c")], "volumes": [volume(name)]}),
        ] {
            assert!(!created(POD, json!({"spec": spec})).is_empty(), "{spec}");
            let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": spec});
            let mut deployment = deployment();
            deployment["spec"]["template"] = template;
            assert!(!created(DEPLOYMENT, deployment).is_empty(), "{spec}");
        }
    }
    for name in ["../x", "a/b", "..", "x?watch=true", ""] {
        for source in [
            json!({"configMap": {"name": name}}),
            json!({"secret": {"secretName": name}}),
            json!({"persistentVolumeClaim": {"claimName": name}}),
            json!({"csi": {"driver": name}}),
            json!({"projected": {"sources": [{"configMap": {"name": name}}]}}),
            json!({"projected": {"sources": [{"secret": {"name": name}}]}}),
        ] {
            let mut source = source;
            source["name"] = "v".into();
            let spec = json!({"containers": [container("c")], "volumes": [source]});
            assert!(!created(POD, json!({"spec": spec})).is_empty(), "{spec}");
        }
        for field in ["nodeName", "serviceAccountName", "hostname", "subdomain", "priorityClassName"] {
            let mut spec = json!({"containers": [container("c")]});
            spec[field] = name.into();
            assert!(name.is_empty() || !created(POD, json!({"spec": spec})).is_empty(), "{spec}");
        }
    }
    for path in ["/etc/x", "../x", "a/../../x", "..x"] {
        let item = json!({"key": "k", "path": path});
        let field = json!({"path": path, "fieldRef": {"fieldPath": "metadata.name"}});
        for source in [
            json!({"configMap": {"name": "m", "items": [item]}}),
            json!({"secret": {"secretName": "m", "items": [item]}}),
            json!({"downwardAPI": {"items": [field]}}),
            json!({"projected": {"sources": [{"serviceAccountToken": {"path": path}}]}}),
            json!({"projected": {"sources": [{"downwardAPI": {"items": [field]}}]}}),
            json!({"projected": {"sources": [{"secret": {"name": "m", "items": [item]}}]}}),
        ] {
            let mut source = source;
            source["name"] = "v".into();
            let spec = json!({"containers": [container("c")], "volumes": [source], "serviceAccountName": "s"});
            assert!(!created(POD, json!({"spec": spec})).is_empty(), "{spec}");
        }
    }
    for path in ["/x", "../x", "a/../../b"] {
        for field in ["subPath", "subPathExpr"] {
            let mut mount = json!({"name": "v", "mountPath": "/m"});
            mount[field] = path.into();
            let container = json!({"name": "c", "image": "i", "volumeMounts": [mount]});
            let spec = json!({"containers": [container], "volumes": [volume("v")]});
            assert_eq!(created(POD, json!({"spec": spec})).len(), 1, "{spec}");
        }
    }
}

#[test]
fn requests_are_not_negative_nor_more_than_limits() {
    let with = |resources: Value| {
        let container = json!({"name": "c", "image": "i", "resources": resources});
        created(POD, json!({"spec": {"containers": [container]}}))
    };
    assert_eq!(
        with(json!({"requests": {"memory": "-200Gi"}})),
        [
            "spec.containers[0].resources.requests[memory]: Invalid value: \"-200Gi\": must be greater than or equal to 0"
        ]
    );
    assert_eq!(with(json!({"requests": {"cpu": "-50"}, "limits": {"cpu": "-1"}})).len(), 2);
    assert_eq!(
        with(json!({"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}})),
        [
            "spec.containers[0].resources.requests: Invalid value: \"2Gi\": must be less than or equal to memory limit of 1Gi"
        ]
    );
    assert!(with(json!({"requests": {"memory": "1Gi"}, "limits": {"memory": "1Gi", "cpu": "1"}})).is_empty());
    let sized = |limit: &str| {
        let volume = json!({"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": limit}});
        created(POD, json!({"spec": {"containers": [{"name": "c", "image": "i"}], "volumes": [volume]}})).len()
    };
    assert_eq!((sized("-1Gi"), sized("1Gi")), (1, 0));
}

#[test]
fn rules_of_pods() {
    let hook = |seconds: i64| {
        let container = json!({"name": "c", "image": "i", "lifecycle": {"preStop": {"sleep": {"seconds": seconds}}}});
        created(POD, json!({"spec": {"containers": [container]}}))
    };
    assert_eq!((hook(0).len(), hook(30).len(), hook(-1).len()), (0, 0, 1));
    assert_eq!(
        hook(31),
        [
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)"
        ]
    );
    let dns = json!({"spec": {"containers": [{"name": "c", "image": "i"}], "dnsPolicy": "None"}});
    assert_eq!(
        created(POD, dns),
        ["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"]
    );
    let sidecar =
        json!({"name": "s", "image": "i", "restartPolicy": "Always", "readinessProbe": {"exec": {"command": ["a"]}}});
    let spec = json!({"containers": [{"name": "c", "image": "i"}], "initContainers": [sidecar]});
    assert!(created(POD, json!({"spec": spec})).is_empty());
    let sysctl = |name: &str| {
        let context = json!({"sysctls": [{"name": name, "value": "1"}]});
        created(POD, json!({"spec": {"containers": [{"name": "c", "image": "i"}], "securityContext": context}})).len()
    };
    assert_eq!(
        (sysctl("net.core.somaxconn"), sysctl("../../etc/x"), sysctl("net//x"), sysctl("/kernel")),
        (0, 1, 1, 1)
    );
}

#[test]
fn little_of_a_pod_may_change() {
    let pod_of = |patch: Value| changed(POD, pod(), json!({"spec": patch}));
    let container = |image: &str, command: &str| {
        json!([{"name": "c", "image": image, "command": [command],
        "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}, "imagePullPolicy": "Always",
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}])
    };
    let mut image = container("j", "x");
    image[0].as_object_mut().unwrap().remove("command");
    assert_eq!(pod_of(json!({"containers": image})), Vec::<String>::new());
    assert_eq!(changed(POD, pod(), json!({"metadata": {"labels": {"a": "b"}}})), Vec::<String>::new());
    assert_eq!(pod_of(json!({"activeDeadlineSeconds": 5})), Vec::<String>::new());
    let more = json!([{"key": "a", "operator": "Exists", "tolerationSeconds": 1, "effect": ""}, {"key": "b", "operator": "Exists"}]);
    assert_eq!(pod_of(json!({"tolerations": more})).len(), 1, "seconds need an effect");
    for (patch, field) in [
        (json!({"containers": container("i", "evil")}), "spec.containers[0].command"),
        (json!({"nodeName": "other"}), "spec.nodeName"),
        (json!({"nodeName": null}), "spec.nodeName"),
        (json!({"terminationGracePeriodSeconds": 5}), "spec.terminationGracePeriodSeconds"),
        (json!({"serviceAccountName": "admin"}), "spec.serviceAccountName"),
        (json!({"volumes": [{"name": "v", "emptyDir": {}}]}), "spec.volumes"),
        (json!({"securityContext": {"runAsUser": 0}}), "spec.securityContext.runAsUser"),
    ] {
        let said = pod_of(patch.clone());
        assert_eq!(said.len(), 1, "{patch}: {said:?}");
        assert!(said[0].starts_with("spec: Forbidden: pod updates may not change fields other than"), "{said:?}");
        assert!(said[0].contains(field), "{said:?}");
    }
    let more = json!([{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]);
    assert_eq!(
        pod_of(json!({"containers": more})),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
    assert_eq!(
        pod_of(json!({"tolerations": []})),
        ["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"]
    );
    let mut bounded = pod();
    bounded["spec"]["activeDeadlineSeconds"] = 5.into();
    let later = changed(POD, bounded.clone(), json!({"spec": {"activeDeadlineSeconds": 6}}));
    assert_eq!(later, ["spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"]);
    assert!(changed(POD, bounded, json!({"spec": {"activeDeadlineSeconds": 4}})).is_empty());
}

#[test]
fn a_pod_that_is_held_back_may_be_told_more_of_where_to_run() {
    let mut gated = pod();
    gated["spec"]["schedulingGates"] = json!([{"name": "g"}]);
    gated["spec"]["nodeSelector"] = json!({"a": "b"});
    gated["spec"].as_object_mut().unwrap().remove("nodeName");
    let change = |patch: Value| changed(POD, gated.clone(), json!({"spec": patch}));
    assert!(change(json!({"schedulingGates": []})).is_empty());
    assert!(change(json!({"nodeSelector": {"c": "d"}})).is_empty());
    assert_eq!(change(json!({"nodeSelector": {"a": "other"}})).len(), 1);
    assert_eq!(change(json!({"schedulingGates": [{"name": "g"}, {"name": "h"}]})).len(), 1);
    let terms = json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "k", "operator": "Exists"}]}]});
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
    assert_eq!(change(json!({"affinity": affinity})), Vec::<String>::new());
    assert_eq!(changed(POD, pod(), json!({"spec": {"affinity": affinity}})).len(), 1, "one that is not may not");
}

#[test]
fn what_is_frozen_stays() {
    for kind in [("", "v1", "ConfigMap"), ("", "v1", "Secret")] {
        let old = json!({"immutable": true, "data": {"a": "YQ=="}});
        let frozen = "field is immutable when `immutable` is set";
        assert_eq!(changed(kind, old.clone(), json!({"data": {"a": "Yg=="}})), [format!("data: Forbidden: {frozen}")]);
        assert_eq!(
            changed(kind, old.clone(), json!({"immutable": false})),
            [format!("immutable: Forbidden: {frozen}")]
        );
        assert!(changed(kind, old, json!({"metadata": {"labels": {"a": "b"}}})).is_empty());
        assert!(
            changed(kind, json!({"data": {"a": "YQ=="}}), json!({"data": {"a": "Yg=="}, "immutable": true})).is_empty()
        );
    }
}

#[test]
fn secrets_hold_what_their_type_says() {
    let secret = |kind: &str, data: Value| created(("", "v1", "Secret"), json!({"type": kind, "stringData": data}));
    for (kind, data, fields) in [
        ("kubernetes.io/tls", json!({"tls.crt": "x"}), &["data[tls.key]"][..]),
        ("kubernetes.io/basic-auth", json!({}), &["data[username]", "data[password]"]),
        ("kubernetes.io/ssh-auth", json!({"ssh-privatekey": ""}), &["data[ssh-privatekey]"]),
        ("kubernetes.io/dockerconfigjson", json!({".dockerconfigjson": "{not json"}), &["data[.dockerconfigjson]"]),
        ("kubernetes.io/dockerconfigjson", json!({}), &["data[.dockerconfigjson]"]),
        (
            "kubernetes.io/service-account-token",
            json!({}),
            &["metadata.annotations[kubernetes.io/service-account.name]"],
        ),
        ("Opaque", json!({"bad key": "x"}), &["data[bad key]"]),
        ("Opaque", json!({"..": "x"}), &["data[..]"]),
        ("example.com/any", json!({}), &[]),
    ] {
        let said = secret(kind, data);
        let at: Vec<&str> = said.iter().map(|words| words.split(": ").next().unwrap()).collect();
        assert_eq!(at, fields, "{said:?}");
    }
    assert!(!secret("kubernetes.io/dockercfg", json!({".dockercfg": "hunter2"}))[0].contains("hunter2"));
    let kind = ("", "v1", "Secret");
    assert_eq!(
        changed(kind, json!({"type": "Opaque"}), json!({"type": "other"})),
        ["type: Invalid value: \"other\": field is immutable"]
    );
}

#[test]
fn claims_are_what_was_asked_for() {
    let kind = ("", "v1", "PersistentVolumeClaim");
    let claim = |size: &str| json!({"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "s", "resources": {"requests": {"storage": size}}}});
    for (size, good) in [("1Gi", true), ("0", false), ("-1Gi", false)] {
        assert_eq!(created(kind, claim(size)).is_empty(), good, "{size}");
    }
    let mut bound = claim("2Gi");
    bound["status"] = json!({"phase": "Bound", "capacity": {"storage": "2Gi"}});
    bound["spec"]["volumeName"] = "v".into();
    let change = |patch: Value| changed(kind, bound.clone(), json!({"spec": patch}));
    let size = |size: &str| json!({"resources": {"requests": {"storage": size}}});
    assert!(change(size("3Gi")).is_empty());
    assert_eq!(
        change(size("1Gi")),
        ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
    );
    for patch in [
        json!({"accessModes": ["ReadWriteMany"]}),
        json!({"storageClassName": "other"}),
        json!({"volumeName": "other"}),
        json!({"selector": {"matchLabels": {"a": "b"}}}),
    ] {
        assert!(change(patch.clone())[0].starts_with("spec: Forbidden: spec is immutable"), "{patch}");
    }
    let pending = claim("2Gi");
    assert!(changed(kind, pending.clone(), json!({"spec": {"volumeName": "v"}})).is_empty());
    assert_eq!(changed(kind, pending, json!({"spec": size("1Gi")})).len(), 1);
}

#[test]
fn selectors_of_workloads_are_for_life() {
    let other =
        json!({"spec": {"selector": {"matchLabels": {"a": "c"}}, "template": {"metadata": {"labels": {"a": "c"}}}}});
    for kind in ["Deployment", "ReplicaSet", "DaemonSet"] {
        let mut workload = deployment();
        assert_eq!(created(("apps", "v1", kind), workload.clone()), Vec::<String>::new(), "{kind}");
        let said = changed(("apps", "v1", kind), workload.clone(), other.clone());
        assert_eq!(
            said,
            ["spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"c\"}}: field is immutable"],
            "{kind}"
        );
        workload["spec"]["template"]["metadata"]["labels"] = json!({"a": "mism"});
        let mismatch = "spec.template.metadata.labels: Invalid value: {\"a\":\"mism\"}: `selector` does not match template `labels`";
        assert_eq!(created(("apps", "v1", kind), workload.clone()), [mismatch], "{kind}");
        workload["spec"].as_object_mut().unwrap().remove("selector");
        assert!(!created(("apps", "v1", kind), workload).is_empty(), "{kind}");
    }
    let kind = ("apps", "v1", "StatefulSet");
    let set = |selector: &str| {
        let mut set = deployment();
        set["spec"]["serviceName"] = selector.into();
        set["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]);
        set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/d"}]);
        set
    };
    assert_eq!(created(kind, set("s")), Vec::<String>::new());
    assert!(changed(kind, set("s"), json!({"spec": {"replicas": 3}})).is_empty());
    assert!(
        changed(kind, set("s"), json!({"spec": {"serviceName": "t"}}))[0]
            .starts_with("spec: Forbidden: updates to statefulset")
    );
    let kind = ("", "v1", "ReplicationController");
    let mut controller = deployment();
    controller["spec"]["selector"] = json!({"a": "b"});
    assert_eq!(created(kind, controller.clone()), Vec::<String>::new());
    controller["spec"]["selector"] = json!({"a": "c"});
    assert_eq!(created(kind, controller).len(), 1);
}

#[test]
fn jobs_run_what_was_asked_for() {
    let kind = ("batch", "v1", "Job");
    let job = json!({"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    assert_eq!(created(kind, job.clone()), Vec::<String>::new());
    assert!(changed(kind, job.clone(), json!({"spec": {"parallelism": 3}})).is_empty());
    assert_eq!(
        changed(kind, job.clone(), json!({"spec": {"completions": 3}})),
        ["spec.completions: Invalid value: 3: field is immutable"]
    );
    let template = json!({"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}});
    assert!(changed(kind, job.clone(), template.clone())[0].ends_with("field is immutable"));
    let mut waiting = job.clone();
    waiting["spec"]["suspend"] = true.into();
    assert!(changed(kind, waiting, template).is_empty());
    let cron = |schedule: &str, zone: Value| {
        let spec = json!({"schedule": schedule, "timeZone": zone, "jobTemplate": {"spec": job["spec"]}});
        created(("batch", "v1", "CronJob"), json!({"spec": spec})).len()
    };
    assert_eq!(cron("*/5 * * * *", json!("Europe/Berlin")), 0);
    assert_eq!((cron("often", json!(null)), cron("* * * * *", json!("../../etc/shadow"))), (1, 1));
}

#[test]
fn services_keep_their_addresses() {
    let kind = ("", "v1", "Service");
    let service = |address: &str| json!({"spec": {"clusterIP": address, "ports": [{"port": 1}]}});
    for good in ["", "None", "10.0.0.1", "2001:db8::1"] {
        assert_eq!(created(kind, service(good)), Vec::<String>::new(), "{good}");
    }
    let other = json!({"spec": {"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2"]}});
    assert_eq!(
        changed(kind, service("10.0.0.1"), other),
        ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]
    );
    for bad in ["127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1", "::ffff:127.0.0.1"] {
        let mut service = service("");
        service["spec"]["externalIPs"] = json!([bad]);
        assert_eq!(created(kind, service).len(), 1, "{bad}");
    }
}

#[test]
fn a_subnet_is_a_range_that_addresses_can_be_given_from() {
    let kind = ("network.hypernetes.io", "v1alpha1", "Subnet");
    let subnet = |cidr: &str, gateway: &str, pools: &[(&str, &str)]| {
        let pools: Vec<Value> = pools.iter().map(|(start, end)| json!({"start": start, "end": end})).collect();
        json!({"spec": {"network": "n", "cidr": cidr, "gateway": gateway, "allocationPools": pools}})
    };
    for good in [
        subnet("10.0.0.0/24", "", &[]),
        subnet("10.0.0.0/24", "none", &[]),
        subnet("10.0.0.0/30", "10.0.0.2", &[("10.0.0.1", "10.0.0.1")]),
        subnet("10.0.0.0/24", "", &[("10.0.0.20", "10.0.0.30"), ("10.0.0.9", "10.0.0.19")]),
    ] {
        assert_eq!(created(kind, good.clone()), Vec::<String>::new(), "{good}");
    }
    let net = "10.0.0.0/24";
    for (bad, errors) in [
        (subnet("", "", &[]), vec!["spec.cidr: Required value: the range of its addresses"]),
        (
            subnet("nonsense", "gate", &[]),
            vec![
                "spec.cidr: Invalid value: \"nonsense\": \"nonsense\" is not an IPv4 range such as 10.0.0.0/24, of at least four addresses",
                "spec.gateway: Invalid value: \"gate\": \"gate\" is not an IPv4 address",
            ],
        ),
        (subnet("fd00::/64", "", &[]), vec!["spec.cidr: Invalid value: \"fd00::/64\": IPv6 subnets are not supported"]),
        (
            subnet(net, "10.0.1.1", &[]),
            vec!["spec.gateway: Invalid value: \"10.0.1.1\": 10.0.1.1 is not a usable address of the range"],
        ),
        (
            subnet(net, "", &[("x", "10.0.0.9"), ("10.0.0.9", ""), ("10.0.0.9", "10.0.0.5")]),
            vec![
                "spec.allocationPools[0].start: Invalid value: \"x\": \"x\" is not an IPv4 address",
                "spec.allocationPools[1].end: Invalid value: \"\": \"\" is not an IPv4 address",
                "spec.allocationPools[2]: Invalid value: {\"end\":\"10.0.0.5\",\"start\":\"10.0.0.9\"}: the pool 10.0.0.9 to 10.0.0.5 ends before it begins",
            ],
        ),
    ] {
        assert_eq!(created(kind, bad.clone()), errors, "{bad}");
        // One that is there can be changed, as far as it does not become worse.
        let mut described = bad.clone();
        described["spec"]["description"] = "x".into();
        assert_eq!(changed(kind, bad, described), Vec::<String>::new());
    }
    let worse = subnet(net, "elsewhere", &[("10.0.0.9", "10.0.0.20"), ("10.0.0.20", "10.0.0.30")]);
    assert_eq!(changed(kind, subnet(net, "", &[]), worse).len(), 2);
}

#[test]
fn a_binding_gives_one_role_for_life() {
    let kind = ("rbac.authorization.k8s.io", "v1", "RoleBinding");
    let binding = |role: &str| json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role}, "subjects": [{"kind": "User", "name": "u"}]});
    assert_eq!(created(kind, binding("r")), Vec::<String>::new());
    let said = changed(kind, binding("r"), json!({"roleRef": {"name": "s"}}));
    assert_eq!(
        said,
        [
            "roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"Role\",\"Name\":\"s\"}: cannot change roleRef"
        ]
    );
}

/// Stored when nothing was checked, with names that nothing has: it can still be labelled and finalized, and not made worse.
#[test]
fn what_is_stored_and_bad_stays_changeable() {
    let old = json!({"spec": {"nodeName": "n", "containers": [{"name": "../c", "image": "i"}], "volumes": [{"name": "/etc", "emptyDir": {}}]}});
    assert!(created(POD, old.clone()).len() == 2);
    assert_eq!(
        changed(POD, old.clone(), json!({"metadata": {"labels": {"a": "b"}, "finalizers": []}})),
        Vec::<String>::new()
    );
    assert!(!changed(POD, old, json!({"spec": {"hostname": "../x"}})).is_empty());
    let mut workload = deployment();
    workload["spec"]["selector"]["matchLabels"]["a"] = "other".into();
    assert_eq!(changed(DEPLOYMENT, workload.clone(), json!({"spec": {"replicas": 0}})), Vec::<String>::new());
    assert_eq!(changed(DEPLOYMENT, workload, json!({"spec": {"replicas": -1}})).len(), 1);
}

mod any_json {
    use proptest::prelude::{Just, Strategy, any as any_of, prop_oneof, proptest};
    use serde_json::{Map, Value, json};

    use super::*;

    /// Words that rules look for, so that a made-up object gets far.
    const NAMES: &[&str] = &[
        "spec",
        "template",
        "metadata",
        "containers",
        "initContainers",
        "volumes",
        "name",
        "image",
        "ports",
        "env",
        "resources",
        "requests",
        "limits",
        "cpu",
        "memory",
        "selector",
        "matchLabels",
        "matchExpressions",
        "key",
        "operator",
        "values",
        "labels",
        "securityContext",
        "affinity",
        "nodeAffinity",
        "tolerations",
        "data",
        "type",
        "strategy",
        "rollingUpdate",
        "maxSurge",
        "maxUnavailable",
        "jobTemplate",
        "schedule",
        "rules",
        "http",
        "paths",
        "clusterIPs",
        "emptyDir",
        "projected",
        "sources",
        "items",
        "path",
        "livenessProbe",
        "httpGet",
        "port",
        "limits",
        "requiredDuringSchedulingIgnoredDuringExecution",
        "nodeSelectorTerms",
        "topologySpreadConstraints",
        "ipBlock",
        "cidr",
        "except",
        "volumeClaimTemplates",
        "storage",
        "accessModes",
        "subsets",
        "endpoints",
        "addresses",
        "status",
    ];

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(String::new()),
            "[a-z0-9./%-]{0,8}",
            "\\PC{0,6}",
            Just("-1".to_owned()),
            Just("99999999999999999999%".to_owned()),
            Just("*/0".to_owned()),
            Just("::ffff:1.2.3.4/200".to_owned()),
            Just("In".to_owned()),
        ]
    }

    fn any() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any_of::<bool>().prop_map(Value::from),
            any_of::<i64>().prop_map(Value::from),
            any_of::<f64>().prop_map(Value::from),
            text().prop_map(Value::from),
        ];
        leaf.prop_recursive(8, 64, 6, |inner| {
            let name = prop_oneof![proptest::sample::select(NAMES).prop_map(str::to_owned), text()];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((name, inner), 0..6)
                    .prop_map(|fields| Value::from(fields.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    /// Puts a value in the place of some field of a good object.
    fn spoil(object: &mut Value, mut at: usize, with: &Value) -> bool {
        fn walk(value: &mut Value, at: &mut usize, with: &Value) -> bool {
            if *at == 0 {
                *value = with.clone();
                return true;
            }
            *at -= 1;
            match value {
                Value::Object(fields) => fields.values_mut().any(|value| walk(value, at, with)),
                Value::Array(list) => list.iter_mut().any(|value| walk(value, at, with)),
                _ => false,
            }
        }
        walk(object, &mut at, with)
    }

    proptest! {
        /// No JSON makes any kind's rules panic, as a new object or as a change.
        #[test]
        fn never_panics(new in any(), old in any()) {
            for resource in registry::builtin() {
                let _ = resource.validate_create(&new);
                let _ = resource.validate_update(&new, &old);
                let _ = resource.validate_status_update(&new, &old);
            }
        }

        /// Nor does any JSON in a place of an object that is good otherwise.
        #[test]
        fn never_panics_in_a_good_object(at in any_of::<proptest::sample::Index>(), with in any()) {
            for (kind, good) in [
                (POD, pod()),
                (DEPLOYMENT, deployment()),
                (("", "v1", "Service"), json!({"spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 1, "name": "a"}]}})),
                (("batch", "v1", "CronJob"), json!({"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": deployment()["spec"]}}})),
            ] {
                let resource = of(kind);
                let mut bad = good.clone();
                resource.set_defaults(&mut bad);
                let old = bad.clone();
                if spoil(&mut bad, at.index(40), &with) {
                    let _ = resource.validate_create(&bad);
                    let _ = resource.validate_update(&bad, &old);
                    let _ = resource.validate_update(&old, &bad);
                    let _ = resource.validate_status_update(&bad, &old);
                }
            }
        }
    }
}

/// What is compiled within a request is bounded: others wait for it.
#[test]
fn policies_have_so_many_expressions() {
    let kind = ("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy");
    let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]});
    let with = |validations: Vec<Value>| {
        let constraints = json!({"resourceRules": [rule]});
        created(kind, json!({"spec": {"matchConstraints": constraints, "validations": validations}}))
    };
    let same = |source: String, times: usize| vec![json!({"expression": source}); times];
    assert_eq!(with(same("true".into(), 512)), Vec::<String>::new());
    let why = "spec: Forbidden: has 60000 expressions of 240000 bytes together: may not have more than 512 of 131072 bytes together";
    assert_eq!(with(same("true".into(), 60_000)), [why]);
    assert_eq!(with(same(format!("'{}' != ''", "a".repeat(70_000)), 2)).len(), 1);
    // Each is a list of the one before it.
    let variable = |at: usize| match at {
        0 => json!({"name": "v0", "expression": "[1]"}),
        at => json!({"name": format!("v{at}"), "expression": format!("[variables.v{}]", at - 1)}),
    };
    let variables: Vec<Value> = (0..510).map(variable).collect();
    let spec = json!({"matchConstraints": {"resourceRules": [rule]}, "variables": variables,
        "validations": same("variables.v509".into(), 1)});
    assert_eq!(created(kind, json!({"spec": spec})).len(), 1);
}
