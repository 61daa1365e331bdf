//! hyperd with a real VM, as a CRI client sees it. Needs QEMU, the guest's kernel and busybox.

mod common;

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use common::node::{Node, POD_UID, describe_volume, node, within};
use hypernetes_hyperd::EPHEMERAL_STORAGE_ANNOTATION;
use hypernetes_hyperd_api::{HibernateSandboxRequest, InfoRequest, ResumeSandboxRequest, hyperd_client::HyperdClient};
use k8s_cri::v1 as cri;

/// A file system in memory, as the kubelet makes one for a volume of that medium, until it is dropped.
struct InMemory(PathBuf);

impl InMemory {
    fn new(path: &Path, bytes: u64) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let options = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).status().unwrap();
        assert!(mounted.success());
        Self(path.into())
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_in_a_vm() {
    let mut node = node().await;
    let pod = node.path("pods").join(POD_UID);
    let config = pod.join("volumes/kubernetes.io~configmap/cfg");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("key"), "from the config map").unwrap();
    let termination = pod.join("containers/one/1");
    std::fs::create_dir_all(termination.parent().unwrap()).unwrap();
    std::fs::write(&termination, "").unwrap();
    let volume_mount = pod.join("volumes/kubernetes.io~csi/pvc-1/mount");
    std::fs::create_dir_all(&volume_mount).unwrap();
    std::fs::create_dir_all(node.path("volumes/acme")).unwrap();
    let volume = node.path("volumes/acme/v.raw");
    std::fs::File::create(&volume).unwrap().set_len(128 << 20).unwrap();
    describe_volume(&volume_mount, "acme", "v");
    let mount = |host: &Path, container: &str| cri::Mount {
        host_path: host.display().to_string(),
        container_path: container.into(),
        ..Default::default()
    };
    let scratch = pod.join("volumes/kubernetes.io~empty-dir/shared");

    let started = Instant::now();
    let sandbox = node.run_sandbox("acme").await;
    eprintln!("sandbox ready after {:?}", started.elapsed());
    let one = node
        .start(
            &sandbox,
            "one",
            "echo out; echo err >&2; cat /etc/cfg/key; echo; echo \"$FROM_IMAGE $(hostname)\"; echo kept >/data/file; \
             echo shared >/scratch/file; echo bye >/dev/termination-log; exit 3",
            vec![
                mount(&config, "/etc/cfg"),
                mount(&termination, "/dev/termination-log"),
                mount(&volume_mount, "/data"),
                mount(&scratch, "/scratch"),
            ],
        )
        .await;
    let status = node.exited(&one).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"), "{:?}", node.log("one.log"));
    let mut lines = node.log("one.log");
    lines.sort();
    assert_eq!(lines, ["stderr F err", "stdout F from the config map", "stdout F out", "stdout F yes web-1"]);
    assert_eq!(std::fs::read_to_string(&termination).unwrap(), "bye\n");

    let script = "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); sleep 0.05; done; exit 7";
    let two = node.start(&sandbox, "two", script, vec![mount(&scratch, "/scratch")]).await;
    assert_eq!(node.exec(&two, "cat /scratch/file; exit 5").await, (5, "shared\n".to_owned()));
    let boot_id = node.exec(&two, "cat /proc/sys/kernel/random/boot_id").await.1;
    assert_ne!(boot_id, std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap());
    let info = HyperdClient::new(node.channel().await).info(InfoRequest {}).await.unwrap().into_inner();
    eprintln!("{info:?}");
    assert_eq!(info.machines.len(), 1);
    assert_eq!(info.machines[0].boot_id, boot_id.trim());

    // The death of hyperd: the VM runs on, and its successor takes it over.
    node.restart().await;
    let status = node.exited(&two).await;
    assert_eq!(status.exit_code, 7);
    let expected: Vec<String> = (0..200).map(|i| format!("stdout F line {i}")).collect();
    assert_eq!(node.log("two.log"), expected);

    node.remove(&sandbox).await;
    assert!(!Path::new(&format!("/proc/{}", info.machines[0].pid)).exists());
    // The volume's data outlives the pod.
    let sandbox = node.run_sandbox("acme").await;
    let three = node.start(&sandbox, "three", "cat /data/file", vec![mount(&volume_mount, "/data")]).await;
    node.exited(&three).await;
    assert_eq!(node.log("three.log"), ["stdout F kept"]);
    node.remove(&sandbox).await;
    node.hyperd.take().unwrap().shutdown_background();
}

