//! What becomes of a pod: taken or refused, started, ended in time.

use std::time::Instant;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_whose_vm_hangs_is_gone_within_its_grace_and_ten_seconds() {
    let host = Host::new().await;
    host.api.put(ACME, "hung", pod(json!({})));
    host.until_runs("hung").await;
    host.runtime.hang("StopContainer");
    host.runtime.hang("ExecSync");
    let begun = Instant::now();
    host.api.delete("hung", 1);
    host.until_gone("hung").await;
    assert!(begun.elapsed() < Duration::from_secs(11), "{:?}", begun.elapsed());
    assert!(!host.runtime.has_sandbox("hung") && !host.pod_path("hung").try_exists().unwrap());
    let killing = host.api.events().into_iter().any(|event| event["reason"] == "Killing");
    assert!(killing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forced_deletion_does_not_wait_for_what_hangs() {
    let host = Host::new().await;
    host.api.put(ACME, "slow", pod(json!({"terminationGracePeriodSeconds": 1_000_000_000_000_000_000_i64})));
    host.until_runs("slow").await;
    host.runtime.hang("StopContainer");
    host.api.delete("slow", 1_000_000_000_000_000_000);
    // It waits for its containers when it is told to hurry.
    host.until("it is being ended", || host.api.events().iter().any(|event| event["reason"] == "Killing")).await;
    host.api.delete("slow", 0);
    host.until_gone("slow").await;
    assert!(!host.runtime.has_sandbox("slow"));
    // A sandbox that is never made holds up neither the pod's end nor a neighbour.
    host.api.put(ACME, "calm", pod(json!({})));
    host.until_runs("calm").await;
    host.runtime.hang("RunPodSandbox");
    host.api.put(ACME, "stuck", pod(json!({})));
    host.until("the sandbox is waited for", || {
        host.api.pod("stuck").is_some_and(|pod| !pod["status"]["phase"].is_null())
    })
    .await;
    host.api.delete("stuck", 0);
    host.until_gone("stuck").await;
    host.api.delete("calm", 0);
    host.until_gone("calm").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_node_has_no_room_for_is_refused() {
    let host = Host::new().await;
    let asking = |memory: &str| {
        pod(json!({"containers": [{"name": "a", "image": "i", "resources": {"requests": {"memory": memory}}}]}))
    };
    host.api.put(ACME, "fits", asking("1Mi"));
    host.until_runs("fits").await;
    host.api.put(ACME, "large", asking("1Ei"));
    let status = host.until_failed("large").await;
    assert_eq!(status["reason"], "OutOfmemory");
    let message = status["message"].as_str().unwrap();
    assert!(
        message.starts_with("Pod was rejected: Node didn't have enough resource: memory, requested: "),
        "{message}"
    );
    assert!(!host.runtime.has_sandbox("large") && !host.pod_path("large").try_exists().unwrap());
    let event = host.api.events().into_iter().find(|event| event["reason"] == "OutOfmemory").unwrap();
    assert_eq!((&event["type"], &event["involvedObject"]["uid"]), (&json!("Warning"), &json!("large")));
    // A request below zero is refused, and makes no room for others.
    host.api.put(ACME, "negative", asking("-200Gi"));
    assert_eq!(host.until_failed("negative").await["reason"], "InvalidPod");
    host.api.put(ACME, "larger", asking("1Ei"));
    assert_eq!(host.until_failed("larger").await["reason"], "OutOfmemory");
    let port = json!([{"name": "a", "image": "i", "ports": [{"containerPort": 80, "hostPort": 80}]}]);
    host.api.put(ACME, "first", pod(json!({"containers": port})));
    host.until_runs("first").await;
    host.api.put(GLOBEX, "second", pod(json!({"containers": port})));
    assert_eq!(host.until_failed("second").await["reason"], "NodePorts");
    // When it is gone the port is free.
    host.api.delete("first", 0);
    host.until_gone("first").await;
    host.api.put(GLOBEX, "third", pod(json!({"containers": port})));
    host.until_runs("third").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_must_not_be_root_is_not() {
    let host = Host::new().await;
    host.api.put(ACME, "root", pod(json!({"securityContext": {"runAsNonRoot": true}})));
    let waiting =
        || host.api.pod("root").unwrap_or_default()["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    host.until("it is refused", || waiting()["reason"] == "CreateContainerConfigError").await;
    assert_eq!(
        waiting()["message"],
        "container has runAsNonRoot and image will run as root (pod: \"root_default(root)\", container: a)"
    );
    host.api.put(ACME, "user", pod(json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 1000}})));
    host.until_runs("user").await;
    assert!(!host.runtime.runs("root"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "what the kubelet does is looked at from outside")]
async fn a_pods_files_are_for_root_alone() {
    use std::os::unix::fs::MetadataExt;
    let host = Host::new().await;
    let volumes = json!([{"name": "s", "secret": {"secretName": "s"}}, {"name": "e", "emptyDir": {}},
        {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]);
    host.api.put(ACME, "web", pod(json!({"volumes": volumes})));
    host.until_runs("web").await;
    let mode = |path: &str| std::fs::metadata(host.path(path)).unwrap().mode() & 0o7777;
    for path in [
        "node/pods",
        "node/pods/web",
        "node/pods/web/volumes",
        "node/pods/web/volumes/kubernetes.io~secret",
        "node/pods/web/volumes/kubernetes.io~secret/s",
        "node/log",
    ] {
        assert_eq!(mode(path), 0o700, "{path}");
    }
    let logs = format!("node/log/{ACME}/default_web_web");
    assert_eq!(mode(&logs), 0o700);
    assert_eq!(mode("node/pods/web/volumes/kubernetes.io~empty-dir/e"), 0o777);
    let memory = host.pod_path("web").join("volumes/kubernetes.io~empty-dir/m");
    let found = nix::sys::statfs::statfs(&memory).unwrap();
    assert_eq!(found.filesystem_type(), nix::sys::statfs::TMPFS_MAGIC);
    assert_eq!(found.blocks() * u64::try_from(found.block_size()).unwrap(), 1 << 20, "its limit");
    let secret = host.pod_path("web").join("volumes/kubernetes.io~secret");
    let in_memory = |path: &Path| {
        nix::sys::statfs::statfs(path).unwrap().filesystem_type() == nix::sys::statfs::TMPFS_MAGIC
            && std::fs::metadata(path).unwrap().dev() != std::fs::metadata(path.parent().unwrap()).unwrap().dev()
    };
    assert!(in_memory(&secret) && in_memory(&memory));
    assert_eq!(std::fs::read_to_string(secret.join("s/key")).unwrap(), "value");
    host.api.delete("web", 0);
    host.until_gone("web").await;
    assert!(!memory.exists() && !host.path(&logs).exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(memory.to_str().unwrap()));
}

/// Of a tenant that was deleted while the node did not run, and of one whose pod goes after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "what an earlier kubelet has left is made from outside")]
async fn of_a_deleted_tenant_neither_logs_nor_pulls_are_left() {
    let (gone, there) = ("00000000000000000000000000000001", "00000000000000000000000000000002");
    let host = Host::prepared(HostileApi::new(&[]), |root, api, runtime| {
        for tenant in [gone, there, GLOBEX] {
            std::fs::create_dir_all(root.join("log").join(tenant).join("default_old_1/a")).unwrap();
            runtime.has_pulled(tenant);
        }
        api.delete_tenant(gone);
    })
    .await;
    let logs = |tenant: &str| host.path("node/log").join(tenant).try_exists().unwrap();
    let left = |tenant: &str| logs(tenant) || host.runtime.keeps_something_of(tenant);
    host.until("the one that is deleted has left nothing", || !left(gone)).await;
    assert!(host.runtime.keeps_something_of(there) && logs(there));
    // One that has a pod keeps what it has until that is gone, although it is deleted.
    for (tenant, uid) in [(ACME, "one"), (GLOBEX, "other")] {
        host.api.put(tenant, uid, pod(json!({})));
        host.until_runs(uid).await;
        host.runtime.has_pulled(tenant);
    }
    host.api.delete_tenant(ACME);
    host.api.delete("other", 0);
    host.until_gone("other").await;
    host.until_runs("one").await;
    assert!(host.runtime.keeps_something_of(ACME));
    host.api.delete("one", 0);
    host.until("nothing is left of it", || !left(ACME)).await;
    assert!(host.runtime.keeps_something_of(GLOBEX) && logs(GLOBEX));
}

/// What a tenant may have on the node, the operator says, whatever the pod does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_runtime_hears_what_a_tenant_may_have() {
    let (logs, images) = ("hypernetes.io/log-bytes", "hypernetes.io/image-bytes");
    let host = Host::new().await;
    let mut asking = pod(json!({}));
    asking["metadata"]["annotations"] = json!({logs: "999999999999", "mine": "kept"});
    asking["spec"]["containers"][0]["imagePullPolicy"] = "Always".into();
    for (uid, limits, wanted) in [
        ("said", json!({"logBytes": 7, "imageBytes": 9}), ["7", "9"]),
        ("unsaid", json!({}), ["4294967296", "34359738368"]),
        // What cannot be read is not without end.
        ("odd", json!("all of it"), ["4294967296", "34359738368"]),
    ] {
        host.api.limit(limits);
        host.api.put(ACME, uid, asking.clone());
        let refused = || host.api.pod(uid).unwrap()["status"]["containerStatuses"][0]["state"]["waiting"].clone();
        host.until(&format!("{uid} has no image"), || refused()["reason"] == "ErrImagePull").await;
        assert_eq!(refused()["message"], "exceeded quota");
        let pulled = host.runtime.pulls().pop().unwrap();
        let said = host.runtime.annotations(uid);
        assert_eq!([&said[logs], &pulled.annotations[images]], wanted, "{uid}");
        assert_eq!(
            (said["mine"].as_str(), pulled.annotations[hypernetes_api::names::TENANT_ANNOTATION].as_str()),
            ("kept", ACME)
        );
    }
    let events = host.api.events();
    assert!(events.iter().any(|event| event["message"].as_str().is_some_and(|text| text.contains("exceeded quota"))));
}

/// The operator may have said less than what a tenant has of which nothing is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_tenant_may_have_is_not_guessed() {
    let host = Host::new().await;
    host.api.limit(json!({"logBytes": 7, "imageBytes": 9}));
    host.api.fails_to_say_limits(true);
    host.api.put(ACME, "early", pod(json!({})));
    host.until("it is told why there is no sandbox", || {
        host.api.events().iter().any(|event| event["reason"] == "FailedCreatePodSandBox")
    })
    .await;
    assert!(host.runtime.annotations("early").is_empty());
    host.api.fails_to_say_limits(false);
    host.until("there is one", || !host.runtime.annotations("early").is_empty()).await;
    assert_eq!(host.runtime.annotations("early")["hypernetes.io/log-bytes"], "7");
}

/// Not even what an object is need be readable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_whose_metadata_are_none_holds_no_other_up() {
    let api = HostileApi::new(&[]);
    let mut odd = pod(json!({}));
    odd["metadata"]["labels"] = 7.into();
    api.put(ACME, "listed", odd.clone());
    let host = Host::with(api).await;
    host.api.put(GLOBEX, "calm", pod(json!({})));
    host.until_runs("calm").await;
    host.api.put(ACME, "watched", odd);
    for uid in ["listed", "watched"] {
        host.until_failed(uid).await;
    }
    host.api.put(GLOBEX, "later", pod(json!({})));
    host.until_runs("later").await;
}
