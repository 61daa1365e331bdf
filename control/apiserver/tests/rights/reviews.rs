//! Questions and tokens with odd content.

use hypernetes_testing::{
    requests::{Refused, user},
    server::{ACME, GLOBEX},
};
use serde_json::{Value, json};

use crate::bench::{admin, furnished, member};

const TOKEN: &str = "/api/v1/namespaces/default/serviceaccounts/default/token";

#[tokio::test]
async fn odd_bodies_are_refused_and_nothing_falls_over() {
    let bench = furnished().await;
    let acme = admin(ACME);
    let paths = [
        TOKEN,
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        "/apis/authentication.k8s.io/v1/tokenreviews",
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
    ];
    let bodies = [
        "",
        "[]",
        "[{}]",
        "5",
        "\"x\"",
        "null",
        "true",
        "{\"spec\":[]}",
        "{\"spec\":5}",
        "{\"spec\":\"x\"}",
        "{\"metadata\":[]}",
        "{\"status\":[],\"spec\":{\"audiences\":{}}}",
        "{\"spec\":{\"boundObjectRef\":[]}}",
        "{\"spec\":{\"audiences\":[5]}}",
        "{\"spec\":{\"resourceAttributes\":5}}",
        "{\"spec\":{\"expirationSeconds\":\"x\"}}",
    ];
    for path in paths {
        for body in bodies {
            let answer = bench.send(&acme, "POST", path, "application/json", body).await;
            assert!(answer.status.as_u16() < 500, "{path} {body}: {} {}", answer.status, answer.body);
            assert!(answer.status.is_success() || answer.body["kind"] == "Status", "{path} {body}: {}", answer.body);
            if body.starts_with('[') || body.is_empty() {
                assert_eq!(answer.status.as_u16(), 400, "{path} {body}: {}", answer.body);
            }
        }
    }
}

