//! Admission webhooks as a running upstream asked them: each line of `../data/webhooks-1.36.2.jsonl` is a scene in a namespace of its own, with webhooks, what
//! their server answers, and what is asked of the API then; and for each question the answer of kube-apiserver 1.36.2, and what it had sent to the webhooks.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use hypernetes_api::{ApiError, TenantId};
use hypernetes_apiserver::{Reach, Stream};
use hypernetes_testing::{
    requests::{Refused, admin, infrastructure},
    server::{ACME, GLOBEX, InProcess},
};
use parking_lot::Mutex;
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use crate::scenes::{self, Tally};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// The fewest questions of all scenes.
const LEAST_CASES: usize = 48;

/// The server of webhooks, behind the service `hook` of the namespace `hooks`, in every tenant's network.
#[derive(Clone)]
struct Hooks(Arc<Inner>);

struct Inner {
    tls: TlsAcceptor,
    /// In PEM, encoded as a configuration has it.
    authority: String,
    answers: Mutex<HashMap<String, Value>>,
    /// Path and review of each question.
    asked: Mutex<Vec<(String, Value)>>,
    /// Whose network each connection was to.
    tenants: Mutex<Vec<TenantId>>,
}

impl Hooks {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["hook.hooks.svc".into()]).unwrap().self_signed(&key).unwrap();
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.der().clone()], der);
        Self(Arc::new(Inner {
            tls: TlsAcceptor::from(Arc::new(config.unwrap())),
            authority: BASE64_STANDARD.encode(certificate.pem()),
            answers: Mutex::default(),
            asked: Mutex::default(),
            tenants: Mutex::default(),
        }))
    }

    fn answers(&self, answers: &Value) {
        *self.0.answers.lock() =
            answers.as_object().unwrap().iter().map(|(path, answer)| (path.clone(), answer.clone())).collect();
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let review: Value = serde_json::from_slice(&body).unwrap();
        let uid = review["request"]["uid"].as_str().unwrap().to_owned();
        self.0.asked.lock().push((path.clone(), review));
        let answer =
            self.0.answers.lock().get(&path).cloned().unwrap_or_else(|| json!({"status": 404, "raw": "nothing"}));
        if answer["hangs"] == true {
            std::future::pending::<()>().await;
        }
        let status = answer["status"].as_u64().unwrap_or(200);
        let mut response = Response::builder().status(u16::try_from(status).unwrap());
        if let Some(to) = answer["location"].as_str() {
            response = response.header("location", to);
        }
        let body = match (answer["raw"].as_str(), answer["bytes"].as_u64()) {
            (Some(raw), _) => raw.to_owned(),
            (None, Some(bytes)) => "x".repeat(usize::try_from(bytes).unwrap()),
            (None, None) => {
                let body = answer["body"].to_string().replace("{uid}", &uid);
                let mut body: Value = serde_json::from_str(&body).unwrap();
                let fields = body.as_object_mut().unwrap();
                fields.entry("apiVersion").or_insert_with(|| "admission.k8s.io/v1".into());
                fields.entry("kind").or_insert_with(|| "AdmissionReview".into());
                body.to_string()
            }
        };
        Ok(response.body(Full::from(body)).unwrap())
    }
}

impl Reach for Hooks {
    fn service<'a>(
        &'a self,
        tenant: &'a TenantId,
        namespace: &'a str,
        name: &'a str,
        port: u16,
    ) -> BoxFuture<'a, Result<Box<dyn Stream>, ApiError>> {
        self.0.tenants.lock().push(tenant.clone());
        if (namespace, name, port) != ("hooks", "hook", 443) {
            let refused = ApiError::not_found("", "services", name);
            return std::future::ready(Err(refused)).boxed();
        }
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let hooks = self.clone();
        tokio::spawn(async move {
            let Ok(stream) = hooks.0.tls.accept(theirs).await else { return };
            let service = service_fn(move |request| hooks.clone().answer(request));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        std::future::ready(Ok(Box::new(ours) as Box<dyn Stream>)).boxed()
    }
}

async fn bench() -> (InProcess, Hooks) {
    let (bench, hooks) = (InProcess::with_tenants().await, Hooks::new());
    bench.server.set_reach(Arc::new(hooks.clone()));
    (bench, hooks)
}

/// A webhook of the server's, as a configuration has it.
fn configured(hooks: &Hooks, hook: &Value) -> Value {
    let mut hook = hook.clone();
    let path = hook.as_object_mut().unwrap().remove("path").unwrap();
    let service = json!({"namespace": "hooks", "name": "hook", "path": path});
    hook["clientConfig"] = json!({"service": service, "caBundle": hooks.0.authority});
    hook
}

async fn configure(bench: &InProcess, hooks: &Hooks, tenant: &str, sort: &str, name: &str, list: &[Value]) {
    let list: Vec<Value> = list.iter().map(|hook| configured(hooks, hook)).collect();
    let configuration = json!({"metadata": {"name": name}, "webhooks": list});
    bench.post(&admin(tenant), &format!("{GROUP}/{sort}webhookconfigurations"), configuration).await.ok();
}

