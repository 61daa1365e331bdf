//! Deployments, ReplicaSets and ReplicationControllers against an API server in process.

use std::time::Duration;

use hypernetes_controllers::runtime::{Election, Takeover, Timing};
use hypernetes_testing::{
    server::make,
    wait::{until, until_gone},
};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    coordination::v1::Lease,
    core::v1::{ConfigMap, Endpoints, Event, Pod, ReplicationController, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::common::{bench, kubelet, merge};

const REVISION: &str = "deployment.kubernetes.io/revision";

fn deployment(name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": image}]},
            },
        },
    })
}

fn progress(deployment: &Deployment) -> Option<(String, String)> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == "Progressing")?;
    Some((condition.status.clone(), condition.reason.clone()?))
}

fn is_rolled_out(deployment: &Deployment, replicas: i32) -> bool {
    let Some(status) = &deployment.status else { return false };
    status.observed_generation == deployment.metadata.generation
        && status.updated_replicas.unwrap_or(0) == replicas
        && status.replicas.unwrap_or(0) == replicas
        && status.available_replicas.unwrap_or(0) == replicas
        && progress(deployment) == Some(("True".into(), "NewReplicaSetAvailable".into()))
}

fn images(pods: &[Pod]) -> Vec<String> {
    let image = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    let mut images: Vec<String> =
        pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).map(image).collect();
    images.sort();
    images
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_has_what_it_needs() {
    let bench = bench().await;
    for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let maps: Api<ConfigMap> = Api::namespaced(bench.acme.clone(), namespace);
        let map = until(&maps, "kube-root-ca.crt", "made", |_| true).await;
        assert_eq!(map.data.unwrap()["ca.crt"], "PEM");
        maps.delete("kube-root-ca.crt", &DeleteParams::default()).await.unwrap();
        until(&maps, "kube-root-ca.crt", "made again", |again| again.metadata.uid != map.metadata.uid).await;
    }
    let networks: Api<hypernetes_api::types::network::Subnet> = Api::all(bench.acme.clone());
    assert_eq!(networks.get("default").await.unwrap().spec.cidr, "10.244.0.0/16");
}

/// As kube-apiserver 1.36.2 shows its own, but for what differs in every cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_cluster_has_the_service_of_its_api() {
    let bench = bench().await;
    for client in [&bench.acme, &bench.globex, &bench.system] {
        let services: Api<Service> = Api::namespaced(client.clone(), "default");
        let endpoints: Api<Endpoints> = Api::namespaced(client.clone(), "default");
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
        let service = until(&services, "kubernetes", "made", |_| true).await;
        let slice = until(&slices, "kubernetes", "made", |_| true).await;
        let of = until(&endpoints, "kubernetes", "made", |_| true).await;
        assert_eq!(json!(service.metadata.labels), json!({"component": "apiserver", "provider": "kubernetes"}));
        assert_eq!(
            json!({"spec": service.spec, "status": service.status}),
            json!({
                "spec": {
                    "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "internalTrafficPolicy": "Cluster",
                    "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                    "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
                    "sessionAffinity": "None", "type": "ClusterIP",
                },
                "status": {"loadBalancer": {}},
            })
        );
        let ports = json!([{"name": "https", "port": 6443, "protocol": "TCP"}]);
        assert_eq!(json!(of.metadata.labels), json!({"endpointslice.kubernetes.io/skip-mirror": "true"}));
        assert_eq!(json!(of.subsets), json!([{"addresses": [{"ip": "192.0.2.1"}], "ports": ports}]));
        assert_eq!(json!(slice.metadata.labels), json!({"kubernetes.io/service-name": "kubernetes"}));
        assert_eq!((slice.address_type.as_str(), json!(slice.ports)), ("IPv4", ports));
        assert_eq!(json!(slice.endpoints), json!([{"addresses": ["192.0.2.1"], "conditions": {"ready": true}}]));
        // What is deleted comes again, and what is changed is put back.
        services.delete("kubernetes", &DeleteParams::default()).await.unwrap();
        until(&services, "kubernetes", "made again", |again| again.metadata.uid != service.metadata.uid).await;
        slices.delete("kubernetes", &DeleteParams::default()).await.unwrap();
        until(&slices, "kubernetes", "made again", |again| again.metadata.uid != slice.metadata.uid).await;
        merge(&endpoints, "kubernetes", json!({"subsets": null})).await;
        until(&endpoints, "kubernetes", "put back", |back| back.subsets == of.subsets).await;
        merge(&services, "kubernetes", json!({"spec": {"ports": [{"port": 1}]}})).await;
        until(&services, "kubernetes", "put back", |back| {
            back.spec.as_ref().unwrap().ports == service.spec.as_ref().unwrap().ports
        })
        .await;
    }
}

