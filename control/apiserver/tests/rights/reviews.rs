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
    let id = status["user"]["extra"]["authentication.kubernetes.io/credential-id"][0].as_str().unwrap();
    assert!(id.starts_with("JTI="), "{id}");
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
    // What everybody may.
    let verbs: Vec<_> =
        nobody["status"]["resourceRules"].as_array().unwrap().iter().map(|rule| &rule["verbs"]).collect();
    assert_eq!(verbs, [&json!(["create"]), &json!(["create"])]);
    assert_eq!(nobody["status"]["nonResourceRules"].as_array().unwrap().len(), 2);
    let all = ask(&admin(ACME), "selfsubjectrulesreviews", json!({"namespace": "default"})).await.ok();
    let star = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
    assert_eq!(all["status"]["resourceRules"].as_array().unwrap().iter().filter(|rule| **rule == star).count(), 1);
}

#[tokio::test]
async fn an_answer_says_by_what() {
    let bench = furnished().await;
    let acme = admin(ACME);
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
    bench.post(&acme, &format!("{rbac}/roles"), json!({"metadata": {"name": "r"}, "rules": rules})).await.ok();
    let subjects = [
        ("rb", "r", json!([{"kind": "User", "name": "bob"}, {"kind": "ServiceAccount", "name": "sa"}])),
        // Of a role that there is not.
        ("gone", "gone", json!([{"kind": "User", "name": "bob"}])),
    ];
    for (name, role, subjects) in subjects {
        let binding =
            json!({"metadata": {"name": name}, "subjects": subjects, "roleRef": {"kind": "Role", "name": role}});
        bench.post(&acme, &format!("{rbac}/rolebindings"), binding).await.ok();
    }
    let group = "/apis/authorization.k8s.io/v1";
    let ask = async |spec: Value| {
        bench.post(&acme, &format!("{group}/subjectaccessreviews"), json!({"spec": spec})).await.ok()["status"].clone()
    };
    let pods = |verb: &str| json!({"verb": verb, "resource": "pods", "namespace": "default"});
    let allowed = |reason: &str| json!({"allowed": true, "reason": format!("RBAC: allowed by {reason}")});
    let own = "RoleBinding \"rb/default\" of Role \"r\" to";
    let answers = [
        (json!({"user": "bob", "resourceAttributes": pods("get")}), allowed(&format!("{own} User \"bob\""))),
        (
            json!({"user": "system:serviceaccount:default:sa", "resourceAttributes": pods("get")}),
            allowed(&format!("{own} ServiceAccount \"sa/default\"")),
        ),
        (
            json!({"user": "bob", "resourceAttributes": pods("list")}),
            json!({"allowed": false, "reason": "RBAC: role.rbac.authorization.k8s.io \"gone\" not found"}),
        ),
        (
            json!({"user": "x", "groups": ["system:authenticated"], "nonResourceAttributes": {"verb": "get", "path": "/api/x"}}),
            allowed(
                "ClusterRoleBinding \"system:discovery\" of ClusterRole \"system:discovery\" to Group \"system:authenticated\"",
            ),
        ),
        (
            json!({"user": "m", "groups": ["keystone:reader"], "resourceAttributes": pods("get")}),
            allowed(
                "ClusterRoleBinding \"keystone:reader\" of ClusterRole \"keystone:reader\" to Group \"keystone:reader\"",
            ),
        ),
        (
            json!({"user": "x", "groups": ["system:masters"], "resourceAttributes": pods("list")}),
            json!({"allowed": true}),
        ),
        (json!({"user": "x", "resourceAttributes": pods("list")}), json!({"allowed": false})),
        (
            json!({"user": "x", "groups": ["keystone:admin"], "resourceAttributes":
                {"verb": "create", "resource": "pods", "subresource": "binding", "namespace": "default"}}),
            json!({"allowed": false, "denied": true, "reason": "it is infrastructure's to say"}),
        ),
    ];
    for (spec, expected) in answers {
        assert_eq!(ask(spec.clone()).await, expected, "{spec}");
    }
    let message = bench.get(&user("bob", &[], ACME), "/api/v1/namespaces/default/pods").await.forbidden();
    assert_eq!(
        message,
        "pods is forbidden: User \"bob\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\": \
         RBAC: role.rbac.authorization.k8s.io \"gone\" not found"
    );
    let (bob, own) = (user("bob", &[], ACME), format!("{group}/selfsubjectrulesreviews"));
    let rules = bench.post(&bob, &own, json!({"spec": {"namespace": "default"}})).await.ok();
    assert_eq!(rules["status"]["evaluationError"], "role.rbac.authorization.k8s.io \"gone\" not found");
    // Selectors are taken, and are ones.
    let selecting = |selectors: Value| {
        let mut attributes = pods("get");
        attributes.as_object_mut().unwrap().extend(selectors.as_object().unwrap().clone());
        json!({"user": "bob", "resourceAttributes": attributes})
    };
    for good in [
        json!({"fieldSelector": {"rawSelector": "spec.nodeName=a"}}),
        json!({"labelSelector": {"requirements": [{"key": "a", "operator": "In", "values": ["b"]}]}}),
    ] {
        assert_eq!(ask(selecting(good)).await["allowed"], true);
    }
    let ignored = ask(selecting(json!({"labelSelector": {"rawSelector": "((("}}))).await;
    assert_eq!(ignored["evaluationError"], "spec.resourceAttributes.labelSelector ignored due to parse error");
    for (bad, message) in [
        (
            json!({"fieldSelector": {}}),
            "spec.resourceAttributes.fieldSelector.requirements: Required value: when spec.resourceAttributes.fieldSelector \
             is specified, requirements or rawSelector is required",
        ),
        (
            json!({"labelSelector": {"rawSelector": "a=b", "requirements": [{"key": "a", "operator": "Exists"}]}}),
            "spec.resourceAttributes.labelSelector.rawSelector: Invalid value: \"a=b\": may not specified at the same time as \
             requirements",
        ),
        (
            json!({"fieldSelector": {"requirements": [{"key": "", "operator": "In", "values": []}]}}),
            "[spec.resourceAttributes.fieldSelector.requirements[0].key: Required value: must be specified, \
             spec.resourceAttributes.fieldSelector.requirements[0].values: Required value: must be specified when `operator` \
             is 'In' or 'NotIn']",
        ),
        (
            json!({"labelSelector": {"requirements": [{"key": "a", "operator": "In", "values": ["b c", "d"]}]}}),
            "spec.resourceAttributes.labelSelector.requirements[0].values[0]: Invalid value: \"b c\": a valid label must be an \
             empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
             character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
             '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
        ),
    ] {
        let answer = bench.post(&acme, &format!("{group}/subjectaccessreviews"), json!({"spec": selecting(bad)})).await;
        assert_eq!(answer.refused(422, "Invalid"), format!(".authorization.k8s.io \"\" is invalid: {message}"));
    }
}

