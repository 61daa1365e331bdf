//! A node's credential reaches what the pods bound to it need, and nothing else.

use axum::body::Body;
use http::Request;
use hypernetes_testing::{
    requests::{Refused, by, infrastructure, user},
    server::{ACME, GLOBEX, InProcess},
};
use serde_json::{Value, json};

use crate::bench::{RBAC, admin, furnished, member, node, operator};

fn pods(tenant: &str) -> String {
    format!("/clusters/{tenant}/api/v1/namespaces/default/pods")
}

fn of(tenant: &str, plural: &str) -> String {
    format!("/clusters/{tenant}/api/v1/namespaces/default/{plural}")
}

const NODES: &str = "/api/v1/nodes";

fn pod(name: &str, node: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "nodeName": node,
        "containers": [{"name": "a", "image": "b", "envFrom": [{"secretRef": {"name": "used"}}]}],
        "volumes": [
            {"name": "m", "configMap": {"name": "used"}}, {"name": "c", "persistentVolumeClaim": {"claimName": "used"}},
            {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "vault"}}]}},
        ],
    }})
}

/// Two nodes; in acme a pod of the first, in globex one of the second, which refer to the same names.
async fn bench() -> InProcess {
    let bench = furnished().await;
    let infra = infrastructure();
    for name in ["one", "two"] {
        bench.post(&node(name), NODES, json!({"metadata": {"name": name}})).await.ok();
    }
    for (tenant, node) in [(ACME, "one"), (GLOBEX, "two")] {
        for name in ["used", "other"] {
            for plural in ["secrets", "configmaps"] {
                bench.post(&infra, &of(tenant, plural), json!({"metadata": {"name": name}})).await.ok();
            }
            let claim = json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
                "volumeName": name, "resources": {"requests": {"storage": "1Gi"}}}});
            bench.post(&infra, &of(tenant, "persistentvolumeclaims"), claim).await.ok();
            let volume = json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
                "capacity": {"storage": "1Gi"}, "claimRef": {"namespace": "default", "name": name},
                "csi": {"driver": "volume.csi.hypernetes.io", "volumeHandle": format!("v-{name}")}}});
            bench.post(&infra, &format!("/clusters/{tenant}/api/v1/persistentvolumes"), volume).await.ok();
            let volume = json!({"metadata": {"name": format!("v-{name}")}, "spec": {"sizeBytes": 1}});
            bench.post(&infra, &format!("/clusters/{tenant}{VOLUMES}"), volume).await.ok();
        }
        bench.post(&infra, &pods(tenant), pod("p", node)).await.ok();
    }
    bench
}

const VOLUMES: &str = "/apis/volume.hypernetes.io/v1alpha1/volumes";
const ATTACHMENTS: &str = "/apis/volume.hypernetes.io/v1alpha1/attachments";