/// Of several servers each says where it is; one that ends says so, and one that says nothing any more goes after its time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_of_the_api_has_all_servers_behind_it() {
    let bench = bench().await;
    let serve = |name: &str, host: u8, port: u16| {
        let [lease, renew, retry] = [3600, 3600, 2].map(Duration::from_secs);
        let timing = Timing { lease, renew, retry };
        let election = Election::new(&bench.clients, name.to_owned(), Takeover::AfterLease).with_timing(timing);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move { election.serve_at(([192, 0, 2, host], port).into(), &stopped).await });
        stop
    };
    let behind = async |expected: &[&str], what: &'static str| {
        for client in [&bench.acme, &bench.globex, &bench.system] {
            let endpoints: Api<Endpoints> = Api::namespaced(client.clone(), "default");
            let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
            let addresses: Vec<Value> = expected.iter().map(|ip| json!({"ip": ip})).collect();
            until(&endpoints, "kubernetes", what, |of| json!(of.subsets)[0]["addresses"] == json!(addresses)).await;
            let addresses: Vec<Value> = expected.iter().map(|ip| json!([ip])).collect();
            let of = |slice: &EndpointSlice| -> Vec<Value> {
                slice.endpoints.iter().flatten().map(|one| json!(one.addresses)).collect()
            };
            until(&slices, "kubernetes", what, |slice| of(slice) == addresses).await;
        }
    };
    // One listens on another port, and a tenant's own lease is no server.
    let (ending, _silent, _other) = (serve("ending", 2, 6443), serve("silent", 3, 6443), serve("other", 4, 6444));
    let own: Api<Lease> = Api::namespaced(bench.acme.clone(), "kube-system");
    let lease = json!({"metadata": {"name": "own", "labels": {"apiserver.kubernetes.io/identity": "kube-apiserver"},
        "annotations": {"hypernetes.io/address": "192.0.2.66:6443"}}, "spec": {"leaseDurationSeconds": 3600}});
    make(&own, lease).await;
    behind(&["192.0.2.1", "192.0.2.2", "192.0.2.3"], "of all").await;
    let leases: Api<Lease> = Api::namespaced(bench.system.clone(), "kube-system");
    let all = leases.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(all.len(), 3);
    let silent = all.iter().find(|lease| lease.annotations()["hypernetes.io/address"] == "192.0.2.3:6443").unwrap();
    merge(&leases, &silent.name_any(), json!({"spec": {"leaseDurationSeconds": 1}})).await;
    behind(&["192.0.2.1", "192.0.2.2"], "of those that are there").await;
    ending.cancel();
    behind(&["192.0.2.1"], "of the one that is left").await;
    assert_eq!(leases.list(&ListParams::default()).await.unwrap().items.len(), 1, "what has gone has left no lease");
    own.get("own").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls_out_and_back() {
    let bench = bench().await;
    let _kubelet = kubelet(bench.acme.clone());
    let deployments: Api<Deployment> = Api::namespaced(bench.acme.clone(), "default");
    let sets: Api<ReplicaSet> = Api::namespaced(bench.acme.clone(), "default");
    let pods: Api<Pod> = Api::namespaced(bench.acme.clone(), "default");
    make(&deployments, deployment("web", 3, "one")).await;
    let first = until(&deployments, "web", "rolled out", |d| is_rolled_out(d, 3)).await;
    assert_eq!(first.annotations()[REVISION], "1");

    let image = |image: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
    merge(&deployments, "web", image("two")).await;
    let second =
        until(&deployments, "web", "updated", |d| is_rolled_out(d, 3) && d.annotations()[REVISION] == "2").await;
    assert!(second.metadata.generation > first.metadata.generation);
    let all = ListParams::default();
    assert_eq!(images(&pods.list(&all).await.unwrap().items), ["two", "two", "two"]);
    assert_eq!(sets.list(&all).await.unwrap().items.len(), 2, "the old one is kept for history");

    // Back to the first template: its set is used again, under a new revision.
    merge(&deployments, "web", image("one")).await;
    until(&deployments, "web", "rolled back", |d| is_rolled_out(d, 3) && d.annotations()[REVISION] == "3").await;
    assert_eq!(images(&pods.list(&all).await.unwrap().items), ["one", "one", "one"]);
    assert_eq!(sets.list(&all).await.unwrap().items.len(), 2);

    merge(&deployments, "web", json!({"spec": {"replicas": 1}})).await;
    until(&deployments, "web", "scaled", |d| is_rolled_out(d, 1)).await;
    assert_eq!(images(&pods.list(&all).await.unwrap().items), ["one"]);

    // A template that does not come up takes no old pod away, and is found to be late.
    let mut broken = image("broken");
    broken["spec"]["progressDeadlineSeconds"] = 2.into();
    merge(&deployments, "web", broken).await;
    let late = ("False".to_owned(), "ProgressDeadlineExceeded".to_owned());
    until(&deployments, "web", "late", |d| progress(d) == Some(late.clone())).await;
    assert_eq!(images(&pods.list(&all).await.unwrap().items), ["broken", "one"]);

    let events: Api<Event> = Api::namespaced(bench.acme.clone(), "default");
    let events = events.list(&all).await.unwrap().items;
    for reason in ["ScalingReplicaSet", "SuccessfulCreate", "SuccessfulDelete"] {
        assert!(events.iter().any(|event| event.reason.as_deref() == Some(reason)), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_deployment_waits_and_a_recreated_one_never_mixes() {
    let bench = bench().await;
    let _kubelet = kubelet(bench.acme.clone());
    let deployments: Api<Deployment> = Api::namespaced(bench.acme.clone(), "default");
    let pods: Api<Pod> = Api::namespaced(bench.acme.clone(), "default");
    let mut wanted = deployment("db", 2, "one");
    wanted["spec"]["strategy"] = json!({"type": "Recreate"});
    make(&deployments, wanted).await;
    until(&deployments, "db", "rolled out", |d| is_rolled_out(d, 2)).await;
    let template = json!({"spec": {"containers": [{"name": "c", "image": "two"}]}});
    merge(&deployments, "db", json!({"spec": {"paused": true, "template": template}})).await;
    let paused = ("Unknown".to_owned(), "DeploymentPaused".to_owned());
    until(&deployments, "db", "paused", |d| progress(d) == Some(paused.clone())).await;
    let all = ListParams::default();
    assert_eq!(images(&pods.list(&all).await.unwrap().items), ["one", "one"]);
    merge(&deployments, "db", json!({"spec": {"paused": false}})).await;
    let watch = async {
        loop {
            let mut now: Vec<String> = pods
                .list(&all)
                .await
                .unwrap()
                .items
                .iter()
                .map(|pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap())
                .collect();
            now.sort();
            now.dedup();
            assert!(now.len() <= 1, "old and new at once");
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = watch => {}
        _ = until(&deployments, "db", "recreated", |d| is_rolled_out(d, 2)) => {}
    }
    assert_eq!(images(&pods.list(&all).await.unwrap().items), ["two", "two"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_set_replaces_what_is_lost_and_adopts() {
    let bench = bench().await;
    let sets: Api<ReplicaSet> = Api::namespaced(bench.acme.clone(), "default");
    let pods: Api<Pod> = Api::namespaced(bench.acme.clone(), "default");
    let pod = json!({"metadata": {"name": "stray", "labels": {"app": "s"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    make(&pods, pod.clone()).await;
    make(
        &sets,
        json!({"metadata": {"name": "s"}, "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "s"}},
        "template": {"metadata": {"labels": {"app": "s"}}, "spec": pod["spec"]}}}),
    )
    .await;
    let full = |set: &ReplicaSet| {
        set.status.as_ref().is_some_and(|status| status.replicas == 3 && status.fully_labeled_replicas == Some(3))
    };
    until(&sets, "s", "full", full).await;
    let stray = pods.get("stray").await.unwrap();
    assert_eq!(stray.owner_references()[0].name, "s", "adopted");
    assert_eq!(pods.list(&ListParams::default()).await.unwrap().items.len(), 3, "never one too many");
    // Let go by its label, it is replaced and stays.
    merge(&pods, "stray", json!({"metadata": {"labels": {"app": "other"}}})).await;
    until(&pods, "stray", "released", |pod| pod.owner_references().is_empty()).await;
    for _ in 0..3000 {
        if pods.list(&ListParams::default()).await.unwrap().items.len() == 4 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(pods.list(&ListParams::default()).await.unwrap().items.len(), 4);
    pods.delete("stray", &DeleteParams::default()).await.unwrap();
    until_gone(&pods, "stray").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replication_controller_keeps_its_pods_until_it_goes() {
    let bench = bench().await;
    let _kubelet = kubelet(bench.acme.clone());
    let controllers: Api<ReplicationController> = Api::namespaced(bench.acme.clone(), "default");
    let pods: Api<Pod> = Api::namespaced(bench.acme.clone(), "default");
    let pod = json!({"metadata": {"name": "stray", "labels": {"app": "r"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    make(&pods, pod.clone()).await;
    let template = json!({"metadata": {"labels": {"app": "r"}}, "spec": pod["spec"]});
    // It selects by its template's labels if it says nothing else.
    make(&controllers, json!({"metadata": {"name": "r"}, "spec": {"replicas": 2, "template": template}})).await;
    let is = |replicas: i32, available: Option<i32>| {
        move |one: &ReplicationController| {
            let status = one.status.clone().unwrap_or_default();
            status.observed_generation == one.metadata.generation
                && (status.replicas, status.available_replicas, status.conditions) == (replicas, available, None)
        }
    };
    until(&controllers, "r", "available", is(2, Some(2))).await;
    let owners = |pod: &Pod| -> Vec<String> {
        pod.owner_references().iter().map(|owner| format!("{} {}", owner.kind, owner.name)).collect()
    };
    let ours = ["ReplicationController r"];
    assert_eq!(owners(&pods.get("stray").await.unwrap()), ours, "adopted");
    let scale = Patch::Merge(json!({"spec": {"replicas": 1}}));
    controllers.patch_scale("r", &PatchParams::default(), &scale).await.unwrap();
    until(&controllers, "r", "scaled", is(1, Some(1))).await;
    assert_eq!(controllers.get_scale("r").await.unwrap().status.unwrap().replicas, 1);
    // What it makes is not refused for its sake, and it says what is.
    merge(&controllers, "r", json!({"spec": {"replicas": 2, "template": {"spec": {"serviceAccountName": "nobody"}}}}))
        .await;
    let failed = |one: &ReplicationController| {
        let status = one.status.clone().unwrap_or_default();
        status.conditions.iter().flatten().any(|condition| condition.type_ == "ReplicaFailure")
    };
    until(&controllers, "r", "failing", failed).await;
    merge(&controllers, "r", json!({"spec": {"replicas": 1}})).await;
    until(&controllers, "r", "well again", is(1, Some(1))).await;
    // One that is deleted before its pods lets them go, or takes them with it.
    let left = pods.list(&ListParams::default()).await.unwrap().items.remove(0).name_any();
    controllers.delete("r", &DeleteParams::orphan()).await.unwrap();
    until_gone(&controllers, "r").await;
    assert!(owners(&pods.get(&left).await.unwrap()).is_empty());
    make(&controllers, json!({"metadata": {"name": "r"}, "spec": {"replicas": 1, "template": template}})).await;
    until(&pods, &left, "adopted again", |pod| owners(pod) == ours).await;
    controllers.delete("r", &DeleteParams::foreground()).await.unwrap();
    until_gone(&controllers, "r").await;
    until_gone(&pods, &left).await;
    let events: Api<Event> = Api::namespaced(bench.acme.clone(), "default");
    let events = events.list(&ListParams::default()).await.unwrap().items;
    for reason in ["SuccessfulCreate", "SuccessfulDelete", "FailedCreate"] {
        let said = |event: &&Event| event.involved_object.kind.as_deref() == Some("ReplicationController");
        assert!(events.iter().filter(said).any(|event| event.reason.as_deref() == Some(reason)), "{reason}");
    }
}
