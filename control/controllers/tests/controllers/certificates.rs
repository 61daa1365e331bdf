//! Certificate signing requests: what is approved of by itself, what is signed by whom, and what goes; and bootstrap tokens.

use base64::{Engine, engine::general_purpose::STANDARD};
use hypernetes_api::{TenantId, auth::UserInfo};
use hypernetes_apiserver::authentication::{Certificate, certificate};
use hypernetes_certificates::{cluster_info, issue, pem, request};
use hypernetes_testing::{
    requests::user,
    server::{ACME, GLOBEX, make},
    wait::{until, until_gone},
};
use k8s_openapi::api::{
    certificates::v1::CertificateSigningRequest as Request,
    core::v1::{ConfigMap, Node, Secret},
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::common::{Bench, bench};

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING: &str = "kubernetes.io/kubelet-serving";

fn asked(called: &str, signer: &str, name: &str, group: &str, dns: &[&str]) -> Value {
    let (_, request) = request::make(name, group, dns, &[]).unwrap();
    let purpose = if signer == SERVING { "server auth" } else { "client auth" };
    json!({"metadata": {"name": called}, "spec": {"request": STANDARD.encode(request), "signerName": signer,
        "usages": ["digital signature", purpose], "expirationSeconds": 3600}})
}

async fn approve(requests: &Api<Request>, name: &str) {
    let approved =
        json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "Tested", "message": "m"}]}});
    requests.patch_subresource("approval", name, &PatchParams::default(), &Patch::Merge(approved)).await.unwrap();
}

fn has(request: &Request, kind: &str) -> bool {
    let conditions = request.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == kind)
}

fn issued(request: &Request) -> Option<Vec<u8>> {
    request.status.as_ref()?.certificate.as_ref().map(|bytes| bytes.0.clone())
}

/// Who the owner of the certificate is that came of a request.
async fn owner(requests: &Api<Request>, name: &str) -> Certificate {
    let request = until(requests, name, "issued", |request| issued(request).is_some()).await;
    certificate(&pem::blocks(&issued(&request).unwrap()).next().unwrap().content).unwrap()
}

fn node(name: &str) -> UserInfo {
    user(&format!("system:node:{name}"), &["system:nodes"], "system")
}

fn bootstrapper() -> UserInfo {
    user("system:bootstrap:abcdef", &["system:bootstrappers"], "system")
}

async fn system_bench() -> Bench {
    let bench = bench().await;
    bench.authority();
    bench
}

#[tokio::test]
async fn a_tenants_user_is_signed_by_the_tenants_own_authority() {
    let bench = bench().await;
    for (client, tenant) in [(&bench.acme, ACME), (&bench.globex, GLOBEX)] {
        let requests: Api<Request> = Api::all(client.clone());
        make(&requests, asked("ann", CLIENT, "ann", "dev", &[])).await;
        approve(&requests, "ann").await;
        let owner = owner(&requests, "ann").await;
        assert_eq!((owner.user.tenant.as_str(), owner.user.name.as_str()), (tenant, "ann"));
        assert_eq!(owner.user.groups, ["dev", "system:authenticated"]);
        let held = bench.server.authorities().stand_by(&owner).await.unwrap();
        assert!(held, "the certificate is of the authority that the tenant has");
    }
    let requests: Api<Request> = Api::all(bench.acme.clone());
    let request = requests.get("ann").await.unwrap();
    let (from, until_) = issue::validity(&issued(&request).unwrap()).unwrap();
    // An hour was asked for; clocks may be five minutes behind.
    assert_eq!(until_.as_second() - from.as_second(), 3900);
    // No cluster but the operator's has nodes, whoever approves.
    make(&requests, asked("node", KUBELET, "system:node:n1", "system:nodes", &[])).await;
    approve(&requests, "node").await;
    let refused = until(&requests, "node", "refused", |request| has(request, "Failed")).await;
    assert!(issued(&refused).is_none());
    // What is another's to sign, and what is not approved of, is left alone.
    make(&requests, asked("other", "example.com/x", "ann", "dev", &[])).await;
    make(&requests, asked("pending", CLIENT, "ann", "dev", &[])).await;
    approve(&requests, "other").await;
    make(&requests, asked("last", CLIENT, "ann", "dev", &[])).await;
    approve(&requests, "last").await;
    owner(&requests, "last").await;
    for name in ["other", "pending"] {
        let request = requests.get(name).await.unwrap();
        assert!(issued(&request).is_none() && !has(&request, "Failed"), "{name}");
    }
}

