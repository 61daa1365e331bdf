//! Pods whose texts are paths, URLs and worse: nothing outside of a pod's own directory is made, changed or removed, and
//! the neighbours' pods are acted on.

use std::sync::atomic::Ordering;

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use super::*;
use crate::{
    identity::PodId,
    pod::{
        spec::expansion::Environment,
        volumes::{self, Tokens},
    },
    pod_dir::PodDir,
};

/// Texts that are no names; `OUT` stands for a directory of the host's that is not the pod's.
const TEXTS: [&str; 12] = [
    "OUT/made",
    "OUT",
    "../../../../../outside/made",
    "../../../../../../../../../../../../../../../../OUT/made",
    "..",
    "../..",
    "../../../victim/volumes/kubernetes.io~secret/s",
    "a/../../../../../../outside/made",
    "./../../../../../outside",
    "..data",
    "a/b",
    "a?watch=true&timeoutSeconds=99999999999",
];

/// Every place of a pod where a text may stand, with that text there.
fn pods_with(text: &str) -> Vec<Value> {
    let volume = |source: Value| {
        let mut volume = json!({"name": "v"});
        volume.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
        let mount = json!([{"name": "v", "mountPath": "/v"}]);
        pod(json!({"volumes": [volume], "containers": [{"name": "a", "image": "i", "volumeMounts": mount}]}))
    };
    let named = |source: Value| {
        let mut volume = source;
        volume["name"] = text.into();
        pod(json!({"volumes": [volume]}))
    };
    let projected = |source: Value| volume(json!({"projected": {"sources": [source]}}));
    let items = json!([{"key": "key", "path": text}]);
    let keys = json!([{"key": text, "path": "p"}]);
    let field = json!([{"path": text, "fieldRef": {"fieldPath": "metadata.name"}}]);
    let container = |more: Value| {
        let mut container = json!({"name": "a", "image": "i"});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        pod(json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]}))
    };
    vec![
        named(json!({"emptyDir": {}})),
        named(json!({"emptyDir": {"medium": "Memory"}})),
        named(json!({"configMap": {"name": "m"}})),
        named(json!({"secret": {"secretName": "s"}})),
        named(json!({"downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.name"}}]}})),
        named(json!({"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}})),
        named(json!({"persistentVolumeClaim": {"claimName": "c"}})),
        named(json!({"hostPath": {"path": "/"}})),
        volume(json!({"configMap": {"name": text}})),
        volume(json!({"configMap": {"name": "m", "items": items}})),
        volume(json!({"configMap": {"name": "m", "items": keys}})),
        volume(json!({"secret": {"secretName": text}})),
        volume(json!({"secret": {"secretName": "s", "items": items}})),
        volume(json!({"downwardAPI": {"items": field}})),
        volume(json!({"persistentVolumeClaim": {"claimName": text}})),
        projected(json!({"configMap": {"name": "m", "items": items}})),
        projected(json!({"secret": {"name": "s", "items": items}})),
        projected(json!({"downwardAPI": {"items": field}})),
        projected(json!({"serviceAccountToken": {"path": text}})),
        container(json!({"name": text})),
        container(json!({"volumeMounts": [{"name": text, "mountPath": "/v"}]})),
        container(json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": text}]})),
        container(json!({"env": [{"name": "E", "value": text}],
            "volumeMounts": [{"name": "v", "mountPath": "/v", "subPathExpr": "$(E)"}]})),
        container(json!({"terminationMessagePath": text})),
        container(json!({"envFrom": [{"configMapRef": {"name": text}}]})),
        pod(json!({"initContainers": [{"name": text, "image": "i"}]})),
        pod(json!({"hostname": text})),
        pod(json!({"serviceAccountName": text, "volumes": [{"name": "v",
            "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]})),
        pod(json!({"imagePullSecrets": [{"name": text}]})),
    ]
}

/// What is on the host beside the directories of the pods that are put there: a directory outside, and a neighbour's.
struct Surroundings {
    host: Host,
    before: Vec<String>,
}

impl Surroundings {
    #[expect(clippy::disallowed_methods, reason = "what is on the host is made from outside")]
    async fn new(api: HostileApi) -> Self {
        let host = Host::with(api).await;
        std::fs::create_dir(host.path("outside")).unwrap();
        std::fs::write(host.path("outside/file"), "theirs").unwrap();
        host.api.put(GLOBEX, "victim", pod(json!({"volumes": [{"name": "s", "secret": {"secretName": "s"}}]})));
        host.until_runs("victim").await;
        let mut surroundings = Self { host, before: Vec::new() };
        surroundings.before = surroundings.now();
        surroundings
    }

    fn now(&self) -> Vec<String> {
        let host = &self.host;
        let logs = host.path("node/log");
        let own = [host.path("node/pods"), logs.join(ACME), logs.join(GLOBEX).join("default_neighbour_neighbour")];
        let mut seen = picture(host.directory.path(), &own);
        seen.extend(picture(&host.pod_path("victim"), &[]));
        seen
    }

    fn texts(&self) -> impl Iterator<Item = String> {
        let outside = self.host.path("outside").display().to_string();
        TEXTS.into_iter().map(move |text| text.replace("OUT", &outside))
    }

    fn assert_unchanged(&self, after: &str) {
        let now = self.now();
        let differs: Vec<_> = now.iter().filter(|line| !self.before.contains(line)).collect();
        assert!(now == self.before, "{after}: {differs:#?}, or something is gone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_text_of_a_pod_leads_out_of_its_directory() {
    let around = Surroundings::new(HostileApi::new(&[("key", "value")])).await;
    let host = &around.host;
    let mut put = Vec::new();
    for (number, text) in around.texts().enumerate() {
        for (place, pod) in pods_with(&text).into_iter().enumerate() {
            let uid = format!("h-{number}-{place}");
            host.api.put(ACME, &uid, pod);
            put.push((uid, text.clone()));
        }
        // Metadata that are no names: such a pod has no address.
        for field in ["name", "namespace"] {
            let uid = format!("m-{number}-{field}");
            host.api.put(ACME, &uid, json!({"metadata": {field: text}, "spec": {"containers": []}}));
        }
        host.api.put(ACME, &text, json!({"metadata": {"name": "u"}, "spec": {"containers": []}}));
        host.api.put(&text, &format!("t-{number}"), pod(json!({})));
    }
    // Who comes last is acted on, too.
    host.api.put(GLOBEX, "neighbour", pod(json!({"volumes": [{"name": "v", "configMap": {"name": "m"}}]})));
    host.until_runs("neighbour").await;
    for (uid, text) in &put {
        let decided = || {
            let pod = host.api.pod(uid).unwrap_or_default();
            pod["status"]["phase"] == "Failed"
                || host.runtime.has_sandbox(uid)
                || host.api.events().iter().any(|event| event["involvedObject"]["uid"] == **uid)
        };
        host.until(&format!("{uid} with {text:?} is acted on"), decided).await;
    }
    around.assert_unchanged("while they are there");
    let refused = put.iter().filter(|(uid, _)| {
        let status = host.api.pod(uid).unwrap_or_default()["status"].clone();
        status["phase"] == "Failed" && status["reason"] == "InvalidPod"
    });
    assert!(refused.count() > put.len() / 2, "most of these are no pods");
    // Every mount that the runtime is told of is of the pod's own directory.
    for (uid, _) in &put {
        for mount in host.runtime.configs(uid).into_iter().flat_map(|config| config.mounts) {
            let clean = Path::new(&mount.host_path).components().all(|c| c != std::path::Component::ParentDir);
            assert!(clean && Path::new(&mount.host_path).starts_with(host.pod_path(uid)), "{uid}: {mount:?}");
        }
        host.api.delete(uid, 0);
    }
    for (uid, _) in &put {
        host.until_gone(uid).await;
        assert!(!host.pod_path(uid).try_exists().unwrap(), "{uid}");
    }
    around.assert_unchanged("when they are gone");
    assert_eq!(host.shared.panics.load(Ordering::Relaxed), 0);
    for event in host.api.events() {
        let message = event["message"].as_str().unwrap();
        // What the tenant wrote itself may be said back to it, but not where the node keeps its pods.
        assert!(!message.contains(host.path("node").to_str().unwrap()), "{message}");
    }
}

/// The same without the check of the whole specification: each part of the kubelet keeps to the pod's directory by
/// itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_layer_holds_by_itself() {
    let around = Surroundings::new(HostileApi::new(&[("key", "value")])).await;
    let host = &around.host;
    has_begun(host).await;
    for (number, text) in around.texts().enumerate() {
        for (place, value) in pods_with(&text).into_iter().enumerate() {
            let (id, dir, pod) = taken(host, &format!("h-{number}-{place}"), value);
            let _ = volumes::prepare(&host.shared, &id, &pod, &dir, &mut Tokens::default()).await;
            let spec = pod.spec.unwrap();
            let env: Environment = vec![("E".into(), text.clone())];
            for container in &spec.containers {
                for mount in volumes::mounts(&dir, &spec, container, &env).unwrap_or_default() {
                    let clean = Path::new(&mount.host_path).components().all(|c| c != std::path::Component::ParentDir);
                    assert!(clean && Path::new(&mount.host_path).starts_with(dir.root()), "{mount:?}");
                }
            }
            host.shared.pods.remove(id.uid).unwrap();
        }
    }
    around.assert_unchanged("after each");
}

/// Waits until the kubelet has seen its pods. Directories that it finds before, and does not know, it removes.
async fn has_begun(host: &Host) {
    host.api.put(GLOBEX, "first", pod(json!({})));
    host.until_runs("first").await;
    host.api.delete("first", 0);
    host.until_gone("first").await;
}

fn taken(host: &Host, uid: &str, mut value: Value) -> (PodId, PodDir, k8s_openapi::api::core::v1::Pod) {
    value["metadata"] = json!({"name": "p", "namespace": "default", "uid": uid});
    let id = PodId {
        tenant: ACME.parse().unwrap(),
        uid: uid.parse().unwrap(),
        namespace: "default".parse().unwrap(),
        name: "p".parse().unwrap(),
    };
    let dir = host.shared.pods.make(id.uid.clone()).unwrap();
    (id, dir, serde_json::from_value(value).unwrap())
}

/// Keys come from the API, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_of_a_config_map_leads_out_of_its_volume() {
    let keys = ["../../../../../outside/made", "/etc/hypernetes-made", "..", "..data", "a/b", "x\u{0}y"];
    for key in keys {
        let around = Surroundings::new(HostileApi::new(&[("key", "value")])).await;
        let hostile = Host::with(HostileApi::new(&[(key, "value")])).await;
        has_begun(&hostile).await;
        for source in [json!({"configMap": {"name": "m"}}), json!({"secret": {"secretName": "m"}})] {
            let mut volume = source;
            volume["name"] = "v".into();
            let (id, dir, pod) = taken(&hostile, "h", pod(json!({"volumes": [volume]})));
            let error = volumes::prepare(&hostile.shared, &id, &pod, &dir, &mut Tokens::default()).await.unwrap_err();
            assert_eq!(error.reason, "FailedMount", "{key:?}");
        }
        around.assert_unchanged(key);
    }
}

/// A text, a number, or a structure of them, with what means something to a path more often than chance has it.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,16}".prop_map(Value::from),
        "[./a-c~%?$()\\x00]{0,12}".prop_map(Value::from),
        "[-+]?[0-9]{1,30}[eEKMGTmn]?i?[0-9]{0,5}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z./]{0,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// All places in a value.
fn pointers(value: &Value, at: &str, into: &mut Vec<String>) {
    into.push(at.to_owned());
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, inner)| pointers(inner, &format!("{at}/{}", escaped(key)), into));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(number, inner)| pointers(inner, &format!("{at}/{number}"), into));
        }
        _ => {}
    }
}

/// Uses most of what the kubelet looks at.
fn full_spec() -> Value {
    json!({
        "restartPolicy": "OnFailure", "terminationGracePeriodSeconds": 30, "hostname": "h", "serviceAccountName": "default",
        "shareProcessNamespace": true, "hostUsers": false, "priorityClassName": "p",
        "securityContext": {"runAsUser": 1, "runAsNonRoot": true, "fsGroup": 2, "supplementalGroups": [3],
            "sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}],
            "seccompProfile": {"type": "Localhost", "localhostProfile": "p"}},
        "tolerations": [{"key": "k", "operator": "Exists"}],
        "overhead": {"cpu": "1m"}, "resources": {"requests": {"cpu": "1m"}},
        "imagePullSecrets": [{"name": "s"}],
        "initContainers": [{"name": "i", "image": "i", "restartPolicy": "Always"}],
        "containers": [{
            "name": "a", "image": "i", "command": ["$(E)"], "args": ["x"], "workingDir": "/", "tty": false,
            "env": [{"name": "E", "value": "$(E)"}, {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['x']"}}},
                {"name": "R", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "key"}}}],
            "envFrom": [{"prefix": "P", "configMapRef": {"name": "m"}}],
            "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": "0.0.0.0", "protocol": "TCP"}],
            "resources": {"limits": {"cpu": "10m", "memory": "1Mi", "ephemeral-storage": "1Mi"}, "requests": {"memory": "1Ki"}},
            "volumeMounts": [{"name": "e", "mountPath": "/e", "subPathExpr": "$(E)", "readOnly": true},
                {"name": "c", "mountPath": "/c", "subPath": "key"}],
            "livenessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1, "initialDelaySeconds": 0, "timeoutSeconds": 1,
                "failureThreshold": 100_000},
            "readinessProbe": {"httpGet": {"path": "/", "port": "p", "host": "x", "httpHeaders": [{"name": "a", "value": "b"}]}},
            "startupProbe": {"exec": {"command": ["x"]}, "failureThreshold": 100_000},
            "securityContext": {"capabilities": {"add": ["ALL"]}, "procMount": "Default", "runAsGroup": 5,
                "appArmorProfile": {"type": "Unconfined"}},
        }],
        "volumes": [{"name": "e", "emptyDir": {"sizeLimit": "1Mi"}},
            {"name": "c", "configMap": {"name": "m", "defaultMode": 420, "items": [{"key": "key", "path": "key", "mode": 256}]}},
            {"name": "d", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}},
                {"path": "r", "resourceFieldRef": {"containerName": "a", "resource": "limits.cpu"}}]}},
            {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "audience": "a", "expirationSeconds": 600}},
                {"secret": {"name": "s"}}]}}],
    })
}

