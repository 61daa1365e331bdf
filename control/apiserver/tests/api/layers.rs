//! Each layer that a request goes through is missed by the test of its name when it is not there.

use std::{sync::Arc, task::Poll};

use async_trait::async_trait;
use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use futures::stream;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hypernetes_api::{
    auth::{TokenAuthority, TokenError, TokenInfo, UserInfo},
    names,
};
use hypernetes_apiserver::audit::{self, Audit, Policy};
use hypernetes_testing::{
    http::{Answer, send},
    requests::{Refused, admin, by, user},
    server::{ACME, GLOBEX, InProcess},
};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::bench::{MAPS, map};

type Frame = Result<Bytes, std::io::Error>;

/// A request of acme's admin whose body is this stream.
fn streamed(uri: &str, body: impl futures::Stream<Item = Frame> + Send + 'static) -> Request<Body> {
    let request = Request::builder().method("POST").uri(uri).header("content-type", "application/json");
    by(&admin(ACME), request.body(Body::from_stream(body)).unwrap())
}

fn mistake() -> Frame {
    panic!("a mistake of the server's")
}

#[tokio::test]
async fn panic_is_an_answer_and_hurts_nobody_else() {
    let bench = InProcess::with_tenants().await;
    let body = stream::once(async { mistake() });
    let message = bench.answer(streamed(MAPS, body)).await.refused(500, "InternalError");
    assert!(message.contains("caused apiserver to panic"), "{message}");
    // Neither a lock nor a place is left behind.
    bench.post(&admin(ACME), MAPS, map("a", "1")).await.ok();
    let budgets = bench.get(&admin(ACME), "/budgets").await.ok();
    let requests = budgets["items"].as_array().unwrap().iter().find(|row| row["name"] == "requests").unwrap();
    assert_eq!(requests["used"], 1, "this one");
}

#[tokio::test]
async fn request_info_is_parsed_before_anybody_is_asked_for() {
    let bench = InProcess::with_tenants().await;
    for (method, uri, code, reason) in [
        ("GET", "/api/v1/pods/../secrets", 400, "BadRequest"),
        ("GET", "/api/v1//pods", 404, "NotFound"),
        ("GET", "/api/v1/pods?limit=%zz", 400, "BadRequest"),
        ("PUT", "/api/v1/pods", 405, "MethodNotAllowed"),
    ] {
        let request = Request::builder().method(method).uri(uri).header("authorization", "Bearer none");
        bench.answer(request.body(Body::empty()).unwrap()).await.refused(code, reason);
    }
}

/// Knows one token.
struct Keystone;

#[async_trait]
impl TokenAuthority for Keystone {
    async fn validate(&self, token: &str) -> Result<TokenInfo, TokenError> {
        assert_ne!(token, "panic", "a mistake of the identity service's");
        Err(TokenError::Invalid)
    }
}

#[tokio::test]
async fn authentication_comes_before_everything_that_a_request_asks_for() {
    let bench = InProcess::with_tenants().await;
    bench.server.set_token_authority(Arc::new(Keystone));
    let with = |token: &str| {
        let request = Request::builder().uri("/api/v1/nothing").header("authorization", format!("Bearer {token}"));
        bench.answer(request.body(Body::empty()).unwrap())
    };
    with("wrong").await.refused(401, "Unauthorized");
    with("panic").await.refused(500, "InternalError");
}

#[tokio::test]
async fn fairness_counts_a_request_until_its_answer_is_read() {
    let bench = InProcess::with_tenants().await;
    let mut held = Vec::new();
    let refused = loop {
        let request = by(&admin(ACME), Request::get(MAPS).body(Body::empty()).unwrap());
        let response = bench.response(request).await;
        if response.status() != StatusCode::OK || held.len() > 1000 {
            break Answer::of(response).await;
        }
        held.push(response);
    };
    assert!(refused.headers.contains_key("retry-after"));
    assert!(refused.refused(429, "TooManyRequests").contains("please try again later"));
    // Of two hundred, what one user may have.
    assert_eq!(held.len(), 150);
    // Users are told apart by a hash: hardly ever one is taken for another, and never three.
    let mut others = 0;
    for name in ["ann", "bob", "eve"] {
        let answer = bench.get(&user(name, &[names::GROUP_MASTERS], ACME), MAPS).await;
        others += usize::from(answer.status == StatusCode::OK);
    }
    assert!(others > 0);
    drop(held);
    // The tenant sees what it was refused, and nobody else does.
    let acme = admin(ACME);
    let lines = metrics(&bench, &acme, &["apiserver_request_total", "code=\"429\"", "configmaps", "LIST"]).await;
    assert!(lines.len() == 1 && !lines[0].ends_with(" 0"), "{lines:?}");
    let rejected = ["apiserver_flowcontrol_rejected_requests_total", "reason=\"concurrency-limit\""];
    let lines = metrics(&bench, &acme, &rejected).await;
    assert!(lines.len() == 1 && !lines[0].ends_with(" 0"), "{lines:?}");
    let lines = metrics(&bench, &admin(GLOBEX), &rejected).await;
    assert!(lines.len() == 1 && lines[0].ends_with(" 0"), "{lines:?}");
}