#[tokio::test]
async fn a_local_review_is_of_its_namespace() {
    let bench = furnished().await;
    let path = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews";
    let ask = async |by: &hypernetes_api::auth::UserInfo, body: Value| bench.post(by, path, body).await;
    let spec = |namespace: &str| {
        json!({"user": "m", "groups": ["keystone:member"],
            "resourceAttributes": {"verb": "get", "resource": "secrets", "namespace": namespace}})
    };
    let answer = ask(&admin(ACME), json!({"spec": spec("default")})).await.ok();
    assert_eq!((&answer["status"]["allowed"], &answer["metadata"]["namespace"]), (&json!(true), &json!("default")));
    let message = ask(&admin(ACME), json!({"spec": spec("kube-system")})).await.refused(422, "Invalid");
    assert!(message.ends_with("Invalid value: \"kube-system\": must match metadata.namespace"), "{message}");
    let elsewhere = json!({"metadata": {"namespace": "kube-system"}, "spec": spec("kube-system")});
    ask(&admin(ACME), elsewhere).await.refused(400, "BadRequest");
    let of_path = json!({"spec": {"user": "m", "nonResourceAttributes": {"verb": "get", "path": "/x"}}});
    let message = ask(&admin(ACME), of_path).await.refused(422, "Invalid");
    assert!(message.ends_with("{\"Path\":\"/x\",\"Verb\":\"get\"}: disallowed on this kind of request"), "{message}");
    ask(&member(ACME), json!({"spec": spec("default")})).await.forbidden();
    // Whoever is a namespace's admin may ask in it.
    let binding = json!({"metadata": {"name": "a"}, "roleRef": {"kind": "ClusterRole", "name": "admin"},
        "subjects": [{"kind": "User", "name": "ann"}]});
    bench.post(&admin(ACME), "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await.ok();
    ask(&user("ann", &[], ACME), json!({"spec": spec("default")})).await.ok();
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
