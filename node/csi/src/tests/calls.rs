//! What the calls do, and what they refuse.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::v1::{identity_client::IdentityClient, volume_capability};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_is_published_and_given_back() {
    let host = Host::new().await;
    let volume = host.volume(ACME, "data").await;
    host.publish(ACME, "data", "web").await.unwrap();
    let attachment = host.attachment(ACME, "data").await.unwrap();
    assert_eq!((attachment.spec.node.as_str(), attachment.spec.pod.uid.as_str()), ("n1", "web"));
    assert_eq!(attachment.status.unwrap().phase, "Attached");
    let descriptor = host.descriptor("web").unwrap();
    let path = host.path("volumes").join(ACME).join(format!("{}.raw", volume.uid().unwrap()));
    assert_eq!(fs::metadata(&path).unwrap().len(), GIB);
    let expected = json!({
        "version": 2, "engine": "file", "tenant": ACME, "volume": volume.uid(), "readOnly": false, "mode": "Filesystem",
    });
    assert_eq!(descriptor, expected);

    // The same again changes nothing.
    host.publish(ACME, "data", "web").await.unwrap();
    assert_eq!(host.descriptor("web").unwrap(), expected);
    assert_eq!(host.attachment(ACME, "data").await.unwrap().metadata.uid, attachment.metadata.uid);

    host.unpublish("data", "web").await.unwrap();
    assert!(!host.target("web").exists());
    assert!(host.attachment(ACME, "data").await.is_none());
    host.volume_in(ACME, "data", "Available").await;
    host.unpublish("data", "web").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_is_one_pods() {
    let host = Host::new().await;
    host.volume(ACME, "data").await;
    host.publish(ACME, "data", "web").await.unwrap();
    let message = refused(host.publish(ACME, "data", "other").await, Code::FailedPrecondition);
    assert_eq!(message, "Volume is already used by pod(s) default/web on node n1");
    assert!(host.descriptor("other").is_none());
    // Nor does giving back what one never had take it from the other.
    host.unpublish("data", "other").await.unwrap();
    assert!(host.attachment(ACME, "data").await.is_some());
    assert!(!host.target("other").exists());
    host.unpublish("data", "web").await.unwrap();
    host.publish(ACME, "data", "other").await.unwrap();

    // A pod of the same name is another pod; and so is the pod of that uid on another node.
    let namesake = v1::NodePublishVolumeRequest {
        target_path: host.target("namesake").to_str().unwrap().into(),
        volume_context: [(context::POD_UID.to_owned(), "new".to_owned())]
            .into_iter()
            .chain(
                host.request(ACME, "data", "other").volume_context.into_iter().filter(|(k, _)| k != context::POD_UID),
            )
            .collect(),
        ..host.request(ACME, "data", "other")
    };
    refused(host.send(namesake).await, Code::FailedPrecondition);
    let elsewhere = tempfile::tempdir().unwrap();
    let driver = drive(elsewhere.path(), &host.clients, "n2");
    let mut request = host.request(ACME, "data", "other");
    let pod = elsewhere.path().join("pods/other");
    fs::create_dir_all(&pod).unwrap();
    request.target_path = pod.join("mount").to_str().unwrap().into();
    let mut node = client(&elsewhere.path().join("csi.sock")).await;
    let status = node.node_publish_volume(request).await.unwrap_err();
    assert_eq!((status.code(), status.message().contains("on node n1")), (Code::FailedPrecondition, true), "{status}");
    drop(driver);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pods_ask_at_once() {
    let host = Host::new().await;
    host.volume(ACME, "data").await;
    let pods = ["a", "b", "c", "d"];
    let (a, b, c, d) = tokio::join!(
        host.publish(ACME, "data", pods[0]),
        host.publish(ACME, "data", pods[1]),
        host.publish(ACME, "data", pods[2]),
        host.publish(ACME, "data", pods[3]),
    );
    let outcomes = [a, b, c, d];
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    for (pod, outcome) in pods.into_iter().zip(outcomes) {
        assert_eq!(host.descriptor(pod).is_some(), outcome.is_ok());
        if outcome.is_err() {
            refused(outcome, Code::FailedPrecondition);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_volumes_are_kept_apart() {
    let host = Host::new().await;
    host.volume(ACME, "data").await;
    let message = refused(host.publish(GLOBEX, "data", "spy").await, Code::NotFound);
    assert!(message.contains(GLOBEX), "{message}");
    assert!(host.descriptor("spy").is_none() && host.attachment(GLOBEX, "data").await.is_none());
    host.unpublish("data", "spy").await.unwrap();
    // Of the same name each has its own.
    host.volume(GLOBEX, "data").await;
    host.publish(ACME, "data", "a").await.unwrap();
    host.publish(GLOBEX, "data", "b").await.unwrap();
    let whose = |pod| host.descriptor(pod).unwrap()["tenant"].clone();
    assert_eq!((whose("a"), whose("b")), (json!(ACME), json!(GLOBEX)));
    host.unpublish("data", "a").await.unwrap();
    assert!(host.attachment(ACME, "data").await.is_none() && host.attachment(GLOBEX, "data").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_a_volume_is_used_is_passed_on() {
    let host = Host::new().await;
    for name in ["block", "reader", "readers"] {
        host.volume(ACME, name).await;
    }
    let block = volume_capability::AccessType::Block(volume_capability::BlockVolume {});
    let capability = v1::VolumeCapability { access_type: Some(block), access_mode: None };
    let request =
        v1::NodePublishVolumeRequest { volume_capability: Some(capability), ..host.request(ACME, "block", "a") };
    host.send(request).await.unwrap();
    assert_eq!(host.descriptor("a").unwrap()["mode"], "Block");
    let request = v1::NodePublishVolumeRequest {
        readonly: true,
        volume_capability: Some(mounted("")),
        ..host.request(ACME, "reader", "b")
    };
    host.send(request).await.unwrap();
    let descriptor = host.descriptor("b").unwrap();
    assert_eq!((&descriptor["readOnly"], &descriptor["mode"]), (&json!(true), &json!("Filesystem")));
    assert!(host.attachment(ACME, "reader").await.unwrap().spec.read_only);
    let mut request = host.request(ACME, "readers", "c");
    let mode = volume_capability::access_mode::Mode::MultiNodeReaderOnly.into();
    request.volume_capability.as_mut().unwrap().access_mode = Some(volume_capability::AccessMode { mode });
    host.send(request).await.unwrap();
    assert_eq!(host.descriptor("c").unwrap()["readOnly"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_calls_are_refused() {
    let host = Host::new().await;
    host.volume(ACME, "data").await;
    let good = || host.request(ACME, "data", "web");
    let without = |key: &str| {
        let mut request = good();
        request.volume_context.remove(key);
        request
    };
    let mut options = mounted("ext4");
    if let Some(volume_capability::AccessType::Mount(mount)) = &mut options.access_type {
        mount.mount_flags.push("noexec".into());
    }
    let mut foreign_tenant = good();
    foreign_tenant.volume_context.insert(context::TENANT.into(), "../acme".into());
    for (what, request) in [
        ("no volume", v1::NodePublishVolumeRequest { volume_id: String::new(), ..good() }),
        ("a path", v1::NodePublishVolumeRequest { volume_id: "../attachments/data".into(), ..good() }),
        ("no target", v1::NodePublishVolumeRequest { target_path: String::new(), ..good() }),
        ("a target that leads up", v1::NodePublishVolumeRequest { target_path: "/tmp/../etc".into(), ..good() }),
        ("a target elsewhere", v1::NodePublishVolumeRequest { target_path: "/tmp/elsewhere/mount".into(), ..good() }),
        ("no capability", v1::NodePublishVolumeRequest { volume_capability: None, ..good() }),
        ("no access", v1::NodePublishVolumeRequest { volume_capability: Some(Default::default()), ..good() }),
        ("xfs", v1::NodePublishVolumeRequest { volume_capability: Some(mounted("xfs")), ..good() }),
        ("options", v1::NodePublishVolumeRequest { volume_capability: Some(options), ..good() }),
        ("no tenant", without(context::TENANT)),
        ("no pod", without(context::POD_UID)),
        ("no namespace", without(context::POD_NAMESPACE)),
        ("an odd tenant", foreign_tenant),
    ] {
        let outcome = host.send(request).await;
        assert_eq!(outcome.as_ref().unwrap_err().code(), Code::InvalidArgument, "{what}: {outcome:?}");
    }
    assert!(!host.target("web").exists());
    assert!(host.attachment(ACME, "data").await.is_none());
    refused(host.unpublish("", "web").await, Code::InvalidArgument);

    // A target holds one volume.
    host.volume(ACME, "more").await;
    host.publish(ACME, "data", "web").await.unwrap();
    refused(host.publish(ACME, "more", "web").await, Code::AlreadyExists);
    refused(host.unpublish("more", "web").await, Code::AlreadyExists);
    assert!(host.attachment(ACME, "more").await.is_none() && host.descriptor("web").is_some());
    // Without the directory above, the pod is gone: nothing is made.
    let mut request = host.request(ACME, "more", "late");
    fs::remove_dir(host.path("pods").join("late")).unwrap();
    request.volume_id = "more".into();
    refused(host.send(request).await, Code::Internal);
    assert!(host.attachment(ACME, "more").await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_the_driver_is() {
    let host = Host::new().await;
    let socket = host.path("csi.sock");
    let mut identity = IdentityClient::new(channel(&socket).await);
    let info = identity.get_plugin_info(v1::GetPluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.name, names::VOLUME_DRIVER);
    let probe = identity.probe(v1::ProbeRequest {}).await.unwrap().into_inner();
    assert!(probe.ready.unwrap().value);
    let info = client(&socket).await.node_get_info(v1::NodeGetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.node_id, "n1");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
}
