//! What is made of an object is made once, however many read it. The one test of its process, whose counts it looks at.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use http::Request;
use http_body_util::BodyExt;
use hypernetes_api::AllTenants;
use hypernetes_apiserver::{Made, made};
use hypernetes_client::shared;
use hypernetes_testing::{
    requests::{admin, by, infrastructure},
    server::{ACME, GLOBEX, InProcess},
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
use serde_json::{Value, json};

const WATCHERS: usize = 1000;
const MADE: [Made; 4] = [Made::Shown, Made::Selection, Made::Line, Made::Parsed];

fn counts() -> [u64; 4] {
    MADE.map(made)
}

/// How many were made since then.
fn since(before: [u64; 4]) -> [u64; 4] {
    std::array::from_fn(|i| counts()[i] - before[i])
}

struct Api(InProcess);

impl Api {
    async fn ask(&self, path: &str) -> Body {
        let request = by(&infrastructure(), Request::get(path).body(Body::empty()).unwrap());
        let response = self.0.response(request).await;
        assert!(response.status().is_success(), "{path}: {}", response.status());
        response.into_body()
    }

    /// As kubectl asks.
    async fn table(&self, path: &str) -> Body {
        self.ask_for(path, "application/json;as=Table;v=v1;g=meta.k8s.io").await
    }

    /// As clients in Go ask.
    async fn messages(&self, path: &str) -> Body {
        self.ask_for(path, "application/vnd.kubernetes.protobuf").await
    }

    async fn ask_for(&self, path: &str, accept: &str) -> Body {
        let request = Request::get(path).header("accept", accept);
        let response = self.0.response(by(&infrastructure(), request.body(Body::empty()).unwrap())).await;
        assert!(response.status().is_success(), "{path}: {}", response.status());
        response.into_body()
    }

    async fn watch(&self, path: &str, query: &str) -> Vec<Body> {
        let newest = self.0.store.revision().await.unwrap();
        let path = format!("{path}?watch=true&resourceVersion={newest}&{query}");
        let mut watches = Vec::new();
        for _ in 0..WATCHERS {
            watches.push(self.ask(&path).await);
        }
        watches
    }

    async fn put(&self, value: &str) {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"app": value}}});
        let path = format!("/clusters/{ACME}/api/v1/namespaces/default/configmaps/a");
        let patch = [("content-type", "application/apply-patch+yaml")];
        let path = format!("{path}?fieldManager=t&force=true");
        self.0.send_with(&infrastructure(), "PATCH", &path, &patch, &map.to_string()).await.ok();
    }

    async fn delete(&self) {
        let path = format!("/clusters/{ACME}/api/v1/namespaces/default/configmaps/a");
        self.0.send(&infrastructure(), "DELETE", &path, "application/json", "").await.ok();
    }
}

async fn next(body: &mut Body) -> Bytes {
    body.frame().await.unwrap().unwrap().into_data().unwrap()
}

/// What each is told next, of which there has to be one copy.
async fn told(watches: &mut [Body]) -> Value {
    let first = next(&mut watches[0]).await;
    for watch in &mut watches[1..] {
        assert_eq!(next(watch).await.as_ptr(), first.as_ptr(), "each has a copy of its own");
    }
    serde_json::from_slice(&first).unwrap()
}

