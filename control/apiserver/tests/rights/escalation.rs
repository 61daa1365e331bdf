//! Nobody gives away rights that they do not have.

use hypernetes_testing::{
    requests::{Refused, user},
    server::ACME,
};
use serde_json::{Value, json};

use crate::bench::{RBAC, admin, furnished};

fn subject(name: &str) -> Value {
    json!([{"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"}])
}

fn binding(name: &str, kind: &str, role: &str, subjects: Value) -> Value {
    json!({"metadata": {"name": name}, "subjects": subjects,
        "roleRef": {"kind": kind, "name": role, "apiGroup": "rbac.authorization.k8s.io"}})
}

#[tokio::test]
async fn a_role_has_no_more_than_its_writer() {
    let bench = furnished().await;
    let (roles, bindings) =
        (format!("{RBAC}/namespaces/default/roles"), format!("{RBAC}/namespaces/default/rolebindings"));
    bench.post(&admin(ACME), &bindings, binding("a", "ClusterRole", "admin", subject("robot"))).await.ok();
    let robot = user("robot", &["staff"], ACME);
    let rule = |verbs: Value, resource: &str| json!([{"apiGroups": [""], "resources": [resource], "verbs": verbs}]);
    let role = |name: &str, rules: Value| json!({"metadata": {"name": name}, "rules": rules});
    bench.post(&robot, &roles, role("fair", rule(json!(["get"]), "pods"))).await.ok();
    let message = bench.post(&robot, &roles, role("more", rule(json!(["get", "create"]), "nodes"))).await.forbidden();
    assert_eq!(
        message,
        "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"robot\" (groups=[\"staff\" \"system:authenticated\"]) \
         is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\" \"create\"]}"
    );
    let fair = format!("{roles}/fair");
    bench.merge(&robot, &fair, json!({"rules": rule(json!(["*"]), "pods")})).await.forbidden();
    let star = bench
        .send(
            &robot,
            "PATCH",
            &format!("{fair}?fieldManager=me"),
            "application/apply-patch+yaml",
            &json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "fresh"},
            "rules": rule(json!(["*"]), "*")})
            .to_string(),
        )
        .await;
    assert!(star.status.is_client_error(), "{}", star.body);
    // What stays as it is may be more than one has.
    bench.post(&admin(ACME), &roles, role("strong", rule(json!(["*"]), "*"))).await.ok();
    bench.merge(&robot, &format!("{roles}/strong"), json!({"metadata": {"finalizers": ["a/b"]}})).await.ok();
    bench.merge(&robot, &format!("{roles}/strong"), json!({"metadata": {"labels": {"a": "b"}}})).await.forbidden();

    bench.post(&robot, &bindings, binding("b", "Role", "fair", subject("x"))).await.ok();
    bench.post(&robot, &bindings, binding("c", "Role", "strong", subject("robot"))).await.forbidden();
    bench.post(&robot, &bindings, binding("d", "ClusterRole", "cluster-admin", subject("robot"))).await.forbidden();
    bench.post(&robot, &bindings, binding("e", "ClusterRole", "edit", subject("x"))).await.ok();
    bench.post(&robot, &bindings, binding("f", "Role", "none", subject("x"))).await.refused(404, "NotFound");
    bench
        .post(&robot, &format!("{RBAC}/clusterrolebindings"), binding("g", "ClusterRole", "view", subject("x")))
        .await
        .forbidden();
}

#[tokio::test]
async fn escalate_and_bind_are_rights_of_their_own() {
    let bench = furnished().await;
    let (roles, bindings) = (format!("{RBAC}/clusterroles"), format!("{RBAC}/clusterrolebindings"));
    let rules = |resource: &str, verb: &str, names: Value| {
        json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": [resource], "verbs": ["create", verb], "resourceNames": names},
            {"apiGroups": ["rbac.authorization.k8s.io"], "resources": [resource, "clusterrolebindings"], "verbs": ["create"]}])
    };
    for (name, rules) in [
        ("e", rules("clusterroles", "escalate", json!(["strong"]))),
        ("b", rules("clusterroles", "bind", json!(["cluster-admin"]))),
    ] {
        bench.post(&admin(ACME), &roles, json!({"metadata": {"name": name}, "rules": rules})).await.ok();
        bench.post(&admin(ACME), &bindings, binding(name, "ClusterRole", name, subject(name))).await.ok();
    }
    let all = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    let strong = |name: &str| json!({"metadata": {"name": name}, "rules": all});
    bench.post(&user("e", &[], ACME), &roles, strong("strong")).await.ok();
    bench.post(&user("e", &[], ACME), &roles, strong("other")).await.forbidden();
    bench.post(&user("b", &[], ACME), &roles, strong("other")).await.forbidden();
    bench.post(&user("b", &[], ACME), &bindings, binding("x", "ClusterRole", "cluster-admin", subject("y"))).await.ok();
    bench.post(&user("b", &[], ACME), &bindings, binding("z", "ClusterRole", "strong", subject("y"))).await.forbidden();
}
