//! One tenant's flood, and another's one object.

use std::sync::Arc;

use futures::StreamExt;
use hypernetes_api::AllTenants;
use hypernetes_client::Clients;
use hypernetes_controllers::{
    ControllersConfig, Limits,
    runtime::{Informers, Term},
};
use hypernetes_testing::server::{ACME, GLOBEX, InProcess, make};
use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::Api;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::Service;

const FLOOD: usize = 3000;
/// How many reconciliations of the one who floods may be done before: half of the controller's workers may each be at one.
const FEW: usize = 8;

fn replica_set(name: &str) -> Value {
    let template = json!({"metadata": {"labels": {"of": name}}, "spec": {"automountServiceAccountToken": false,
        "containers": [{"name": "c", "image": "i"}]}});
    json!({"metadata": {"name": name}, "spec": {"replicas": 1, "selector": {"matchLabels": {"of": name}},
        "template": template}})
}

/// Whose pods were asked for, in that order.
#[derive(Clone)]
struct Asked(Arc<Mutex<Vec<&'static str>>>, watch::Sender<bool>);

impl Asked {
    fn note(&self, method: &http::Method, path: &str) {
        if *method != http::Method::POST || !path.ends_with("/namespaces/default/pods") {
            return;
        }
        let whose = if path.contains(GLOBEX) { GLOBEX } else { ACME };
        self.0.lock().push(whose);
        if whose == GLOBEX {
            self.1.send_replace(true);
        }
    }
}

/// All keys of the flood are ready before the other's, in the queue that both have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_one_tenants_objects_hold_up_nobody_elses() {
    let api = InProcess::with_tenants().await;
    let flood: Api<ReplicaSet> = api.in_default(ACME);
    let made = futures::stream::iter(0..FLOOD).map(|number| make(&flood, replica_set(&format!("flood-{number}"))));
    made.buffer_unordered(64).for_each(|_| async {}).await;
    make::<ReplicaSet>(&api.in_default(GLOBEX), replica_set("one")).await;

    let (asked, server) = (Asked(Arc::default(), watch::Sender::new(false)), api.server.loopback());
    let noting = asked.clone();
    let clients = Clients::in_process(tower::service_fn(move |request: http::Request<kube::client::Body>| {
        noting.note(request.method(), request.uri().path());
        server.clone().call(request)
    }));
    let term = Term::alone(CancellationToken::new());
    let informers = Informers::new(clients, AllTenants::grant(), term.stop().clone());
    let authorities = Arc::new(api.server.authorities());
    let config = ControllersConfig {
        informers,
        cluster_ca_pem: "PEM".into(),
        api_server: ([192, 0, 2, 1], 6443).into(),
        authorities,
    };
    tokio::spawn(hypernetes_controllers::run_with(config, Limits::default(), term.stop().clone()));
    asked.1.subscribe().wait_for(|seen| *seen).await.unwrap();
    term.stop().cancel();
    let order = asked.0.lock().clone();
    let before = order.iter().position(|whose| *whose == GLOBEX).unwrap();
    assert!(before <= FEW, "{before} of the other's were done before");
}