#[tokio::test]
async fn tokens_are_for_a_time_and_for_something() {
    let bench = furnished().await;
    let acme = admin(ACME);
    let ask = async |spec: Value| bench.post(&acme, TOKEN, json!({"spec": spec})).await;
    let message = ask(json!({"expirationSeconds": 60})).await.refused(422, "Invalid");
    assert_eq!(
        message,
        "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 60: \
         may not specify a duration less than 10 minutes"
    );
    let message = ask(json!({"expirationSeconds": (1i64 << 32) + 1})).await.refused(422, "Invalid");
    assert!(message.ends_with("may not specify a duration larger than 2^32 seconds"), "{message}");
    let made = ask(json!({"expirationSeconds": 1i64 << 32})).await.ok();
    assert_eq!(made["spec"]["expirationSeconds"], 86_400);
    for (reference, message) in [
        (
            json!({"kind": "Node", "apiVersion": "v1", "name": "x"}),
            "cannot bind token to object of type /v1, Kind=Node",
        ),
        (
            json!({"kind": "Deployment", "apiVersion": "apps/v1", "name": "x"}),
            "cannot bind token to object of type apps/v1, Kind=Deployment",
        ),
    ] {
        assert_eq!(ask(json!({"boundObjectRef": reference})).await.refused(400, "BadRequest"), message);
    }
    for name in ["none", "a/b", "..", "", "x?watch=true"] {
        let reference = json!({"kind": "Pod", "apiVersion": "v1", "name": name});
        ask(json!({"boundObjectRef": reference})).await.refused(404, "NotFound");
    }
    let pod = json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "other", "containers": [{"name": "a", "image": "b"}]}});
    bench.post(&acme, "/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "other"}})).await.ok();
    bench.post(&acme, "/api/v1/namespaces/default/pods", pod).await.ok();
    let message = ask(json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}}))
        .await
        .refused(400, "BadRequest");
    assert_eq!(
        message,
        "cannot bind token for serviceaccount \"default\" to pod running with serviceaccount \"other\""
    );
    // A token ends with the secret that it is bound to.
    bench.post(&acme, "/api/v1/namespaces/default/secrets", json!({"metadata": {"name": "s"}})).await.ok();
    let made = ask(json!({"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "s"}})).await.ok();
    let token = made["status"]["token"].clone();
    let review = async |spec: Value| {
        bench.post(&acme, "/apis/authentication.k8s.io/v1/tokenreviews", json!({"spec": spec})).await.ok()["status"]
            .clone()
    };
    let status = review(json!({"token": token})).await;
    assert_eq!(status["user"]["groups"][1], "system:serviceaccounts:default");
    assert_eq!(status["audiences"], json!(["https://kubernetes.default.svc"]));
    assert_eq!(review(json!({"token": token, "audiences": ["vault"]})).await["authenticated"], false);
    bench.delete(&acme, "/api/v1/namespaces/default/secrets/s").await.ok();
    assert_eq!(review(json!({"token": token})).await["authenticated"], false);
    // What is for another audience opens nothing here, and is known for what it is.
    let vault = ask(json!({"audiences": ["vault"]})).await.ok()["status"]["token"].clone();
    assert_eq!(review(json!({"token": vault})).await["authenticated"], false);
    assert_eq!(review(json!({"token": vault, "audiences": ["vault", "x"]})).await["audiences"], json!(["vault"]));
    let empty = bench.post(&acme, "/apis/authentication.k8s.io/v1/tokenreviews", json!({"spec": {}})).await;
    assert_eq!(empty.refused(400, "BadRequest"), "token is required for TokenReview in authentication");
    // Another tenant's server does not know it.
    let foreign = json!({"spec": {"token": vault, "audiences": ["vault"]}});
    let status = bench.post(&admin(GLOBEX), "/apis/authentication.k8s.io/v1/tokenreviews", foreign).await.ok();
    assert_eq!(status["status"]["authenticated"], false);
}

#[tokio::test]
async fn whoever_asks_is_told_what_they_may() {
    let bench = furnished().await;
    let ask = async |by: &hypernetes_api::auth::UserInfo, kind: &str, spec: Value| {
        bench.post(by, &format!("/apis/authorization.k8s.io/v1/{kind}"), json!({"spec": spec})).await
    };
    let attributes = json!({"verb": "create", "resource": "pods", "subresource": "binding", "namespace": "default"});
    let own = ask(&admin(ACME), "selfsubjectaccessreviews", json!({"resourceAttributes": attributes})).await.ok();
    assert_eq!(own["status"]["allowed"], false);
    let both = json!({"resourceAttributes": {}, "nonResourceAttributes": {}});
    let message = ask(&admin(ACME), "selfsubjectaccessreviews", both).await.refused(422, "Invalid");
    assert!(message.contains("cannot be specified in combination with resourceAttributes"), "{message}");
    ask(&admin(ACME), "selfsubjectaccessreviews", json!({})).await.refused(422, "Invalid");
    let nobody = ask(&admin(ACME), "subjectaccessreviews", json!({"resourceAttributes": attributes})).await;
    assert!(nobody.refused(422, "Invalid").contains("at least one of user or group must be specified"));
    // The groups that mean infrastructure mean nothing in a tenant's question.
    let spec = json!({"user": "x", "groups": ["hypernetes:infrastructure"], "resourceAttributes": attributes});
    assert_eq!(ask(&admin(ACME), "subjectaccessreviews", spec).await.ok()["status"]["allowed"], false);
    let rules = ask(&member(ACME), "selfsubjectrulesreviews", json!({"namespace": "default"})).await.ok();
    let rules = rules["status"]["resourceRules"].as_array().unwrap().clone();
    assert!(
        rules.iter().any(|rule| rule["verbs"][0] == "impersonate" && rule["resources"] == json!(["serviceaccounts"]))
    );
    let nobody = ask(&user("x", &[], ACME), "selfsubjectrulesreviews", json!({"namespace": "default"})).await.ok();
    assert_eq!(nobody["status"]["resourceRules"], json!([]));
}

#[tokio::test]
async fn a_shell_is_asked_for_by_an_upgrade() {
    let bench = furnished().await;
    let acme = admin(ACME);
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "b"}]}});
    bench.post(&acme, pods, pod).await.ok();
    for subresource in ["exec?command=sh", "attach", "portforward"] {
        for method in ["GET", "POST"] {
            let path = format!("{pods}/p/{subresource}");
            let message = bench.send(&acme, method, &path, "application/json", "").await.refused(400, "BadRequest");
            assert_eq!(message, "Upgrade request required");
            let upgrade = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
            let message = bench.send_with(&acme, method, &path, &upgrade, "").await.refused(400, "BadRequest");
            assert_eq!(message, "pod p does not have a host assigned");
        }
    }
}
