//! Two servers over one API server, of which both give addresses and segments: also where both believe that they hold the
//! lease, the API server lets each have what nobody has.

use std::collections::BTreeSet;

use futures::future::join_all;
use hypernetes_api::ResourceId;
use hypernetes_runtime::Term;
use hypernetes_store::{Op, Prefix, Txn};
use hypernetes_testing::{server::make, wait::until};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use tokio_util::sync::CancellationToken;

use super::*;

const MEMBER: &str = "member@0123456789abcdef0123456789abcdef";

/// How many entries the store has of what is unique of a resource.
async fn entries(cloud: &Cloud, plural: &str) -> usize {
    let all = Prefix::all_tenants(&ResourceId::new("network.hypernetes.io", plural), &AllTenants::grant());
    cloud.store.range(&all, Default::default()).await.unwrap().entries.len()
}

fn status(error: kube::Error) -> kube::core::Status {
    match error {
        kube::Error::Api(status) => *status,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_address_is_given_twice_and_none_is_lost() {
    let cloud = Cloud::new().await;
    let other = start(&cloud.clients);
    // Nearly as many as there are.
    let spec = SubnetSpec { network: "small".into(), cidr: "10.1.0.0/24".into(), ..SubnetSpec::default() };
    make(&cloud.api::<Network>(ACME), json!({"metadata": {"name": "small"}, "spec": {}})).await;
    cloud.api::<Subnet>(ACME).create(&PostParams::default(), &Subnet::new("small", spec)).await.unwrap();
    let network = cloud.id_of(MEMBER, "networks", "small").await;
    let annotation = json!({hypernetes_api::names::NETWORK_ANNOTATION: "small"});
    let spec = json!({"containers": [{"name": "c", "image": "i"}], "automountServiceAccountToken": false});
    let pods = cloud.pods(ACME);
    let make_pods = (0..120).map(|number| {
        let pod = json!({"metadata": {"name": format!("p{number}"), "annotations": annotation}, "spec": spec});
        make(&pods, pod)
    });
    let make_ports = (0..120).map(|number| {
        let router = if number % 2 == 0 { cloud.service.router() } else { other.router() };
        let (body, network) = (json!({"port": {"network_id": network}}), &network);
        async move {
            let port = send(router, MEMBER, "POST", "/networking/v2.0/ports", text(&body)).await.ok();
            assert_eq!(port["port"]["network_id"], **network);
            port["port"]["fixed_ips"][0]["ip_address"].as_str().unwrap().to_owned()
        }
    });
    let (pods_made, answered) = tokio::join!(join_all(make_pods), join_all(make_ports));
    let mut given: Vec<String> = Vec::new();
    for pod in &pods_made {
        given.push(ip(&cloud.port_of(ACME, pod).await).to_owned());
    }
    given.extend(answered);
    assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 240, "{given:?}");
    let ports = cloud.api::<Port>(ACME);
    let stored = ports.list(&ListParams::default()).await.unwrap().items;
    let addresses: BTreeSet<&str> = stored.iter().map(ip).collect();
    let macs: BTreeSet<&str> = stored.iter().map(|port| port.spec.mac_address.as_str()).collect();
    assert_eq!((stored.len(), addresses.len(), macs.len()), (240, 240, 240));
    assert_eq!((entries(&cloud, "ports.addresses").await, entries(&cloud, "ports.stations").await), (240, 240));

    // All goes, and all can be had again.
    pods.delete_collection(&DeleteParams::default().grace_period(0), &ListParams::default()).await.unwrap();
    join_all(stored.iter().filter(|port| port.spec.pod.is_none()).map(|port| {
        let (ports, name) = (&ports, port.name_any());
        async move { ports.delete(&name, &DeleteParams::default()).await.unwrap() }
    }))
    .await;
    eventually(|| async { (entries(&cloud, "ports.addresses").await == 0).then_some(()) }).await;
    let again = (0..250).map(|number| {
        let router = if number % 2 == 0 { cloud.service.router() } else { other.router() };
        let body = text(&json!({"port": {"network_id": network}}));
        async move { send(router, MEMBER, "POST", "/networking/v2.0/ports", body).await.ok() }
    });
    assert_eq!(join_all(again).await.len(), 250);
    assert_eq!(entries(&cloud, "ports.addresses").await, 250);
}

/// Of what was made, or went, a moment ago, also through another server or none, every server knows before it refuses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_server_has_just_done_is_known() {
    let cloud = Cloud::new().await;
    let other = start(&cloud.clients);
    let post = async |service: &Arc<NetworkService>, collection: &str, body: Value| {
        send(service.router(), MEMBER, "POST", &format!("/networking/v2.0/{collection}"), text(&body)).await.ok()
    };
    for round in 0..20 {
        let (one, two) = if round % 2 == 0 { (&cloud.service, &other) } else { (&other, &cloud.service) };
        let network = &post(one, "networks", json!({"network": {}})).await["network"]["id"];
        // Room for one port: the gateway has the other address.
        let subnet = json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.9.0.0/30"}});
        post(two, "subnets", subnet).await;
        let port = json!({"port": {"network_id": network}});
        let made = post(one, "ports", port.clone()).await;
        let path = format!("/networking/v2.0/ports/{}", made["port"]["id"].as_str().unwrap());
        assert_eq!(send(two.router(), MEMBER, "DELETE", &path, text(&Value::Null)).await.status, 204);
        post(one, "ports", port).await;
    }
}