#[tokio::test]
async fn deadline_ends_what_would_wait_for_ever() {
    let bench = InProcess::with_tenants().await;
    let never = || stream::pending::<Frame>();
    let late = bench.answer(streamed(&format!("{MAPS}?timeout=1ms"), never())).await;
    assert_eq!(late.body["details"], json!({}));
    let message = late.refused(504, "Timeout");
    assert_eq!(message, "Timeout: request did not complete within the allotted timeout");
    let odd = bench.answer(streamed(&format!("{MAPS}?timeout=5"), never())).await.refused(400, "BadRequest");
    assert_eq!(odd, "invalid timeout specified in the request URL - time: missing unit in duration \"5\"");
}

#[tokio::test]
async fn authorization_is_asked_before_a_handler_reads_anything() {
    let bench = InProcess::with_tenants().await;
    let nobody = user("nobody", &[], ACME);
    let body = Body::from_stream(stream::once(async { mistake() }));
    bench.answer(by(&nobody, Request::post(MAPS).body(body).unwrap())).await.forbidden();
    // Impersonation is part of it: whom a request is made as is who has to have the right.
    let admin = user("admin", &[names::GROUP_KEYSTONE_ADMIN], ACME);
    let headers = [("impersonate-user", "nobody")];
    bench.send_with(&admin, "GET", MAPS, &headers, "").await.forbidden();
}

/// What a user reads at `/metrics`: the lines with each of these words.
pub async fn metrics(bench: &InProcess, user: &UserInfo, words: &[&str]) -> Vec<String> {
    let request = by(user, Request::get("/metrics").body(Body::empty()).unwrap());
    let text = bench.text(request).await;
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).collect()
}

#[tokio::test]
async fn metrics_count_what_is_answered_and_what_is_refused() {
    let bench = InProcess::with_tenants().await;
    let (acme, globex, operator) = (admin(ACME), admin(GLOBEX), admin("system"));
    bench.post(&acme, MAPS, map("a", "1")).await.ok();
    bench.post(&acme, MAPS, map("a", "1")).await.refused(409, "AlreadyExists");
    bench.get(&acme, MAPS).await.ok();
    bench.get(&acme, "/apis/made/up/x0123").await.refused(404, "NotFound");
    let anonymous = Request::get(MAPS).header("authorization", "Bearer none").body(Body::empty()).unwrap();
    bench.answer(anonymous).await.refused(401, "Unauthorized");
    let total = |code: &str, verb: &str, resource: &str| {
        format!(
            "apiserver_request_total{{code=\"{code}\",dry_run=\"\",component=\"apiserver\",group=\"\",resource=\"{resource}\",{}",
            match verb {
                "POST" => "scope=\"resource\",subresource=\"\",verb=\"POST\",version=\"v1\"} 1".to_owned(),
                other => format!("scope=\"namespace\",subresource=\"\",verb=\"{other}\",version=\"v1\"}} 1"),
            }
        )
    };
    for (user, tells) in [(&acme, true), (&globex, false)] {
        let lines = metrics(&bench, user, &["apiserver_request_total", "configmaps"]).await;
        let expected = [
            total("201", "POST", "configmaps"),
            total("409", "POST", "configmaps"),
            total("200", "LIST", "configmaps"),
        ];
        assert!(expected.iter().all(|line| lines.contains(line) == tells), "{lines:#?}");
        let sizes = metrics(&bench, user, &["apiserver_response_sizes_count", "configmaps", "LIST"]).await;
        assert_eq!(sizes.len(), usize::from(tells), "{sizes:?}");
        let objects = metrics(&bench, user, &["apiserver_storage_objects", "configmaps"]).await;
        assert_eq!(objects.len(), usize::from(tells), "{objects:?}");
        // Neither the others nor the machine.
        for others in ["process_", "inflight", "hypernetes_tenant", GLOBEX, ACME, "x0123"] {
            assert_eq!(metrics(&bench, user, &[others]).await, [""; 0]);
        }
    }
    let refused = metrics(&bench, &operator, &["apiserver_request_total", "code=\"401\"", "configmaps"]).await;
    assert_eq!(refused.len(), 1);
    for name in ["process_resident_memory_bytes ", "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 1"] {
        assert_eq!(metrics(&bench, &operator, &[name]).await.len(), 1, "{name}");
    }
    let of_tenant = metrics(&bench, &operator, &["hypernetes_tenant_requests_total", ACME, "4xx"]).await;
    assert!(of_tenant[0].ends_with(" 2"), "{of_tenant:?}");
    // Whoever may not read the path does not.
    bench.get(&user("reader", &[names::GROUP_KEYSTONE_READER], ACME), "/metrics").await.forbidden();
}

