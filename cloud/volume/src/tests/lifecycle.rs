//! What the controller makes of the objects.

use kube::api::{Patch, PatchParams};

use super::*;

async fn phase(cloud: &Cloud, name: &str) -> Option<String> {
    Some(cloud.api::<Volume>(ACME).get_opt(name).await.unwrap()?.status?.phase)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_in_use_is_not_deleted() {
    let cloud = Cloud::new().await;
    let volume = cloud.create(json!({"name": "v", "size": 1})).await;
    let path = format!("/volumes/{}", volume["id"].as_str().unwrap());
    cloud.with_status(READER, &volume["id"], "available").await;
    cloud.attach(ACME, "v").await;
    let attached = || async {
        let attachment = cloud.api::<Attachment>(ACME).get("v").await.unwrap();
        attachment.status.is_some_and(|status| status.phase == "Attached").then_some(())
    };
    eventually(attached).await;
    let shown = cloud.get(READER, &path).await.ok()["volume"].clone();
    assert_eq!(shown["status"], "in-use", "who sees the attachment attached sees the volume in use");
    let attachment = &shown["attachments"][0];
    assert_eq!((&attachment["server_id"], &attachment["host_name"]), (&json!("pod-uid"), &json!("n1")));
    let message = cloud.delete(MEMBER, &path).await.refused(400, "badRequest");
    assert!(message.contains("in-use"), "{message}");

    // Deleted past the façade, its data stays until nobody uses it.
    cloud.api::<Volume>(ACME).delete("v", &DeleteParams::default()).await.unwrap();
    cloud.with_status(READER, &volume["id"], "deleting").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(cloud.files(ACME).len(), 1);
    cloud.detach(ACME, "v").await;
    eventually(|| async { phase(&cloud, "v").await.is_none().then_some(()) }).await;
    assert!(cloud.files(ACME).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_is_free_again_after_its_use() {
    let cloud = Cloud::new().await;
    let volume = cloud.create(json!({"name": "v", "size": 1})).await;
    for _ in 0..2 {
        cloud.with_status(READER, &volume["id"], "available").await;
        cloud.attach(ACME, "v").await;
        cloud.with_status(READER, &volume["id"], "in-use").await;
        cloud.detach(ACME, "v").await;
    }
    let shown = cloud.with_status(READER, &volume["id"], "available").await;
    assert_eq!(shown["attachments"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_made_past_the_facade_are_held_to_the_limits() {
    let cloud = Cloud::empty(|config| VolumesConfig { max_bytes: 2 * GIB, ..config });
    cloud.tenant(ACME).await;
    for (name, size) in [("none", 0), ("huge", 3 * GIB), ("fits", 2 * GIB)] {
        cloud.make::<Volume>(ACME, json!({"metadata": {"name": name}, "spec": {"sizeBytes": size}})).await;
    }
    eventually(|| async { (phase(&cloud, "fits").await? == "Available").then_some(()) }).await;
    for name in ["none", "huge"] {
        eventually(|| async { (phase(&cloud, name).await? == "Error").then_some(()) }).await;
        let status = cloud.api::<Volume>(ACME).get(name).await.unwrap().status.unwrap();
        assert!(!status.message.is_empty() && !status.message.contains('/'), "{status:?}");
        // An attachment of it does not become one.
        cloud.attach(ACME, name).await;
    }
    assert_eq!(cloud.files(ACME).len(), 1);
    let body = json!({"volume": {"size": 3}});
    assert!(cloud.call(MEMBER, "POST", "/volumes", body).await.refused(400, "badRequest").contains("2 GiB"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    for name in ["none", "huge"] {
        let status = cloud.api::<Attachment>(ACME).get(name).await.unwrap().status.unwrap_or_default();
        assert_eq!(status.phase, "");
        cloud.detach(ACME, name).await;
        cloud.api::<Volume>(ACME).delete(name, &DeleteParams::default()).await.unwrap();
        eventually(|| async { phase(&cloud, name).await.is_none().then_some(()) }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_size_that_is_changed_later_changes_nothing() {
    let cloud = Cloud::new().await;
    cloud.make::<Volume>(ACME, json!({"metadata": {"name": "v"}, "spec": {"sizeBytes": GIB}})).await;
    eventually(|| async { (phase(&cloud, "v").await? == "Available").then_some(()) }).await;
    let patch = Patch::Merge(json!({"spec": {"sizeBytes": 5 * GIB}}));
    cloud.api::<Volume>(ACME).patch("v", &PatchParams::default(), &patch).await.unwrap();
    cloud.attach(ACME, "v").await;
    eventually(|| async { (phase(&cloud, "v").await? == "InUse").then_some(()) }).await;
    assert_eq!(std::fs::metadata(&cloud.files(ACME)[0]).unwrap().len(), GIB);
    assert_eq!(cloud.api::<Volume>(ACME).get("v").await.unwrap().status.unwrap().size_bytes, GIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_with_equal_names_have_their_own_bytes() {
    let mut cloud = Cloud::new().await;
    for tenant in [ACME, GLOBEX] {
        cloud.make::<Volume>(tenant, json!({"metadata": {"name": "v"}, "spec": {"sizeBytes": GIB}})).await;
    }
    eventually(|| async { (cloud.files(ACME).len() == 1 && cloud.files(GLOBEX).len() == 1).then_some(()) }).await;
    eventually(|| async { (phase(&cloud, "v").await? == "Available").then_some(()) }).await;
    // What is asked for while the service is away is done when it comes back.
    cloud.service.acting.as_ref().unwrap().abort();
    cloud.api::<Volume>(GLOBEX).delete("v", &DeleteParams::default()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(cloud.files(GLOBEX).len(), 1);
    cloud.restart();
    eventually(|| async { cloud.files(GLOBEX).is_empty().then_some(()) }).await;
    assert_eq!((cloud.files(ACME).len(), phase(&cloud, "v").await.as_deref()), (1, Some("Available")));
}
