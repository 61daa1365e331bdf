//! What every cluster has from the start beside roles: by what upstream tells requests apart.

use hypernetes_testing::{
    requests::admin,
    server::{ACME, GLOBEX, InProcess},
};
use serde_json::{Value, json};

const FLOWS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

async fn list(bench: &InProcess, tenant: &str, path: &str) -> Vec<Value> {
    let answer = bench.get(&admin(tenant), &format!("{FLOWS}/{path}")).await;
    answer.body["items"].as_array().unwrap().clone()
}

fn names(list: &[Value]) -> Vec<&str> {
    list.iter().map(|one| one["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn schemas_and_levels_are_upstreams_until_they_are_written() {
    let bench = InProcess::with_tenants().await;
    let schemas = list(&bench, ACME, "flowschemas").await;
    let levels = list(&bench, ACME, "prioritylevelconfigurations").await;
    assert_eq!((schemas.len(), levels.len()), (11, 8));
    assert!(names(&schemas).is_sorted());
    for schema in &schemas {
        let condition = &schema["status"]["conditions"][0];
        assert_eq!((&condition["type"], &condition["status"]), (&json!("Dangling"), &json!("False")));
        let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap();
        assert!(names(&levels).contains(&level));
        assert_eq!(schema["metadata"]["annotations"], json!({"apf.kubernetes.io/autoupdate-spec": "true"}));
        assert_eq!(schema["metadata"]["generation"], 1);
    }
    // Pages, with what is stored between them.
    let own = json!({"metadata": {"name": "mine"}, "spec": {"priorityLevelConfiguration": {"name": "system"}}});
    let made = bench.post(&admin(ACME), &format!("{FLOWS}/flowschemas"), own).await;
    assert_eq!((made.status.as_u16(), &made.body["spec"]["matchingPrecedence"]), (201, &json!(1000)), "{}", made.body);
    let page = bench.get(&admin(ACME), &format!("{FLOWS}/flowschemas?limit=5")).await.body;
    let token = page["metadata"]["continue"].as_str().unwrap();
    let rest = list(&bench, ACME, &format!("flowschemas?limit=50&continue={token}")).await;
    let all = [page["items"].as_array().unwrap().as_slice(), &rest].concat();
    assert_eq!((all.len(), names(&all).contains(&"mine")), (12, true));
    assert_eq!(list(&bench, GLOBEX, "flowschemas").await.len(), 11);

    // One that is there is not made again, and some may only be as they are.
    let probes = schemas.iter().find(|one| one["metadata"]["name"] == "probes").unwrap();
    let place = format!("{FLOWS}/flowschemas/probes");
    let again = json!({"metadata": {"name": "probes"}, "spec": probes["spec"]});
    assert_eq!(bench.post(&admin(ACME), &format!("{FLOWS}/flowschemas"), again).await.status, 409);
    let change = json!({"spec": {"matchingPrecedence": 3}});
    let refused = bench.merge(&admin(ACME), &format!("{FLOWS}/flowschemas/catch-all"), change.clone()).await;
    assert_eq!(refused.status, 422, "{}", refused.body);
    let changed = bench.merge(&admin(ACME), &place, change).await.body;
    let metadata = &changed["metadata"];
    assert_eq!((&metadata["generation"], &metadata["uid"]), (&json!(2), &probes["metadata"]["uid"]), "{changed}");
    assert_eq!(bench.get(&admin(GLOBEX), &place).await.body["spec"], probes["spec"]);
    // What goes comes again, as another one.
    assert_eq!(bench.delete(&admin(ACME), &place).await.status, 200);
    let anew = bench.get(&admin(ACME), &place).await.body;
    assert_eq!((&anew["spec"], &anew["status"]), (&probes["spec"], &probes["status"]));
    assert_ne!(anew["metadata"]["uid"], probes["metadata"]["uid"]);
}