#[tokio::test]
async fn it_reads_what_its_pods_refer_to() {
    let bench = bench().await;
    let one = node("one");
    let read = async |path: String| bench.get(&one, &path).await;
    for plural in ["secrets", "configmaps", "persistentvolumeclaims"] {
        read(format!("{}/used", of(ACME, plural))).await.ok();
        read(format!("{}/other", of(ACME, plural))).await.forbidden();
        read(format!("{}/used", of(GLOBEX, plural))).await.forbidden();
        for query in
            ["", "?watch=true", "?fieldSelector=metadata.name%3Dused", "?watch=1&fieldSelector=metadata.name%3Dused"]
        {
            read(format!("{}{query}", of(ACME, plural))).await.forbidden();
            read(format!("/clusters/*/api/v1/{plural}{query}")).await.forbidden();
            read(format!("/clusters/*/api/v1/namespaces/default/{plural}{query}")).await.forbidden();
            read(format!("/api/v1/{plural}{query}")).await.forbidden();
        }
        bench.delete(&one, &format!("{}/used", of(ACME, plural))).await.forbidden();
        bench
            .merge(&one, &format!("{}/used", of(ACME, plural)), json!({"metadata": {"labels": {"a": "b"}}}))
            .await
            .forbidden();
    }
    for (path, ours, others) in [("/api/v1/persistentvolumes", "used", "other"), (VOLUMES, "v-used", "v-other")] {
        read(format!("/clusters/{ACME}{path}/{ours}")).await.ok();
        read(format!("/clusters/{ACME}{path}/{others}")).await.forbidden();
        read(format!("/clusters/{GLOBEX}{path}/{ours}")).await.forbidden();
        read(format!("/clusters/{ACME}{path}")).await.forbidden();
        read(format!("/clusters/*{path}")).await.forbidden();
    }
    read(format!("{}/default", of(ACME, "serviceaccounts"))).await.ok();
    // What nothing of a pod's needs.
    for path in [
        "/api/v1/services",
        "/api/v1/namespaces",
        "/apis/apps/v1/deployments",
        "/apis/rbac.authorization.k8s.io/v1/roles",
    ] {
        read(format!("/clusters/*{path}")).await.forbidden();
    }
    read("/apis/identity.hypernetes.io/v1alpha1/users".into()).await.forbidden();

    // Once the pod is gone, so is the reason; and one that comes is one at once.
    bench.delete(&infrastructure(), &format!("{}/p?gracePeriodSeconds=0", pods(ACME))).await.ok();
    read(format!("{}/used", of(ACME, "secrets"))).await.forbidden();
    read(format!("/clusters/{ACME}{VOLUMES}/v-used")).await.forbidden();
    let mut unbound = pod("q", "");
    unbound["spec"]["nodeName"].take();
    bench.post(&infrastructure(), &pods(ACME), unbound).await.ok();
    read(format!("{}/used", of(ACME, "secrets"))).await.forbidden();
    let binding = json!({"metadata": {"name": "q"}, "target": {"kind": "Node", "name": "one"}});
    bench.post(&infrastructure(), &format!("{}/q/binding", pods(ACME)), binding).await.ok();
    read(format!("{}/used", of(ACME, "secrets"))).await.ok();
    bench.get(&node("two"), &format!("{}/used", of(ACME, "secrets"))).await.forbidden();
}

#[tokio::test]
async fn it_has_its_own_pods() {
    let bench = bench().await;
    let one = node("one");
    let list = |selector: &str| format!("/clusters/*/api/v1/pods?fieldSelector=spec.nodeName%3D{selector}");
    let seen = bench.get(&one, &list("one")).await.ok();
    assert_eq!(seen["items"].as_array().unwrap().len(), 1, "{seen}");
    for path in [list("two"), "/clusters/*/api/v1/pods".into(), pods(ACME), list("one").replace("%3D", "!%3D")] {
        bench.get(&one, &path).await.forbidden();
    }
    let (own, other) = (format!("{}/p", pods(ACME)), format!("{}/p", pods(GLOBEX)));
    let status = json!({"status": {"phase": "Running"}});
    bench.merge(&one, &format!("{own}/status"), status.clone()).await.ok();
    bench.merge(&one, &format!("{other}/status"), status.clone()).await.forbidden();
    bench.merge(&one, &own, json!({"metadata": {"labels": {"a": "b"}}})).await.forbidden();
    bench.post(&one, &pods(ACME), pod("mine", "one")).await.forbidden();
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "one"}});
    bench.post(&one, &format!("{other}/binding"), binding).await.forbidden();
    bench.get(&one, &own).await.ok();
    bench.get(&one, &other).await.forbidden();
    bench.delete(&one, &other).await.forbidden();
    bench.delete(&one, &format!("{own}?gracePeriodSeconds=0")).await.ok();
    // Gone is not forbidden: the kubelet waits for the one, and would for ever for the other.
    bench.delete(&one, &own).await.refused(404, "NotFound");
    bench.merge(&one, &format!("{own}/status"), status).await.refused(404, "NotFound");
    bench.send(&one, "DELETE", &pods(ACME), "application/json", "").await.forbidden();
}

