//! A scheduler that follows another one.
#![allow(clippy::disallowed_types)] // as a stock client

use http::{Request, Response};
use hypernetes_api::{AllTenants, TenantId};
use hypernetes_client::{AnyBody, Clients, shared::Wanted};
use hypernetes_controllers::runtime::{Election, Informers, Takeover};
use hypernetes_testing::{
    server::{ACME, InProcess, make},
    wait::until,
};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
    client::Body,
    core::Status,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service, util::BoxCloneSyncService};

/// Clients to whom nothing is told that they have not asked for: lists are answered, watches are silent.
fn behind(clients: &Clients) -> Clients {
    clients.layered(|inner| {
        BoxCloneSyncService::new(tower::service_fn(move |request: Request<Body>| {
            let handed = request.extensions().get::<Wanted>().is_some();
            let watches = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            let mut inner = inner.clone();
            async move {
                match (handed, watches) {
                    (true, _) => Err("objects are not handed over".into()),
                    (_, true) => std::future::pending().await,
                    _ => inner.call(request).await as Result<Response<AnyBody>, BoxError>,
                }
            }
        }))
    })
}

/// Where it was the leader before it has caches, which may be behind: what the last one has bound meanwhile it knows all
/// the same when it begins.
#[tokio::test]
async fn it_knows_what_the_last_one_has_bound() {
    let api = InProcess::start();
    api.make::<Namespace>(TenantId::SYSTEM, json!({"metadata": {"name": "kube-system"}})).await;
    api.tenant(ACME).await;
    api.account(ACME).await;
    make(&api.api::<Node>(TenantId::SYSTEM), json!({"metadata": {"name": "n"}})).await;
    let status = json!({"status": {"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "1"},
        "conditions": [{"type": "Ready", "status": "True"}]}});
    let nodes = api.api::<Node>(TenantId::SYSTEM);
    nodes.patch_status("n", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let pods: Api<Pod> = api.in_default(ACME);
    for name in ["bound", "waits"] {
        let spec = json!({"containers": [{"name": "c", "image": "i"}]});
        make(&pods, json!({"metadata": {"name": name}, "spec": spec})).await;
    }
    let stop = CancellationToken::new();
    let clients = behind(&api.clients);
    let informers = Informers::new(clients.clone(), AllTenants::grant(), stop.clone());
    let (known, _) = (informers.of::<Pod>(), informers.of::<Node>());
    informers.synced().await;
    assert_eq!(known.all().len(), 2);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "bound"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "n"}});
    let posting = PostParams::default();
    let bound = pods.create_subresource("binding", "bound", &posting, &binding);
    let _: Status = bound.await.unwrap();

    let election = Election::new(&api.clients, "next".into(), Takeover::AfterLease);
    let ending = stop.clone();
    let leading = tokio::spawn(async move {
        let work = |term: hypernetes_controllers::runtime::Term| {
            hypernetes_scheduler::run(informers.during(&term), term.stop().clone())
        };
        election.run("of-a-test", &ending, work).await;
    });
    let judged = |pod: &Pod| {
        let bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        bound || pod.status.as_ref().is_some_and(|status| status.conditions.is_some())
    };
    let waits = until(&pods, "waits", "looked at", judged).await;
    assert_eq!(waits.spec.unwrap().node_name, None, "the node has room for one");
    stop.cancel();
    leading.await.unwrap();
}
