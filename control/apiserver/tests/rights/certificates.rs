//! Certificate signing requests: who may ask for whom, approve and sign; and what bootstrap tokens are good for.

use axum::body::Body;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::Request;
use hypernetes_api::auth::UserInfo;
use hypernetes_testing::{
    http::Answer,
    requests::{Refused, user},
    server::{ACME, GLOBEX, InProcess},
};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use serde_json::{Value, json};

use crate::bench::{RBAC, admin, furnished, node, operator};

const GROUP: &str = "/apis/certificates.k8s.io/v1";
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const BUNDLES: &str = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING: &str = "kubernetes.io/kubelet-serving";

/// A request for a certificate, base64.
fn asked(name: &str, group: &str, uris: &[&str]) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, group);
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    STANDARD.encode(params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap())
}

fn object(called: &str, signer: &str, request: &str) -> Value {
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": called},
        "spec": {"request": request, "signerName": signer, "usages": ["digital signature", "client auth"]}})
}

fn condition(kind: &str) -> Value {
    json!({"status": {"conditions": [{"type": kind, "status": "True", "reason": "Tested", "message": "m"}]}})
}

#[tokio::test]
async fn who_asks_is_who_made_the_request() {
    let bench = furnished().await;
    let mut request = object("ann", CLIENT, &asked("ann", "dev", &[]));
    request["spec"]["username"] = "root".into();
    request["spec"]["groups"] = json!(["system:masters"]);
    request["spec"]["extra"] = json!({"a": ["b"]});
    request["status"] = condition("Approved")["status"].clone();
    let made = bench.post(&admin(ACME), REQUESTS, request).await.ok();
    assert_eq!(made["spec"]["username"], "admin");
    assert_eq!(made["spec"]["groups"], json!(["keystone:admin", "system:authenticated"]));
    assert!(made["spec"].get("extra").is_none() && made["status"] == json!({}), "{made}");
    // Nor by a change.
    let change = json!({"spec": {"username": "root", "usages": ["any"]}, "metadata": {"labels": {"a": "b"}}});
    let changed = bench.merge(&admin(ACME), &format!("{REQUESTS}/ann"), change).await.ok();
    assert_eq!(changed["spec"], made["spec"]);
    assert_eq!(changed["metadata"]["labels"]["a"], "b");
}

#[tokio::test]
async fn nobody_asks_for_what_means_more_than_a_user() {
    let bench = furnished().await;
    let (acme, system) = (format!("hypernetes:tenant:{ACME}"), "hypernetes:tenant:system");
    let globex = format!("hypernetes:tenant:{GLOBEX}");
    let none: &[&str] = &[];
    for (who, cluster) in [(admin(ACME), ""), (operator(), "/clusters/system")] {
        let path = format!("{cluster}{REQUESTS}");
        for (name, group, uris) in [
            ("ann", "system:masters", none),
            ("ann", "system:nodes", none),
            ("ann", "hypernetes:infrastructure", none),
            ("ann", "keystone:admin", none),
            ("system:node:n1", "dev", none),
            ("system:serviceaccount:default:default", "dev", none),
            ("hypernetes:server", "dev", none),
            ("ann", "dev", &[globex.as_str()]),
            ("ann", "dev", &[acme.as_str(), system]),
        ] {
            let request = object("ann", CLIENT, &asked(name, group, uris));
            let why = bench.post(&who, &path, request).await.forbidden();
            assert!(why.contains("use of kubernetes.io/kube-apiserver-client signer with "), "{why}");
        }
    }
    let why = bench.post(&admin(ACME), REQUESTS, object("ann", CLIENT, &asked("ann", "system:masters", &[]))).await;
    assert_eq!(
        why.forbidden(),
        "certificatesigningrequests.certificates.k8s.io \"ann\" is forbidden: use of kubernetes.io/kube-apiserver-client \
         signer with system:masters group is not allowed"
    );
    // What others sign is theirs to judge.
    bench.post(&admin(ACME), REQUESTS, object("ann", "example.com/x", &asked("ann", "system:masters", &[]))).await.ok();
    bench.post(&admin(ACME), REQUESTS, object("own", CLIENT, &asked("ann", "dev", &[acme.as_str()]))).await.ok();
}