/// Without the uid of a review, which is another each time.
fn without_uid(text: &str) -> String {
    match text.split_once("response.uid=\"") {
        Some((before, after)) => format!("{before}response.uid=\"{{uid}}{}", &after[after.find('"').unwrap()..]),
        None => text.to_owned(),
    }
}

/// What is compared of a review that was sent.
fn sent(path: &str, review: &Value) -> Value {
    let request = &review["request"];
    let fields = [
        "kind",
        "resource",
        "subResource",
        "requestKind",
        "requestResource",
        "requestSubResource",
        "name",
        "namespace",
        "operation",
        "dryRun",
        "options",
    ];
    let mut sent = json!({"path": path, "apiVersion": review["apiVersion"]});
    for field in fields.into_iter().filter(|field| request.get(field).is_some_and(|value| !value.is_null())) {
        sent[field] = request[field].clone();
    }
    for field in ["object", "oldObject"] {
        if let Some(kind) = request[field].get("kind") {
            sent[field] = kind.clone();
        }
    }
    sent
}

/// As [`scenes::ask`], and what was sent to the webhooks for it.
async fn ask(bench: &InProcess, hooks: &Hooks, case: &Value) -> Value {
    hooks.0.asked.lock().clear();
    let mut answer = scenes::ask(bench, case).await;
    let causes = answer.get_mut("causes").and_then(Value::as_array_mut).into_iter().flatten();
    for message in causes.filter_map(|cause| cause.get_mut("message")) {
        *message = without_uid(message.as_str().unwrap()).into();
    }
    if let Some(message) = answer.get_mut("message") {
        *message = without_uid(message.as_str().unwrap()).into();
    }
    let asked = hooks.0.asked.lock().iter().map(|(path, review)| sent(path, review)).collect();
    answer["sent"] = in_order(asked).into();
    answer
}

