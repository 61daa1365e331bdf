//! What a namespace's limit ranges, quotas and Pod Security labels make of what is sent to it, as a running upstream answered: each line of
//! `../data/admission-1.36.2.jsonl` is a scene in a namespace of its own, with what is there before and what is asked then, and for each
//! question the answer of kube-apiserver 1.36.2: code, reason, message, causes, warnings, parts of the object; and, where quotas have to be added
//! up anew, what their statuses became by kube-controller-manager 1.36.2.

use std::sync::{Arc, atomic::AtomicUsize, atomic::Ordering};

use hypernetes_testing::{
    requests::{Refused, admin, infrastructure},
    server::{ACME, GLOBEX, InProcess, make},
    wait::{eventually, until},
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ResourceQuota, Secret, ServiceAccount};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::{Map, Value, json};

use crate::common::{Bench, bench};

/// The fewest questions of all scenes.
const LEAST_CASES: usize = 120;

/// A value with the scene's namespace in it.
fn fill(value: &Value, namespace: &str) -> Value {
    serde_json::from_str(&value.to_string().replace("{ns}", namespace)).unwrap()
}

/// Faults that an upstream tells in the order of a hash table.
fn in_order(message: &str) -> String {
    match message.split_once('[').and_then(|(head, rest)| Some((head, rest.strip_suffix(']')?))) {
        Some((head, faults)) if head.ends_with("forbidden: ") => {
            let mut faults: Vec<&str> = faults.split(", ").collect();
            faults.sort_unstable();
            format!("{head}{faults:?}")
        }
        _ => message.to_owned(),
    }
}

async fn statuses(bench: &Bench, namespace: &str) -> Value {
    let list = bench.get(&admin(ACME), &format!("/api/v1/namespaces/{namespace}/resourcequotas")).await;
    let quotas = list.body["items"].as_array().unwrap().iter();
    let status = |quota: &Value| (quota["metadata"]["name"].as_str().unwrap().to_owned(), quota["status"].clone());
    Value::Object(quotas.map(status).collect::<Map<_, _>>())
}