/// Any JSON anywhere in a specification: no worker is lost, none waits where it holds others up, and what comes
/// afterwards is acted on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_json_in_a_specification_is_one_pods_trouble() {
    const PODS: usize = 400;
    let around = Surroundings::new(HostileApi::new(&[("key", "value")])).await;
    let host = &around.host;
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[9; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut places = Vec::new();
    pointers(&full_spec(), "", &mut places);
    host.api.put(ACME, "full", json!({"spec": full_spec()}));
    for number in 0..PODS {
        let mut spec = full_spec();
        let changes = 1 + number % 3;
        for change in 0..changes {
            let place = &places[(number + change * 31) % places.len()];
            let value = any_json().new_tree(&mut runner).unwrap().current();
            if let Some(found) = spec.pointer_mut(place) {
                *found = value;
            }
        }
        let uid = format!("h-{number}");
        host.api.put(ACME, &uid, json!({"spec": spec}));
        // Some are to go again at once.
        if number % 5 == 0 {
            host.api.delete(&uid, 0);
        }
    }
    host.api.put(GLOBEX, "neighbour", pod(json!({})));
    host.until_runs("neighbour").await;
    for number in 0..PODS {
        host.api.delete(&format!("h-{number}"), 0);
    }
    for number in 0..PODS {
        host.until_gone(&format!("h-{number}")).await;
    }
    assert!(host.runtime.runs("victim"));
    assert_eq!(host.shared.panics.load(Ordering::Relaxed), 0);
    around.assert_unchanged("after all of them");
}
