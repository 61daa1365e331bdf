//! What the server tells of itself, as kube-apiserver 1.36.2 does.

use axum::body::Body;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use hypernetes_testing::{
    requests::{admin, by},
    server::{ACME, InProcess},
};
use serde_json::{Value, json};
use tower::ServiceExt;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const UPSTREAM: &str = include_str!("../data/discovery-1.36.2.jsonl");
/// What upstream has and we have not: what acts on it is not there.
const NOT_THERE: &[&str] = &[
    "apiregistration.k8s.io/v1",
    "v1 nodes/proxy",
    "v1 pods/ephemeralcontainers",
    "v1 pods/proxy",
    "v1 pods/resize",
    "v1 services/proxy",
];
/// A beta API of upstream, which is off there.
const OURS_ALONE: &[&str] = &["clustertrustbundles"];
/// Upstream stores these as `v1beta1` to this day, and says a hash of that.
const STORED_OTHERWISE: &[&str] =
    &["customresourcedefinitions", "mutatingadmissionpolicies", "mutatingadmissionpolicybindings"];

async fn ask(bench: &InProcess, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, Vec<u8>) {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = by(&admin(ACME), request.body(Body::empty()).unwrap());
    let (head, body) = bench.server.router().oneshot(request).await.unwrap().into_parts();
    (head.status.as_u16(), head.headers, body.collect().await.unwrap().to_bytes().to_vec())
}

async fn json(bench: &InProcess, path: &str) -> Value {
    serde_json::from_slice(&ask(bench, path, &[]).await.2).unwrap()
}