/// Waits until the quotas are as they were there.
async fn settled(bench: &Bench, namespace: &str, wanted: &Value, what: &str) {
    for _ in 0..3000 {
        if statuses(bench, namespace).await == *wanted {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{what}: {}, and not {wanted}", statuses(bench, namespace).await);
}

/// What is compared of an answer, in the form of a case.
async fn ask(bench: &Bench, namespace: &str, case: &Value) -> Value {
    let method = case["method"].as_str().unwrap();
    let path = case["path"].as_str().unwrap().replace("{ns}", namespace);
    let usual = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = case.get("body").map(|body| fill(body, namespace).to_string()).unwrap_or_default();
    let content = case["content"].as_str().unwrap_or(usual);
    // Of a pod it is infrastructure's to say.
    let got = match path.ends_with("/status") {
        true => bench.send(&infrastructure(), method, &format!("/clusters/{ACME}{path}"), content, &body).await,
        false => bench.send(&admin(ACME), method, &path, content, &body).await,
    };
    let mut answer = json!({"code": got.status.as_u16()});
    if got.status.is_client_error() || got.status.is_server_error() {
        answer["reason"] = got.body["reason"].clone();
        answer["message"] = in_order(got.body["message"].as_str().unwrap()).into();
        if let Some(causes) = got.body["details"].get("causes") {
            answer["causes"] = causes.clone();
        }
    }
    let warnings: Vec<&str> = got.headers.get_all("warning").iter().map(|one| one.to_str().unwrap()).collect();
    if !warnings.is_empty() {
        answer["warnings"] = json!(warnings);
    }
    for path in case["shows"].as_object().into_iter().flat_map(Map::keys) {
        answer["shows"][path] = shown(got.body.pointer(path).cloned().unwrap_or_default());
    }
    answer
}

/// Without what pods have of a service account, which upstream was not asked to give them.
fn shown(mut part: Value) -> Value {
    for container in part.as_array_mut().into_iter().flatten() {
        container.as_object_mut().unwrap().remove("volumeMounts");
    }
    part
}

fn wanted(case: &Value, namespace: &str) -> Value {
    let case = fill(case, namespace);
    let fields = ["code", "reason", "message", "causes", "warnings", "shows"];
    let mut wanted: Map<String, Value> =
        fields.iter().filter_map(|field| Some(((*field).to_owned(), case.get(*field)?.clone()))).collect();
    if let Some(message) = wanted.get_mut("message") {
        *message = in_order(message.as_str().unwrap()).into();
    }
    wanted.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_about_what_a_namespace_says_are_upstreams() {
    let bench = bench().await;
    let (mut all, mut wrong) = (0, Vec::new());
    for (number, line) in include_str!("../data/admission-1.36.2.jsonl").lines().enumerate() {
        let (scene, namespace): (Value, _) = (serde_json::from_str(line).unwrap(), format!("scene-{number}"));
        let metadata = json!({"name": namespace, "labels": scene["labels"]});
        let made = bench.post(&admin(ACME), "/api/v1/namespaces", json!({"metadata": metadata})).await;
        assert_eq!(made.status, 201, "{}", made.body);
        until::<ServiceAccount>(&Api::namespaced(bench.acme.clone(), &namespace), "default", "made", |_| true).await;
        for given in scene["given"].as_array().unwrap() {
            let path = given["path"].as_str().unwrap().replace("{ns}", &namespace);
            let made = bench.post(&admin(ACME), &path, fill(&given["body"], &namespace)).await;
            assert_eq!(made.status, 201, "{}: {}", scene["scene"], made.body);
        }
        if let Some(statuses) = scene.get("settled") {
            settled(&bench, &namespace, statuses, line).await;
        }
        for case in scene["asked"].as_array().unwrap() {
            let (ours, theirs) = (ask(&bench, &namespace, case).await, wanted(case, &namespace));
            all += 1;
            if ours != theirs {
                wrong.push(format!("{}: {}\n  upstream {theirs}\n  ours     {ours}", scene["scene"], case["case"]));
            }
            if let Some(statuses) = case.get("quotas") {
                let what = format!("{}: {}\n{}", scene["scene"], case["case"], wrong.join("\n"));
                settled(&bench, &namespace, statuses, &what).await;
            }
        }
    }
    println!("{} of {all} answers are upstream's", all - wrong.len());
    assert!(all >= LEAST_CASES, "the cases are there");
    assert!(wrong.is_empty(), "{} of {all} answers differ:\n{}", wrong.len(), wrong.join("\n"));
}

async fn quota(api: &InProcess, tenant: &str, hard: Value) -> Api<ResourceQuota> {
    let quotas = api.in_default::<ResourceQuota>(tenant);
    let names = hard.as_object().unwrap().clone();
    make(&quotas, json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await;
    let counts = |quota: &ResourceQuota| {
        let used = quota.status.as_ref().and_then(|status| status.used.as_ref());
        used.is_some_and(|used| names.keys().all(|name| used.contains_key(name)))
    };
    until(&quotas, "q", "added up", counts).await;
    quotas
}

fn used(quota: &ResourceQuota, name: &str) -> String {
    quota.status.as_ref().unwrap().used.as_ref().unwrap()[name].0.clone()
}

/// As many as there is room for are made, whichever server is asked; over etcd there are two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_those_that_come_at_once_there_are_never_more_than_there_is_room_for() {
    const ROOM: usize = 20;
    let bench = bench().await;
    let quotas = quota(&bench, ACME, json!({"secrets": ROOM.to_string()})).await;
    let beside = bench.beside();
    let servers: Vec<&InProcess> = std::iter::once(&*bench).chain(&beside).collect();
    let (made, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let one = async |number: usize| {
        let api = servers[number % servers.len()].in_default::<Secret>(ACME);
        let secret = serde_json::from_value(json!({"metadata": {"name": format!("s{number}")}})).unwrap();
        match api.create(&PostParams::default(), &secret).await {
            Ok(_) => made.fetch_add(1, Ordering::Relaxed),
            Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains("exceeded quota") => {
                refused.fetch_add(1, Ordering::Relaxed)
            }
            Err(error) => panic!("{error}"),
        };
    };
    futures::future::join_all((0..3 * ROOM).map(one)).await;
    assert_eq!((made.into_inner(), refused.into_inner()), (ROOM, 2 * ROOM));
    assert_eq!(used(&quotas.get("q").await.unwrap(), "secrets"), ROOM.to_string());
    // What goes makes room, and no more than that.
    let secrets = bench.in_default::<Secret>(ACME);
    let first = secrets.list(&Default::default()).await.unwrap().items[0].metadata.name.clone().unwrap();
    secrets.delete(&first, &DeleteParams::default()).await.unwrap();
    until(&quotas, "q", "less", |quota| used(quota, "secrets") == (ROOM - 1).to_string()).await;
    make(&secrets, json!({"metadata": {"name": "another"}})).await;
    let path = "/api/v1/namespaces/default/secrets";
    let refused = bench.post(&admin(ACME), path, json!({"metadata": {"name": "more"}})).await.forbidden();
    assert!(
        refused.ends_with("exceeded quota: q, requested: secrets=1, used: secrets=20, limited: secrets=20"),
        "{refused}"
    );
}

/// Objects come while a quota does: what it is said to have used is what there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_that_comes_while_objects_do_misses_none() {
    let bench = bench().await;
    for round in 0..5 {
        let metadata = json!({"metadata": {"name": format!("n{round}")}});
        let namespace: Namespace = make(&bench.api(ACME), metadata).await;
        let namespace = namespace.metadata.name.unwrap();
        let secrets: Api<Secret> = Api::namespaced(bench.acme.clone(), &namespace);
        let quotas: Api<ResourceQuota> = Api::namespaced(bench.acme.clone(), &namespace);
        let coming = async {
            let one = async |number: usize| {
                let secret = serde_json::from_value(json!({"metadata": {"name": format!("s{number}")}})).unwrap();
                match secrets.create(&PostParams::default(), &secret).await {
                    Ok(_) => true,
                    Err(kube::Error::Api(status)) if status.code == 403 => false,
                    Err(error) => panic!("{error}"),
                }
            };
            let made = futures::future::join_all((0..50).map(one)).await;
            made.into_iter().filter(|made| *made).count()
        };
        let limiting =
            make::<ResourceQuota>(&quotas, json!({"metadata": {"name": "q"}, "spec": {"hard": {"secrets": "1k"}}}));
        let (made, _) = tokio::join!(coming, limiting);
        until(&quotas, "q", "added up", |quota| {
            let used = quota.status.as_ref().and_then(|status| status.used.as_ref()?.get("secrets"));
            used.is_some_and(|used| used.0 == made.to_string())
        })
        .await;
        assert_eq!(secrets.list(&Default::default()).await.unwrap().items.len(), made);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_says_nothing_to_another_tenants_or_to_another_one() {
    let bench = bench().await;
    quota(&bench, ACME, json!({"secrets": "0"})).await;
    let limit = json!({"type": "Container", "max": {"cpu": "1"}});
    let range = json!({"metadata": {"name": "range"}, "spec": {"limits": [limit]}});
    let made = bench.post(&admin(ACME), "/api/v1/namespaces/default/limitranges", range).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let labels = json!({"pod-security.kubernetes.io/enforce": "baseline"});
    bench.merge(&admin(ACME), "/api/v1/namespaces/default", json!({"metadata": {"labels": labels}})).await;
    make::<Namespace>(&bench.api(ACME), json!({"metadata": {"name": "other"}})).await;
    until::<ServiceAccount>(&Api::namespaced(bench.acme.clone(), "other"), "default", "made", |_| true).await;
    let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "3"}, "limits": {"cpu": "3"}},
        "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}});
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [container]}});
    let secret = json!({"metadata": {"name": "s"}});
    for (tenant, namespace, code) in [(ACME, "default", 403), (ACME, "other", 201), (GLOBEX, "default", 201)] {
        for (plural, object) in [("secrets", &secret), ("pods", &pod)] {
            let path = format!("/api/v1/namespaces/{namespace}/{plural}");
            let answer = bench.post(&admin(tenant), &path, object.clone()).await;
            assert_eq!(answer.status, code, "{tenant} {namespace}: {}", answer.body);
        }
    }
}

