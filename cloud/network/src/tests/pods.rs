//! Pods get ports.

use hypernetes_testing::server::make;
use k8s_openapi::api::core::v1::{Event, ServiceAccount};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};

use super::*;
use crate::address_book::POD_OWNER;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_gets_a_port_with_an_address_at_once() {
    let cloud = Cloud::new().await;
    let first = cloud.pod(ACME, "first").await;
    cloud.port_of(ACME, &first).await;
    let mut slowest = Duration::ZERO;
    for number in 3..13 {
        let started = std::time::Instant::now();
        let pod = cloud.pod(ACME, &format!("pod-{number}")).await;
        let port = cloud.port_of(ACME, &pod).await;
        slowest = slowest.max(started.elapsed());
        assert_eq!(ip(&port), format!("10.244.0.{number}"));
        assert_eq!(port.spec.mac_address, format!("fa:16:3e:f4:00:{number:02x}"));
    }
    eprintln!("slowest from pod to accepted port: {slowest:?}");
    let port = cloud.port_of(ACME, &first).await;
    assert_eq!((ip(&port), port.spec.device_owner.as_str()), ("10.244.0.2", POD_OWNER));
    assert_eq!(port.spec.fixed_ips[0].subnet, "default");
    assert_eq!(Some(&port.spec.device_id), first.metadata.uid.as_ref());
    let reference = port.spec.pod.as_ref().unwrap();
    assert_eq!((reference.namespace.as_str(), reference.name.as_str()), ("default", "first"));
    assert_eq!(port.owner_references()[0].kind, "Pod");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_have_the_same_addresses_and_segments_of_their_own() {
    let cloud = Cloud::new().await;
    for number in 2..5 {
        for tenant in [ACME, GLOBEX] {
            let pod = cloud.pod(tenant, &format!("p{number}")).await;
            assert_eq!(ip(&cloud.port_of(tenant, &pod).await), format!("10.244.0.{number}"));
        }
    }
    let segment = |tenant| {
        let cloud = &cloud;
        eventually(move || async move {
            let status = cloud.api::<Network>(tenant).get("default").await.unwrap().status?;
            (status.phase == "Active").then_some(status.segment_id)
        })
    };
    let (acme, globex) = (segment(ACME).await, segment(GLOBEX).await);
    assert!(acme != globex && acme > 0 && globex > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pods_at_once_have_addresses_of_their_own() {
    let cloud = Cloud::new().await;
    let names: Vec<String> = (0..60).map(|number| format!("p{number}")).collect();
    let pods = futures::future::join_all(names.iter().map(|name| cloud.pod(ACME, name))).await;
    let ports = futures::future::join_all(pods.iter().map(|pod| cloud.port_of(ACME, pod))).await;
    let mut ips: Vec<u32> = ports.iter().map(|p| ip(p).parse::<std::net::Ipv4Addr>().unwrap().to_bits()).collect();
    ips.sort_unstable();
    let first = std::net::Ipv4Addr::new(10, 244, 0, 2).to_bits();
    assert_eq!(ips, (first..first + 60).collect::<Vec<_>>(), "the lowest ones, each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_is_free_when_its_pod_is_gone_or_finished() {
    let mut cloud = Cloud::new().await;
    let (a, b) = (cloud.pod(ACME, "a").await, cloud.pod(ACME, "b").await);
    let (port_a, port_b) = (cloud.port_of(ACME, &a).await, cloud.port_of(ACME, &b).await);
    let gone = |name: String| {
        let cloud = &cloud;
        eventually(move || {
            let name = name.clone();
            async move { cloud.api::<Port>(ACME).get_opt(&name).await.unwrap().is_none().then_some(()) }
        })
    };
    let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    cloud.pods(ACME).delete("a", &at_once).await.unwrap();
    gone(port_a.name_any()).await;
    let c = cloud.pod(ACME, "c").await;
    assert_eq!(ip(&cloud.port_of(ACME, &c).await), ip(&port_a));
    let finished = json!({"status": {"phase": "Succeeded"}});
    cloud.pods(ACME).patch_status("b", &PatchParams::default(), &Patch::Merge(&finished)).await.unwrap();
    gone(port_b.name_any()).await;

    // A server that comes later keeps what is, and does what was left undone.
    let before = cloud.port_of(ACME, &c).await;
    cloud.service.background.iter().for_each(tokio::task::JoinHandle::abort);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let d = cloud.pod(ACME, "d").await;
    cloud.pods(ACME).delete("c", &at_once).await.unwrap();
    cloud.restart();
    let port_d = cloud.port_of(ACME, &d).await;
    assert_eq!((ip(&before), ip(&port_d)), ("10.244.0.2", "10.244.0.3"));
    let cloud = &cloud;
    eventually(|| async { cloud.api::<Port>(ACME).get_opt(&before.name_any()).await.unwrap().is_none().then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_port_knows_the_node() {
    let cloud = Cloud::new().await;
    let pod = cloud.pod(ACME, "a").await;
    cloud.port_of(ACME, &pod).await;
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "node-1"}});
    let pods = cloud.pods(ACME);
    pods.create_subresource::<Value, Value>("binding", "a", &PostParams::default(), &binding).await.unwrap();
    let (cloud, pod) = (&cloud, &pod);
    eventually(|| async {
        let host = cloud.port_of(ACME, pod).await.status?.host;
        (host == "node-1").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_names_its_network_and_an_unknown_one_is_told() {
    let cloud = Cloud::new().await;
    let annotations = json!({"network.hypernetes.io/network": "blue"});
    cloud.make::<Namespace>(ACME, json!({"metadata": {"name": "blue", "annotations": annotations}})).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(cloud.client(ACME), "blue");
    make(&accounts, json!({"metadata": {"name": "default"}})).await;
    let pods: Api<Pod> = Api::namespaced(cloud.client(ACME), "blue");
    let made = pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    let events: Api<Event> = Api::namespaced(cloud.client(ACME), "blue");
    let event =
        eventually(|| async { events.list(&ListParams::default()).await.unwrap().items.into_iter().next() }).await;
    assert_eq!((event.reason.as_deref(), event.type_.as_deref()), (Some("FailedCreatePort"), Some("Warning")));
    assert!(event.message.unwrap().contains("there is no network \"blue\""));
    assert_eq!(event.involved_object.uid, made.metadata.uid);

    cloud.make::<Network>(ACME, json!({"metadata": {"name": "blue"}, "spec": {}})).await;
    cloud
        .make::<Subnet>(ACME, json!({"metadata": {"name": "blue"}, "spec": {"network": "blue", "cidr": "10.9.0.0/24"}}))
        .await;
    let port = cloud.port_of(ACME, &made).await;
    assert_eq!((ip(&port), port.spec.network.as_str()), ("10.9.0.2", "blue"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_of_users_get_addresses_and_conflicts_are_told() {
    let cloud = Cloud::new().await;
    let want = |name: &str, ip: &str| json!({"metadata": {"name": name}, "spec": {"network": "default", "fixedIps": [{"ipAddress": ip}]}});
    cloud.make::<Port>(ACME, want("a", "10.244.0.9")).await;
    cloud.make::<Port>(ACME, json!({"metadata": {"name": "free"}, "spec": {"network": "default"}})).await;
    let accepted = |name: &'static str| {
        let cloud = &cloud;
        eventually(
            move || async move { cloud.api::<Port>(ACME).get(name).await.ok().filter(crate::state::is_accepted) },
        )
    };
    assert_eq!(ip(&accepted("a").await), "10.244.0.9");
    assert_eq!(ip(&accepted("free").await), "10.244.0.2");
    for (name, address, why) in [("c", "192.0.2.1", "not a usable address"), ("d", "nonsense", "not an IPv4 address")] {
        cloud.make::<Port>(ACME, want(name, address)).await;
        let events = cloud.in_default::<Event>(ACME);
        let event = eventually(|| async {
            let all = events.list(&ListParams::default()).await.unwrap().items;
            all.into_iter().find(|event| event.involved_object.name.as_deref() == Some(name))
        })
        .await;
        assert!(event.message.as_ref().unwrap().contains(why), "{:?}", event.message);
        let port = cloud.api::<Port>(ACME).get(name).await.unwrap();
        assert_eq!(port.status.unwrap_or_default().phase, "Build");
    }
    let b: Port = serde_json::from_value(want("b", "10.244.0.9")).unwrap();
    let refused = cloud.api::<Port>(ACME).create(&PostParams::default(), &b).await.unwrap_err().to_string();
    assert!(refused.contains("spec.fixedIps[0].ipAddress: Duplicate value: \"10.244.0.9\""), "{refused}");
    cloud.api::<Port>(ACME).delete("a", &DeleteParams::default()).await.unwrap();
    cloud.make::<Port>(ACME, want("b", "10.244.0.9")).await;
    assert_eq!(ip(&accepted("b").await), "10.244.0.9");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn networks_and_subnets_stay_while_they_are_used() {
    let cloud = Cloud::new().await;
    let pod = cloud.pod(ACME, "a").await;
    cloud.port_of(ACME, &pod).await;
    let (networks, subnets) = (cloud.api::<Network>(ACME), cloud.api::<Subnet>(ACME));
    let cloud = &cloud;
    let (networks, subnets) = (&networks, &subnets);
    eventually(|| async { (!subnets.get("default").await.unwrap().finalizers().is_empty()).then_some(()) }).await;
    subnets.delete("default", &DeleteParams::default()).await.unwrap();
    networks.delete("default", &DeleteParams::default()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(subnets.get("default").await.unwrap().metadata.deletion_timestamp.is_some());
    assert!(networks.get("default").await.unwrap().metadata.deletion_timestamp.is_some());
    let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    cloud.pods(ACME).delete("a", &at_once).await.unwrap();
    eventually(|| async {
        let gone =
            subnets.get_opt("default").await.unwrap().is_none() && networks.get_opt("default").await.unwrap().is_none();
        gone.then_some(())
    })
    .await;
}
