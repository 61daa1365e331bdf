//! Who a request is made as.

use serde_json::json;

use crate::bench::{ACME, Answer, Bench, GLOBEX, admin, infrastructure, member, node, operator, user};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn impersonate(bench: &Bench, user: &hypernetes_api::auth::UserInfo, headers: &[(&str, &str)]) -> Answer {
    let whoami = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let headers: Vec<_> = headers.iter().copied().chain([("content-type", "application/json")]).collect();
    bench.send_as(user, "POST", whoami, &headers, "{}").await
}

#[tokio::test]
async fn one_is_another_only_with_the_right_to() {
    let bench = Bench::new().await;
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
    let rbac = crate::bench::RBAC;
    bench
        .post(&admin(ACME), &format!("{rbac}/clusterroles"), json!({"metadata": {"name": "i"}, "rules": rules}))
        .await
        .ok();
    let binding = json!({"metadata": {"name": "i"}, "roleRef": {"kind": "ClusterRole", "name": "i"},
        "subjects": [{"kind": "User", "name": "robot"}]});
    bench.post(&admin(ACME), &format!("{rbac}/clusterrolebindings"), binding).await.ok();
    let robot = user("robot", &[], ACME);
    impersonate(&bench, &robot, &[("impersonate-user", "bob"), ("impersonate-group", "staff")]).await.ok();
    for group in ["system:masters", "keystone:admin", "keystone:member", "keystone:reader"] {
        impersonate(&bench, &robot, &[("impersonate-user", "bob"), ("impersonate-group", group)]).await.forbidden();
    }
    // As upstream's `edit` has it.
    let account = ("impersonate-user", "system:serviceaccount:default:default");
    let shown = impersonate(&bench, &member(ACME), &[account]).await.ok();
    assert_eq!(shown["status"]["userInfo"]["groups"][1], "system:serviceaccounts:default");
    let everywhere = bench.send_as(&infrastructure(), "GET", &format!("/clusters/*{MAPS}"), &[account], "").await;
    everywhere.refused(400, "BadRequest");
}

#[tokio::test]
async fn a_cluster_is_called_by_its_own_and_by_the_operator() {
    let bench = Bench::new().await;
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