/// What an earlier version stored without entries gets them, at the first start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_there_before_is_taken_too() {
    let cloud = Cloud::new().await;
    let object = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"network": "default",
        "macAddress": "fa:16:3e:00:00:01", "fixedIps": [{"ipAddress": "10.244.0.9"}]}})
    };
    make(&cloud.api::<Port>(ACME), object("a")).await;
    // At a start nobody else writes.
    until(&cloud.api::<Port>(ACME), "a", "accepted", crate::state::is_accepted).await;
    let all =
        |plural: &str| Prefix::all_tenants(&ResourceId::new("network.hypernetes.io", plural), &AllTenants::grant());
    for plural in ["ports.addresses", "ports.stations"] {
        for entry in cloud.store.range(&all(plural), Default::default()).await.unwrap().entries {
            let txn = Txn { guards: vec![], ops: vec![Op::Delete(entry.key.clone())] };
            cloud.store.commit(txn).await.unwrap();
        }
    }
    for _ in 0..2 {
        cloud.server.complete_store().await.unwrap();
        assert_eq!((entries(&cloud, "ports.addresses").await, entries(&cloud, "ports.stations").await), (1, 1));
    }
    let second: Port = serde_json::from_value(object("b")).unwrap();
    let refused = cloud.api::<Port>(ACME).create(&PostParams::default(), &second).await.unwrap_err();
    assert_eq!(status(refused).code, 422);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_segment_is_given_twice() {
    let cloud = Cloud::new().await;
    let _other = start(&cloud.clients);
    let networks = [ACME, GLOBEX].map(|tenant| cloud.api::<Network>(tenant));
    let all = (0..100).map(|number| {
        let object = json!({"metadata": {"name": format!("n{number}")}, "spec": {}});
        make(&networks[number % 2], object)
    });
    join_all(all).await;
    let mut segments = BTreeSet::new();
    for number in 0..100 {
        let name = format!("n{number}");
        let network = eventually(|| async {
            let network = networks[number % 2].get(&name).await.unwrap();
            network.status.clone().filter(|status| status.segment_id != 0)
        });
        segments.insert(network.await.segment_id);
    }
    assert_eq!(segments.len(), 100);
    // Two more are the tenants' own.
    eventually(|| async { (entries(&cloud, "networks.segments").await == 102).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_writes_what_another_has_is_refused() {
    let cloud = Cloud::new().await;
    let ports = cloud.api::<Port>(ACME);
    let port = |name: &str, ip: &str, mac: &str| {
        json!({"metadata": {"name": name}, "spec": {"network": "default", "macAddress": mac,
            "fixedIps": [{"ipAddress": ip}]}})
    };
    let (mac, other_mac) = ("fa:16:3e:00:00:01", "FA-16-3E-00-00-01");
    make(&ports, port("a", "10.244.0.9", mac)).await;
    for (ip, mac, field) in [
        ("10.244.0.9", "fa:16:3e:00:00:02", "spec.fixedIps[0].ipAddress"),
        ("10.244.0.10", other_mac, "spec.macAddress"),
    ] {
        let object: Port = serde_json::from_value(port("b", ip, mac)).unwrap();
        for dry_run in [true, false] {
            let posting = PostParams { dry_run, ..PostParams::default() };
            let refused = status(ports.create(&posting, &object).await.unwrap_err());
            let causes = refused.details.unwrap().causes;
            assert_eq!(
                (refused.code, causes[0].reason.as_str(), causes[0].field.as_str()),
                (422, "FieldValueDuplicate", field)
            );
        }
    }
    // On another network, and of another tenant, they are others.
    make(&cloud.api::<Network>(ACME), json!({"metadata": {"name": "second"}, "spec": {}})).await;
    let mut second = port("b", "10.244.0.9", mac);
    second["spec"]["network"] = json!("second");
    make(&ports, second).await;
    make(&cloud.api::<Port>(GLOBEX), port("a", "10.244.0.9", mac)).await;
    // What a change gives up is free, and what it takes is not.
    let patch = |ip: &str| Patch::Merge(json!({"spec": {"fixedIps": [{"ipAddress": ip}]}}));
    ports.patch("a", &PatchParams::default(), &patch("10.244.0.11")).await.unwrap();
    make(&ports, port("c", "10.244.0.9", "fa:16:3e:00:00:03")).await;
    assert_eq!(status(ports.patch("c", &PatchParams::default(), &patch("10.244.0.11")).await.unwrap_err()).code, 422);
    ports.delete("a", &DeleteParams::default()).await.unwrap();
    ports.patch("c", &PatchParams::default(), &patch("10.244.0.11")).await.unwrap();
}

/// Who rests forgets what it was about to give, and learns what the other one gave.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_goes_on_where_the_other_stopped() {
    let cloud = Cloud::empty();
    let config = || NetworkConfig::new("https://cloud.example:6443/");
    let servers =
        [0, 1].map(|_| NetworkService::follow(&cloud.clients, AllTenants::grant(), Arc::new(Tokens), config()));
    cloud.tenant(ACME).await;
    let mut addresses = BTreeSet::new();
    for round in 0..4 {
        let stop = CancellationToken::new();
        let acting = tokio::spawn(servers[round % 2].act(Term::alone(stop.clone())));
        for number in 0..10 {
            let pod = cloud.pod(ACME, &format!("p{round}-{number}")).await;
            addresses.insert(ip(&cloud.port_of(ACME, &pod).await).to_owned());
        }
        stop.cancel();
        acting.await.unwrap();
    }
    assert_eq!(addresses.len(), 40);
}
