//! Lists and watches: what they send, and in what form.

use std::io::Read;

use axum::body::Body;
use http::{Request, header};
use http_body_util::BodyExt;
use hypernetes_testing::{
    requests::{admin, by, infrastructure},
    server::{ACME, GLOBEX, InProcess},
};
use serde_json::{Value, json};

use crate::bench::{MAPS, map};

/// An answer's body, and how it says that it is encoded.
async fn fetch(bench: &InProcess, path: &str, accepts: &str) -> (Vec<u8>, Option<String>) {
    let request = Request::get(path).header(header::ACCEPT_ENCODING, accepts).body(Body::empty()).unwrap();
    let response = bench.response(by(&admin(ACME), request)).await;
    let encoding = response.headers().get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(response.headers().contains_key(header::VARY), encoding.is_some());
    (response.into_body().collect().await.unwrap().to_bytes().to_vec(), encoding)
}

#[tokio::test]
async fn long_answers_are_compressed_where_that_is_asked_for() {
    let bench = InProcess::with_tenants().await;
    let acme = admin(ACME);
    bench.post(&acme, MAPS, map("large", &"x".repeat(200 << 10))).await.ok();
    bench.post(&acme, MAPS, map("small", "1")).await.ok();
    for path in [format!("{MAPS}/large"), MAPS.to_owned(), format!("{MAPS}?labelSelector=app%3Dt")] {
        let (plain, none) = fetch(&bench, &path, "deflate, br").await;
        assert_eq!(none, None, "{path}");
        let (compressed, gzip) = fetch(&bench, &path, "deflate, gzip").await;
        assert_eq!(gzip.as_deref(), Some("gzip"), "{path}");
        assert!(compressed.len() < plain.len() / 10, "{path}: {} of {}", compressed.len(), plain.len());
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(&compressed[..]).read_to_end(&mut text).unwrap();
        assert!(text == plain, "{path}");
    }
    for path in [format!("{MAPS}/small"), format!("{MAPS}?fieldSelector=metadata.name%3Dsmall&limit=1")] {
        assert_eq!(fetch(&bench, &path, "gzip").await.1, None, "{path}");
    }
}

#[tokio::test]
async fn a_watch_that_nobody_reads_ends() {
    const WRITES: usize = 12;
    let bench = InProcess::with_tenants().await;
    let (server, maps) = (infrastructure(), format!("/clusters/{ACME}{MAPS}"));
    let watch = Request::get(format!("{maps}?watch=true")).body(Body::empty()).unwrap();
    let mut body = bench.response(by(&server, watch)).await.into_body();
    for i in 0..WRITES {
        bench.post(&server, &maps, map(&format!("m{i}"), "1")).await.ok();
    }
    tokio::time::pause();
    tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    let mut told = 0;
    while let Some(Ok(_)) = body.frame().await {
        told += 1;
        assert!(told < WRITES, "all of it was kept");
    }
}

#[tokio::test]
async fn a_nodes_watch_is_told_of_the_pods_that_it_has_or_had() {
    let bench = InProcess::with_tenants().await;
    let server = infrastructure();
    let start = bench.store.revision().await.unwrap();
    let watch = async |query: &str| {
        let uri = format!("/clusters/*/api/v1/pods?watch=true&resourceVersion={start}&{query}");
        bench.response(by(&server, Request::get(uri).body(Body::empty()).unwrap())).await.into_body()
    };
    let first = watch("fieldSelector=spec.nodeName%3Dfirst").await;
    let pods = |tenant: &str| format!("/clusters/{tenant}/api/v1/namespaces/default/pods");
    let create = async |tenant: &str, name: &str, node: &str| {
        let spec = json!({"nodeName": node, "containers": [{"name": "c", "image": "i"}]});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        bench.post(&server, &pods(tenant), pod).await.ok();
    };
    for tenant in [ACME, GLOBEX] {
        bench.account(tenant).await;
        create(tenant, "waits", "").await;
        create(tenant, "mine", "first").await;
        create(tenant, "other", "second").await;
    }
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "waits"},
        "target": {"kind": "Node", "name": "first"}});
    bench.post(&server, &format!("{}/waits/binding", pods(ACME)), binding).await.ok();
    let gone = format!("{}/mine?gracePeriodSeconds=0", pods(GLOBEX));
    bench.send(&server, "DELETE", &gone, "application/json", "").await.ok();
    let expected =
        [("ADDED", ACME, "mine"), ("ADDED", GLOBEX, "mine"), ("ADDED", ACME, "waits"), ("DELETED", GLOBEX, "mine")];
    // What has happened meanwhile, and what happens while it is watched, are the same.
    for mut body in [first, watch("fieldSelector=spec.nodeName%3Dfirst").await] {
        let mut text = Vec::new();
        while text.iter().filter(|byte| **byte == b'\n').count() < expected.len() {
            text.extend_from_slice(&body.frame().await.unwrap().unwrap().into_data().unwrap());
        }
        let events: Vec<Value> = text
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        let told = events.iter().map(|event| {
            let metadata = &event["object"]["metadata"];
            let tenant = &metadata["annotations"]["hypernetes.io/tenant"];
            (event["type"].as_str().unwrap(), tenant.as_str().unwrap(), metadata["name"].as_str().unwrap())
        });
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }
}
