//! What goes, and what goes with it.

use std::time::Duration;

use hypernetes_api::{
    AllTenants,
    types::{
        identity::{Project, TokenRevocation},
        network::{Network, Subnet},
    },
};
use hypernetes_store::{Prefix, RangeOptions};
use hypernetes_testing::{
    server::{ACME, GLOBEX, make},
    wait::{until, until_gone},
};
use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    core::v1::{ConfigMap, Namespace, PersistentVolume, Pod, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use kube::{
    Api, Resource,
    api::{DeleteParams, PostParams},
};
use serde_json::json;

use crate::{
    common::{Bench, bench, kubelet, merge},
    definitions::{define, definition, widget, widgets},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_goes_with_all_that_is_in_it() {
    let bench = bench().await;
    let namespaces: Api<Namespace> = Api::all(bench.acme.clone());
    make(&namespaces, json!({"metadata": {"name": "shop"}})).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(bench.acme.clone(), "shop");
    until(&accounts, "default", "made", |_| true).await;
    let maps: Api<ConfigMap> = Api::namespaced(bench.acme.clone(), "shop");
    make(&maps, json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}})).await;
    let pods: Api<Pod> = Api::namespaced(bench.acme.clone(), "shop");
    make(
        &pods,
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}}),
    )
    .await;
    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    let says = |condition: &'static str, what: &'static str| {
        move |namespace: &Namespace| {
            let conditions = namespace.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
            let said = |message: &String| message.contains(what);
            conditions
                .iter()
                .any(|c| c.type_ == condition && c.status == "True" && c.message.as_ref().is_some_and(said))
        }
    };
    // What a pod may need until it has ended stays until then.
    until(&namespaces, "shop", "waiting", says("NamespaceContentRemaining", "pods. has 1 resource instances")).await;
    assert!(pods.get("p").await.unwrap().metadata.deletion_timestamp.is_some(), "the pod ends gracefully");
    assert!(maps.get("held").await.unwrap().metadata.deletion_timestamp.is_none());
    assert!(accounts.get("default").await.is_ok());
    let _kubelet = kubelet(bench.acme.clone());
    until_gone(&pods, "p").await;
    until_gone(&accounts, "default").await;
    until(&namespaces, "shop", "held", says("NamespaceFinalizersRemaining", "example.com/hold in 1")).await;
    merge(&maps, "held", json!({"metadata": {"finalizers": null}})).await;
    until_gone(&namespaces, "shop").await;
    until_gone(&maps, "held").await;
}

/// The keys of the whole store that are a tenant's, or whose values know of it.
async fn left_of(bench: &Bench, tenant: &str) -> Vec<String> {
    let everything = Prefix::everything(&AllTenants::grant());
    let all = bench.store.range(&everything, RangeOptions::default()).await.unwrap().entries;
    let of = all
        .into_iter()
        .filter(|entry| entry.key.as_str().contains(tenant) || String::from_utf8_lossy(&entry.value).contains(tenant));
    of.map(|entry| entry.key.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_is_deleted_leaves_nothing() {
    let bench = bench().await;
    let projects: Api<Project> = Api::all(bench.system.clone());
    for (tenant, client) in [(ACME, &bench.acme), (GLOBEX, &bench.globex)] {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        make(&namespaces, json!({"metadata": {"name": "shop"}})).await;
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "shop");
        // Nobody is left to take these finalizers away.
        let held =
            |name: &str| json!({"name": name, "finalizers": ["example.com/hold", "kubernetes.io/pv-protection"]});
        make(&maps, json!({"metadata": held("held")})).await;
        let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
        let roles: Api<ClusterRole> = Api::all(client.clone());
        make(&roles, json!({"metadata": {"name": "role", "finalizers": ["example.com/hold"]}, "rules": rules})).await;
        let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "role"});
        make(&bindings, json!({"metadata": {"name": "binding"}, "roleRef": role})).await;
        let volumes: Api<PersistentVolume> = Api::all(client.clone());
        let source = json!({"driver": "elsewhere.example.com", "volumeHandle": "v"});
        let spec = json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "csi": source});
        make(&volumes, json!({"metadata": {"name": "volume"}, "spec": spec})).await;
        let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        define(client, definition("widgets", "Widget", any)).await;
        let mut held = widget("held", json!({}));
        held.metadata.finalizers = Some(vec!["example.com/hold".into()]);
        widgets(client).create(&PostParams::default(), &held).await.unwrap();
        // Its authority is made with its first token.
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
        let request = TokenRequest::default();
        accounts.create_token_request("default", &PostParams::default(), &request).await.unwrap();
        let project = projects.get(tenant).await.unwrap();
        let name = format!("certificate-{}", &tenant[..8]);
        let spec = json!({"certificate": &tenant[..8], "chargedTo": tenant, "issuedBefore": "", "expiresAt": ""});
        let revocation = json!({
            "apiVersion": "identity.hypernetes.io/v1alpha1", "kind": "TokenRevocation", "spec": spec,
            "metadata": {"name": name, "ownerReferences": [project.controller_owner_ref(&()).unwrap()]},
        });
        make(&Api::<TokenRevocation>::all(bench.system.clone()), revocation).await;
    }
    let authority = |tenant: &str| format!("//secrets/system/hypernetes-identity/authority-{tenant}");
    assert!(left_of(&bench, ACME).await.contains(&authority(ACME)));
    // As the network service does, of which there is none here.
    let (networks, subnets): (Api<Network>, Api<Subnet>) = (Api::all(bench.acme.clone()), Api::all(bench.acme.clone()));
    until(&networks, "default", "made", |_| true).await;
    until(&subnets, "default", "made", |_| true).await;
    merge(&networks, "default", json!({"metadata": {"finalizers": null}})).await;
    merge(&subnets, "default", json!({"metadata": {"finalizers": null}})).await;
    projects.delete(ACME, &DeleteParams::default()).await.unwrap();
    let mut left = Vec::new();
    for _ in 0..3000 {
        left = left_of(&bench, ACME).await;
        if left.is_empty() {
            let other = left_of(&bench, GLOBEX).await;
            for kept in ["clusterroles", "configmaps", "persistentvolumes", "tokenrevocations", "networks"] {
                assert!(other.iter().any(|key| key.contains(kept)), "{kept}: {other:?}");
            }
            assert!(other.contains(&authority(GLOBEX)));
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("there is left: {left:#?}");
}