#[tokio::test]
async fn it_knows_its_pods_tenants_and_hears_of_others_only_that_they_are_gone() {
    let bench = bench().await;
    let (one, projects) = (node("one"), "/apis/identity.hypernetes.io/v1alpha1/projects");
    let (own, other) = (format!("{projects}/{ACME}"), format!("{projects}/{GLOBEX}"));
    assert_eq!(bench.get(&one, &own).await.ok()["metadata"]["name"], ACME);
    bench.get(&one, &other).await.forbidden();
    for path in [projects.to_owned(), format!("{projects}?watch=true"), format!("/clusters/*{projects}")] {
        bench.get(&one, &path).await.forbidden();
    }
    bench.merge(&one, &own, json!({"spec": {"limits": {"pods": 7}}})).await.forbidden();
    bench.delete(&one, &own).await.forbidden();
    bench.delete(&infrastructure(), &other).await.ok();
    let gone = bench.get(&one, &other).await;
    assert_eq!(gone.body["details"]["name"], GLOBEX);
    gone.refused(404, "NotFound");
    bench.get(&node("two"), &own).await.forbidden();
}

#[tokio::test]
async fn it_speaks_for_itself_alone() {
    let bench = bench().await;
    let one = node("one");
    let (own, other) = (format!("{NODES}/one"), format!("{NODES}/two"));
    let label = |key: &str| json!({"metadata": {"labels": {key: "x"}}});
    bench.merge(&one, &own, label("kubernetes.io/hostname")).await.ok();
    bench.merge(&one, &other, label("kubernetes.io/hostname")).await.forbidden();
    let message = bench.merge(&one, &own, label("node-restriction.kubernetes.io/pool")).await.forbidden();
    assert_eq!(
        message,
        "nodes \"one\" is forbidden: is not allowed to modify labels: node-restriction.kubernetes.io/pool"
    );
    let taint = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
    let message = bench.merge(&one, &own, taint.clone()).await.forbidden();
    assert_eq!(message, "nodes \"one\" is forbidden: node \"one\" is not allowed to modify taints");
    bench.merge(&operator(), &own, taint).await.ok();
    bench.delete(&one, &own).await.forbidden();
    let message = bench.post(&one, NODES, json!({"metadata": {"name": "three"}})).await.forbidden();
    assert_eq!(message, "nodes \"three\" is forbidden: node \"one\" is not allowed to modify node \"three\"");
    bench.get(&one, NODES).await.forbidden();

    // Who says where a node is reached is asked for a shell in its pods.
    let address = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.9"}]}});
    bench.merge(&one, &format!("{own}/status"), address.clone()).await.ok();
    bench.merge(&one, &format!("{other}/status"), address.clone()).await.forbidden();
    bench.merge(&operator(), &format!("{other}/status"), address).await.forbidden();
    let condition = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    bench.merge(&operator(), &format!("{other}/status"), condition).await.ok();

    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    bench.post(&infrastructure(), "/api/v1/namespaces", json!({"metadata": {"name": "kube-node-lease"}})).await.ok();
    bench.post(&one, leases, json!({"metadata": {"name": "one"}})).await.ok();
    bench.post(&one, leases, json!({"metadata": {"name": "two"}})).await.forbidden();
    bench.post(&node("two"), leases, json!({"metadata": {"name": "two"}})).await.ok();
    bench.merge(&one, &format!("{leases}/one"), json!({"spec": {"holderIdentity": "one"}})).await.ok();
    bench.merge(&one, &format!("{leases}/two"), json!({"spec": {"holderIdentity": "one"}})).await.forbidden();
    bench.get(&one, leases).await.forbidden();
    bench.get(&one, "/apis/coordination.k8s.io/v1/namespaces/default/leases/one").await.forbidden();

    let events = |tenant: &str| of(tenant, "events");
    let event =
        json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}});
    bench.post(&one, &events(ACME), event.clone()).await.ok();
    bench.post(&one, &events(GLOBEX), event).await.forbidden();
    bench.get(&one, &events(ACME)).await.forbidden();
}