/// Gives a user of acme a role of these rules.
async fn allow(bench: &InProcess, name: &str, rules: Value) -> UserInfo {
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules});
    let bound = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}]});
    bench.post(&admin(ACME), &format!("{RBAC}/clusterroles"), role).await.ok();
    bench.post(&admin(ACME), &format!("{RBAC}/clusterrolebindings"), bound).await.ok();
    user(name, &[], ACME)
}

#[tokio::test]
async fn approving_and_signing_are_of_a_signer() {
    let bench = furnished().await;
    let group = json!(["certificates.k8s.io"]);
    let parts = json!({"apiGroups": group, "resources": ["certificatesigningrequests/approval", "certificatesigningrequests/status"],
        "verbs": ["get", "update", "patch"]});
    let signers = |verb: &str, name: &str| json!({"apiGroups": group, "resources": ["signers"], "verbs": [verb], "resourceNames": [name]});
    let writer = allow(&bench, "writer", json!([parts])).await;
    let approver = allow(&bench, "approver", json!([parts, signers("approve", "example.com/*")])).await;
    let signer = allow(&bench, "signer", json!([parts, signers("sign", "example.com/a")])).await;
    for (name, of) in [("a", "example.com/a"), ("b", "example.com/b"), ("c", CLIENT)] {
        bench.post(&admin(ACME), REQUESTS, object(name, of, &asked("ann", "dev", &[]))).await.ok();
    }
    let part = |name: &str, part: &str| format!("{REQUESTS}/{name}/{part}");
    let approved = condition("Approved");
    for who in [&writer, &signer] {
        let why = bench.merge(who, &part("a", "approval"), approved.clone()).await.forbidden();
        assert!(why.ends_with("user not permitted to approve requests with signerName \"example.com/a\""), "{why}");
    }
    bench.merge(&approver, &part("c", "approval"), approved.clone()).await.forbidden();
    for name in ["a", "b"] {
        let made = bench.merge(&approver, &part(name, "approval"), approved.clone()).await.ok();
        let condition = &made["status"]["conditions"][0];
        assert!(condition["lastUpdateTime"].is_string() && condition["lastTransitionTime"].is_string(), "{made}");
    }
    // It is not taken back, and approval gives no certificate.
    bench.merge(&approver, &part("a", "approval"), json!({"status": {"conditions": []}})).await.refused(422, "Invalid");
    let key = KeyPair::generate().unwrap();
    let certificate = STANDARD.encode(CertificateParams::default().self_signed(&key).unwrap().pem());
    let given = json!({"status": {"certificate": certificate}});
    let made = bench.merge(&approver, &part("a", "approval"), given.clone()).await.ok();
    assert!(made["status"].get("certificate").is_none(), "{made}");
    for (who, name) in [(&writer, "a"), (&approver, "a"), (&signer, "b")] {
        let why = bench.merge(who, &part(name, "status"), given.clone()).await.forbidden();
        assert!(why.contains("user not permitted to sign requests with signerName "), "{why}");
    }
    let made = bench.merge(&signer, &part("a", "status"), given.clone()).await.ok();
    assert_eq!(made["status"]["certificate"], certificate);
    let other = json!({"status": {"certificate": STANDARD.encode(CertificateParams::default().self_signed(&key).unwrap().pem())}});
    bench.merge(&signer, &part("a", "status"), other).await.refused(422, "Invalid");
    // Approval is not the signer's.
    bench.merge(&signer, &part("c", "status"), approved.clone()).await.refused(422, "Invalid");
    let listed =
        bench.get(&admin(ACME), &format!("{REQUESTS}?fieldSelector=spec.signerName%3Dexample.com%2Fa")).await.ok();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(bench.get(&admin(GLOBEX), REQUESTS).await.ok()["items"], json!([]));
    bench.get(&admin(ACME), GROUP).await.ok();
}

