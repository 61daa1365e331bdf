//! The roles and bindings that every cluster has from the start, and those that are made of others.

use std::collections::BTreeMap;

use axum::body::Body;
use futures::StreamExt;
use http::Request;
use hypernetes_testing::{
    requests::{Refused, by, user},
    server::{ACME, GLOBEX, InProcess},
};
use serde_json::{Value, json};

use crate::bench::{RBAC, admin, furnished, member, operator};

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const UPSTREAM: &str = include_str!("../data/bootstrap-roles-1.36.2.txt");
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";

/// With its namespace before a slash, if it is in one.
fn name(object: &Value) -> String {
    let (namespace, name) = (&object["metadata"]["namespace"], object["metadata"]["name"].as_str().unwrap());
    namespace.as_str().map_or(name.to_owned(), |namespace| format!("{namespace}/{name}"))
}

async fn names(bench: &InProcess, path: &str) -> Vec<String> {
    let list = bench.get(&admin(ACME), path).await.ok();
    list["items"].as_array().unwrap().iter().map(name).collect()
}

#[tokio::test]
async fn a_cluster_shows_upstreams_roles_and_stores_none() {
    let bench = furnished().await;
    let view = bench.get(&admin(ACME), &format!("{ROLES}/view")).await.ok();
    let metadata = &view["metadata"];
    assert_eq!(metadata["labels"]["kubernetes.io/bootstrapping"], "rbac-defaults");
    assert_eq!(metadata["annotations"]["rbac.authorization.kubernetes.io/autoupdate"], "true");
    assert_eq!(
        view["aggregationRule"]["clusterRoleSelectors"][0]["matchLabels"],
        json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"})
    );
    assert!(!view["rules"].as_array().unwrap().is_empty());
    assert_eq!(bench.get(&admin(ACME), &format!("{ROLES}/view")).await.ok(), view, "it stays what it is");
    let (mut all, mut bound) = (Vec::new(), BTreeMap::new());
    for (roles, bindings, kind) in
        [("clusterroles", "clusterrolebindings", "ClusterRole"), ("roles", "rolebindings", "Role")]
    {
        let roles = names(&bench, &format!("{RBAC}/{roles}")).await;
        assert!(roles.is_sorted());
        all.extend(roles);
        let bindings = bench.get(&admin(ACME), &format!("{RBAC}/{bindings}")).await.ok()["items"].clone();
        for binding in bindings.as_array().unwrap() {
            assert_eq!(binding["roleRef"]["kind"], kind, "{binding}");
            bound.insert(name(binding), binding["roleRef"]["name"].as_str().unwrap().to_owned());
        }
    }
    for line in UPSTREAM.lines().filter(|line| !line.starts_with('#')) {
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["role", name] => assert!(all.iter().any(|one| one == name), "{name}"),
            ["binding", name, role] => assert_eq!(bound.get(*name).map(String::as_str), Some(*role), "{name}"),
            _ => panic!("{line}"),
        }
    }
    // To have the name of a controller of upstream's is to have no rights.
    let spec = json!({"user": "system:serviceaccount:kube-system:generic-garbage-collector",
        "resourceAttributes": {"verb": "delete", "resource": "pods", "namespace": "default"}});
    let review = json!({"spec": spec});
    let review = bench.post(&admin(ACME), "/apis/authorization.k8s.io/v1/subjectaccessreviews", review).await.ok();
    assert_eq!(review["status"], json!({"allowed": false}));
    let bound = bench.get(&admin(ACME), &format!("{BINDINGS}/cluster-admin")).await.ok();
    assert_eq!(bound["subjects"][0]["name"], "system:masters");
    // The row that kubectl shows.
    let request = Request::builder().uri(format!("{ROLES}/view"));
    let request = request.header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io").body(Body::empty()).unwrap();
    let table = bench.answer(by(&admin(ACME), request)).await.ok();
    assert_eq!(table["rows"][0]["cells"], json!(["view", "2026-01-01T00:00:00Z"]));
    // Over all clusters only what is stored is told.
    let everywhere = bench.get(&operator(), &format!("/clusters/*{ROLES}")).await;
    assert!(everywhere.status.as_u16() == 403 || everywhere.ok()["items"] == json!([]));
}

