//! A resource that is nothing but a record: it is served as the others are, to the tenant that has it and to nobody else.

use std::sync::Arc;

use axum::body::Body;
use http::Request;
use hypernetes_kinds::{PodSelector, Resource, Scale, Subresource};
use hypernetes_schema::ObjectType;
use hypernetes_testing::{
    requests::{Refused, admin, by, user},
    server::{ACME, GLOBEX, InProcess},
};
use schemars::JsonSchema;
use serde_json::{Value, json};

#[derive(JsonSchema)]
#[expect(dead_code)]
struct Widget {
    spec: WidgetSpec,
    status: Option<WidgetStatus>,
}

#[derive(JsonSchema)]
#[expect(dead_code)]
struct WidgetSpec {
    size: i32,
    colour: Option<String>,
}

#[derive(JsonSchema)]
#[expect(dead_code)]
struct WidgetStatus {
    ready: Option<bool>,
    size: Option<i32>,
    selector: Option<String>,
}

const WIDGETS: &str = "/apis/example.org/v1/namespaces/default/widgets";

fn widgets() -> Resource {
    let ty = ObjectType::without_metadata::<Widget>("example.org", "v1", "Widget", true);
    let scale = Scale {
        replicas: "spec.size".into(),
        status_replicas: "status.size".into(),
        selector: PodSelector::Text("status.selector".into()),
    };
    Resource::of(ty, "widgets")
        .short_names(&["wd"])
        .subresources([Subresource::status(), Subresource::scale(scale)])
        .selectable(["spec.colour"])
        .check(|widget, errors| widget.walk(["spec", "size"]).non_negative(errors))
}

#[tokio::test]
async fn a_record_is_all_that_a_resource_needs() {
    let bench = InProcess::with_tenants().await;
    let (acme, globex) = (admin(ACME), admin(GLOBEX));
    let absent = "the server could not find the requested resource";
    assert_eq!(bench.get(&acme, WIDGETS).await.refused(404, "NotFound"), absent);
    bench.server.registry().set_own(&ACME.parse().unwrap(), vec![Arc::new(widgets())]);

    // Discovery and schemas.
    let list = bench.get(&acme, "/apis/example.org/v1").await.ok();
    let names: Vec<&str> =
        list["resources"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["widgets", "widgets/scale", "widgets/status"]);
    let schema = bench.get(&acme, "/openapi/v3/apis/example.org/v1").await.ok();
    assert!(schema["components"]["schemas"]["org.example.v1.Widget"]["properties"]["spec"].is_object(), "{schema}");
    assert!(bench.get(&acme, "/openapi/v3/apis/apps/v1").await.ok()["paths"].is_object());
    for (who, has) in [(&acme, true), (&globex, false)] {
        let all = bench.get(who, "/openapi/v2").await.ok();
        assert_eq!(all["definitions"]["org.example.v1.Widget"].is_object(), has);
        assert_eq!(all["paths"]["/apis/example.org/v1/namespaces/{namespace}/widgets"].is_object(), has);
        assert!(all["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
    }

    // Verbs, rules, selectors, the status apart.
    let widget = |name: &str, size: i32| json!({"metadata": {"name": name}, "spec": {"size": size, "colour": "red"}, "status": {"ready": true}});
    let made = bench.post(&acme, WIDGETS, widget("a", 1)).await.ok();
    assert_eq!((&made["apiVersion"], &made["status"]), (&json!("example.org/v1"), &json!(null)));
    let refused = bench.post(&acme, WIDGETS, widget("b", -1)).await.refused(422, "Invalid");
    assert!(refused.contains("spec.size: Invalid value: -1"), "{refused}");
    let unknown = json!({"metadata": {"name": "c"}, "spec": {"size": "large"}});
    bench.post(&acme, WIDGETS, unknown).await.refused(400, "BadRequest");
    let red = bench.get(&acme, &format!("{WIDGETS}?fieldSelector=spec.colour%3Dred")).await.ok();
    assert_eq!(red["items"].as_array().unwrap().len(), 1);
    assert_eq!(red["kind"], "WidgetList");
    let status = format!("{WIDGETS}/a/status");
    let patch = json!({"spec": {"size": 9}, "status": {"ready": true}}).to_string();
    let changed = bench.send(&acme, "PATCH", &status, "application/merge-patch+json", &patch).await.ok();
    assert_eq!((&changed["spec"]["size"], &changed["status"]["ready"]), (&json!(1), &json!(true)));

    // How many there are, by the record's own names: read, written whole, patched, applied, and refused by the record's rules.
    let merge = "application/merge-patch+json";
    let there = json!({"status": {"size": 2, "selector": "a in (b,c)"}}).to_string();
    bench.send(&acme, "PATCH", &status, merge, &there).await.ok();
    let scale = format!("{WIDGETS}/a/scale");
    let mut seen = bench.get(&acme, &scale).await.ok();
    assert_eq!(
        (&seen["kind"], &seen["spec"], &seen["status"]),
        (&json!("Scale"), &json!({"replicas": 1}), &json!({"replicas": 2, "selector": "a in (b,c)"}))
    );
    seen["spec"]["replicas"] = json!(3);
    let scaled = bench.send(&acme, "PUT", &scale, "application/json", &seen.to_string()).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 3);
    bench.send(&acme, "PATCH", &scale, merge, &json!({"spec": {"replicas": 4}}).to_string()).await.ok();
    let configuration =
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "a"}, "spec": {"replicas": 5}});
    let applied = format!("{scale}?fieldManager=autoscaler&force=true");
    bench.send(&acme, "PATCH", &applied, "application/apply-patch+yaml", &configuration.to_string()).await.ok();
    let widget = bench.get(&acme, &format!("{WIDGETS}/a")).await.ok();
    assert_eq!(widget["spec"], json!({"size": 5, "colour": "red"}));
    let owner =
        widget["metadata"]["managedFields"].as_array().unwrap().iter().find(|one| one["manager"] == "autoscaler");
    assert_eq!(owner.unwrap()["fieldsV1"], json!({"f:spec": {"f:size": {}}}));
    let negative = json!({"spec": {"replicas": -1}}).to_string();
    bench.send(&acme, "PATCH", &scale, merge, &negative).await.refused(422, "Invalid");
    bench.send(&acme, "DELETE", &scale, "application/json", "").await.refused(405, "MethodNotAllowed");

    // Nobody else has it, nor anybody who may not.
    for (who, path) in [(&globex, WIDGETS.to_owned()), (&admin("system"), WIDGETS.to_owned())] {
        assert_eq!(bench.get(who, &path).await.refused(404, "NotFound"), absent);
        assert!(bench.get(who, "/apis/example.org/v1").await.status.as_u16() == 404);
    }
    bench.get(&user("r", &["keystone:reader"], ACME), WIDGETS).await.refused(403, "Forbidden");
    bench.server.registry().set_own(&ACME.parse().unwrap(), Vec::new());
    assert_eq!(bench.get(&acme, WIDGETS).await.refused(404, "NotFound"), absent);
}