#[tokio::test]
async fn it_has_tokens_for_its_pods() {
    let bench = bench().await;
    let one = node("one");
    let uid = bench.get(&infrastructure(), &format!("{}/p", pods(ACME))).await.ok()["metadata"]["uid"].clone();
    let token = |tenant: &str| format!("{}/default/token", of(tenant, "serviceaccounts"));
    let request =
        |reference: Value, audiences: Value| json!({"spec": {"boundObjectRef": reference, "audiences": audiences}});
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid});
    bench.post(&one, &token(ACME), request(bound.clone(), json!([]))).await.ok();
    bench.post(&one, &token(ACME), request(bound.clone(), json!(["vault"]))).await.ok();
    bench.post(&one, &token(GLOBEX), request(bound.clone(), json!([]))).await.forbidden();
    let refused = async |body: Value| bench.post(&one, &token(ACME), body).await.forbidden();
    let message = refused(request(bound.clone(), json!(["other"]))).await;
    assert!(message.contains("audience \"other\" not found in pod spec volume"), "{message}");
    refused(request(bound, json!(["vault", "other"]))).await;
    assert!(refused(json!({"spec": {}})).await.contains("node requested token not bound to a pod"));
    let no_uid = json!({"apiVersion": "v1", "kind": "Pod", "name": "p"});
    assert!(refused(request(no_uid, json!([]))).await.contains("without a uid"));
    let stale = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "0"});
    bench.post(&one, &token(ACME), request(stale, json!([]))).await.refused(409, "Conflict");
    // Another pod of the same account that is elsewhere.
    bench.post(&infrastructure(), &pods(ACME), pod("far", "two")).await.ok();
    let uid = bench.get(&infrastructure(), &format!("{}/far", pods(ACME))).await.ok()["metadata"]["uid"].clone();
    let far = json!({"apiVersion": "v1", "kind": "Pod", "name": "far", "uid": uid});
    assert!(refused(request(far, json!([]))).await.contains("a pod scheduled on a different node"));
}

#[tokio::test]
async fn it_takes_volumes_for_its_pods_and_binds_their_ports() {
    let bench = bench().await;
    let (one, two) = (node("one"), node("two"));
    let uid = bench.get(&infrastructure(), &format!("{}/p", pods(ACME))).await.ok()["metadata"]["uid"].clone();
    let reference = json!({"namespace": "default", "name": "p", "uid": uid});
    let attachments = format!("/clusters/{ACME}{ATTACHMENTS}");
    let attachment = |volume: &str, node: &str| json!({"metadata": {"name": volume}, "spec": {"volume": volume, "node": node, "pod": reference}});
    bench.post(&one, &attachments, attachment("v-other", "one")).await.forbidden();
    bench.post(&one, &attachments, attachment("v-used", "two")).await.forbidden();
    bench.post(&two, &attachments, attachment("v-used", "two")).await.forbidden();
    bench.post(&one, &attachments, attachment("v-used", "one")).await.ok();
    let own = format!("{attachments}/v-used");
    bench.get(&one, &own).await.ok();
    bench.get(&one, &format!("{attachments}?fieldSelector=metadata.name%3Dv-used")).await.ok();
    bench.get(&one, &attachments).await.forbidden();
    bench.get(&two, &own).await.forbidden();
    bench.delete(&two, &own).await.forbidden();
    bench.merge(&one, &own, json!({"spec": {"readOnly": true}})).await.forbidden();
    bench.delete(&one, &own).await.ok();
    bench.get(&one, &own).await.refused(404, "NotFound");

    let ports = format!("/clusters/{ACME}/apis/network.hypernetes.io/v1alpha1/ports");
    bench.post(&infrastructure(), &ports, json!({"metadata": {"name": "x"}, "spec": {"pod": reference}})).await.ok();
    let status = |host: &str| json!({"status": {"phase": "Active", "host": host}});
    bench.merge(&two, &format!("{ports}/x/status"), status("two")).await.forbidden();
    bench.merge(&one, &format!("{ports}/x/status"), status("two")).await.forbidden();
    bench.merge(&one, &format!("{ports}/x/status"), status("one")).await.ok();
    bench.merge(&one, &format!("{ports}/x"), json!({"spec": {"network": "y"}})).await.forbidden();
}

