//! What goes with its owners, and what stays.

use hypernetes_testing::{
    server::make,
    wait::{until, until_gone},
};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{ConfigMap, Node, Pod},
    rbac::v1::ClusterRole,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    common::{bench, kubelet, merge},
    definitions::{define, definition, widget, widgets},
};

/// A deployment of one pod, by the same name in whichever cluster, running.
async fn deploy(client: &Client) -> (Api<Deployment>, Api<ReplicaSet>, Api<Pod>) {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let wanted = json!({"metadata": {"name": "web"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    }});
    make(&deployments, wanted).await;
    let available = |d: &Deployment| d.status.as_ref().is_some_and(|status| status.available_replicas == Some(1));
    until(&deployments, "web", "available", available).await;
    (deployments, Api::namespaced(client.clone(), "default"), Api::namespaced(client.clone(), "default"))
}

async fn only<K>(api: &Api<K>) -> K
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let list = api.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(list.len(), 1, "{list:#?}");
    list.into_iter().next().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_takes_its_sets_and_pods_with_it_of_one_tenant() {
    let bench = bench().await;
    let _kubelets = (kubelet(bench.acme.clone()), kubelet(bench.globex.clone()));
    let (deployments, sets, pods) = deploy(&bench.acme).await;
    let (others, other_sets, other_pods) = deploy(&bench.globex).await;
    let (set, pod) = (only(&sets).await, only(&pods).await);
    deployments.delete("web", &DeleteParams::background()).await.unwrap();
    until_gone(&deployments, "web").await;
    until_gone(&sets, &set.name_any()).await;
    until_gone(&pods, &pod.name_any()).await;
    assert!(others.get("web").await.is_ok());
    assert!(only(&other_sets).await.metadata.deletion_timestamp.is_none());
    assert!(only(&other_pods).await.metadata.deletion_timestamp.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orphaning_deletion_leaves_the_dependents_alone() {
    let bench = bench().await;
    let _kubelet = kubelet(bench.acme.clone());
    let (deployments, sets, pods) = deploy(&bench.acme).await;
    let (set, pod) = (only(&sets).await.name_any(), only(&pods).await.name_any());
    deployments.delete("web", &DeleteParams::orphan()).await.unwrap();
    until_gone(&deployments, "web").await;
    assert!(sets.get(&set).await.unwrap().owner_references().is_empty());
    sets.delete(&set, &DeleteParams::orphan()).await.unwrap();
    until_gone(&sets, &set).await;
    // What would be garbage is still so after what certainly is has gone.
    let maps: Api<ConfigMap> = Api::namespaced(bench.acme.clone(), "default");
    let owner = make(&maps, json!({"metadata": {"name": "owner"}})).await;
    make(&maps, owned("garbage", &[owner_of(&owner, false)])).await;
    maps.delete("owner", &DeleteParams::background()).await.unwrap();
    until_gone(&maps, "garbage").await;
    let pod = pods.get(&pod).await.unwrap();
    assert!(pod.owner_references().is_empty() && pod.metadata.deletion_timestamp.is_none());
}

fn owner_of(map: &ConfigMap, blocks: bool) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": map.name_any(), "uid": map.uid(), "blockOwnerDeletion": blocks})
}

fn owned(name: &str, owners: &[Value]) -> Value {
    json!({"metadata": {"name": name, "ownerReferences": owners}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_in_the_foreground_waits_for_those_that_block_it() {
    let bench = bench().await;
    let maps: Api<ConfigMap> = Api::namespaced(bench.acme.clone(), "default");
    let owner = make(&maps, json!({"metadata": {"name": "owner"}})).await;
    let mut blocking = owned("blocking", &[owner_of(&owner, true)]);
    blocking["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let blocking = make(&maps, blocking).await;
    make(&maps, owned("below", &[owner_of(&blocking, true)])).await;
    make(&maps, owned("loose", &[owner_of(&owner, false)])).await;
    maps.delete("owner", &DeleteParams::foreground()).await.unwrap();
    until(&maps, "blocking", "marked", |map| map.metadata.deletion_timestamp.is_some()).await;
    until_gone(&maps, "below").await;
    until_gone(&maps, "loose").await;
    let waiting = maps.get("owner").await.unwrap();
    assert_eq!(waiting.finalizers(), ["foregroundDeletion"]);
    until(&maps, "blocking", "ready to go", |map| map.finalizers() == ["example.com/hold"]).await;
    merge(&maps, "blocking", json!({"metadata": {"finalizers": null}})).await;
    until_gone(&maps, "blocking").await;
    until_gone(&maps, "owner").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circle_of_owners_in_the_foreground_ends() {
    let bench = bench().await;
    let maps: Api<ConfigMap> = Api::namespaced(bench.acme.clone(), "default");
    let first = make(&maps, json!({"metadata": {"name": "first"}})).await;
    let second = make(&maps, owned("second", &[owner_of(&first, true)])).await;
    merge(&maps, "first", json!({"metadata": {"ownerReferences": [owner_of(&second, true)]}})).await;
    maps.delete("first", &DeleteParams::foreground()).await.unwrap();
    until_gone(&maps, "first").await;
    until_gone(&maps, "second").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_are_known_by_all_that_names_them() {
    let bench = bench().await;
    let maps: Api<ConfigMap> = Api::namespaced(bench.acme.clone(), "default");
    let theirs: Api<ConfigMap> = Api::namespaced(bench.globex.clone(), "default");
    let there = make(&maps, json!({"metadata": {"name": "there"}})).await;
    let goes = make(&maps, json!({"metadata": {"name": "goes"}})).await;
    let foreign = make(&theirs, json!({"metadata": {"name": "there"}})).await;
    make(&maps, owned("both", &[owner_of(&there, false), owner_of(&goes, false)])).await;
    let mut unknown = owner_of(&there, false);
    unknown["apiVersion"] = "example.com/v1".into();
    make(&maps, owned("unknown", &[unknown])).await;
    // Another tenant's object owns nothing here, though its uid is right and one of its name is here, too.
    make(&maps, owned("foreign", &[owner_of(&foreign, false)])).await;
    let mut misnamed = owner_of(&there, false);
    misnamed["name"] = "elsewhere".into();
    make(&maps, owned("misnamed", &[misnamed])).await;
    until_gone(&maps, "foreign").await;
    until_gone(&maps, "misnamed").await;
    maps.delete("goes", &DeleteParams::background()).await.unwrap();
    let kept = until(&maps, "both", "freed of one", |map| map.owner_references().len() == 1).await;
    assert_eq!(kept.owner_references()[0].name, "there");
    assert!(maps.get("unknown").await.is_ok() && theirs.get("there").await.is_ok());
}

/// Whatever kind the dependents are of, and wherever they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_and_dependents_of_any_kind_let_go_of_each_other() {
    let bench = bench().await;
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definitions = define(&bench.acme, definition("widgets", "Widget", any)).await;
    let (maps, widgets) = (Api::<ConfigMap>::namespaced(bench.acme.clone(), "default"), widgets(&bench.acme));
    let roles: Api<ClusterRole> = Api::all(bench.acme.clone());
    let make_widget = async |name: &str, owners: &[Value], finalizers: Value| {
        let mut made: DynamicObject = widget(name, json!({}));
        made.metadata.owner_references = serde_json::from_value(json!(owners)).unwrap();
        made.metadata.finalizers = serde_json::from_value(finalizers).unwrap();
        widgets.create(&PostParams::default(), &made).await.unwrap()
    };
    let role = async |name: &str| {
        let role: ClusterRole = make(&roles, json!({"metadata": {"name": name}, "rules": []})).await;
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "name": name, "uid": role.uid(),
            "blockOwnerDeletion": true})
    };
    // Let go of: by an owner of their namespace, and by one that is in none.
    let owner = owner_of(&make(&maps, json!({"metadata": {"name": "owner"}})).await, true);
    let other = role("owner").await;
    make_widget("of-map", &[owner], Value::Null).await;
    make_widget("of-role", std::slice::from_ref(&other), Value::Null).await;
    make(&maps, owned("of-role", &[other])).await;
    maps.delete("owner", &DeleteParams::orphan()).await.unwrap();
    roles.delete("owner", &DeleteParams::orphan()).await.unwrap();
    until_gone(&maps, "owner").await;
    until_gone(&roles, "owner").await;
    for name in ["of-map", "of-role"] {
        assert!(widgets.get(name).await.unwrap().owner_references().is_empty());
    }
    assert!(maps.get("of-role").await.unwrap().owner_references().is_empty());
    // Waited for.
    let owner = role("waits").await;
    make_widget("held", &[owner], json!(["example.com/hold"])).await;
    roles.delete("waits", &DeleteParams::foreground()).await.unwrap();
    until(&widgets, "held", "marked", |one| one.metadata.deletion_timestamp.is_some()).await;
    assert_eq!(roles.get("waits").await.unwrap().finalizers(), ["foregroundDeletion"]);
    merge(&widgets, "held", json!({"metadata": {"finalizers": null}})).await;
    until_gone(&roles, "waits").await;
    // What was let go of is nobody's, and stays after certain garbage has gone; and the kind can go.
    let owner = make_widget("owner", &[], Value::Null).await;
    let owner = json!({"apiVersion": "example.org/v1", "kind": "Widget", "name": "owner", "uid": owner.uid()});
    make_widget("garbage", &[owner], Value::Null).await;
    widgets.delete("owner", &DeleteParams::background()).await.unwrap();
    until_gone(&widgets, "garbage").await;
    assert_eq!(widgets.list(&ListParams::default()).await.unwrap().items.len(), 2);
    definitions.delete("widgets.example.org", &DeleteParams::foreground()).await.unwrap();
    until_gone(&definitions, "widgets.example.org").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operators_node_owns_what_tenants_say() {
    let bench = bench().await;
    let nodes: Api<Node> = Api::all(bench.system.clone());
    let node = make(&nodes, json!({"metadata": {"name": "n1"}})).await;
    let maps: Api<ConfigMap> = Api::namespaced(bench.acme.clone(), "default");
    let owner = |uid: Option<String>| json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid});
    make(&maps, owned("ours", &[owner(node.uid())])).await;
    make(&maps, owned("garbage", &[owner(Some("0".into()))])).await;
    until_gone(&maps, "garbage").await;
    assert!(maps.get("ours").await.is_ok());
    nodes.delete("n1", &DeleteParams::default()).await.unwrap();
    until_gone(&maps, "ours").await;
}
