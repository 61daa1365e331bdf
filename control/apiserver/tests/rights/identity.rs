//! Who a request is made as.

use std::sync::Arc;

use axum::body::Body;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::Request;
use hypernetes_apiserver::authentication::{Certificate, Issuer};
use hypernetes_store::{Encryption, Options};
use hypernetes_testing::{
    http::Answer,
    requests::{Refused, by, infrastructure, user},
    server::{ACME, GLOBEX, InProcess},
};
use serde_json::json;

use crate::bench::{RBAC, admin, furnished, member, node, operator};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn impersonate(bench: &InProcess, user: &hypernetes_api::auth::UserInfo, headers: &[(&str, &str)]) -> Answer {
    let whoami = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let headers: Vec<_> = headers.iter().copied().chain([("content-type", "application/json")]).collect();
    bench.send_with(user, "POST", whoami, &headers, "{}").await
}

#[tokio::test]
async fn one_is_another_only_with_the_right_to() {
    let bench = furnished().await;
    let shown =
        impersonate(&bench, &admin(ACME), &[("impersonate-user", "bob"), ("impersonate-group", "staff")]).await.ok();
    assert_eq!(shown["status"]["userInfo"]["username"], "bob");
    assert_eq!(shown["status"]["userInfo"]["groups"], json!(["staff", "system:authenticated"]));
    // Groups of nobody were not looked at once, and the request went on with all that its maker may do.
    for header in ["impersonate-group", "impersonate-uid", "impersonate-extra-x"] {
        impersonate(&bench, &admin(ACME), &[(header, "x")]).await.refused(400, "BadRequest");
    }
    let message = impersonate(&bench, &member(ACME), &[("impersonate-user", "bob")]).await.forbidden();
    assert_eq!(
        message,
        "users \"bob\" is forbidden: User \"member\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
    );
    for group in ["hypernetes:infrastructure", "system:nodes"] {
        for by in [admin(ACME), operator()] {
            impersonate(&bench, &by, &[("impersonate-user", "bob"), ("impersonate-group", group)]).await.forbidden();
        }
    }
    // A role with the right to impersonate is not yet one with all rights.
    let rules = json!([{"apiGroups": [""], "resources": ["users", "groups"], "verbs": ["impersonate"]}]);
    bench
        .post(&admin(ACME), &format!("{RBAC}/clusterroles"), json!({"metadata": {"name": "i"}, "rules": rules}))
        .await
        .ok();
    let binding = json!({"metadata": {"name": "i"}, "roleRef": {"kind": "ClusterRole", "name": "i"},
        "subjects": [{"kind": "User", "name": "robot"}]});
    bench.post(&admin(ACME), &format!("{RBAC}/clusterrolebindings"), binding).await.ok();
    let robot = user("robot", &[], ACME);
    impersonate(&bench, &robot, &[("impersonate-user", "bob"), ("impersonate-group", "staff")]).await.ok();
    for group in ["system:masters", "keystone:admin", "keystone:member", "keystone:reader"] {
        impersonate(&bench, &robot, &[("impersonate-user", "bob"), ("impersonate-group", group)]).await.forbidden();
    }
    // As upstream's `edit` has it.
    let account = ("impersonate-user", "system:serviceaccount:default:default");
    let shown = impersonate(&bench, &member(ACME), &[account]).await.ok();
    assert_eq!(shown["status"]["userInfo"]["groups"][1], "system:serviceaccounts:default");
    // A uid and extras are rights of their own; their keys may be escaped.
    let fields =
        [("impersonate-user", "bob"), ("impersonate-uid", "5"), ("impersonate-extra-Example.com%2Fscopes", "a")];
    let shown = impersonate(&bench, &admin(ACME), &fields).await.ok();
    assert_eq!(shown["status"]["userInfo"]["uid"], "5");
    assert_eq!(shown["status"]["userInfo"]["extra"], json!({"example.com/scopes": ["a"]}));
    for field in &fields[1..] {
        impersonate(&bench, &robot, &[fields[0], *field]).await.forbidden();
    }
    let authentication = |resource: &str, name: &str| json!({"apiGroups": ["authentication.k8s.io"], "resources": [resource], "verbs": ["impersonate"], "resourceNames": [name]});
    let rules = json!([rules[0], authentication("uids", "5"), authentication("userextras/example.com/scopes", "a")]);
    bench.merge(&admin(ACME), &format!("{RBAC}/clusterroles/i"), json!({"rules": rules})).await.ok();
    impersonate(&bench, &robot, &fields).await.ok();
    for other in
        [("impersonate-uid", "6"), ("impersonate-extra-example.com%2fscopes", "b"), ("impersonate-extra-x", "a")]
    {
        impersonate(&bench, &robot, &[fields[0], other]).await.forbidden();
    }
    // Whoever is somebody unknown is not known besides.
    let unknown = [fields[0], ("impersonate-group", "system:unauthenticated")];
    impersonate(&bench, &admin(ACME), &unknown).await.forbidden();
    let everywhere = bench.send_with(&infrastructure(), "GET", &format!("/clusters/*{MAPS}"), &[account], "").await;
    everywhere.refused(400, "BadRequest");
}