#[tokio::test]
async fn who_attests_says_whom_a_cluster_trusts() {
    let bench = furnished().await;
    let group = json!(["certificates.k8s.io"]);
    let write = json!({"apiGroups": group, "resources": ["clustertrustbundles"], "verbs": ["*"]});
    let attest =
        json!({"apiGroups": group, "resources": ["signers"], "verbs": ["attest"], "resourceNames": ["example.com/a"]});
    let (writer, attester) =
        (allow(&bench, "writer", json!([write])).await, allow(&bench, "attester", json!([write, attest])).await);
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
    let bundle = |name: &str, signer: Option<&str>| {
        json!({"apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle", "metadata": {"name": name},
            "spec": {"signerName": signer, "trustBundle": root}})
    };
    bench.post(&writer, BUNDLES, bundle("roots", None)).await.ok();
    let of_a = bundle("example.com:a:1", Some("example.com/a"));
    let why = bench.post(&writer, BUNDLES, of_a.clone()).await.forbidden();
    assert!(why.ends_with("user not permitted to attest for signerName \"example.com/a\""), "{why}");
    bench.post(&attester, BUNDLES, of_a).await.ok();
    bench.post(&attester, BUNDLES, bundle("example.com:b:1", Some("example.com/b"))).await.forbidden();
    // Service accounts see whom their cluster trusts, and no other cluster's.
    let account = user("system:serviceaccount:default:default", &["system:serviceaccounts"], ACME);
    assert_eq!(bench.get(&account, BUNDLES).await.ok()["items"].as_array().unwrap().len(), 2);
    assert_eq!(bench.get(&admin(GLOBEX), BUNDLES).await.ok()["items"], json!([]));
}

#[tokio::test]
async fn a_node_asks_for_its_own_and_sees_its_own() {
    let bench = furnished().await;
    let path = format!("/clusters/system{REQUESTS}");
    let (n1, n2) = (node("n1"), node("n2"));
    let of = |called: &str, signer: &str, name: &str| object(called, signer, &asked(name, "system:nodes", &[]));
    for signer in [KUBELET, SERVING] {
        let why = bench.post(&n1, &path, of("x", signer, "system:node:n2")).await.forbidden();
        assert!(why.ends_with("can only create a node CSR with CN=system:node:n1"), "{why}");
    }
    bench.post(&n1, &path, of("x", CLIENT, "ann")).await.forbidden();
    bench.post(&n1, &format!("/clusters/{ACME}{REQUESTS}"), of("x", KUBELET, "system:node:n1")).await.forbidden();
    bench.post(&n1, &path, of("own", KUBELET, "system:node:n1")).await.ok();
    bench.get(&n1, &format!("{path}/own")).await.ok();
    bench.get(&n1, &format!("{path}?fieldSelector=metadata.name%3Down")).await.ok();
    bench.get(&n2, &format!("{path}/own")).await.forbidden();
    bench.get(&n1, &path).await.forbidden();
    bench.merge(&n1, &format!("{path}/own/approval"), condition("Approved")).await.forbidden();
    bench.merge(&n1, &format!("{path}/own/status"), json!({"status": {}})).await.forbidden();
    bench.send(&n1, "DELETE", &format!("{path}/own"), "application/json", "").await.forbidden();
}

const TOKEN: &str = "abcdef.0123456789abcdef";

/// A request by whoever has this token.
async fn by_token(bench: &InProcess, token: &str, method: &str, path: &str, body: &Value) -> Answer {
    let authorization = format!("Bearer {token}");
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = headers
        .iter()
        .fold(Request::builder().method(method).uri(path), |request, (name, value)| request.header(*name, *value));
    bench.answer(request.body(Body::from(body)).unwrap()).await
}

async fn make_token(bench: &InProcess, cluster: &str, who: &UserInfo, id: &str, more: &[(&str, &str)]) {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}});
    let _ = bench.post(who, &format!("/clusters/{cluster}/api/v1/namespaces"), namespace).await;
    let mut data =
        json!({"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"});
    for (name, value) in more {
        data[*name] = (*value).into();
    }
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": format!("bootstrap-token-{id}")}, "stringData": data});
    bench.post(who, &format!("/clusters/{cluster}/api/v1/namespaces/kube-system/secrets"), secret).await.ok();
}