#[tokio::test]
async fn resources_are_told_as_upstream_tells_them() {
    let bench = InProcess::with_tenants().await;
    let mut wrong = Vec::new();
    for line in UPSTREAM.lines() {
        let theirs: Value = serde_json::from_str(line).unwrap();
        let name = theirs["groupVersion"].as_str().unwrap();
        if NOT_THERE.contains(&name) {
            continue;
        }
        let path = if name == "v1" { "/api/v1".to_owned() } else { format!("/apis/{name}") };
        let ours = json(&bench, &path).await;
        let list = |of: &Value, not: &[&str]| -> Vec<Value> {
            let all = of["resources"].as_array().cloned().unwrap_or_default();
            let is = |one: &Value, known: &str| {
                let plural = one["name"].as_str().unwrap();
                known == plural || known == format!("{name} {plural}")
            };
            let mut known: Vec<Value> = all.into_iter().filter(|one| !not.iter().any(|known| is(one, known))).collect();
            for one in known.iter_mut().filter(|one| STORED_OTHERWISE.iter().any(|name| one["name"] == *name)) {
                assert!(one["storageVersionHash"].take().is_string());
            }
            known
        };
        let (ours, theirs) = (list(&ours, OURS_ALONE), list(&theirs, NOT_THERE));
        if ours != theirs {
            let differ = |a: &[Value], b: &[Value]| json!(a.iter().filter(|one| !b.contains(one)).collect::<Vec<_>>());
            wrong.push(format!("{name}\n  upstream {}\n  ours     {}", differ(&theirs, &ours), differ(&ours, &theirs)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // In upstream's order, and the preferred version first.
    let groups = json(&bench, "/apis").await;
    let ours: Vec<String> =
        groups["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap().to_owned()).collect();
    let mut theirs: Vec<String> = Vec::new();
    for line in UPSTREAM.lines().filter(|line| !NOT_THERE.iter().any(|not| line.contains(&format!("\"{not}\"")))) {
        let list: Value = serde_json::from_str(line).unwrap();
        let Some((group, _)) = list["groupVersion"].as_str().unwrap().split_once('/') else { continue };
        if !theirs.iter().any(|known| known == group) {
            theirs.push(group.to_owned());
        }
    }
    assert_eq!(ours[..theirs.len()], theirs);
    let autoscaling = json(&bench, "/apis/autoscaling").await;
    assert_eq!(autoscaling["preferredVersion"]["version"], "v2");
    assert_eq!(autoscaling["versions"][1]["version"], "v1");
}

#[tokio::test]
async fn both_discoveries_tell_the_same() {
    let bench = InProcess::with_tenants().await;
    let (code, headers, body) = ask(&bench, "/apis", &[("accept", AGGREGATED)]).await;
    assert_eq!((code, headers["content-type"].to_str().unwrap()), (200, AGGREGATED));
    let aggregated: Value = serde_json::from_slice(&body).unwrap();
    for group in aggregated["items"].as_array().unwrap() {
        for version in group["versions"].as_array().unwrap() {
            let path = format!(
                "/apis/{}/{}",
                group["metadata"]["name"].as_str().unwrap(),
                version["version"].as_str().unwrap()
            );
            let legacy = json(&bench, &path).await;
            let told: Vec<String> = version["resources"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|one| {
                    let name = one["resource"].as_str().unwrap().to_owned();
                    let below = one["subresources"].as_array().into_iter().flatten();
                    let below: Vec<String> =
                        below.map(|sub| format!("{name}/{}", sub["subresource"].as_str().unwrap())).collect();
                    std::iter::once(name).chain(below)
                })
                .collect();
            let names: Vec<&str> =
                legacy["resources"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
            assert_eq!(told, names, "{path}");
        }
    }
    // Who has it is not sent it again.
    let tag = headers["etag"].to_str().unwrap();
    let (code, _, body) = ask(&bench, "/apis", &[("accept", AGGREGATED), ("if-none-match", tag)]).await;
    assert_eq!((code, body.len()), (304, 0));
    let old = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
    assert_eq!(ask(&bench, "/apis", &[("accept", old)]).await.0, 406);
    let both = format!("{old},application/json");
    assert_eq!(ask(&bench, "/apis", &[("accept", &both)]).await.1["content-type"], "application/json");
}

#[tokio::test]
async fn paths_that_are_none_are_told_from_versions_that_are_none() {
    let bench = InProcess::with_tenants().await;
    for path in ["/nope", "/apis/nope", "/apis/nope/v1", "/openapi/v4"] {
        let (code, headers, body) = ask(&bench, path, &[]).await;
        assert_eq!((code, body.as_slice()), (404, &b"404 page not found\n"[..]), "{path}");
        assert_eq!(headers["content-type"], "text/plain; charset=utf-8");
    }
    for path in ["/api/v2", "/apis/apps/v9"] {
        let (code, _, body) = ask(&bench, path, &[]).await;
        let status: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((code, &status["reason"]), (404, &json!("NotFound")), "{path}");
    }
    let paths = json(&bench, "/").await;
    for path in paths["paths"].as_array().unwrap() {
        assert_eq!(ask(&bench, path.as_str().unwrap(), &[]).await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn schemas_are_kept_by_what_is_in_them() {
    let bench = InProcess::with_tenants().await;
    let index = json(&bench, "/openapi/v3").await;
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let (code, headers, body) = ask(&bench, url, &[]).await;
    assert_eq!((code, headers["cache-control"].to_str().unwrap()), (200, "public, immutable"));
    let tag = headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(url, format!("/openapi/v3/apis/apps/v1?hash={}", tag.trim_matches('"')));
    let document: Value = serde_json::from_slice(&body).unwrap();
    assert!(document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"].is_object());
    let plain = "/openapi/v3/apis/apps/v1";
    let (code, headers, _) = ask(&bench, plain, &[("if-none-match", &tag)]).await;
    assert_eq!((code, headers["cache-control"].to_str().unwrap()), (304, "no-cache, private"));
    let (code, headers, _) = ask(&bench, &format!("{plain}?hash=old"), &[]).await;
    assert_eq!((code, headers["location"].to_str().unwrap()), (301, url));
    assert_eq!(ask(&bench, plain, &[("accept", "text/html")]).await.0, 406);
    assert_eq!(ask(&bench, "/openapi/v3/apis/nope/v1", &[]).await.0, 404);
}

#[tokio::test]
async fn older_clients_have_one_document_for_all() {
    const GNOSTIC: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let bench = InProcess::with_tenants().await;
    let (code, headers, body) = ask(&bench, "/openapi/v2", &[("accept", "application/json")]).await;
    let document: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((code, &document["swagger"]), (200, &json!("2.0")));
    let pod = &document["definitions"]["io.k8s.api.core.v1.Pod"];
    assert_eq!(pod["x-kubernetes-group-version-kind"][0]["kind"], "Pod");
    let tag = headers["etag"].to_str().unwrap();
    assert_eq!(ask(&bench, "/openapi/v2", &[("if-none-match", tag)]).await.0, 304);
    let accept = format!("{GNOSTIC},application/json");
    let (code, headers, body) = ask(&bench, "/openapi/v2", &[("accept", &accept)]).await;
    assert_eq!(
        (code, headers["content-type"].to_str().unwrap()),
        (200, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
    );
    // Field 1, a text: its version.
    assert!(body.starts_with(b"\x0a\x032.0"));
    assert_eq!(ask(&bench, "/openapi/v2", &[("accept", "text/html")]).await.0, 406);
}

#[tokio::test]
async fn health_is_told_check_by_check() {
    let bench = InProcess::with_tenants().await;
    for (path, text) in [
        ("/readyz", "ok"),
        ("/readyz/ping", "ok"),
        ("/livez/etcd", "ok"),
        ("/livez?verbose", "[+]ping ok\n[+]etcd ok\nlivez check passed\n"),
        ("/readyz?verbose&exclude=etcd", "[+]ping ok\n[+]etcd excluded: ok\nreadyz check passed\n"),
        (
            "/readyz?verbose&exclude=nope",
            "[+]ping ok\n[+]etcd ok\nwarn: some health checks cannot be excluded: no matches for \"nope\"\nreadyz check passed\n",
        ),
    ] {
        let (code, _, body) = ask(&bench, path, &[]).await;
        assert_eq!((code, String::from_utf8(body).unwrap().as_str()), (200, text), "{path}");
    }
    assert_eq!(ask(&bench, "/readyz/nope", &[]).await.0, 404);
}
