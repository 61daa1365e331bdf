//! What is served beside the API goes through its log and its counters, too.

use axum::{Extension, Router, body::Body, routing::any};
use http::{HeaderMap, Request, StatusCode};
use hypernetes_api::auth::{Asking, TokenInfo, TokenScope};
use hypernetes_apiserver::audit::Policy;
use hypernetes_testing::{
    requests::admin,
    server::{ACME, GLOBEX, InProcess, id},
};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::layers::{audited, metrics, with_audit};

/// Knows acme's ann by her token, and who has no project by another.
async fn service(Extension(asking): Extension<Asking>, headers: HeaderMap, body: String) -> (StatusCode, String) {
    let scope = match headers.get("x-auth-token").and_then(|token| token.to_str().ok()) {
        Some("secret-of-ann") => {
            let text = String::new;
            TokenScope::Project { id: id(ACME), name: text(), domain_id: text(), domain_name: text() }
        }
        Some("secret-of-nowhere") => TokenScope::Unscoped,
        _ => return (StatusCode::UNAUTHORIZED, String::new()),
    };
    asking.is_of(&TokenInfo {
        user_id: "1".into(),
        user_name: "ann".into(),
        user_domain_id: "default".into(),
        user_domain_name: "Default".into(),
        scope,
        roles: vec!["member".into()],
        expires_at: jiff::Timestamp::MAX,
    });
    (StatusCode::CREATED, body)
}

#[tokio::test]
async fn a_facades_requests_are_recorded_for_whom_they_turn_out_to_be() {
    let bench = InProcess::with_tenants().await;
    let policy = "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: RequestResponse}]}";
    let log = with_audit(&bench, Policy::parse(policy).unwrap());
    let routes = || Router::new().route("/v3/{*rest}", any(service));
    let router = Router::new()
        .nest("/identity", bench.server.observe("/identity", routes()))
        .merge(bench.server.observe("/networking", Router::new().route("/networking/{*rest}", any(service))));
    let ask = async |method: &str, uri: &str, token: &str| {
        let request = Request::builder().method(method).uri(uri).header("x-auth-token", token);
        let request = request.header("user-agent", "a test").body(Body::from("a password")).unwrap();
        router.clone().oneshot(request).await.unwrap().status().as_u16()
    };
    assert_eq!(ask("GET", "/identity/v3/users?name=x", "secret-of-ann").await, 201);
    assert_eq!(ask("POST", "/networking/v2.0/ports", "secret-of-ann").await, 201);
    assert_eq!(ask("POST", "/identity/v3/auth/tokens", "secret-of-nowhere").await, 201);
    assert_eq!(ask("POST", "/identity/v3/auth/tokens", "secret-that-is-none").await, 401);

    let said = |event: &Value| {
        let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let code = event["responseStatus"]["code"].as_u64().unwrap();
        assert_eq!((text("/stage"), text("/level")), ("ResponseComplete".to_owned(), "Metadata".to_owned()));
        (text("/user/username"), text("/verb"), text("/requestURI"), code)
    };
    let of = |user: &str, verb: &str, uri: &str, code| (user.to_owned(), verb.to_owned(), uri.to_owned(), code);
    let acme = audited(&bench, &log, ACME);
    assert_eq!(
        acme.iter().map(said).collect::<Vec<_>>(),
        [of("ann", "get", "/identity/v3/users?name=x", 201), of("ann", "post", "/networking/v2.0/ports", 201)]
    );
    assert_eq!(acme[0]["userAgent"], "a test");
    // Who has no project is the operator's to see, and who is not known nobody's.
    let login = "/identity/v3/auth/tokens";
    let system = audited(&bench, &log, "system");
    let of_login =
        |events: &[Value]| -> Vec<_> { events.iter().filter(|event| event["requestURI"] == login).map(said).collect() };
    assert_eq!(of_login(&system), [of("ann", "post", login, 201)]);
    let nobodys = audited(&bench, &log, "_unauthenticated");
    assert_eq!(of_login(&nobodys), [of("", "post", login, 401)]);
    let all = json!([acme, system, nobodys]).to_string();
    assert!(!all.contains("secret-") && !all.contains("a password"), "{all}");

    // As is what they are counted by.
    for (tenant, counted) in [(ACME, 1), (GLOBEX, 0)] {
        let lines = metrics(&bench, &admin(tenant), &["apiserver_request_total", "subresource=\"/identity\""]).await;
        assert_eq!(lines.len(), counted, "{lines:?}");
    }
}

#[tokio::test]
async fn a_facades_request_whose_client_goes_away_is_recorded() {
    let bench = InProcess::with_tenants().await;
    let log = with_audit(&bench, Policy::default());
    let never = || async { std::future::pending::<()>().await };
    let router = bench.server.observe("/volume", Router::new().route("/volume/v3", any(never)));
    let request = Request::post("/volume/v3").body(Body::empty()).unwrap();
    let mut asked = Box::pin(router.oneshot(request));
    assert!(futures::poll!(&mut asked).is_pending());
    drop(asked);
    let events = audited(&bench, &log, "_unauthenticated");
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["annotations"]["audit.hypernetes.io/abandoned"], "true");
}