#[tokio::test]
async fn it_sees_the_networks_that_its_pods_are_on() {
    let bench = bench().await;
    let (one, infra) = (node("one"), infrastructure());
    let of = |tenant: &str, plural: &str| format!("/clusters/{tenant}/apis/network.hypernetes.io/v1alpha1/{plural}");
    for (tenant, host) in [(ACME, "one"), (GLOBEX, "two")] {
        for network in ["used", "other"] {
            let name = json!({"name": network});
            bench.post(&infra, &of(tenant, "networks"), json!({"metadata": name, "spec": {}})).await.ok();
            let spec = json!({"network": network, "cidr": "10.0.0.0/24"});
            bench.post(&infra, &of(tenant, "subnets"), json!({"metadata": name, "spec": spec})).await.ok();
            bench
                .post(&infra, &of(tenant, "ports"), json!({"metadata": name, "spec": {"network": network}}))
                .await
                .ok();
        }
        let host = json!({"status": {"phase": "Down", "host": host}});
        bench.merge(&infra, &format!("{}/used/status", of(tenant, "ports")), host).await.ok();
    }
    let reads = async |path: String, query: &str| {
        for watch in ["", "&watch=true&timeoutSeconds=1"] {
            let path = format!("{path}?fieldSelector={query}{watch}");
            let request = by(&one, Request::get(&path).body(Body::empty()).unwrap());
            assert_eq!(bench.response(request).await.status(), 200, "{path}");
        }
    };
    let may_not = async |path: String| {
        for query in ["", "?watch=true", "?fieldSelector=status.host!%3Done", "?labelSelector=a%3Db"] {
            bench.get(&one, &format!("{path}{query}")).await.forbidden();
        }
    };
    reads(of("*", "ports"), "status.host%3Done").await;
    let seen = bench.get(&one, &format!("{}?fieldSelector=status.host%3Done", of("*", "ports"))).await.ok();
    let seen: Vec<&Value> = seen["items"].as_array().unwrap().iter().map(|port| &port["metadata"]).collect();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0]["annotations"]["hypernetes.io/tenant"], ACME);
    reads(of(ACME, "networks"), "metadata.name%3Dused").await;
    reads(of(ACME, "subnets"), "spec.network%3Dused").await;
    bench.get(&one, &format!("{}/used", of(ACME, "networks"))).await.ok();
    bench.get(&one, &format!("{}/used", of(ACME, "ports"))).await.ok();
    for tenant in [ACME, GLOBEX, "*", "system"] {
        for plural in ["networks", "subnets", "ports"] {
            may_not(of(tenant, plural)).await;
            let other = bench.get(&one, &format!("{}/other", of(tenant, plural))).await;
            // A port that is not there is nobody's.
            match (tenant, plural) {
                ("system", "ports") => drop(other.refused(404, "NotFound")),
                _ => drop(other.forbidden()),
            }
            for query in ["metadata.name%3Dother", "spec.network%3Dother", "status.host%3Dtwo"] {
                // A field that the resource cannot be selected by selects nothing.
                bench.get(&one, &format!("{}?fieldSelector={query}", of(tenant, plural))).await.forbidden();
            }
        }
        if tenant != ACME {
            let narrowed = [("networks", "metadata.name%3Dused"), ("subnets", "spec.network%3Dused")];
            for (plural, query) in narrowed {
                bench.get(&one, &format!("{}?fieldSelector={query}", of(tenant, plural))).await.forbidden();
            }
        }
    }
    // A network that the port leaves goes with it, and so does one whose port does.
    let moved = json!({"spec": {"network": "other"}});
    bench.merge(&infra, &format!("{}/used", of(ACME, "ports")), moved).await.ok();
    bench.get(&one, &format!("{}/used", of(ACME, "networks"))).await.forbidden();
    bench.get(&one, &format!("{}/other", of(ACME, "networks"))).await.ok();
    bench.delete(&infra, &format!("{}/used", of(ACME, "ports"))).await.ok();
    bench.get(&one, &format!("{}/other", of(ACME, "networks"))).await.forbidden();
}