#[tokio::test]
async fn what_many_read_is_made_once() {
    let api = Api(InProcess::with_tenants().await);
    let maps = format!("/clusters/{ACME}/api/v1/namespaces/default/configmaps");
    let all = "/clusters/*/api/v1/configmaps";
    // What writing makes with nobody watching.
    api.put("first").await;
    let before = counts();
    api.put("quiet").await;
    let quiet = since(before);

    // Of those who are told what happened, nobody makes anything.
    let mut watches = api.watch(&maps, "").await;
    let before = counts();
    api.put("changed").await;
    let event = told(&mut watches).await;
    assert_eq!(
        (&event["type"], &event["object"]["metadata"]["labels"]["app"]),
        (&"MODIFIED".into(), &"changed".into())
    );
    assert_eq!(since(before), quiet);
    drop(watches);

    // Those who select ask once for what is selected by: of the object before, and of it now.
    let mut watches = api.watch(&maps, "labelSelector=app%3Dselected").await;
    let before = counts();
    api.put("selected").await;
    assert_eq!(told(&mut watches).await["type"], "ADDED");
    let [shown, _, _, parsed] = quiet;
    assert_eq!(since(before), [shown, 2, 1, parsed]);
    let before = counts();
    api.put("other").await;
    let event = told(&mut watches).await;
    assert_eq!(
        (&event["type"], &event["object"]["metadata"]["labels"]["app"]),
        (&"DELETED".into(), &"selected".into())
    );
    assert_eq!(since(before), [shown, 1, 1, parsed]);
    drop(watches);

    // For those who see all tenants another line is made, and one for what is deleted.
    let (mut of_all, mut watches) = (api.watch(all, "").await, api.watch(&maps, "").await);
    let before = counts();
    api.put("seen").await;
    let event = told(&mut of_all).await;
    assert_eq!(event["object"]["metadata"]["annotations"]["hypernetes.io/tenant"], ACME);
    assert_eq!(told(&mut watches).await["object"]["metadata"]["annotations"], Value::Null);
    assert_eq!(since(before), [shown, 1, 1, parsed]);
    let before = counts();
    api.delete().await;
    let event = told(&mut watches).await;
    assert_eq!(event["type"], "DELETED");
    let at = api.0.store.revision().await.unwrap();
    assert_eq!(event["object"]["metadata"]["resourceVersion"], at.to_string());
    assert_eq!(told(&mut of_all).await["type"], "DELETED");
    // One is of the answer to the deletion.
    assert_eq!(since(before)[..3], [1, 0, 2]);
    drop((of_all, watches));

    // Reading makes nothing, and one copy is what all get. What has a name is found by its key.
    api.put("again").await;
    let before = counts();
    let named = api.ask(&format!("{maps}?fieldSelector=metadata.name%3Da,metadata.namespace!%3Dother")).await;
    let named: Value = serde_json::from_slice(&named.collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(named["items"][0]["metadata"]["labels"]["app"], "again");
    api.ask(&format!("{maps}?fieldSelector=metadata.name%3Db")).await.collect().await.unwrap();
    assert_eq!(since(before)[1], 0);
    // By now what selects has looked at it, whoever it was.
    api.ask(&format!("{maps}?labelSelector=app")).await.collect().await.unwrap();
    let before = counts();
    let (mut one, mut another) = (api.ask(&format!("{maps}/a")).await, api.ask(&format!("{maps}/a")).await);
    assert_eq!(next(&mut one).await.as_ptr(), next(&mut another).await.as_ptr());
    for path in [&maps, all] {
        let list: Value = serde_json::from_slice(&api.ask(path).await.collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!(list["items"][0]["metadata"]["labels"]["app"], "again");
    }
    for _ in 0..3 {
        api.ask(&format!("{maps}?labelSelector=app")).await.collect().await.unwrap();
    }
    assert_eq!(since(before), [0; 4]);

    // As a table: the cells are made once, by whoever asks first, and by nobody who watches again.
    api.ask(&maps).await.collect().await.unwrap();
    let before = (counts(), made(Made::Cells));
    for path in [maps.clone(), format!("{maps}/a"), maps.clone(), format!("{maps}?includeObject=None")] {
        let table: Value = serde_json::from_slice(&api.table(&path).await.collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!(
            (&table["rows"][0]["cells"][0], &table["columnDefinitions"][0]["name"]),
            (&"a".into(), &"Name".into())
        );
        let object = &table["rows"][0]["object"];
        assert_eq!(object["metadata"]["labels"]["app"] == "again", !path.ends_with("None"), "{object}");
    }
    assert_eq!(made(Made::Cells) - before.1, 1);
    assert_eq!(since(before.0), [0, 0, 0, 1], "parsed for that once");
    let newest = api.0.store.revision().await.unwrap();
    let mut watches = Vec::new();
    for _ in 0..10 {
        watches.push(api.table(&format!("{maps}?watch=true&resourceVersion={newest}")).await);
    }
    let before = made(Made::Cells);
    api.put("row").await;
    for watch in &mut watches {
        let event: Value = serde_json::from_slice(&next(watch).await).unwrap();
        assert_eq!((&event["type"], &event["object"]["rows"][0]["cells"][0]), (&"MODIFIED".into(), &"a".into()));
    }
    assert_eq!(made(Made::Cells) - before, 1);
    drop(watches);

    // As messages: made once, of objects that nobody parses besides; and an event for all who are told.
    let before = (counts(), made(Made::Message));
    for path in [maps.clone(), format!("{maps}/a"), maps.clone(), format!("{maps}/a")] {
        let bytes = api.messages(&path).await.collect().await.unwrap().to_bytes();
        assert!(bytes.starts_with(b"k8s\0"), "{path}");
    }
    assert_eq!((since(before.0), made(Made::Message) - before.1), ([0; 4], 1));
    let newest = api.0.store.revision().await.unwrap();
    let mut watches = Vec::new();
    for _ in 0..10 {
        watches.push(api.messages(&format!("{maps}?watch=true&resourceVersion={newest}")).await);
    }
    let before = (counts(), made(Made::Message));
    api.put("message").await;
    let first = next(&mut watches[0]).await;
    for watch in &mut watches[1..] {
        assert_eq!(next(watch).await.as_ptr(), first.as_ptr());
    }
    assert_eq!((since(before.0)[2], made(Made::Message) - before.1), (1, 1));
    drop(watches);

    // In a version that is not the stored one a change is converted once for all who watch.
    let events = |group: &str| format!("/clusters/{ACME}/{group}/v1/namespaces/default/events");
    let mut watches = api.watch(&events("apis/events.k8s.io"), "").await;
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}});
    let before = counts();
    api.0.post(&infrastructure(), &events("api"), event).await.ok();
    let event = told(&mut watches).await;
    assert_eq!(
        (&event["object"]["apiVersion"], &event["object"]["regarding"]["name"]),
        (&"events.k8s.io/v1".into(), &"p".into())
    );
    assert_eq!(since(before)[2], 1);
    drop(watches);

    // And an object once for all who get or list it, of which a get is sent no copy; what the stored version is read by is made by none.
    let (converted, stored) = (events("apis/events.k8s.io"), events("api"));
    let before = (counts(), made(Made::Converted));
    let mut both = [api.ask(&format!("{converted}/e")).await, api.ask(&format!("{converted}/e")).await];
    assert_eq!(told(&mut both).await["regarding"]["name"], "p");
    for path in [&converted, &converted, &stored] {
        let list: Value = serde_json::from_slice(&api.ask(path).await.collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!(list["items"][0].get("regarding").is_some(), *path == converted, "{list}");
    }
    api.table(&converted).await.collect().await.unwrap();
    api.table(&format!("{converted}?includeObject=Object")).await.collect().await.unwrap();
    // Parsed for that, and for the cells; a row's bare metadata is cut at places that are found once, too.
    assert_eq!((since(before.0), made(Made::Converted) - before.1), ([0, 1, 0, 2], 1));
    let before = made(Made::Converted);
    api.ask("/clusters/*/apis/events.k8s.io/v1/events").await.collect().await.unwrap();
    assert_eq!(made(Made::Converted) - before, 1, "that says whose it is");

    // And a node without what tenants are not to see, once for all tenants.
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    api.0.post(&infrastructure(), "/api/v1/nodes", node).await.ok();
    let before = made(Made::Converted);
    for tenant in [ACME, GLOBEX, ACME] {
        for path in ["/api/v1/nodes/n1", "/api/v1/nodes"] {
            let shown = api.0.get(&admin(tenant), path).await.ok();
            let node = if path.ends_with("n1") { &shown } else { &shown["items"][0] };
            assert_eq!((&node["metadata"]["name"], &node["metadata"]["managedFields"]), (&"n1".into(), &Value::Null));
        }
    }
    assert_eq!(made(Made::Converted) - before, 1);

    // Components in this process have the same object, parsed once, and no text is made for them.
    let client = || api.0.clients.all_tenants(&AllTenants::grant());
    let before = (counts(), made(Made::Typed));
    let mut both = [0, 1].map(|_| Box::pin(shared::follow::<ConfigMap>(client(), &(), shared::Which::default())));
    let mut listed = Vec::new();
    for one in &mut both {
        assert!(matches!(one.next().await, Some(Ok(Init))));
        let Some(Ok(InitApply(item))) = one.next().await else { panic!("it is there") };
        listed.push(item.object.unwrap());
        assert_eq!((item.tenant.as_str(), listed[0].metadata.managed_fields.is_none()), (ACME, true));
        assert!(matches!(one.next().await, Some(Ok(InitDone))));
    }
    assert!(Arc::ptr_eq(&listed[0], &listed[1]));
    assert_eq!((since(before.0), made(Made::Typed) - before.1), ([0; 4], 1));
    let before = (counts(), made(Made::Typed));
    api.put("typed").await;
    let mut told = Vec::new();
    for one in &mut both {
        let Some(Ok(Apply(item))) = one.next().await else { panic!("it has changed") };
        told.push(item.object.unwrap());
    }
    assert!(Arc::ptr_eq(&told[0], &told[1]) && told[0].metadata.labels.as_ref().unwrap()["app"] == "typed");
    assert_eq!((since(before.0), made(Made::Typed) - before.1), (quiet, 1));
    api.delete().await;
    let at = api.0.store.revision().await.unwrap();
    for one in &mut both {
        assert!(matches!(one.next().await, Some(Ok(Delete(item))) if item.revision == at.0));
    }
}