#[tokio::test]
async fn roles_of_namespaces_are_there_from_the_start_too() {
    const SYSTEM: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system";
    let bench = furnished().await;
    let allowed = async |tenant: &str, user: &str, verb: &str, resource: &str, name: &str| {
        let spec = json!({"user": user, "resourceAttributes":
            {"verb": verb, "resource": resource, "namespace": "kube-system", "name": name}});
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        bench.post(&admin(tenant), path, json!({"spec": spec})).await.ok()["status"]["allowed"] == true
    };
    for name in ["kube-system", "kube-public"] {
        bench.post(&admin(ACME), "/api/v1/namespaces", json!({"metadata": {"name": name}})).await.ok();
    }
    // Pages over all namespaces, with what is stored between them.
    for namespace in ["default", "kube-system"] {
        let path = format!("{RBAC}/namespaces/{namespace}/roles");
        bench.post(&admin(ACME), &path, json!({"metadata": {"name": "own"}})).await.ok();
    }
    let all = names(&bench, &format!("{RBAC}/roles")).await;
    assert!(all.is_sorted() && all[0] == "default/own" && all[1] == "kube-public/system:controller:bootstrap-signer");
    let list = bench.get(&admin(ACME), &format!("{RBAC}/roles?limit=3")).await.ok();
    let token = list["metadata"]["continue"].as_str().unwrap();
    assert_eq!(names(&bench, &format!("{RBAC}/roles?limit=100&continue={token}")).await, all[3..]);
    let within: Vec<&String> = all.iter().filter(|name| name.starts_with("kube-system/")).collect();
    assert_eq!(names(&bench, &format!("{SYSTEM}/roles")).await.iter().collect::<Vec<_>>(), within);
    assert_eq!(names(&bench, &format!("{RBAC}/namespaces/default/rolebindings")).await, Vec::<String>::new());

    // They give what they say, in their namespace, until the tenant makes something else of them.
    let (scheduler, locking) = ("system:kube-scheduler", "system::leader-locking-kube-scheduler");
    assert!(allowed(ACME, scheduler, "update", "configmaps", "kube-scheduler").await);
    assert!(!allowed(ACME, scheduler, "update", "configmaps", "other").await);
    let place = format!("{SYSTEM}/roles/{locking}");
    let before = bench.get(&admin(ACME), &place).await.ok();
    bench.merge(&admin(ACME), &place, json!({"rules": []})).await.ok();
    assert!(!allowed(ACME, scheduler, "update", "configmaps", "kube-scheduler").await);
    assert!(allowed(GLOBEX, scheduler, "update", "configmaps", "kube-scheduler").await);
    bench.delete(&admin(ACME), &place).await.ok();
    assert_eq!(bench.get(&admin(ACME), &place).await.ok()["rules"], before["rules"]);
    bench.delete(&admin(ACME), &format!("{SYSTEM}/rolebindings/{locking}")).await.ok();
    let bound = bench.get(&admin(ACME), &format!("{SYSTEM}/rolebindings/{locking}")).await.ok();
    assert_eq!(
        bound["subjects"],
        json!([{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": scheduler}])
    );
    // Whoever makes an account of a controller's name gets nothing by it.
    let cleaner = "system:serviceaccount:kube-system:token-cleaner";
    assert!(!allowed(ACME, cleaner, "list", "secrets", "").await);

    // And the namespaces stay.
    for name in ["default", "kube-system", "kube-public"] {
        let message = bench.delete(&admin(ACME), &format!("/api/v1/namespaces/{name}")).await.forbidden();
        assert!(message.ends_with("this namespace may not be deleted"), "{message}");
    }
}

#[tokio::test]
async fn pages_and_selectors_are_those_of_a_whole_list() {
    let bench = furnished().await;
    for name in ["aaa", "mine", "zzz"] {
        bench.post(&admin(ACME), ROLES, json!({"metadata": {"name": name}})).await.ok();
    }
    bench.merge(&admin(ACME), &format!("{ROLES}/edit"), json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
    let all = names(&bench, ROLES).await;
    assert!(all.is_sorted() && all.contains(&"mine".into()) && all.first() == Some(&"aaa".into()));
    for limit in [1, 2, 7, all.len() - 1, all.len(), all.len() + 1] {
        let (mut paged, mut token) = (Vec::new(), String::new());
        loop {
            let path = format!("{ROLES}?limit={limit}&continue={token}");
            let list = bench.get(&admin(ACME), &path).await.ok();
            let items = list["items"].as_array().unwrap();
            assert!(items.len() <= limit);
            paged.extend(items.iter().map(|role| role["metadata"]["name"].as_str().unwrap().to_owned()));
            match list["metadata"]["continue"].as_str() {
                Some(next) => token = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(paged, all, "{limit}");
    }
    assert_eq!(names(&bench, &format!("{ROLES}?labelSelector=a%3Db")).await, ["edit"]);
    assert_eq!(names(&bench, &format!("{ROLES}?fieldSelector=metadata.name%3Dview&limit=1")).await, ["view"]);
    let own = names(&bench, &format!("{ROLES}?labelSelector=!kubernetes.io/bootstrapping")).await;
    assert_eq!(own, ["aaa", "mine", "zzz"]);
}

#[tokio::test]
async fn what_is_written_over_a_default_is_that_tenants_until_it_is_deleted() {
    let bench = furnished().await;
    let place = format!("{ROLES}/view");
    let before = bench.get(&admin(ACME), &place).await.ok();
    bench.post(&admin(ACME), ROLES, json!({"metadata": {"name": "view"}})).await.refused(409, "AlreadyExists");
    bench.delete(&admin(ACME), &format!("{place}?dryRun=All")).await.ok();
    assert_eq!(bench.get(&admin(ACME), &place).await.ok(), before);
    let request =
        Request::builder().uri(format!("{ROLES}?watch=true&labelSelector=!a&fieldSelector=metadata.name%3Dview"));
    let watch = bench.response(by(&admin(ACME), request.body(Body::empty()).unwrap())).await;
    let mut events = watch.into_body().into_data_stream();
    let mut next = async || -> (String, Value) {
        let event: Value = serde_json::from_slice(&events.next().await.unwrap().unwrap()).unwrap();
        (event["type"].as_str().unwrap().to_owned(), event["object"].clone())
    };
    assert_eq!(next().await, ("ADDED".into(), before.clone()));

    let mut changed = before.clone();
    changed["metadata"]["annotations"]["note"] = "mine".into();
    changed["metadata"]["resourceVersion"] = "99999".into();
    bench.put(&admin(ACME), &place, &changed).await.refused(409, "Conflict");
    changed["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
    let written = bench.put(&admin(ACME), &place, &changed).await.ok();
    assert_eq!(written["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(next().await, ("MODIFIED".into(), written.clone()));
    bench.put(&admin(ACME), &place, &changed).await.refused(409, "Conflict");
    assert_eq!(bench.get(&admin(ACME), &place).await.ok(), written);
    assert_eq!(bench.get(&admin(GLOBEX), &place).await.ok(), before, "another tenant's is as it was");
    // It leaves what is selected by a label that it had not before it was stored.
    let labelled = bench.merge(&admin(ACME), &place, json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
    let (kind, object) = next().await;
    assert_eq!((kind.as_str(), &object["metadata"]["uid"]), ("DELETED", &labelled["metadata"]["uid"]));

    let deleted = bench.delete(&admin(ACME), &place).await.ok();
    assert_eq!((deleted["status"].as_str(), &deleted["details"]["uid"]), (Some("Success"), &before["metadata"]["uid"]));
    let again = bench.get(&admin(ACME), &place).await.ok();
    assert_eq!(next().await, ("ADDED".into(), again.clone()));
    assert_eq!((&again["rules"], &again["metadata"]["labels"]), (&before["rules"], &before["metadata"]["labels"]));
    // Whoever waits for the old one to go sees that it has.
    assert_ne!(again["metadata"]["uid"], before["metadata"]["uid"]);
}

#[tokio::test]
async fn what_a_default_gives_is_what_the_tenant_has_made_of_it() {
    let bench = furnished().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    bench.get(&member(ACME), maps).await.ok();
    for (place, path, patch) in [
        ("clusterroles/keystone:member", maps, json!({"aggregationRule": null, "rules": []})),
        ("clusterrolebindings/system:discovery", "/apis", json!({"subjects": []})),
    ] {
        let place = format!("{RBAC}/{place}");
        bench.merge(&admin(ACME), &place, patch).await.ok();
        bench.get(&member(ACME), path).await.forbidden();
        bench.get(&member(GLOBEX), path).await.ok();
        // Whose cluster it is loses nothing.
        bench.get(&admin(ACME), path).await.ok();
        bench.delete(&admin(ACME), &place).await.ok();
        bench.get(&member(ACME), path).await.ok();
    }
    bench.post(&user("nobody", &[], ACME), who, json!({})).await.ok();
    bench.delete(&admin(ACME), &format!("{BINDINGS}/system:basic-user")).await.ok();
    bench.post(&user("nobody", &[], ACME), who, json!({})).await.ok();
}

#[tokio::test]
async fn of_a_tenant_that_is_gone_nothing_is_shown_and_nothing_stays() {
    let bench = furnished().await;
    let infrastructure = hypernetes_testing::requests::infrastructure();
    bench.merge(&admin(ACME), &format!("{ROLES}/view"), json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
    bench.delete(&operator(), &format!("/apis/identity.hypernetes.io/v1alpha1/projects/{ACME}")).await.ok();
    let within = ["roles", "rolebindings"].map(|plural| format!("{RBAC}/namespaces/kube-system/{plural}"));
    for plural in [ROLES, BINDINGS].iter().copied().chain(within.iter().map(String::as_str)) {
        let path = format!("/clusters/{ACME}{plural}");
        bench.delete(&infrastructure, &path).await.ok();
        assert_eq!(bench.get(&infrastructure, &path).await.ok()["items"], json!([]));
    }
}

#[tokio::test]
async fn a_role_has_the_rules_of_those_that_it_selects() {
    let bench = furnished().await;
    let view = user("robot", &["keystone:reader"], ACME);
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    let role = |labels: Value| {
        json!({"metadata": {"name": "more", "labels": labels}, "rules": [
            {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["list"]}]})
    };
    bench.get(&view, path).await.forbidden();
    bench.post(&admin(ACME), ROLES, role(json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"}))).await.ok();
    // Readers have what is viewed, and so have members and all above.
    for who in [view.clone(), member(ACME)] {
        bench.get(&who, path).await.ok();
        bench.get(&user(&who.name, &["keystone:reader"], GLOBEX), path).await.forbidden();
    }
    let selecting = json!({"metadata": {"name": "own"}, "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}],
        "aggregationRule": {"clusterRoleSelectors": [{"matchExpressions": [{"key": "x", "operator": "Exists"}]}]}});
    bench.post(&admin(ACME), ROLES, selecting.clone()).await.ok();
    let bound = json!({"metadata": {"name": "own"}, "roleRef": {"kind": "ClusterRole", "name": "own"},
        "subjects": [{"kind": "User", "name": "ann"}]});
    bench.post(&admin(ACME), BINDINGS, bound).await.ok();
    let ann = user("ann", &[], ACME);
    // What it says itself counts for nothing.
    bench.get(&ann, path).await.forbidden();
    let more = format!("{ROLES}/more");
    bench.merge(&admin(ACME), &more, json!({"metadata": {"labels": {"x": "y"}}})).await.ok();
    bench.get(&ann, path).await.ok();
    bench.delete(&admin(ACME), &more).await.ok();
    for who in [ann, view, member(ACME)] {
        bench.get(&who, path).await.forbidden();
    }
    // Whoever selects gets what may come: only who has everything does.
    let rules =
        json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["create"]}]);
    bench.post(&admin(ACME), ROLES, json!({"metadata": {"name": "c"}, "rules": rules})).await.ok();
    let bound = json!({"metadata": {"name": "c"}, "roleRef": {"kind": "ClusterRole", "name": "c"},
        "subjects": [{"kind": "User", "name": "eve"}]});
    bench.post(&admin(ACME), BINDINGS, bound).await.ok();
    let mut eves = selecting;
    (eves["metadata"]["name"], eves["rules"]) = ("eves".into(), json!([]));
    let message = bench.post(&user("eve", &[], ACME), ROLES, eves).await.forbidden();
    assert_eq!(
        message,
        "clusterroles.rbac.authorization.k8s.io \"eves\" is forbidden: must have cluster-admin privileges to use the aggregationRule"
    );
}