#[tokio::test]
async fn a_cluster_is_called_by_its_own_and_by_the_operator() {
    let bench = furnished().await;
    let nobody = user("system:anonymous", &[], "system");
    for cluster in ["acme", ACME] {
        bench.get(&member(ACME), &format!("/clusters/{cluster}{MAPS}")).await.ok();
        bench.get(&operator(), &format!("/clusters/{cluster}{MAPS}")).await.ok();
        for stranger in [member(GLOBEX), admin(GLOBEX), nobody.clone()] {
            bench.get(&stranger, &format!("/clusters/{cluster}{MAPS}")).await.forbidden();
        }
    }
    bench.get(&operator(), &format!("/clusters/none{MAPS}")).await.refused(404, "NotFound");
    bench.get(&member(ACME), &format!("/clusters/none{MAPS}")).await.forbidden();
    bench.get(&node("one"), &format!("/clusters/{ACME}{MAPS}")).await.forbidden();
}

#[tokio::test]
async fn what_was_given_out_for_a_project_ends_with_it() {
    let bench = furnished().await;
    let own = bench.server.authorities().of(&ACME.parse().unwrap()).await.unwrap();
    let issuer = Issuer::Tenant(own.clients.as_ref().unwrap().current.key_id.clone());
    let with_serial = |tenant, serial: &str| {
        Certificate::new(member(tenant), serial.into(), issuer.clone(), jiff::Timestamp::MAX).unwrap()
    };
    let certificate = |tenant| with_serial(tenant, "4a01");
    let shown = async |certificate: Option<Certificate>| {
        let mut request = Request::builder().uri(MAPS).body(Body::empty()).unwrap();
        request.extensions_mut().insert(certificate.map(Arc::new));
        bench.answer(request).await
    };
    let token = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let made = bench.post(&admin(ACME), token, json!({"spec": {}})).await.ok();
    let bearer = format!("Bearer {}", made["status"]["token"].as_str().unwrap());
    let with_token = async || {
        bench.answer(Request::builder().uri("/api").header("authorization", &bearer).body(Body::empty()).unwrap()).await
    };
    shown(Some(certificate(ACME))).await.ok();
    with_token().await.ok();
    // Its own end, on a connection that lasts longer.
    let mut over = certificate(ACME);
    over.until = jiff::Timestamp::now();
    shown(Some(over)).await.refused(401, "Unauthorized");
    shown(None).await.refused(401, "Unauthorized");

    let identity = "/apis/identity.hypernetes.io/v1alpha1";
    let (project, domain) = (format!("{identity}/projects/{ACME}"), format!("{identity}/domains/default"));
    for object in [&project, &domain] {
        bench.merge(&operator(), object, json!({"spec": {"enabled": false}})).await.ok();
        shown(Some(certificate(ACME))).await.refused(401, "Unauthorized");
        with_token().await.refused(401, "Unauthorized");
        bench.merge(&operator(), object, json!({"spec": {"enabled": true}})).await.ok();
        shown(Some(certificate(ACME))).await.ok();
        with_token().await.ok();
    }
    let revocation = json!({"metadata": {"name": "certificate-4a01"}, "spec": {"certificate": "4a01"}});
    bench.post(&operator(), &format!("{identity}/tokenrevocations"), revocation).await.ok();
    shown(Some(certificate(ACME))).await.refused(401, "Unauthorized");
    shown(Some(with_serial(ACME, "4a02"))).await.ok();
    bench.delete(&operator(), &project).await.ok();
    shown(Some(with_serial(ACME, "4a02"))).await.refused(401, "Unauthorized");
    with_token().await.refused(401, "Unauthorized");
}

