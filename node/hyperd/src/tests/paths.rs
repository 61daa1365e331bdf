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
    std::fs::create_dir(node.path("volumes/acme")).unwrap();
    std::fs::File::create(node.path("volumes/acme/v.raw")).unwrap().set_len(64 << 20).unwrap();
    describe(&volume_dir, "acme", "v");

    let (sandbox, _) = node.sandbox_of("acme", 0).await;
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

fn describe(directory: &Path, tenant: &str, volume: &str) {
    let text =
        serde_json::json!({"version": 2, "engine": "file", "tenant": tenant, "volume": volume, "readOnly": false});
    let path = directory.join("volume.hypernetes.json");
    std::fs::write(&path, text.to_string()).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

/// Whoever could write a descriptor, or name another pod's path, gets nothing that is another tenant's.
#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_disk_and_another_pods_files_are_out_of_reach() {
    let node = Node::start().await;
    let pod = node.path("pods").join(POD_UID);
    for tenant in ["acme", "globex"] {
        std::fs::create_dir_all(node.path("volumes").join(tenant)).unwrap();
        std::fs::File::create(node.path("volumes").join(tenant).join("v.raw")).unwrap().set_len(64 << 20).unwrap();
    }
    let claim = |name: &str| {
        let directory = pod.join("volumes/kubernetes.io~csi").join(name).join("mount");
        std::fs::create_dir_all(&directory).unwrap();
        directory
    };
    let (own, stolen, old, forged) = (claim("own"), claim("stolen"), claim("old"), claim("forged"));
    describe(&own, "acme", "v");
    describe(&stolen, "globex", "v");
    let path = node.path("volumes/globex/v.raw");
    std::fs::write(
        old.join("volume.hypernetes.json"),
        serde_json::json!({"id": "v", "driver": "file", "path": path}).to_string(),
    )
    .unwrap();
    describe(&forged, "acme", "v");
    std::fs::set_permissions(
        forged.join("volume.hypernetes.json"),
        std::os::unix::fs::PermissionsExt::from_mode(0o666),
    )
    .unwrap();
    let other = node.path("pods/other-uid/volumes/kubernetes.io~secret/s");
    std::fs::create_dir_all(&other).unwrap();
    std::fs::write(other.join("key"), "theirs").unwrap();
    let link = pod.join("volumes/kubernetes.io~secret/link");
    std::fs::create_dir_all(link.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&other, &link).unwrap();
    let relative = pod.join("volumes/kubernetes.io~secret/relative");
    std::os::unix::fs::symlink("../../../other-uid/volumes/kubernetes.io~secret/s", &relative).unwrap();

    let (sandbox, machine) = node.sandbox_of("acme", 0).await;
    for (n, path) in [&stolen, &old, &forged, &other, &link, &relative].into_iter().enumerate() {
        let mut spec = shell(&format!("c{n}"), "true");
        spec.mounts = vec![mount(path, "/data")];
        let error = node.create(&sandbox, spec).await.unwrap_err();
        let code = error.code();
        assert!(matches!(code, Code::FailedPrecondition | Code::InvalidArgument | Code::Unknown), "{path:?}: {error}");
        assert!(machine.disks().is_empty(), "{path:?}: {:?}", machine.disks());
    }
    // A pod of nobody's gets nobody's volume.
    let nobodys = node.run_sandbox_again(1).await;
    let mut spec = shell("nobodys", "true");
    spec.mounts = vec![mount(&own, "/data")];
    assert_eq!(node.create(&nobodys, spec.clone()).await.unwrap_err().code(), Code::FailedPrecondition);
    node.create(&sandbox, spec).await.unwrap();
    assert_eq!(machine.disks().len(), 2);
    assert!(machine.disks().iter().any(|disk| disk.path.ends_with("volumes/acme/v.raw")));
}

/// What CRI says becomes a path when it is a name.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_paths_make_no_sandbox_and_no_container() {
    let node = Node::start().await;
    let refused = async |change: &dyn Fn(&mut cri::PodSandboxConfig)| {
        let mut config = node.sandbox_config();
        change(&mut config);
        let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        let error = node.runtime().await.run_pod_sandbox(request).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    };
    for bad in ["", "..", "../x", "/tmp/x", "a/b", "a\0b"] {
        refused(&|config| config.metadata.as_mut().unwrap().uid = bad.into()).await;
        refused(&|config| config.metadata.as_mut().unwrap().name = bad.into()).await;
        if bad.is_empty() {
            continue;
        }
        refused(&|config| config.metadata.as_mut().unwrap().namespace = bad.into()).await;
        refused(&|config| drop(config.annotations.insert(crate::TENANT_ANNOTATION.into(), bad.into()))).await;
    }
    for bad in ["logs", "/logs/../x", "../x"] {
        refused(&|config| config.log_directory = bad.into()).await;
    }
    let sandbox = node.run_sandbox().await;
    for bad in ["../x", "/tmp/x", "a/../../x", "a//b", ".", "a/"] {
        let config = cri::ContainerConfig { log_path: bad.into(), ..shell("a", "true") };
        assert_eq!(node.create(&sandbox, config).await.unwrap_err().code(), Code::InvalidArgument, "{bad:?}");
    }
}
