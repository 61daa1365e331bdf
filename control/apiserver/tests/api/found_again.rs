//! What a controller would not find again is not made for it.

use std::sync::Arc;

use axum::body::Body;
use http::Request;
use hypernetes_client::found_by::FoundBy;
use hypernetes_testing::{
    http::Answer,
    requests::{Refused, by, infrastructure},
    server::InProcess,
};
use serde_json::{Value, json};

use crate::{
    bench::MAPS,
    writes::{acmes, furnished, version},
};

/// Has an object made that `owner` is to find by the label `app`.
async fn make(bench: &InProcess, query: &str, object: &Value) -> Answer {
    let selector = serde_json::from_value(json!({"matchLabels": {"app": "x"}})).unwrap();
    let request = Request::builder().method("POST").uri(acmes(&format!("{MAPS}{query}")));
    let mut request = by(&infrastructure(), request.body(Body::from(object.to_string())).unwrap());
    request.extensions_mut().insert(Arc::new(FoundBy { owner: "owner".into(), selector }));
    bench.answer(request).await
}

#[tokio::test]
async fn what_would_not_be_found_again_is_not_made() {
    let (bench, _) = furnished().await;
    let object = |label: &str, owners: Value| json!({"metadata": {"generateName": "m-", "labels": {"app": label}, "ownerReferences": owners}});
    let owner = |uid: &str, controller: bool| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": uid, "controller": controller});
    let before = version(&bench).await;
    for (object, why) in [
        (object("y", json!([owner("owner", true)])), "selected"),
        (json!({"metadata": {"name": "m", "ownerReferences": [owner("owner", true)]}}), "selected"),
        (object("x", json!([owner("owner", false), owner("another", true)])), "owned"),
    ] {
        for query in ["", "?dryRun=All"] {
            let message = make(&bench, query, &object).await.refused(403, "Forbidden");
            assert!(message.ends_with(&format!("it would not be {why} by whom it is made for")), "{message}");
        }
    }
    assert_eq!(version(&bench).await, before);
    // What is nobody's yet is taken in.
    for owners in [json!([owner("owner", true)]), json!([]), json!([owner("another", false)])] {
        make(&bench, "", &object("x", owners)).await.ok();
    }
}
