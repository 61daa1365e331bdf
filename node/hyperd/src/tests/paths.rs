//! Files and host paths in containers.

use super::*;

/// What a guest asks of a host path is answered, whatever it is, before and after hyperd's death, until nobody uses it.
#[tokio::test(flavor = "multi_thread")]
async fn host_paths_are_served_to_guests_of_any_kind() {
    use hypernetes_guest_protocol::v1::{HostPathList, HostPathRequest, HostPathStat, host_path_request::Operation};
    let mut node = Node::start().await;
    let sandbox = node.run_sandbox().await;
    std::fs::create_dir_all(node.path("shared/d")).unwrap();
    let ask = |id, path: &str, operation| HostPathRequest { id, path: path.into(), operation, ..Default::default() };
    let guest = node.machine().guest.clone();
    *guest.host_path_requests.lock() = vec![
        ask(1, "d", Some(Operation::Stat(HostPathStat::default()))),
        ask(u64::MAX, "../../etc/passwd", Some(Operation::Stat(HostPathStat::default()))),
        ask(1, "", None),
        ask(2, "", Some(Operation::List(HostPathList { cookie: u64::MAX }))),
    ];
    let replies = || {
        let mut replies: Vec<_> = guest.host_path_replies.lock().iter().map(|r| (r.id, r.errno, r.end)).collect();
        replies.sort_unstable();
        replies
    };
    let mut config = shell("one", "sleep 1000");
    config.mounts.push(mount(&node.path("shared"), "/x"));
    let one = node.create_and_start(&sandbox, config).await;
    let errno = |error: nix::errno::Errno| error as u32;
    wait_until("answers", || replies().len() >= 4).await;
    let seen = replies();
    let (invalid, unknown) = (errno(nix::errno::Errno::EINVAL), errno(nix::errno::Errno::ENOSYS));
    assert!(seen.contains(&(1, 0, false)) && seen.contains(&(1, unknown, false)), "{seen:?}");
    assert!(seen.contains(&(u64::MAX, invalid, false)) && seen.iter().any(|r| r.0 == 2), "{seen:?}");

    node.kill().await;
    guest.host_path_replies.lock().clear();
    node.run().await;
    wait_until("answers of hyperd's successor", || replies().len() >= 4).await;
    // Another container has it, too: it stays when the first goes.
    let mut config = shell("two", "sleep 1000");
    config.mounts.push(mount(&node.path("shared"), "/y"));
    let two = node.create_and_start(&sandbox, config).await;
    for (container_id, ends) in [(one, false), (two, true)] {
        node.runtime().await.remove_container(cri::RemoveContainerRequest { container_id }).await.unwrap();
        if ends {
            wait_until("the end", || replies().iter().any(|r| r.2)).await;
        } else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(!replies().iter().any(|r| r.2));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_are_copied_followed_and_read_back() {
    let node = Node::start().await;
    let pod = node.path("pods").join(POD_UID);
    let config = pod.join("volumes/kubernetes.io~configmap/cfg");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("key"), "one").unwrap();
    let termination = pod.join("containers/a/1234");
    std::fs::create_dir_all(termination.parent().unwrap()).unwrap();
    std::fs::write(&termination, "").unwrap();
    let volume_dir = pod.join("volumes/kubernetes.io~csi/pvc-1/mount");
    std::fs::create_dir_all(&volume_dir).unwrap();
    let volume = node.path("volumes/v.raw");
    std::fs::File::create(&volume).unwrap().set_len(64 << 20).unwrap();
    let descriptor = serde_json::json!({"id": "1", "driver": "file", "path": volume, "fsType": "ext4"});
    std::fs::write(volume_dir.join("volume.hypernetes.json"), descriptor.to_string()).unwrap();

    let sandbox = node.run_sandbox().await;
    let mut spec =
        shell("a", "for f in $FILES/termination-*/file; do echo bye > $f; done; cat $FILES/sandbox-etc/hostname");
    spec.mounts =
        vec![mount(&config, "/etc/cfg"), mount(&termination, "/dev/termination-log"), mount(&volume_dir, "/data")];
    let container = node.create_and_start(&sandbox, spec).await;
    node.wait_exited(&container).await;
    assert_eq!(std::fs::read_to_string(&termination).unwrap(), "bye\n");
    assert_eq!(node.log("a/0.log"), ["stdout F web"]);
    assert_eq!(node.machine().disks().len(), 2);

    let set = crate::files::FileSetSource::new(&config).set;
    let machine = node.machine();
    assert_eq!(machine.guest.file(&set, "key").unwrap(), "one");
    std::fs::write(config.join("key.new"), "two").unwrap();
    std::fs::rename(config.join("key.new"), config.join("key")).unwrap();
    wait_until("the change to arrive", || machine.guest.file(&set, "key").as_deref() == Some("two")).await;
}
