//! What a query asks for: taken as upstream takes it, or refused; never for everything.

use axum::body::Body;
use http::Request;
use hypernetes_testing::{
    requests::{Refused, admin, by},
    server::{ACME, InProcess},
};
use serde_json::{Value, json};

use crate::bench::{MAPS, map};

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

async fn furnished() -> InProcess {
    let bench = InProcess::with_tenants().await;
    for name in ["a", "b", "c"] {
        bench.post(&admin(ACME), MAPS, map(name, "1")).await.ok();
    }
    bench
}

#[tokio::test]
async fn a_selector_that_is_none_selects_nothing() {
    let bench = furnished().await;
    let acme = admin(ACME);
    // `,,,`, `,`, `=`, `a=b,`, `!`, `a in ()`, `a in (x`, `(`, `a>x`, `"a"`.
    let labels =
        ["%2C%2C%2C", ",", "%3D", "a%3Db,", "!", "a+in+()", "a+in+(x", "(", "a%3Ex", "%22a%22", "a%3Db%3Dc", "%00"];
    let fields = [",", "%2C%2C%2C", "%3D", "metadata.name", "metadata.name%3Da%3Db", "spec.none%3Dx", "data%3D1", "+"];
    let selectors = labels.map(|text| format!("labelSelector={text}")).into_iter();
    for query in selectors.chain(fields.map(|text| format!("fieldSelector={text}"))) {
        for (method, path) in
            [("GET", format!("{MAPS}?")), ("GET", format!("{MAPS}?watch=true&")), ("DELETE", format!("{MAPS}?"))]
        {
            bench.send(&acme, method, &format!("{path}{query}"), JSON, "").await.refused(400, "BadRequest");
        }
    }
    assert_eq!(bench.get(&acme, MAPS).await.ok()["items"].as_array().unwrap().len(), 3);
    // One that is one deletes what it selects.
    let selected = format!("{MAPS}?labelSelector=app+in+(t),!none&fieldSelector=metadata.name%3Db");
    let deleted = bench.send(&acme, "DELETE", &selected, JSON, "").await.ok();
    assert_eq!((&deleted["kind"], deleted["items"].as_array().unwrap().len()), (&"ConfigMapList".into(), 1));
    assert_eq!(deleted["items"][0]["metadata"]["name"], "b");
    assert_eq!(bench.get(&acme, MAPS).await.ok()["items"].as_array().unwrap().len(), 2);
    let deleted = bench.send(&acme, "DELETE", &format!("{MAPS}?labelSelector=app%3Dother"), JSON, "").await.ok();
    assert_eq!(deleted["items"], serde_json::json!([]));
    assert_eq!(bench.get(&acme, MAPS).await.ok()["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn options_of_lists_and_watches_go_together_or_are_refused() {
    let bench = furnished().await;
    let acme = admin(ACME);
    let page = bench.get(&acme, &format!("{MAPS}?limit=1")).await.ok();
    let token = page["metadata"]["continue"].as_str().unwrap().to_owned();
    let newest = page["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let watch = |query: &str| format!("watch=true&timeoutSeconds=-1&{query}");
    let refused: Vec<(String, u16, &str)> = [
        ("limit=abc", 400, "BadRequest"),
        ("limit=", 400, "BadRequest"),
        ("limit=1.5", 400, "BadRequest"),
        ("limit=99999999999999999999", 400, "BadRequest"),
        ("timeoutSeconds=x", 400, "BadRequest"),
        ("continue=garbage", 400, "BadRequest"),
        ("resourceVersion=abc", 400, "BadRequest"),
        ("resourceVersion=-1", 400, "BadRequest"),
        ("resourceVersion=999999999", 504, "Timeout"),
        ("resourceVersionMatch=Exact", 422, "Invalid"),
        ("resourceVersion=1&resourceVersionMatch=foo", 422, "Invalid"),
        ("resourceVersion=0&resourceVersionMatch=Exact", 422, "Invalid"),
        ("sendInitialEvents=true", 422, "Invalid"),
        ("sendInitialEvents=false", 422, "Invalid"),
    ]
    .into_iter()
    .map(|(query, code, reason)| (query.to_owned(), code, reason))
    .chain([
        (format!("continue={token}&resourceVersion={newest}"), 400, "BadRequest"),
        (format!("continue={token}&resourceVersion={newest}&resourceVersionMatch=Exact"), 422, "Invalid"),
        (watch("sendInitialEvents=true"), 422, "Invalid"),
        (watch("sendInitialEvents=true&resourceVersionMatch=Exact"), 422, "Invalid"),
        (watch("resourceVersionMatch=NotOlderThan"), 422, "Invalid"),
        (watch("resourceVersion=abc"), 400, "BadRequest"),
        ("watch=true&timeoutSeconds=x".to_owned(), 400, "BadRequest"),
    ])
    .collect();
    for (query, code, reason) in refused {
        bench.get(&acme, &format!("{MAPS}?{query}")).await.refused(code, reason);
    }
    // A collection is deleted by the same options.
    for query in ["limit=abc", "continue=garbage", "resourceVersionMatch=Exact", "resourceVersion=x"] {
        let answer = bench.send(&acme, "DELETE", &format!("{MAPS}?{query}"), JSON, "").await;
        assert!(matches!(answer.status.as_u16(), 400 | 422), "{query}: {} {}", answer.status, answer.body);
    }
    let names = |list: Value| list["items"].as_array().unwrap().len();
    assert_eq!(names(bench.get(&acme, MAPS).await.ok()), 3);
    // The first of several counts; a limit below one is none.
    assert_eq!(names(bench.get(&acme, &format!("{MAPS}?limit=1&limit=3")).await.ok()), 1);
    assert_eq!(names(bench.get(&acme, &format!("{MAPS}?limit=-1")).await.ok()), 3);
    // A version and a limit: that version.
    bench.post(&acme, MAPS, map("d", "1")).await.ok();
    for query in
        [format!("resourceVersion={newest}&limit=10"), format!("resourceVersion={newest}&resourceVersionMatch=Exact")]
    {
        assert_eq!(names(bench.get(&acme, &format!("{MAPS}?{query}")).await.ok()), 3, "{query}");
    }
    let not_older = format!("{MAPS}?resourceVersion={newest}&resourceVersionMatch=NotOlderThan&limit=10");
    assert_eq!(names(bench.get(&acme, &not_older).await.ok()), 4);
}

/// The types of a watch's events, until it ends.
async fn events(bench: &InProcess, query: &str) -> Vec<String> {
    let request = Request::builder().uri(format!("{MAPS}?timeoutSeconds=-1&{query}")).body(Body::empty()).unwrap();
    let text = bench.text(by(&admin(ACME), request)).await;
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_watch_begins_as_it_was_asked_to() {
    let bench = furnished().await;
    let added = vec!["ADDED"; 3];
    assert_eq!(events(&bench, "watch=true").await, added);
    let list = "watch=true&resourceVersionMatch=NotOlderThan&sendInitialEvents=true";
    assert_eq!(
        events(&bench, &format!("{list}&allowWatchBookmarks=true")).await,
        ["ADDED", "ADDED", "ADDED", "BOOKMARK"]
    );
    assert_eq!(events(&bench, list).await, added);
    assert!(events(&bench, "watch=true&resourceVersionMatch=NotOlderThan&sendInitialEvents=false").await.is_empty());
    // Every text but `false` and `0` is true.
    for yes in ["watch", "watch=", "watch=1", "watch=yes", "watch=TRUE"] {
        assert_eq!(events(&bench, yes).await, added, "{yes}");
    }
    for no in ["watch=false", "watch=False", "watch=0"] {
        assert_eq!(bench.get(&admin(ACME), &format!("{MAPS}?{no}")).await.ok()["kind"], "ConfigMapList", "{no}");
    }
}

#[tokio::test]
async fn a_bookmark_before_the_end_tells_how_far_the_store_is() {
    let bench = furnished().await;
    let acme = admin(ACME);
    let list = bench.get(&acme, MAPS).await.ok();
    let from = list["metadata"]["resourceVersion"].as_str().unwrap();
    // What the watch is not about.
    let namespace = json!({"metadata": {"name": "other"}});
    let made = bench.post(&acme, "/api/v1/namespaces", namespace).await.ok();
    let url = format!("{MAPS}?watch=true&allowWatchBookmarks=true&resourceVersion={from}&timeoutSeconds=3");
    let told = bench.text(by(&acme, Request::get(&url).body(Body::empty()).unwrap())).await;
    let events: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [bookmark] = events.as_slice() else { panic!("{told}") };
    assert_eq!((&bookmark["type"], &bookmark["object"]["kind"]), (&json!("BOOKMARK"), &json!("ConfigMap")));
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn options_of_writes_are_upstreams() {
    let bench = furnished().await;
    let acme = admin(ACME);
    let long = "m".repeat(129);
    let path = format!("{MAPS}/a");
    let body = json!({"data": {"k": "2"}}).to_string();
    for (query, message) in [
        (
            "fieldValidation=Loud".to_owned(),
            "fieldValidation: Unsupported value: \"Loud\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
        ),
        (format!("fieldManager={long}"), "fieldManager: Too long: may not be more than 128 bytes"),
        ("fieldManager=a%0Ab".to_owned(), "should only contain printable characters"),
        ("dryRun=Some".to_owned(), "dryRun: Unsupported value: [\"Some\"]: supported values: \"All\""),
        ("force=true".to_owned(), "force: Forbidden: may not be specified for non-apply patch"),
        ("force=false".to_owned(), "force: Forbidden: may not be specified for non-apply patch"),
    ] {
        let refused = bench.send(&acme, "PATCH", &format!("{path}?{query}"), MERGE, &body).await;
        let said = refused.refused(422, "Invalid");
        assert!(said.starts_with("PatchOptions.meta.k8s.io \"\" is invalid: ") && said.contains(message), "{said}");
    }
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}).to_string();
    let said =
        bench.send(&acme, "PATCH", &path, "application/apply-patch+yaml", &applied).await.refused(422, "Invalid");
    assert_eq!(
        said,
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
    );
    for (query, body, code) in [
        ("propagationPolicy=Sideways", "", 422),
        ("propagationPolicy=", "", 422),
        ("propagationPolicy=Orphan&orphanDependents=true", "", 422),
        ("", r#"{"propagationPolicy":"Orphan","orphanDependents":false}"#, 422),
        ("", r#"{"propagationPolicy":"Sideways"}"#, 422),
        ("", r#"{"propagationPolicy":5}"#, 400),
        ("", r#"{"dryRun":"All"}"#, 400),
        ("", r#"{"gracePeriodSeconds":"0"}"#, 400),
        ("", r#"{"preconditions":{"uid":5}}"#, 400),
        ("", r#"{"kind":"Pod","apiVersion":"v1"}"#, 400),
        ("", "[]", 400),
        ("gracePeriodSeconds=x", "", 400),
    ] {
        for url in [&path, &MAPS.to_owned()] {
            let answer = bench.send(&acme, "DELETE", &format!("{url}?{query}"), JSON, body).await;
            assert_eq!(answer.status.as_u16(), code, "{query} {body} {}", answer.body);
        }
    }
    assert_eq!(bench.get(&acme, MAPS).await.ok()["items"].as_array().unwrap().len(), 3);
}