#[tokio::test]
async fn tenants_see_of_a_node_what_is_theirs_to_know() {
    let bench = furnished().await;
    let nodes = "/api/v1/nodes";
    bench.post(&node("one"), nodes, json!({"metadata": {"name": "one"}})).await.ok();
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "192.0.2.7"}, {"type": "Hostname", "address": "one"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {"machineID": "m-1", "systemUUID": "s-1", "bootID": "boot-1", "kernelVersion": "6", "osImage": "x",
            "containerRuntimeVersion": "c", "kubeletVersion": "k", "kubeProxyVersion": "", "operatingSystem": "linux",
            "architecture": "amd64"},
    }});
    bench.merge(&node("one"), &format!("{nodes}/one/status"), status).await.ok();
    let secret = ["192.0.2.7", "10250", "m-1", "s-1", "boot-1"];
    let paths = [
        nodes.to_owned(),
        format!("{nodes}/one"),
        format!("{nodes}?watch=true&timeoutSeconds=1"),
        format!("{nodes}?fieldSelector=metadata.name%3Done"),
    ];
    for path in paths {
        for accept in ["application/json", "application/json;as=Table;v=v1;g=meta.k8s.io"] {
            for tenant in [admin(ACME), member(ACME)] {
                let request = Request::builder().uri(&path).header("accept", accept).body(Body::empty()).unwrap();
                let text = bench.text(by(&tenant, request)).await;
                assert!(text.contains("one"), "{path}: {text}");
                for word in secret {
                    assert!(!text.contains(word), "{path} {accept}: {text}");
                }
            }
        }
    }
    let seen = bench.get(&operator(), &format!("{nodes}/one")).await.ok();
    assert_eq!(seen["status"]["nodeInfo"]["machineID"], "m-1");
}

#[tokio::test]
async fn the_whole_store_is_the_operators_masters_alone() {
    let bench = InProcess::with_tenants().await;
    for (user, path) in [
        (admin(ACME), "/snapshot"),
        (admin("system"), "/snapshot"),
        (user("m", &["system:masters"], ACME), "/snapshot"),
        (user("m", &["system:masters"], ACME), "/clusters/system/snapshot"),
        (user("r", &["keystone:reader"], "system"), "/snapshot"),
        (admin("system"), "/encryption-keys"),
        (user("m", &["system:masters"], ACME), "/clusters/system/encryption-keys"),
    ] {
        bench.get(&user, path).await.refused(403, "Forbidden");
        bench.post(&user, "/encryption-keys", json!({})).await.refused(403, "Forbidden");
    }
    let operator = user("operator", &["system:masters"], "system");
    let request = Request::builder().uri("/snapshot").body(Body::empty()).unwrap();
    assert_eq!(bench.response(by(&operator, request)).await.status(), 200);
    // Of a tenant's cluster there is none.
    bench.get(&operator, &format!("/clusters/{ACME}/snapshot")).await.refused(403, "Forbidden");
}

#[tokio::test]
async fn the_stores_keys_are_changed_while_it_works() {
    let keys = |numbers: &[u8]| -> String {
        numbers.iter().map(|number| format!("{number} {}\n", STANDARD.encode([*number; 32]))).collect()
    };
    let encryption = Encryption::parse(&keys(&[4]), "keys").unwrap();
    let bench = InProcess::with(Options { encryption, ..Options::default() });
    let operator = user("operator", &["system:masters"], "system");
    let post = async |text: &str| bench.send(&operator, "POST", "/encryption-keys", "text/plain", text).await;
    let done = async || loop {
        let state = bench.get(&operator, "/encryption-keys").await.ok();
        if state["state"] != "going" {
            return state;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(done().await, json!({"state": "none"}));
    // What was sent is not shown again.
    let secret = STANDARD.encode([7; 32]);
    let why = post(&format!("7 {secret}\nx {secret}")).await.refused(400, "BadRequest");
    assert!(why.contains("line 2") && !why.contains(&secret), "{why}");
    assert_eq!(post(&keys(&[9])).await.status, 202);
    let refused = done().await;
    assert_eq!(refused["state"], "failed");
    assert!(refused["why"].as_str().unwrap().contains("key 4 is still needed"), "{refused}");
    assert_eq!(post(&keys(&[9, 4])).await.status, 202);
    assert_eq!(done().await, json!({"state": "done", "key": 9}));
    bench.send(&operator, "DELETE", "/encryption-keys", "text/plain", "").await.refused(405, "MethodNotAllowed");
}