/// What is added up is right again, whatever was written of it; and a server that begins anew adds it up from what there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_used_outlives_the_server() {
    let bench = bench().await;
    let quotas = quota(&bench, ACME, json!({"configmaps": "100", "count/pods": "5"})).await;
    let maps = bench.in_default::<ConfigMap>(ACME);
    let before: usize = used(&quotas.get("q").await.unwrap(), "configmaps").parse().unwrap();
    for number in 0..7 {
        make(&maps, json!({"metadata": {"name": format!("m{number}")}})).await;
    }
    make::<Pod>(
        &bench.in_default(ACME),
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
    )
    .await;
    drop((quotas, maps));
    let api = bench.stopped();
    let path = "/api/v1/namespaces/default/resourcequotas/q";
    let quota = |answer: &Value| {
        [&answer["status"]["used"]["configmaps"], &answer["status"]["used"]["count/pods"]].map(Value::clone)
    };
    let sum = (before + 7).to_string();
    assert_eq!(quota(&api.get(&admin(ACME), path).await.body), [json!(sum), json!("1")]);
    // Nobody is there who would notice that one goes.
    api.delete(&admin(ACME), "/api/v1/namespaces/default/configmaps/m0").await;
    let api = api.restarted().await;
    assert_eq!(quota(&api.get(&admin(ACME), path).await.body), [json!(sum), json!("1")]);
    let _controllers = crate::common::controllers(&api);
    let sum = (before + 6).to_string();
    let api = Arc::new(api);
    eventually(|| async { (quota(&api.get(&admin(ACME), path).await.body)[0] == json!(sum)).then_some(()) }).await;
}