/// What CRI promises of one container's bounds, and of what several share.
#[tokio::test(flavor = "multi_thread")]
async fn containers_have_the_bounds_that_cri_gives_them() {
    let mut node = node().await;
    let pod = node.path("pods").join(POD_UID);
    std::fs::create_dir_all(&pod).unwrap();
    let sysctls = [("kernel.shm_rmid_forced".to_owned(), "1".to_owned())].into();
    let linux = cri::LinuxPodSandboxConfig { sysctls, ..Default::default() };
    let sandbox = node.run_sandbox_with("", Some(linux)).await;
    let scratch = |propagation: cri::MountPropagation, recursive: bool| cri::Mount {
        host_path: pod.join("volumes/kubernetes.io~empty-dir/shared").display().to_string(),
        container_path: "/scratch".into(),
        propagation: propagation as i32,
        readonly: recursive,
        recursive_read_only: recursive,
        ..Default::default()
    };
    use cri::MountPropagation::{PropagationBidirectional, PropagationHostToContainer, PropagationPrivate};
    let image = cri::Mount {
        container_path: "/image".into(),
        readonly: true,
        image: Some(cri::ImageSpec { image: "test/busybox:1".into(), ..Default::default() }),
        image_sub_path: "bin".into(),
        ..Default::default()
    };

    let mut confined = node.config("confined", "sleep 1000", vec![scratch(PropagationHostToContainer, false), image]);
    confined.annotations = [(EPHEMERAL_STORAGE_ANNOTATION.to_owned(), (1 << 20).to_string())].into();
    let linux = confined.linux.as_mut().unwrap();
    linux.resources = Some(cri::LinuxContainerResources {
        memory_limit_in_bytes: 32 << 20,
        oom_score_adj: 300,
        unified: [("pids.max", "20"), ("io.max", "default rbps=104857600")]
            .map(|(file, value)| (file.to_owned(), value.to_owned()))
            .into(),
        ..Default::default()
    });
    let context = linux.security_context.as_mut().unwrap();
    context.seccomp = Some(cri::SecurityProfile::default());
    context.run_as_username = "web".into();
    context.supplemental_groups = vec![7];
    context.masked_paths = vec!["/data".into(), "/proc/kcore".into()];
    context.readonly_paths = vec!["/proc/sys".into()];
    let confined = node.start_as(&sandbox, confined).await;

    let mut root = node.config("root", "sleep 1000", vec![scratch(PropagationBidirectional, false)]);
    root.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    let root = node.start_as(&sandbox, root).await;
    assert_eq!(
        node.exec(&root, "mkdir /scratch/inner && mount -t tmpfs inner /scratch/inner && echo x >/scratch/inner/x")
            .await
            .0,
        0
    );

    let (code, said) = node
        .exec(
            &confined,
            "id -u; cat /proc/sys/kernel/shm_rmid_forced /proc/self/oom_score_adj /sys/fs/cgroup/memory.max \
             /sys/fs/cgroup/pids.max /sys/fs/cgroup/io.max; cat /proc/self/status; ls /data; cat /scratch/inner/x; ls /image/busybox; \
             touch /image/x || echo image is read-only; head -c 2000000 /dev/zero >/tmp/x || echo layer is full; \
             /bin/sh -c 'echo 0 >/proc/sys/kernel/shm_rmid_forced' || echo sysctls are read-only; \
             mount -t tmpfs x /tmp || echo no mounts",
        )
        .await;
    assert_eq!(code, 0, "{said}");
    for expected in [
        "1000\n1\n300\n33554432\n20\n",
        " rbps=104857600 wbps=max",
        "Seccomp:\t2\n",
        "\nGroups:\t7 1000 \n",
        "\nx\n/image/busybox\nimage is read-only\nlayer is full\nsysctls are read-only\nno mounts\n",
    ] {
        assert!(said.contains(expected), "{expected:?} is not in {said}");
    }
    let mut client = node.runtime().await;
    let request = cri::ContainerStatusRequest { container_id: confined.clone(), verbose: false };
    let status = client.container_status(request).await.unwrap().into_inner().status.unwrap();
    let user = status.user.unwrap().linux.unwrap();
    assert_eq!((user.uid, user.gid, user.supplemental_groups), (1000, 1000, vec![7, 1000]));

    // A later copy of the same volume is read-only down to what was mounted in it.
    let reader = node.config("reader", "sleep 1000", vec![scratch(PropagationPrivate, true)]);
    let reader = node.start_as(&sandbox, reader).await;
    let (_, said) = node.exec(&reader, "touch /scratch/y || echo outer; touch /scratch/inner/y || echo inner").await;
    assert_eq!(said, "outer\ninner\n");
    // Its end takes nothing from the others.
    client.remove_container(cri::RemoveContainerRequest { container_id: reader }).await.unwrap();
    assert_eq!(node.exec(&confined, "cat /scratch/inner/x").await.1, "x\n");

    let linux = Some(cri::LinuxContainerResources { memory_limit_in_bytes: 48 << 20, ..Default::default() });
    let request = cri::UpdateContainerResourcesRequest { container_id: confined.clone(), linux, ..Default::default() };
    client.update_container_resources(request).await.unwrap();
    let (_, said) = node.exec(&confined, "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max").await;
    assert_eq!(said, "50331648\n20\n");

    let mut debugger = node.config("debugger", "cat /proc/1/cmdline", vec![]);
    let context = debugger.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    context.namespace_options = Some(cri::NamespaceOption {
        pid: cri::NamespaceMode::Target as i32,
        target_id: root.clone(),
        ..Default::default()
    });
    let debugger = node.start_as(&sandbox, debugger).await;
    assert_eq!(node.exited(&debugger).await.exit_code, 0);
    assert!(node.log("debugger.log")[0].contains("sleep\x001000"), "{:?}", node.log("debugger.log"));

    // In a pod without mapped users one container cannot have them.
    let users = |length| cri::UserNamespace {
        mode: cri::NamespaceMode::Pod as i32,
        uids: vec![cri::IdMapping { container_id: 0, host_id: 70_000, length }],
        gids: vec![cri::IdMapping { container_id: 0, host_id: 70_000, length }],
    };
    let mapped_config = |name: &str, script: &str, mounts| {
        let mut mapped = node.config(name, script, mounts);
        let context = mapped.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        context.namespace_options.as_mut().unwrap().userns_options = Some(users(65_536));
        mapped
    };
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: sandbox.clone(),
        config: Some(mapped_config("mapped", "true", vec![])),
        sandbox_config: None,
    };
    assert_eq!(client.create_container(request).await.unwrap_err().code(), tonic::Code::InvalidArgument);

    // What is in memory ends at its own limit: shared memory at containerd's 64 MiB, a volume at the pod's.
    let memory = pod.join("volumes/kubernetes.io~empty-dir/memory");
    let mounted = InMemory::new(&memory, 1 << 20);
    let mount =
        cri::Mount { host_path: memory.display().to_string(), container_path: "/memory".into(), ..Default::default() };
    let filler = node.start_as(&sandbox, node.config("filler", "sleep 1000", vec![mount])).await;
    drop(mounted);
    let (_, said) = node
        .exec(
            &filler,
            "for d in /dev/shm /memory; do busybox dd if=/dev/zero of=$d/x bs=65536 count=1100 2>&1 | \
             busybox grep -o 'No space left on device'; busybox wc -c <$d/x; busybox rm $d/x; done",
        )
        .await;
    assert_eq!(said, "No space left on device\n67108864\nNo space left on device\n1048576\n");
    client.remove_container(cri::RemoveContainerRequest { container_id: filler }).await.unwrap();

    // Shared memory is charged to who fills it.
    let mut greedy = node.config("greedy", "head -c 40000000 /dev/zero >/dev/shm/x; sleep 1000", vec![]);
    greedy.linux.as_mut().unwrap().resources =
        Some(cri::LinuxContainerResources { memory_limit_in_bytes: 16 << 20, ..Default::default() });
    let greedy = node.start_as(&sandbox, greedy).await;
    let status = node.exited(&greedy).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));

    let request = cri::ListPodSandboxMetricsRequest {};
    let metrics = client.list_pod_sandbox_metrics(request).await.unwrap().into_inner().pod_metrics;
    let vm = metrics[0].metrics.iter().find(|m| m.name == "hypernetes_vm_memory_bytes").unwrap();
    assert!(vm.value.unwrap().value > 10 << 20, "{vm:?}");
    node.remove(&sandbox).await;

    // Users of their own: root of the container is nobody in the guest, and owns what it made and its image.
    let security_context = Some(cri::LinuxSandboxSecurityContext {
        namespace_options: Some(cri::NamespaceOption { userns_options: Some(users(65_536)), ..Default::default() }),
        ..Default::default()
    });
    let linux = cri::LinuxPodSandboxConfig { security_context, ..Default::default() };
    let sandbox = node.run_sandbox_with("acme", Some(linux)).await;
    let volume_mount = pod.join("volumes/kubernetes.io~csi/pvc-2/mount");
    std::fs::create_dir_all(&volume_mount).unwrap();
    std::fs::create_dir_all(node.path("volumes/acme")).unwrap();
    let volume = node.path("volumes/acme/v.raw");
    std::fs::File::create(&volume).unwrap().set_len(64 << 20).unwrap();
    describe_volume(&volume_mount, "acme", "v");
    let config = pod.join("volumes/kubernetes.io~configmap/cfg");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("key"), "secret").unwrap();
    std::fs::set_permissions(config.join("key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let mount = |host: &Path, container: &str| cri::Mount {
        host_path: host.display().to_string(),
        container_path: container.into(),
        ..Default::default()
    };
    let script = "echo out >/dev/stdout; sleep 1000";
    let mounts = vec![mount(&volume_mount, "/vol"), mount(&config, "/cfg")];
    let mapped = node.start_as(&sandbox, mapped_config("mapped", script, mounts)).await;
    let (_, said) = node
        .exec(
            &mapped,
            "cat /proc/self/uid_map; id -u; touch /new /vol/new; ls -ln /new /vol/new /bin/busybox; cat /cfg/key; \
             echo; echo 1 >/proc/sys/kernel/shm_rmid_forced || echo no power",
        )
        .await;
    let lines: Vec<String> =
        said.lines().map(|line| line.split_whitespace().take(4).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines[..2], ["0 70000 65536", "0"], "{said}");
    for line in &lines[2..5] {
        assert!(line.ends_with("0 0"), "{said}");
    }
    assert_eq!(lines[5..], ["secret", "no power"], "{said}");
    assert_eq!(node.log("mapped.log"), ["stdout F out"]);
    node.remove(&sandbox).await;
    node.hyperd.take().unwrap().shutdown_background();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_later_pods_are_copies() {
    let mut node = node().await;
    let (first, copied) = node.run_timed("acme").await;
    assert!(!copied);
    node.remove(&first).await;
    let copy = within(Duration::from_secs(120), "a copy", async || {
        let (sandbox, copied) = node.run_timed("acme").await;
        if copied {
            return Some(sandbox);
        }
        node.remove(&sandbox).await;
        None
    })
    .await;
    let (other, copied) = node.run_timed("umbrella").await;
    assert!(!copied, "another tenant's pod");
    node.remove(&other).await;

    let (again, copied) = node.run_timed("acme").await;
    assert!(copied);
    let mut boot_ids = Vec::new();
    let mut containers = Vec::new();
    for sandbox in [&copy, &again] {
        let container = node.start(sandbox, "c", "sleep 1000", vec![]).await;
        let (_, boot_id) = node.exec(&container, "cat /proc/sys/kernel/random/boot_id").await;
        assert_eq!(node.machine(sandbox).await.boot_id, boot_id.trim());
        boot_ids.push(boot_id);
        containers.push(container);
    }
    assert_ne!(boot_ids[0], boot_ids[1]);

    // hyperd's successor takes the copies over; templates it has to make anew.
    node.restart().await;
    for (container, boot_id) in containers.iter().zip(&boot_ids) {
        let seen = within(Duration::from_secs(60), "the VM to be taken over", async || {
            let cmd = ["/bin/cat", "/proc/sys/kernel/random/boot_id"].map(str::to_owned).to_vec();
            let request = cri::ExecSyncRequest { container_id: container.clone(), cmd, timeout: 30 };
            node.runtime().await.exec_sync(request).await.ok()
        });
        assert_eq!(String::from_utf8(seen.await.into_inner().stdout).unwrap(), *boot_id);
    }
    let (fresh, copied) = node.run_timed("acme").await;
    assert!(!copied);
    for sandbox in [copy, again, fresh] {
        node.remove(&sandbox).await;
    }
    node.hyperd.take().unwrap().shutdown_background();
}

/// What is said of a path of the host by a mount.
fn host_path(host: &Path, container: &str) -> cri::Mount {
    cri::Mount { host_path: host.display().to_string(), container_path: container.into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn host_paths_are_live_both_ways_where_they_are_allowed() {
    let mut node = node().await;
    let shared = node.path("shared");
    for directory in ["work", "look", "work/below"] {
        std::fs::create_dir_all(shared.join(directory)).unwrap();
    }
    std::fs::write(shared.join("work/from-host"), "one").unwrap();
    std::fs::write(shared.join("look/only"), "read me").unwrap();
    std::fs::write(shared.join("single"), "a file").unwrap();
    std::fs::write(node.path("secret"), "the host's").unwrap();
    std::os::unix::fs::symlink(shared.join("work"), node.path("link")).unwrap();
    let sandbox = node.run_sandbox("").await;

    // What is not allowed is refused, also through a link that is.
    std::os::unix::fs::symlink(node.path("secret"), shared.join("out")).unwrap();
    let read_only = |mount: cri::Mount| cri::Mount { readonly: true, ..mount };
    let propagated = |mount: cri::Mount, propagation: i32| cri::Mount { propagation, ..mount };
    for (mount, expected) in [
        (host_path(&node.path("secret"), "/x"), "--allow-host-path"),
        (host_path(&shared.join("out"), "/x"), "--allow-host-path"),
        (host_path(&shared.join("look"), "/x"), "read-only only"),
        (propagated(host_path(&shared.join("work"), "/x"), 2), "bidirectional"),
    ] {
        let error = node.create(&sandbox, node.config("refused", "true", vec![mount])).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::FailedPrecondition);
        assert!(error.message().contains(expected), "{error}");
    }
    let tenants = node.run_sandbox("acme").await;
    let mounts = vec![host_path(&shared.join("work"), "/x")];
    let error = node.create(&tenants, node.config("refused", "true", mounts)).await.unwrap_err();
    assert!(error.message().contains("operator's own pods only"), "{error}");
    node.remove(&tenants).await;

    let mounts = vec![
        // A link to what is allowed.
        host_path(&node.path("link"), "/work"),
        read_only(host_path(&shared.join("look"), "/look")),
        host_path(&shared.join("single"), "/single"),
        host_path(&shared.join("new/directory"), "/new"),
    ];
    let one = node.start(&sandbox, "one", "sleep 100000", mounts).await;
    let sh = async |script: &str| {
        let (code, output) = node.exec(&one, &format!("exec 2>&1; PATH=/tmp:/bin; {script}")).await;
        (code, output.trim_end().to_owned())
    };
    sh("/bin/busybox --install -s /tmp").await;
    let fine = async |script: &str| {
        let (code, output) = sh(script).await;
        assert_eq!(code, 0, "{script}: {output}");
        output
    };
    assert_eq!(fine("cat /work/from-host /look/only /single").await, "oneread mea file");
    assert!(shared.join("new/directory").is_dir());
    // Names and attributes.
    fine("cd /work; mkdir d; echo two >d/f; chmod 640 d/f; chown 1000:1000 d/f; ln d/f d/g; ln -s g d/s; mv d/g d/h")
        .await;
    let metadata = std::fs::metadata(shared.join("work/d/h")).unwrap();
    let seen = (metadata.permissions().mode() & 0o7777, std::os::unix::fs::MetadataExt::uid(&metadata));
    assert_eq!(seen, (0o640, 1000));
    assert_eq!(std::fs::read_link(shared.join("work/d/s")).unwrap(), Path::new("g"));
    assert_eq!(fine("cd /work/d; ls; rm f s; rmdir ../below; ls ..").await, "f\nh\ns\nd\nfrom-host");
    assert_eq!(fine("cat /work/d/h; stat -c '%h %u %a' /work/d/h").await, "two\n1 1000 640");
    // A setuid bit does not reach the host.
    fine("chmod 4755 /work/d/h").await;
    assert_eq!(std::fs::metadata(shared.join("work/d/h")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_ne!(sh("mknod /work/null c 1 3").await.0, 0);
    // Changes in place, on both sides.
    std::fs::write(shared.join("work/d/h"), "changed on the host").unwrap();
    assert_eq!(fine("cat /work/d/h").await, "changed on the host");
    fine("echo appended >>/work/d/h; echo in the pod >/single").await;
    assert_eq!(std::fs::read_to_string(shared.join("work/d/h")).unwrap(), "changed on the hostappended\n");
    assert_eq!(std::fs::read_to_string(shared.join("single")).unwrap(), "in the pod\n");
    // Without a name, and under another.
    let script = "cd /work/d; exec 5>gone; echo x >&5; rm gone; echo xx >&5; stat -Lc %s /proc/self/fd/5; mv ../d ../e; cat h; mv ../e ../d";
    assert_eq!(fine(script).await, "5\nchanged on the hostappended");
    // Large content, more entries than one message holds, and a link that would lead out on the host.
    fine("dd if=/dev/urandom of=/work/large bs=1M count=5; cp /work/large /work/copy; cmp /work/large /work/copy")
        .await;
    assert_eq!(std::fs::read(shared.join("work/large")).unwrap(), std::fs::read(shared.join("work/copy")).unwrap());
    std::fs::create_dir(shared.join("work/many")).unwrap();
    (0..1500)
        .for_each(|i| drop(std::fs::File::create(shared.join(format!("work/many/{i}-with-a-longer-name"))).unwrap()));
    assert_eq!(fine("ls /work/many | sort -u | wc -l").await, "1500");
    fine("ln -s ../../secret /work/up").await;
    assert_ne!(sh("cat /work/up").await.0, 0);
    // Read-only is so on the host.
    let (code, output) = sh("echo x >/look/only").await;
    assert!(code != 0 && output.contains("Read-only"), "{output}");
    assert_ne!(sh("rm /look/only || touch /look/new || chmod 777 /look/only").await.0, 0);
    assert_eq!(std::fs::read_dir(shared.join("look")).unwrap().count(), 1);

    // hyperd dies while a process writes: the process waits, and goes on with the next one.
    let script = "exec 3>>/work/log; i=0; while [ $i -lt 300 ]; do echo $i >&3; i=$((i+1)); sleep 0.01; done";
    let writer = node.start(&sandbox, "writer", script, vec![host_path(&shared.join("work"), "/work")]).await;
    within(Duration::from_secs(30), "some lines", async || {
        std::fs::read_to_string(shared.join("work/log")).is_ok_and(|log| log.lines().count() > 20).then_some(())
    })
    .await;
    node.hyperd.take().unwrap().shutdown_background();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let lines = std::fs::read_to_string(shared.join("work/log")).unwrap().lines().count();
    assert!(lines < 300, "the writer did not have to wait");
    node.run().await;
    assert_eq!(node.exited(&writer).await.exit_code, 0);
    let expected: String = (0..300).map(|i| format!("{i}\n")).collect();
    assert_eq!(std::fs::read_to_string(shared.join("work/log")).unwrap(), expected);
    node.remove(&sandbox).await;
    node.hyperd.take().unwrap().shutdown_background();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hibernated_pod_goes_on_after_a_restart() {
    let mut node = node().await;
    let sandbox = node.run_sandbox("acme").await;
    let script = "i=0; while :; do i=$((i+1)); echo $i; echo $i > /tmp/j; busybox mv /tmp/j /tmp/i; sleep 0.1; done";
    let container = node.start(&sandbox, "count", script, vec![]).await;
    // The numbers in the log: all, each once.
    let counted = |node: &Node| {
        let lines = node.log("count.log");
        lines.iter().zip(1..).for_each(|(line, n)| assert_eq!(*line, format!("stdout F {n}")));
        lines.len()
    };
    within(Duration::from_secs(30), "output", async || (counted(&node) > 3).then_some(())).await;
    let pid = node.machine(&sandbox).await.pid;

    let began = Instant::now();
    let request = HibernateSandboxRequest { pod_sandbox_id: sandbox.clone() };
    HyperdClient::new(node.channel().await).hibernate_sandbox(request).await.unwrap();
    eprintln!("HibernateSandbox took {:?}", began.elapsed());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    let before = counted(&node);
    node.hyperd.take().unwrap().shutdown_background();
    tokio::time::sleep(Duration::from_secs(3)).await;
    node.run().await;
    assert_eq!(counted(&node), before);

    let began = Instant::now();
    let request = ResumeSandboxRequest { pod_sandbox_id: sandbox.clone() };
    HyperdClient::new(node.channel().await).resume_sandbox(request).await.unwrap();
    eprintln!("ResumeSandbox took {:?}", began.elapsed());
    assert_ne!(node.machine(&sandbox).await.pid, pid);
    within(Duration::from_secs(30), "more output", async || (counted(&node) > before + 3).then_some(())).await;
    // Its disks, its memory and its clock are as they should be.
    let (code, output) = node.exec(&container, "cat /etc/passwd > /dev/null && cat /tmp/i && busybox date +%s").await;
    assert_eq!(code, 0, "{output}");
    let mut lines = output.lines();
    assert!(lines.next().unwrap().parse::<usize>().unwrap() > before);
    let guest: u64 = lines.next().unwrap().parse().unwrap();
    let host = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(guest.abs_diff(host) <= 2, "{guest}, {host}");
    node.remove(&sandbox).await;
    node.hyperd.take().unwrap().shutdown_background();
}