#[tokio::test]
async fn two_versions_of_a_kind_are_one_object() {
    const CORE: &str = "/api/v1/namespaces/default/events";
    const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
    let bench = InProcess::with_tenants().await;
    let acme = admin(ACME);
    let event = json!({
        "metadata": {"name": "a", "namespace": "default"}, "reason": "Tried", "note": "said", "type": "Normal",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}, "action": "Try",
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "c", "reportingInstance": "c-0",
    });
    let made = bench.post(&acme, EVENTS, event.clone()).await.ok();
    assert_eq!((&made["apiVersion"], &made["note"]), (&json!("events.k8s.io/v1"), &json!("said")));
    let core = bench.get(&acme, &format!("{CORE}/a")).await.ok();
    assert_eq!((&core["apiVersion"], &core["message"], &core["note"]), (&json!("v1"), &json!("said"), &json!(null)));
    assert_eq!(core["metadata"], made["metadata"]);

    // Every way of reading is of the version that is asked for, and selects by what is stored.
    let selected = format!("{EVENTS}?fieldSelector=involvedObject.name%3Dp,reportingComponent%3Dc");
    let list = bench.get(&acme, &selected).await.ok();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("EventList"), &json!("events.k8s.io/v1")));
    assert_eq!(list["items"][0]["regarding"]["name"], "p");
    let watch = format!("{EVENTS}?watch=true&resourceVersion=0&timeoutSeconds=1");
    let watched = bench.text(by(&acme, Request::get(&watch).body(Body::empty()).unwrap())).await;
    let first: Value = serde_json::from_str(watched.lines().next().unwrap()).unwrap();
    assert_eq!((&first["type"], &first["object"]["note"]), (&json!("ADDED"), &json!("said")));
    let table = Request::get(format!("{EVENTS}?includeObject=Object"));
    let table = table.header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io").body(Body::empty()).unwrap();
    let table = bench.answer(by(&acme, table)).await.ok();
    assert_eq!(table["rows"][0]["object"]["note"], "said");
    assert_eq!(table["rows"][0]["cells"][6], "said");

    // And of writing.
    let patch = |field: &str, text: &str| json!({ field: text }).to_string();
    let merge = "application/merge-patch+json";
    let patched = bench.send(&acme, "PATCH", &format!("{EVENTS}/a"), merge, &patch("note", "again")).await.ok();
    assert_eq!(patched["note"], "again");
    let patched = bench.send(&acme, "PATCH", &format!("{CORE}/a"), merge, &patch("message", "more")).await.ok();
    assert_eq!(patched["message"], "more");
    let mut whole = bench.get(&acme, &format!("{EVENTS}/a")).await.ok();
    assert_eq!(whole["note"], "more");
    whole["deprecatedCount"] = json!(2);
    let body = whole.to_string();
    bench.send(&acme, "PUT", &format!("{EVENTS}/a"), "application/json", &body).await.ok();
    assert_eq!(bench.get(&acme, &format!("{CORE}/a")).await.ok()["count"], 2);
    let strict = format!("{CORE}?fieldValidation=Strict");
    bench.post(&acme, &strict, json!({"metadata": {"name": "b"}, "note": "x"})).await.refused(400, "BadRequest");
}
