//! What is said of FlowSchemas.

use hypernetes_testing::{server::make, wait::until};
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use kube::{Api, api::DeleteParams};
use serde_json::json;

use crate::common::{bench, merge};

fn is(schema: &FlowSchema, status: &str, reason: &str) -> bool {
    let conditions = schema.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| {
        condition.type_.as_deref() == Some("Dangling")
            && condition.status.as_deref() == Some(status)
            && condition.reason.as_deref() == Some(reason)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_says_whether_its_level_is_there() {
    let bench = bench().await;
    let (schemas, theirs): (Api<FlowSchema>, Api<FlowSchema>) =
        (Api::all(bench.acme.clone()), Api::all(bench.globex.clone()));
    let levels: Api<PriorityLevelConfiguration> = Api::all(bench.acme.clone());
    let schema = json!({"metadata": {"name": "builds"}, "spec": {"priorityLevelConfiguration": {"name": "builds"}}});
    for schemas in [&schemas, &theirs] {
        make(schemas, schema.clone()).await;
        until(schemas, "builds", "dangling", |schema| is(schema, "True", "NotFound")).await;
    }
    let limited = json!({"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}});
    make(&levels, json!({"metadata": {"name": "builds"}, "spec": limited})).await;
    until(&schemas, "builds", "found", |schema| is(schema, "False", "Found")).await;
    assert!(is(&theirs.get("builds").await.unwrap(), "True", "NotFound"), "another's level");
    levels.delete("builds", &DeleteParams::default()).await.unwrap();
    until(&schemas, "builds", "dangling again", |schema| is(schema, "True", "NotFound")).await;
    // One that there always is is found whoever has written it.
    merge(&schemas, "builds", json!({"spec": {"priorityLevelConfiguration": {"name": "workload-low"}}})).await;
    until(&schemas, "builds", "found", |schema| is(schema, "False", "Found")).await;
    merge(&schemas, "probes", json!({"spec": {"matchingPrecedence": 3}})).await;
    assert!(is(&schemas.get("probes").await.unwrap(), "False", "Found"));
}
