//! What does not go as it should: the driver dies, the volume service is away, things vanish.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_that_dies_in_the_middle_goes_on_or_goes_back() {
    let mut host = Host::new().await;
    for name in ["on", "back"] {
        host.volume(ACME, name).await;
    }
    // Without the service nothing becomes attached, and calls wait until the driver dies.
    host.volumes = None;
    for name in ["on", "back"] {
        let (socket, request) = (host.path("csi.sock"), host.request(ACME, name, name));
        let waiting = tokio::spawn(async move { client(&socket).await.node_publish_volume(request).await });
        eventually(|| host.attachment(ACME, name)).await;
        host.restart();
        let status = waiting.await.unwrap().unwrap_err();
        assert_ne!(status.code(), Code::DeadlineExceeded, "the driver has died before: {status}");
        assert!(host.descriptor(name).is_none(), "not before it is attached");
    }
    host.unpublish("back", "back").await.unwrap();
    assert!(host.attachment(ACME, "back").await.is_none() && !host.target("back").exists());
    let first = host.attachment(ACME, "on").await.unwrap();
    host.serve_volumes();
    host.publish(ACME, "on", "on").await.unwrap();
    assert_eq!(host.attachment(ACME, "on").await.unwrap().metadata.uid, first.metadata.uid);
    assert!(host.descriptor("on").is_some());

    // Published is published, and what a new driver did not do it can undo.
    host.restart();
    host.publish(ACME, "on", "on").await.unwrap();
    host.restart();
    host.unpublish("on", "on").await.unwrap();
    assert!(host.attachment(ACME, "on").await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_half_of_giving_back_can_be_repeated() {
    let host = Host::new().await;
    host.volume(ACME, "data").await;
    // After the descriptor's end; after the attachment's; after the record's.
    for step in 0..3 {
        host.publish(ACME, "data", "web").await.unwrap();
        fs::remove_file(host.target("web").join(names::VOLUME_DESCRIPTOR)).unwrap();
        if step > 0 {
            host.api::<Attachment>(ACME).delete("data", &DeleteParams::default()).await.unwrap();
        }
        if step > 1 {
            fs::remove_file(host.target("web").join("attachment.hypernetes.json")).unwrap();
        }
        host.unpublish("data", "web").await.unwrap();
        assert!(host.attachment(ACME, "data").await.is_none() && !host.target("web").exists(), "{step}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_service_is_waited_for() {
    let mut host = Host::new().await;
    host.volume(ACME, "data").await;
    host.volumes = None;
    let message = refused(host.publish(ACME, "data", "web").await, Code::DeadlineExceeded);
    assert!(message.contains("data"), "{message}");
    let request = host.request(ACME, "data", "web");
    let socket = host.path("csi.sock");
    let waiting = tokio::spawn(async move { client(&socket).await.node_publish_volume(request).await });
    // While one call works on the target, a second one is told so.
    tokio::time::sleep(Duration::from_millis(100)).await;
    refused(host.publish(ACME, "data", "web").await, Code::Aborted);
    refused(host.unpublish("data", "web").await, Code::Aborted);
    host.serve_volumes();
    waiting.await.unwrap().unwrap();
    assert!(host.descriptor("web").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_will_never_be_attached_holds_nothing_up() {
    let mut host = Host::new().await;
    host.volume(ACME, "data").await;
    host.volumes = None;
    refused(host.publish(ACME, "data", "web").await, Code::DeadlineExceeded);
    host.api::<Volume>(ACME).delete("data", &DeleteParams::default()).await.unwrap();
    let message = refused(host.publish(ACME, "data", "web").await, Code::Unavailable);
    assert!(message.contains("being deleted"), "{message}");
    assert!(host.attachment(ACME, "data").await.is_none());
    host.serve_volumes();
    eventually(|| async { host.api::<Volume>(ACME).get_opt("data").await.unwrap().is_none().then_some(()) }).await;
    refused(host.publish(ACME, "data", "web").await, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_in_use_that_is_being_deleted_stays_the_pods() {
    let mut host = Host::new().await;
    host.volume(ACME, "data").await;
    host.publish(ACME, "data", "web").await.unwrap();
    host.api::<Volume>(ACME).delete("data", &DeleteParams::default()).await.unwrap();
    host.restart();
    host.publish(ACME, "data", "web").await.unwrap();
    let volume = host.descriptor("web").unwrap()["volume"].as_str().unwrap().to_owned();
    let path = host.path("volumes").join(ACME).join(format!("{volume}.raw"));
    assert!(Path::new(&path).exists());
    refused(host.publish(ACME, "data", "other").await, Code::FailedPrecondition);
    host.unpublish("data", "web").await.unwrap();
    eventually(|| async { (!Path::new(&path).exists()).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_failed_is_not_attached() {
    let host = Host::new().await;
    let spec = VolumeSpec { size_bytes: 0, ..VolumeSpec::default() };
    host.api(ACME).create(&PostParams::default(), &Volume::new("none", spec)).await.unwrap();
    host.volume_in(ACME, "none", "Error").await;
    let message = refused(host.publish(ACME, "none", "web").await, Code::Unavailable);
    assert!(message.contains("Error"), "{message}");
    assert!(host.attachment(ACME, "none").await.is_none());
}