#[tokio::test]
async fn a_node_comes_by_a_token_and_stays_by_itself() {
    let bench = system_bench().await;
    let all: Api<Request> = Api::all(bench.system.clone());
    let (token, n1): (Api<Request>, Api<Request>) =
        (Api::all(bench.client_as(bootstrapper())), Api::all(bench.client_as(node("n1"))));
    make(&token, asked("first", KUBELET, "system:node:n1", "system:nodes", &[])).await;
    let owner_ = owner(&all, "first").await;
    assert_eq!((owner_.user.name.as_str(), owner_.user.tenant.is_system()), ("system:node:n1", true));
    assert_eq!(owner_.user.groups, ["system:nodes", "system:authenticated"]);
    // Its serving certificate waits until its Node says where it is.
    make(&n1, asked("serving", SERVING, "system:node:n1", "system:nodes", &["n1", "host-1"])).await;
    make(&n1, asked("again", KUBELET, "system:node:n1", "system:nodes", &[])).await;
    assert_eq!(owner(&all, "again").await.user.name, "system:node:n1");
    assert!(issued(&all.get("serving").await.unwrap()).is_none());
    let nodes: Api<Node> = Api::all(bench.system.clone());
    make(&nodes, json!({"metadata": {"name": "n1"}})).await;
    let addresses = json!({"status": {"addresses": [{"type": "Hostname", "address": "host-1"}]}});
    nodes.patch_status("n1", &PatchParams::default(), &Patch::Merge(addresses)).await.unwrap();
    until(&all, "serving", "issued", |request| issued(request).is_some()).await;
    // Names that are not its own are nobody's to give by themselves, nor is the name of a node that there is.
    make(&n1, asked("others", SERVING, "system:node:n1", "system:nodes", &["n1", "n2"])).await;
    make(&token, asked("taken", KUBELET, "system:node:n1", "system:nodes", &[])).await;
    make(&token, asked("new", KUBELET, "system:node:n2", "system:nodes", &[])).await;
    owner(&all, "new").await;
    for name in ["others", "taken"] {
        assert!(!has(&all.get(name).await.unwrap(), "Approved"), "{name}");
    }
    // The operator may.
    approve(&all, "taken").await;
    owner(&all, "taken").await;
    // What is not a node's is not signed as one's.
    let mut odd = asked("odd", KUBELET, "system:node:n3", "system:nodes", &[]);
    odd["spec"]["usages"] = json!(["client auth", "server auth"]);
    make(&all, odd).await;
    approve(&all, "odd").await;
    until(&all, "odd", "refused", |request| has(request, "Failed")).await;
}

#[tokio::test]
async fn what_has_served_goes() {
    let bench = system_bench().await;
    let requests: Api<Request> = Api::all(bench.system.clone());
    make(&requests, asked("old", CLIENT, "ann", "dev", &[])).await;
    make(&requests, asked("young", CLIENT, "ann", "dev", &[])).await;
    let denied = |at: &str| {
        json!({"status": {"conditions": [{"type": "Denied", "status": "True", "reason": "Tested", "message": "m",
            "lastUpdateTime": at}]}})
    };
    let now = jiff::Timestamp::now().to_string();
    for (name, at) in [("young", now.as_str()), ("old", "2026-01-01T00:00:00Z")] {
        let patch = Patch::Merge(denied(at));
        requests.patch_subresource("approval", name, &PatchParams::default(), &patch).await.unwrap();
    }
    until_gone(&requests, "old").await;
    requests.get("young").await.unwrap();
}

