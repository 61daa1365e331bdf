//! Whatever one tenant's objects say, the controller neither panics nor ends, and the other tenant's pods have ports.

use hypernetes_runtime::{Mishap, mishaps};
use hypernetes_testing::hostile::{self, Kind};

use super::*;

/// Of each kind and in each round.
const OBJECTS: usize = 40;
const ROUNDS: usize = 3;

fn kinds() -> Vec<Kind> {
    let group = "network.hypernetes.io";
    let pod = json!({"namespace": "default", "name": "p0", "uid": "pods-0"});
    let port = json!({
        "spec": {"network": "n0", "fixedIps": [{"subnet": "s0", "ipAddress": "10.0.0.5"}],
            "macAddress": "fa:16:3e:f4:00:05", "deviceOwner": "hypernetes:pod", "deviceId": "pods-0", "pod": pod},
        "status": {"phase": "Active", "host": "n1", "segmentId": 3},
    });
    let subnet = json!({"spec": {"network": "n0", "cidr": "10.0.0.0/8", "gateway": "10.0.0.1",
        "allocationPools": [{"start": "10.0.0.2", "end": "10.255.255.254"}], "dnsNameservers": ["10.0.0.1"]}});
    let network = json!({"spec": {"description": "n", "mtu": 1450}, "status": {"phase": "Active", "segmentId": 1}});
    let pods = json!({"spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Pending", "podIP": "10.0.0.5"}});
    vec![
        Kind { group, plural: "networks", kind: "Network", namespaced: false, good: network },
        Kind { group, plural: "subnets", kind: "Subnet", namespaced: false, good: subnet },
        Kind { group, plural: "ports", kind: "Port", namespaced: false, good: port },
        Kind { group: "", plural: "pods", kind: "Pod", namespaced: true, good: pods },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_one_tenants_objects_say_the_others_pods_have_ports() {
    let mut random = hostile::seed();
    let cloud = Cloud::new().await;
    for round in 0..ROUNDS {
        hostile::attack(&mut random, &cloud.store, &id(ACME), &kinds(), OBJECTS).await;
        let pod = cloud.pod(GLOBEX, &format!("p{round}")).await;
        cloud.port_of(GLOBEX, &pod).await;
        let name = format!("n{round}");
        cloud.make::<Network>(GLOBEX, json!({"metadata": {"name": name}, "spec": {}})).await;
        let active = || async {
            let status = cloud.api::<Network>(GLOBEX).get(&name).await.unwrap().status?;
            (status.phase == "Active").then_some(())
        };
        eventually(active).await;
    }
    assert_eq!((mishaps(Mishap::Panicked), mishaps(Mishap::TooLong)), (0, 0), "of which each is caught, and a bug");
    assert!(hypernetes_client::unreadable_objects() > 0, "nothing of all this was of no form");
    assert!(!cloud.service.background.iter().any(tokio::task::JoinHandle::is_finished), "it has ended");
}
