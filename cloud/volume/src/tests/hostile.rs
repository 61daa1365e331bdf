//! Whatever one tenant's objects say, the controller neither panics nor ends, and the other tenant's volumes are made.

use hypernetes_runtime::{Mishap, mishaps};
use hypernetes_testing::hostile::{self, Kind};

use super::*;

/// Of each kind and in each round.
const OBJECTS: usize = 40;
const ROUNDS: usize = 3;

fn kinds() -> Vec<Kind> {
    let group = "volume.hypernetes.io";
    let pod = json!({"namespace": "default", "name": "p0", "uid": "pods-0"});
    let claim = json!({"namespace": "default", "name": "p0", "uid": "persistentvolumeclaims-0"});
    let volume = json!({
        "spec": {"displayName": "v", "sizeBytes": 1 << 30, "volumeType": "standard", "claim": claim},
        "status": {"phase": "Available", "sizeBytes": 1 << 30, "driver": "file"},
    });
    let attachment = json!({"spec": {"volume": "v0", "node": "n1", "pod": pod, "readOnly": false},
        "status": {"phase": "Attached"}});
    vec![
        Kind { group, plural: "volumes", kind: "Volume", namespaced: false, good: volume },
        Kind { group, plural: "attachments", kind: "Attachment", namespaced: false, good: attachment },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_one_tenants_objects_say_the_others_volumes_are_made() {
    let mut random = hostile::seed();
    let cloud = Cloud::new().await;
    cloud.class().await;
    for round in 0..ROUNDS {
        hostile::attack(&mut random, &cloud.store, &id(ACME), &kinds(), OBJECTS).await;
        let name = format!("v{round}");
        let spec = json!({"sizeBytes": 1 << 20, "volumeType": "standard"});
        cloud.make::<Volume>(GLOBEX, json!({"metadata": {"name": name}, "spec": spec})).await;
        let available = || async {
            let status = cloud.api::<Volume>(GLOBEX).get(&name).await.unwrap().status?;
            (status.phase == "Available").then_some(())
        };
        eventually(available).await;
        cloud.attach(GLOBEX, &name).await;
        let attached = || async {
            let attachment = cloud.api::<Attachment>(GLOBEX).get(&name).await.unwrap();
            attachment.status.is_some_and(|status| status.phase == "Attached").then_some(())
        };
        eventually(attached).await;
    }
    assert_eq!((mishaps(Mishap::Panicked), mishaps(Mishap::TooLong)), (0, 0), "of which each is caught, and a bug");
    assert!(hypernetes_client::unreadable_objects() > 0, "nothing of all this was of no form");
    assert!(!cloud.service.acting.as_ref().unwrap().is_finished(), "it has ended");
}