#[tokio::test]
async fn a_token_whose_time_is_over_goes() {
    let bench = bench().await;
    let secret = |id: &str, until: &str| {
        json!({"metadata": {"name": format!("bootstrap-token-{id}")}, "type": "bootstrap.kubernetes.io/token",
            "stringData": {"token-id": id, "token-secret": "0123456789abcdef", "expiration": until}})
    };
    let of = |client: &kube::Client| -> Api<Secret> { Api::namespaced(client.clone(), "kube-system") };
    let (past, future) = ("2026-01-01T00:00:00Z", "9999-01-01T00:00:00Z");
    until::<k8s_openapi::api::core::v1::Namespace>(&bench.api(TenantId::SYSTEM), "kube-system", "made", |_| true).await;
    // In a tenant's cluster it is a secret like any other.
    make(&of(&bench.acme), secret("tenant", past)).await;
    make(&of(&bench.system), secret("future", future)).await;
    make(&of(&bench.system), secret("passed", past)).await;
    until_gone(&of(&bench.system), "bootstrap-token-passed").await;
    of(&bench.system).get("bootstrap-token-future").await.unwrap();
    of(&bench.acme).get("bootstrap-token-tenant").await.unwrap();
    // One whose time is cut short goes then.
    let patch = Patch::Merge(json!({"stringData": {"expiration": past}}));
    of(&bench.system).patch("bootstrap-token-future", &PatchParams::default(), &patch).await.unwrap();
    until_gone(&of(&bench.system), "bootstrap-token-future").await;
}

#[tokio::test]
async fn what_anybody_may_know_of_the_server_is_signed_by_every_token_for_that() {
    let bench = bench().await;
    let secret = |id: &str, signing: &str| {
        json!({"metadata": {"name": format!("bootstrap-token-{id}")}, "type": "bootstrap.kubernetes.io/token",
            "stringData": {"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-signing": signing}})
    };
    let tokens = |client: &kube::Client| -> Api<Secret> { Api::namespaced(client.clone(), "kube-system") };
    for (client, id, signing) in
        [(&bench.system, "abcdef", "true"), (&bench.system, "noabcd", "false"), (&bench.acme, "tenant", "true")]
    {
        make(&tokens(client), secret(id, signing)).await;
    }
    let maps: Api<ConfigMap> = Api::namespaced(bench.system.clone(), cluster_info::NAMESPACE);
    let entry = |map: &ConfigMap, name: &str| map.data.as_ref().and_then(|data| data.get(name).cloned());
    let signature = |id: &str| format!("{}{id}", cluster_info::SIGNATURE);
    let signed = |map: &ConfigMap, id: &str| {
        let text = entry(map, cluster_info::KUBECONFIG).unwrap_or_default();
        entry(map, &signature(id)).is_some_and(|tag| cluster_info::is_signed(&text, &tag, id, "0123456789abcdef"))
    };
    let map = until(&maps, cluster_info::NAME, "signed", |map| signed(map, "abcdef")).await;
    assert_eq!(map.data.as_ref().unwrap().len(), 2, "{map:?}");
    let text = entry(&map, cluster_info::KUBECONFIG).unwrap();
    let authority = STANDARD.encode("PEM");
    assert!(text.contains("server: https://192.0.2.1:6443") && text.contains(&authority), "{text}");
    // What somebody else writes there is signed by nobody; and a token that is gone signs nothing.
    let forged = json!({"data": {cluster_info::KUBECONFIG: "another", (signature("tenant")): "x"}});
    maps.patch(cluster_info::NAME, &PatchParams::default(), &Patch::Merge(forged)).await.unwrap();
    until(&maps, cluster_info::NAME, "put back", |map| {
        entry(map, cluster_info::KUBECONFIG) == Some(text.clone()) && entry(map, &signature("tenant")).is_none()
    })
    .await;
    tokens(&bench.system).delete("bootstrap-token-abcdef", &Default::default()).await.unwrap();
    until(&maps, cluster_info::NAME, "signed by nobody", |map| entry(map, &signature("abcdef")).is_none()).await;
    let elsewhere: Api<ConfigMap> = Api::namespaced(bench.acme.clone(), cluster_info::NAMESPACE);
    assert!(elsewhere.get_opt(cluster_info::NAME).await.unwrap().is_none());
}
