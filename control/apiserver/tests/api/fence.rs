//! Who acts in a term of a lease writes in it, and nothing after it.

use std::sync::Arc;

use axum::body::Body;
use http::Request;
use hypernetes_client::fence::Fence;
use hypernetes_testing::{
    http::Answer,
    requests::{Refused, by, infrastructure},
    server::InProcess,
};
use serde_json::{Value, json};

use crate::{
    bench::{MAPS, map},
    writes::{acmes, furnished, version, writes},
};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";

/// A request of a component's, in the term of the lease as it was.
async fn send(bench: &InProcess, lease: &Value, method: &str, path: &str, content: &str, body: &Value) -> Answer {
    let fence = Fence::of(&serde_json::from_value(lease.clone()).unwrap()).unwrap();
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let request = Request::builder().method(method).uri(acmes(path)).header("content-type", content);
    let mut request = by(&infrastructure(), request.body(Body::from(text)).unwrap());
    request.extensions_mut().insert(Arc::new(fence));
    bench.answer(request).await
}

#[tokio::test]
async fn every_write_of_a_term_ends_with_it() {
    let (bench, _) = furnished().await;
    let server = infrastructure();
    bench.post(&server, "/api/v1/namespaces", json!({"metadata": {"name": "kube-system"}})).await.ok();
    let spec = |holder: &str, transitions: u32| json!({"holderIdentity": holder, "leaseTransitions": transitions});
    let lease = json!({"metadata": {"name": "l"}, "spec": spec("one", 3)});
    let first = bench.post(&server, LEASES, lease.clone()).await.ok();
    let (path, posting) = (format!("{LEASES}/l"), "application/json");
    // It is renewed all the time.
    let renew = async {
        for second in 10..60 {
            let renewed = json!({"spec": {"renewTime": format!("2026-01-01T00:00:{second}.000000Z")}});
            bench.merge(&server, &path, renewed).await.ok();
        }
    };
    let write = async {
        for number in 0..50 {
            send(&bench, &first, "POST", MAPS, posting, &map(&format!("m{number}"), "1")).await.ok();
        }
    };
    tokio::join!(renew, write);
    // Let go of, taken by another, held again by the same, and another lease of that name.
    for now in [Some(spec("", 3)), Some(spec("two", 4)), Some(spec("one", 5)), None] {
        if let Some(now) = now {
            bench.merge(&server, &path, json!({"spec": now})).await.ok();
        } else {
            bench.delete(&server, &path).await.ok();
            bench.post(&server, LEASES, lease.clone()).await.ok();
        }
        let before = version(&bench).await;
        for (method, path, content, body) in writes() {
            let path = path.trim_end_matches(['?', '&']);
            let answer = send(&bench, &first, method, path, content, &body).await;
            let message = answer.refused(409, "Conflict");
            assert!(message.contains("the term in which this was asked for has ended"), "{method} {path}: {message}");
        }
        assert_eq!(version(&bench).await, before);
    }
    bench.delete(&server, &path).await.ok();
    send(&bench, &first, "POST", MAPS, posting, &map("n", "1")).await.refused(409, "Conflict");
    assert_eq!(bench.get(&server, &acmes(&format!("{MAPS}/n"))).await.status, 404);
}

/// What another server is told of the lease, this one may not have heard of yet: it is the store that they share which refuses. Where the store is in a directory
/// there is no other server.
#[tokio::test]
async fn nothing_is_written_after_a_term_has_ended_at_another_server() {
    let (bench, _) = furnished().await;
    let Some(other) = bench.beside() else { return };
    let server = infrastructure();
    bench.post(&server, "/api/v1/namespaces", json!({"metadata": {"name": "kube-system"}})).await.ok();
    let version_of =
        |object: &Value| -> u64 { object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap() };
    let (path, posting) = (format!("{LEASES}/l"), "application/json");
    let spec =
        |holder: &str, transitions: u32| json!({"spec": {"holderIdentity": holder, "leaseTransitions": transitions}});
    let mut lease = spec("one", 0);
    lease["metadata"] = json!({"name": "l"});
    bench.post(&server, LEASES, lease).await.ok();
    let (mut done, mut refused) = (0, 0);
    for round in 1..=40 {
        let term = bench.merge(&server, &path, spec("one", 2 * round)).await.ok();
        let map = map(&format!("m{round}"), "1");
        let taken = async {
            // Sometimes sooner, sometimes later.
            for _ in 0..round {
                tokio::task::yield_now().await;
            }
            other.merge(&server, &path, spec("two", 2 * round + 1)).await.ok()
        };
        let (taken, written) = tokio::join!(taken, send(&bench, &term, "POST", MAPS, posting, &map));
        if written.status.is_success() {
            assert!(version_of(&written.body) < version_of(&taken), "round {round}: {taken} {}", written.body);
            done += 1;
        } else {
            written.refused(409, "Conflict");
            refused += 1;
        }
    }
    assert_eq!(done + refused, 40);
}