#[tokio::test]
async fn metrics_count_watches_while_they_are_open_and_what_they_are_told() {
    let bench = InProcess::with_tenants().await;
    let acme = admin(ACME);
    let request = by(&acme, Request::get(format!("{MAPS}?watch=1")).body(Body::empty()).unwrap());
    let mut watch = bench.response(request).await.into_body();
    for name in ["a", "b"] {
        bench.post(&acme, MAPS, map(name, "1")).await.ok();
        watch.frame().await.unwrap().unwrap();
    }
    let open = metrics(&bench, &acme, &["apiserver_longrunning_requests", "configmaps", "WATCH"]).await;
    assert!(open[0].ends_with(" 1"), "{open:?}");
    let told = metrics(&bench, &acme, &["apiserver_watch_events_total", "configmaps"]).await;
    assert!(told[0].ends_with(" 2"), "{told:?}");
    drop(watch);
    assert_eq!(metrics(&bench, &acme, &["apiserver_longrunning_requests"]).await, [""; 0]);
    assert_eq!(metrics(&bench, &acme, &["apiserver_request_total", "WATCH"]).await.len(), 1);
}

#[tokio::test]
async fn what_is_served_beside_the_api_is_counted_and_its_panics_are_caught() {
    let bench = InProcess::with_tenants().await;
    let broken = Router::new().route(
        "/v3/{*rest}",
        get(async || {
            if true {
                panic!("a mistake")
            }
        }),
    );
    let router = Router::new().nest("/identity", bench.server.observe("/identity", broken));
    let answer = send(router, "", "GET", "/identity/v3/made-up", "").await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    let counted = metrics(&bench, &admin("system"), &["apiserver_request_total", "/identity", "code=\"500\""]).await;
    assert_eq!(counted.len(), 1);
}

/// What the audit log has of a tenant, without what only says where it begins.
pub fn audited(bench: &InProcess, audit: &Audit, chain: &str) -> Vec<Value> {
    audit.flush();
    let mut events = Vec::new();
    let directory = bench.directory().join("audit").join(chain);
    audit::each_line(&directory, |line| {
        events.push(serde_json::from_str::<Value>(line)?);
        Ok(())
    })
    .unwrap();
    audit::verify(&directory).unwrap();
    events.retain(|event| event["kind"] != "ChainStart");
    events
}

pub fn with_audit(bench: &InProcess, policy: Policy) -> Arc<Audit> {
    let directory = bench.directory().join("audit");
    let audit = Arc::new(Audit::start(&directory, policy, Default::default()).unwrap());
    bench.server.set_audit(audit.clone());
    audit
}