#[tokio::test]
async fn a_bootstrap_token_asks_for_a_nodes_certificate_and_nothing_else() {
    let bench = furnished().await;
    make_token(&bench, "system", &operator(), "abcdef", &[]).await;
    let ask = async |method: &str, path: &str, body: Value| by_token(&bench, TOKEN, method, path, &body).await;
    let path = format!("/clusters/system{REQUESTS}");
    let own = object("own", KUBELET, &asked("system:node:n1", "system:nodes", &[]));
    let made = ask("POST", &path, own).await.ok();
    assert_eq!(made["spec"]["username"], "system:bootstrap:abcdef");
    assert_eq!(made["spec"]["groups"], json!(["system:bootstrappers", "system:authenticated"]));
    ask("GET", &format!("{path}/own"), Value::Null).await.ok();
    // The plain path is the operator's cluster, too.
    ask("GET", &format!("{REQUESTS}/own"), Value::Null).await.ok();
    for (signer, name, group) in [
        (CLIENT, "ann", "dev"),
        (SERVING, "system:node:n1", "system:nodes"),
        ("example.com/x", "ann", "dev"),
        (KUBELET, "ann", "system:nodes"),
        (KUBELET, "system:node:n1", "system:masters"),
    ] {
        ask("POST", &path, object("x", signer, &asked(name, group, &[]))).await.forbidden();
    }
    for (method, path) in [
        ("GET", path.as_str()),
        ("DELETE", &format!("{path}/own")),
        ("PUT", &format!("{path}/own/approval")),
        ("GET", "/api/v1/namespaces/kube-system/secrets"),
        ("GET", "/api/v1/namespaces/kube-system/secrets/bootstrap-token-abcdef"),
        ("GET", "/api/v1/nodes"),
        ("GET", "/api/v1/namespaces"),
        ("POST", "/api/v1/nodes"),
        ("GET", &format!("/clusters/{ACME}{REQUESTS}")),
        ("POST", &format!("/clusters/{ACME}{REQUESTS}")),
        ("GET", "/clusters/*/api/v1/pods"),
    ] {
        ask(method, path, if method == "GET" { Value::Null } else { json!({}) }).await.forbidden();
    }
    // Somebody else's request is not this token's to see.
    bench.post(&operator(), &path, object("other", CLIENT, &asked("ann", "dev", &[]))).await.ok();
    ask("GET", &format!("{path}/other"), Value::Null).await.forbidden();
}

#[tokio::test]
async fn a_bootstrap_token_is_good_as_the_operators_secret_says() {
    let bench = furnished().await;
    make_token(&bench, "system", &operator(), "abcdef", &[("auth-extra-groups", "system:bootstrappers:rack-7")]).await;
    make_token(&bench, "system", &operator(), "gone00", &[("expiration", "2026-01-01T00:00:00Z")]).await;
    make_token(&bench, "system", &operator(), "masta0", &[("auth-extra-groups", "system:masters")]).await;
    make_token(&bench, "system", &operator(), "mute00", &[("usage-bootstrap-authentication", "false")]).await;
    make_token(&bench, ACME, &admin(ACME), "tenant", &[]).await;
    let known = async |token: &str| by_token(&bench, token, "GET", "/api", &Value::Null).await.status.as_u16();
    assert_eq!(known(TOKEN).await, 200);
    for token in [
        "abcdef.0123456789abcdeg",
        "gone00.0123456789abcdef",
        "masta0.0123456789abcdef",
        "mute00.0123456789abcdef",
        "tenant.0123456789abcdef",
        "nobody.0123456789abcdef",
        "abcdef.",
    ] {
        assert_eq!(known(token).await, 401, "{token}");
    }
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let said = by_token(&bench, TOKEN, "POST", path, &review).await.ok();
    let groups = &said["status"]["userInfo"]["groups"];
    assert_eq!(groups, &json!(["system:bootstrappers", "system:authenticated", "system:bootstrappers:rack-7"]));
    let secret = "/clusters/system/api/v1/namespaces/kube-system/secrets/bootstrap-token-abcdef";
    bench.send(&operator(), "DELETE", secret, "application/json", "").await.ok();
    assert_eq!(known(TOKEN).await, 401);
}