/// Those that are asked at once come in any order.
fn in_order(mut sent: Vec<Value>) -> Vec<Value> {
    sent.sort_by_key(|sent| sent["path"].as_str().unwrap().to_owned());
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_are_asked_as_upstream_asks_them() {
    let (bench, hooks) = bench().await;
    let acme = admin(ACME);
    let mut tally = Tally::default();
    for (number, line) in include_str!("../data/webhooks-1.36.2.jsonl").lines().enumerate() {
        let namespace = format!("hooks-{number}");
        let scene = scenes::read(line, &namespace);
        bench.post(&acme, "/api/v1/namespaces", json!({"metadata": {"name": namespace}})).await.ok();
        for given in scene["given"].as_array().unwrap() {
            bench.post(&acme, given["path"].as_str().unwrap(), given["body"].clone()).await.ok();
        }
        for sort in ["validating", "mutating"] {
            let list = scene[sort].as_array().unwrap();
            if !list.is_empty() {
                configure(&bench, &hooks, ACME, sort, &namespace, list).await;
            }
        }
        hooks.answers(&scene["answers"]);
        for case in scene["asked"].as_array().unwrap() {
            let mut theirs = scenes::wanted(case, &["sent"]);
            theirs["sent"] = in_order(theirs["sent"].as_array().unwrap().clone()).into();
            tally.add(&scene, case, &ask(&bench, &hooks, case).await, &theirs);
        }
    }
    tally.end(LEAST_CASES);
}

fn hook(path: &str, more: Value) -> Value {
    let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]});
    let mut hook = json!({"name": "hook.example.org", "path": path, "rules": [rule], "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "timeoutSeconds": 1});
    hook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    hook
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}

/// Another tenant's webhooks are not asked, and one's own are asked in one's own network.
#[tokio::test]
async fn a_webhook_is_its_tenants_own() {
    let (bench, hooks) = bench().await;
    configure(&bench, &hooks, ACME, "validating", "w", &[hook("/no", json!({}))]).await;
    hooks.answers(&json!({"/no": {"body": {"response": {"uid": "{uid}", "allowed": false}}}}));
    bench.post(&admin(GLOBEX), MAPS, map("a")).await.ok();
    assert!(hooks.0.asked.lock().is_empty());
    assert_eq!(bench.post(&admin(ACME), MAPS, map("a")).await.status, 400);
    // Of infrastructure, too.
    assert_eq!(bench.post(&infrastructure(), &format!("/clusters/{ACME}{MAPS}"), map("b")).await.status, 400);
    assert_eq!(*hooks.0.tenants.lock(), [ACME, ACME].map(|tenant| tenant.parse::<TenantId>().unwrap()));
    bench.delete(&admin(ACME), &format!("{GROUP}/validatingwebhookconfigurations/w")).await.ok();
    bench.post(&admin(ACME), MAPS, map("a")).await.ok();
}

/// Servers that hang, lie, redirect, answer megabytes, or are somebody else.
#[tokio::test]
async fn a_bad_webhook_is_an_error_of_its_tenants() {
    let (bench, hooks) = bench().await;
    let acme = admin(ACME);
    hooks.answers(&json!({
        "/hangs": {"hangs": true},
        "/long": {"bytes": 64 << 20},
        "/text": {"raw": "[[[[[[[["},
        "/away": {"status": 302, "location": "https://10.0.0.1/", "raw": ""},
        "/renames": {"body": {"response": {"uid": "{uid}", "allowed": true, "patchType": "JSONPatch",
            "patch": BASE64_STANDARD.encode(r#"[{"op": "replace", "path": "/metadata/name", "value": "x"}]"#)}}},
        "/ok": {"body": {"response": {"uid": "{uid}", "allowed": true}}},
    }));
    let of = "failed calling webhook \"hook.example.org\": failed to call webhook: ";
    for (path, sort, code, told) in [
        (
            "/hangs",
            "validating",
            500,
            format!("{of}Post \"https://hook.hooks.svc:443/hangs?timeout=1s\": context deadline exceeded"),
        ),
        (
            "/long",
            "validating",
            500,
            format!("{of}Post \"https://hook.hooks.svc:443/long?timeout=1s\": the answer cannot be read"),
        ),
        ("/text", "validating", 500, format!("{of}the server's answer is no AdmissionReview")),
        ("/away", "validating", 500, format!("{of}the server answered 302: redirects are not followed")),
        ("/none", "validating", 500, format!("{of}the server could not find the requested resource")),
        ("/renames", "mutating", 403, "metadata.name may not be changed by a webhook".into()),
    ] {
        configure(&bench, &hooks, ACME, sort, "w", &[hook(path, json!({}))]).await;
        let began = Instant::now();
        let refused = bench.post(&acme, MAPS, map("a")).await;
        assert_eq!(refused.status, code, "{path}: {}", refused.body);
        let message = refused.body["message"].as_str().unwrap();
        assert!(message.contains(&told), "{path}: {message}, and not {told}");
        assert!(began.elapsed() < Duration::from_secs(20), "{path}");
        bench.delete(&acme, &format!("{GROUP}/{sort}webhookconfigurations/w")).await.ok();
    }
    // A server of another name, one whose authority is another, and what is no service.
    let other = BASE64_STANDARD.encode(
        CertificateParams::new(vec!["hook.hooks.svc".into()])
            .unwrap()
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .pem(),
    );
    let service = |name: &str| json!({"service": {"namespace": "hooks", "name": name, "path": "/ok"}, "caBundle": hooks.0.authority});
    let mut unknown = service("hook");
    unknown["caBundle"] = other.into();
    let mut nobody = service("hook");
    nobody.as_object_mut().unwrap().remove("caBundle");
    let url = |url: &str| json!({"url": url, "caBundle": hooks.0.authority});
    for (client, told) in [
        (service("else"), "services \"else\" not found"),
        (unknown, "invalid peer certificate"),
        (nobody, "certificate signed by unknown authority"),
        (url("https://example.org/ok"), "the server reaches services of the cluster alone"),
        (url("https://127.0.0.1:6443/ok"), "the server reaches services of the cluster alone"),
        (url("https://hook.hooks.svc.example.org/ok"), "the server reaches services of the cluster alone"),
    ] {
        let mut webhook = hook("/ok", json!({}));
        webhook.as_object_mut().unwrap().remove("path");
        webhook["clientConfig"] = client;
        let configuration = json!({"metadata": {"name": "w"}, "webhooks": [webhook]});
        bench.post(&acme, &format!("{GROUP}/validatingwebhookconfigurations"), configuration).await.ok();
        let refused = bench.post(&acme, MAPS, map("a")).await.refused(500, "InternalError");
        assert!(refused.contains(told), "{refused}, and not {told}");
        bench.delete(&acme, &format!("{GROUP}/validatingwebhookconfigurations/w")).await.ok();
    }
    let mut webhook = hook("/ok", json!({}));
    webhook.as_object_mut().unwrap().remove("path");
    webhook["clientConfig"] = url("https://hook.hooks.svc/ok");
    let configuration = json!({"metadata": {"name": "w"}, "webhooks": [webhook]});
    bench.post(&acme, &format!("{GROUP}/validatingwebhookconfigurations"), configuration).await.ok();
    bench.post(&acme, MAPS, map("a")).await.ok();
}

/// While one tenant's webhooks hang, another's writes do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_waits_for_a_webhook() {
    let (bench, hooks) = bench().await;
    hooks.answers(&json!({"/hangs": {"hangs": true}}));
    configure(&bench, &hooks, ACME, "validating", "w", &[hook("/hangs", json!({"timeoutSeconds": 30}))]).await;
    let acme = admin(ACME);
    let names: Vec<String> = (0..100).map(|number| format!("m{number}")).collect();
    let hanging = futures::future::join_all(names.iter().map(|name| bench.post(&acme, MAPS, map(name))));
    let others = async {
        // They are under way.
        while hooks.0.asked.lock().len() < 32 {
            tokio::task::yield_now().await;
        }
        for number in 0..20 {
            bench.post(&admin(GLOBEX), MAPS, map(&format!("m{number}"))).await.ok();
        }
    };
    tokio::select! {
        _ = hanging => panic!("they hang"),
        () = others => {}
    }
    assert!(hooks.0.asked.lock().len() <= 32, "one tenant has so many questions under way");
}