#[tokio::test]
async fn audit_tells_who_did_what_and_to_whom() {
    let bench = InProcess::with_tenants().await;
    let log = with_audit(&bench, Policy::default());
    let acme = admin(ACME);
    let pods = "/api/v1/namespaces/default/pods";
    bench.post(&acme, MAPS, map("a", "not to be told")).await.ok();
    bench.get(&acme, MAPS).await.ok();
    bench.delete(&user("nobody", &[], ACME), &format!("{pods}/web")).await.forbidden();
    let headers = [("impersonate-user", "ann"), ("user-agent", "a test")];
    bench.send_with(&acme, "DELETE", &format!("{pods}/web"), &headers, "").await.forbidden();
    bench.delete(&admin("system"), &format!("/clusters/{ACME}{MAPS}/a")).await.ok();
    let unknown = Request::delete(MAPS).header("authorization", "Bearer a-secret").body(Body::empty()).unwrap();
    bench.answer(unknown).await.refused(401, "Unauthorized");
    bench.answer(streamed(MAPS, stream::once(async { mistake() }))).await.refused(500, "InternalError");
    let events = audited(&bench, &log, ACME);
    let shown: Vec<_> = events
        .iter()
        .map(|event| {
            let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
            assert_eq!((text("/kind"), text("/apiVersion"), text("/level")), ("Event", "audit.k8s.io/v1", "Metadata"));
            assert_eq!(event["annotations"]["hypernetes.io/tenant"], ACME);
            let code = event["responseStatus"]["code"].as_u64().unwrap();
            (text("/stage"), text("/user/username"), text("/verb"), text("/objectRef/name"), code)
        })
        .collect();
    let complete = "ResponseComplete";
    assert_eq!(
        shown,
        [
            (complete, "admin", "create", "a", 201),
            (complete, "nobody", "delete", "web", 403),
            (complete, "admin", "delete", "web", 403),
            (complete, "admin", "delete", "a", 200),
            ("Panic", "admin", "create", "", 500),
        ]
    );
    assert_eq!(events[2]["impersonatedUser"]["username"], "ann");
    assert_eq!(events[2]["userAgent"], "a test");
    let object = json!({"resource": "configmaps", "namespace": "default", "name": "a", "apiVersion": "v1"});
    assert_eq!((&events[0]["objectRef"], events[0]["requestURI"].as_str()), (&object, Some(MAPS)));
    // The operator's own is elsewhere, as is what is nobody's.
    assert!(!bench.directory().join("audit").join(GLOBEX).exists());
    let nobodys = audited(&bench, &log, "_unauthenticated");
    assert_eq!(
        (nobodys.len(), &nobodys[0]["user"], &nobodys[0]["responseStatus"]["code"]),
        (1, &json!({}), &401.into())
    );
    let all = [events, nobodys].concat();
    let all = json!(all).to_string();
    assert!(!all.contains("not to be told") && !all.contains("a-secret"), "{all}");
}

#[tokio::test]
async fn audit_has_as_much_as_the_policy_says() {
    let bench = InProcess::with_tenants().await;
    let policy = "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [
        {level: None, users: [quiet]},
        {level: Request, verbs: [watch]},
        {level: RequestResponse, omitManagedFields: true, omitStages: [RequestReceived]}]}";
    let log = with_audit(&bench, Policy::parse(policy).unwrap());
    let acme = admin(ACME);
    let namespaces = "/api/v1/namespaces";
    bench.get(&user("quiet", &[names::GROUP_MASTERS], ACME), namespaces).await.ok();
    bench.post(&acme, namespaces, json!({"metadata": {"name": "new"}})).await.ok();
    bench.get(&acme, &format!("{namespaces}/new")).await.ok();
    bench.post(&acme, MAPS, map("a", "not to be told")).await.ok();
    bench.get(&acme, &format!("{namespaces}?watch=1&timeoutSeconds=1")).await;
    // A client that goes away before it is answered.
    let read = Arc::new(Notify::new());
    let body = stream::poll_fn({
        let read = read.clone();
        move |_| {
            read.notify_one();
            Poll::Pending
        }
    });
    tokio::select! {
        _ = bench.response(streamed(namespaces, body)) => panic!("it was answered"),
        () = read.notified() => {}
    }
    let events = audited(&bench, &log, ACME);
    let shown: Vec<_> = events
        .iter()
        .map(|event| {
            let has = |field: &str| event.get(field).is_some();
            (
                event["stage"].as_str().unwrap(),
                event["verb"].as_str().unwrap(),
                has("requestObject"),
                has("responseObject"),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("ResponseComplete", "create", true, true),
            ("ResponseComplete", "get", false, true),
            ("ResponseComplete", "create", false, false),
            ("RequestReceived", "watch", false, false),
            ("ResponseStarted", "watch", false, false),
            ("ResponseComplete", "watch", false, false),
            ("ResponseComplete", "create", false, false),
        ]
    );
    assert_eq!(events[0]["requestObject"]["metadata"]["name"], "new");
    assert_eq!(events[0]["responseObject"]["metadata"].get("managedFields"), None);
    assert!(events[0]["responseObject"]["metadata"]["uid"].is_string());
    assert_eq!(events[6]["annotations"]["audit.hypernetes.io/abandoned"], "true");
    assert!(!json!(events).to_string().contains("not to be told"));
    let errors = metrics(&bench, &admin("system"), &["apiserver_audit_event_total"]).await;
    assert_eq!(errors.len(), 1);
}