#[tokio::test]
async fn identitys_own_secrets_are_nobodys_else() {
    let bench = bench().await;
    let there = "/clusters/system/api/v1/namespaces/hypernetes-identity";
    bench
        .post(&infrastructure(), "/api/v1/namespaces", json!({"metadata": {"name": "hypernetes-identity"}}))
        .await
        .ok();
    bench.post(&infrastructure(), &format!("{there}/secrets"), json!({"metadata": {"name": "token-keys"}})).await.ok();
    // Whatever a role in the operator's cluster says.
    let binding = json!({"metadata": {"name": "all"}, "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "User", "name": "helper"}, {"kind": "ServiceAccount", "namespace": "default", "name": "default"}]});
    bench.post(&operator(), &format!("{}/clusterrolebindings", RBAC), binding).await.ok();
    let helper = user("helper", &[], "system");
    bench.get(&helper, "/api/v1/namespaces/default/secrets").await.ok();
    let reader = user("reader", &["keystone:reader"], "system");
    let pretender = user("x", &["hypernetes:infrastructure", "system:nodes"], ACME);
    for asked in [helper, reader, pretender, node("one"), admin(ACME), member(GLOBEX)] {
        for path in ["secrets", "secrets/token-keys", "pods", "serviceaccounts"] {
            bench.get(&asked, &format!("{there}/{path}")).await.forbidden();
        }
        bench.get(&asked, "/clusters/system/api/v1/secrets").await.forbidden();
    }
    bench.get(&operator(), &format!("{there}/secrets")).await.ok();
}

#[tokio::test]
async fn a_question_about_a_node_says_what_its_list_is_narrowed_to() {
    let bench = bench().await;
    let ask = async |selectors: Value| {
        let mut attributes = json!({"verb": "list", "version": "v1", "resource": "pods"});
        attributes.as_object_mut().unwrap().extend(selectors.as_object().unwrap().clone());
        let spec = json!({"user": "system:node:one", "groups": ["system:nodes"], "resourceAttributes": attributes});
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let status = bench.post(&operator(), path, json!({"spec": spec})).await.ok()["status"].clone();
        let error = status["evaluationError"].as_str().unwrap_or_default().to_owned();
        (status["allowed"] == true, error)
    };
    let field = |key: &str, operator: &str, values: &[&str]| json!({"fieldSelector": {"requirements": [{"key": key, "operator": operator, "values": values}]}});
    for (selectors, allowed) in [
        (json!({"fieldSelector": {"rawSelector": "spec.nodeName=one"}}), true),
        (json!({"fieldSelector": {"rawSelector": "spec.nodeName=one,metadata.name!=x"}}), true),
        (field("spec.nodeName", "In", &["one"]), true),
        (json!({}), false),
        (json!({"fieldSelector": {"rawSelector": "spec.nodeName=two"}}), false),
        (json!({"fieldSelector": {"rawSelector": "spec.nodeName!=one"}}), false),
        (field("spec.nodeName", "NotIn", &["one"]), false),
        (field("metadata.name", "In", &["one"]), false),
        (json!({"labelSelector": {"rawSelector": "spec.nodeName=one"}}), false),
    ] {
        assert_eq!(ask(selectors.clone()).await, (allowed, String::new()), "{selectors}");
    }
    // What cannot be read narrows nothing.
    let ignored = |what: &str| (false, format!("spec.resourceAttributes.fieldSelector {what} due to parse error"));
    assert_eq!(ask(json!({"fieldSelector": {"rawSelector": "spec.nodeName"}})).await, ignored("ignored"));
    assert_eq!(ask(field("spec.nodeName", "In", &["one", "two"])).await, ignored("ignored"));
    let mut some = field("spec.nodeName", "In", &["one"]);
    let odd = json!({"key": "a", "operator": "Exists"});
    some["fieldSelector"]["requirements"].as_array_mut().unwrap().push(odd);
    assert_eq!(ask(some).await, (true, ignored("partially ignored").1));
}
