//! VMs for real: the guest's kernel boots, the agent answers, disks come and go.
//!
//! Needs root, QEMU, `scripts/guest-kernel.sh` and the static agent; says so when one is missing.

mod common;

use common::{boot, connect, image, process, qemu, spec};
use hypernetes_guest_protocol::v1::{self, agent_client::AgentClient};
use hypernetes_hypervisor::{DiskSlot, DiskSource, Hypervisor, HypervisorError, VmSpec};
use tonic::transport::Endpoint;

#[tokio::test(flavor = "multi_thread")]
async fn containers_run_in_a_vm() {
    let directory = tempfile::tempdir().unwrap();
    let qemu = qemu(directory.path()).await;
    let mut vm = boot(&qemu, spec("containers")).await;
    let image = image(directory.path());
    let root = vm.attach(&image, true).await;

    vm.create("one", root, &["sh", "-c", "echo out; echo err >&2; exit 7"], vec![]).await;
    vm.start("one", "", None).await.unwrap();
    assert_eq!(vm.wait("one", "").await.exit_code, 7);
    let output = vm.output("one", "").await;
    assert!(output.contains("out\n") && output.contains("err\n"), "{output}");
    vm.remove("one", "").await;

    vm.create("two", root, &["sleep", "1000"], vec![]).await;
    vm.start("two", "", None).await.unwrap();
    assert_eq!(vm.exec("two", "a", &["echo", "hello"]).await, (0, "hello\n".into()));
    assert_eq!(vm.exec("two", "b", &["sh", "-c", "exit 42"]).await.0, 42);
    let (_, ps) = vm.exec("two", "c", &["ps"]).await;
    assert!(ps.contains("sleep 1000") && !ps.contains("hyperstart"), "{ps}");
    let missing = vm.start("two", "d", Some(process(&["no-such-program"]))).await.unwrap_err();
    assert!(missing.message().contains("executable file not found in $PATH"), "{missing}");
    let web =
        v1::Process { user: Some(v1::User { name: "web".into(), ..Default::default() }), ..process(&["id", "-u"]) };
    vm.start("two", "e", Some(web)).await.unwrap();
    assert_eq!(vm.output("two", "e").await, "1000\n");
    // A terminal.
    vm.start("two", "f", Some(v1::Process { tty: true, ..process(&["stty", "size"]) })).await.unwrap();
    assert_eq!(vm.output("two", "f").await.trim(), "24 80");
    // Standard input.
    vm.start("two", "g", Some(v1::Process { stdin: true, ..process(&["cat"]) })).await.unwrap();
    let write =
        v1::WriteStdinRequest { container_id: "two".into(), exec_id: "g".into(), data: b"typed".into(), close: true };
    vm.agent.write_stdin(write).await.unwrap();
    assert_eq!(vm.output("two", "g").await, "typed");
    vm.kill("two").await;
    vm.remove("two", "").await;

    // Over its limit the container ends, and is said to.
    vm.create("greedy", root, &["sh", "-c", "x=xxxxxxxxxxxxxxxx; while true; do x=$x$x; done"], vec![]).await;
    vm.start("greedy", "", None).await.unwrap();
    let exit = vm.wait("greedy", "").await;
    assert!(exit.oom_killed && exit.signal == 9, "{exit:?}");
    vm.remove("greedy", "").await;
    vm.vm.detach_disk(DiskSlot(root)).await.unwrap();
    vm.vm.kill().await.unwrap();
    assert!(!vm.vm.record().directory.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_loses_no_output() {
    let directory = tempfile::tempdir().unwrap();
    let qemu = qemu(directory.path()).await;
    let mut vm = boot(&qemu, spec("reconnect")).await;
    let image = image(directory.path());
    let root = vm.attach(&image, true).await;
    vm.create("c", root, &["sh", "-c", "seq 1 20000; sleep 1; echo end"], vec![]).await;
    vm.start("c", "", None).await.unwrap();
    let (mut text, mut offset) = (Vec::new(), 0);
    for cut in 0.. {
        // A new process takes over: another record, another connection.
        let record = vm.vm.record();
        vm.vm = qemu.adopt(record).await.unwrap();
        // The port has one user at a time: the old connection goes first, as with a process that was killed.
        vm.agent = AgentClient::new(Endpoint::from_static("http://nobody").connect_lazy());
        vm.agent = connect(&*vm.vm).await;
        let (acknowledge, requests) = tokio::sync::mpsc::channel(8);
        let request =
            |offset| v1::ReadOutputRequest { container_id: "c".into(), stdout_offset: offset, ..Default::default() };
        acknowledge.send(request(offset)).await.unwrap();
        let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
        let mut chunks = vm.agent.read_output(requests).await.unwrap().into_inner();
        let mut read = 0;
        let ended = loop {
            let chunk = chunks.message().await.unwrap().expect("a chunk");
            if chunk.stream == 1 {
                continue;
            }
            assert_eq!(chunk.offset, offset);
            offset += chunk.data.len() as u64;
            read += chunk.data.len();
            text.extend(chunk.data);
            acknowledge.send(request(offset)).await.unwrap();
            if chunk.eof {
                break true;
            }
            if cut < 4 && read > 10_000 {
                break false;
            }
        };
        if ended {
            break;
        }
    }
    let lines: Vec<String> = String::from_utf8(text).unwrap().lines().map(str::to_owned).collect();
    let expected: Vec<String> = (1..=20_000).map(|n| n.to_string()).chain(["end".into()]).collect();
    assert!(lines == expected, "{} lines, the last {:?}", lines.len(), lines.last());
    vm.vm.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_moves_from_vm_to_vm() {
    let directory = tempfile::tempdir().unwrap();
    let qemu = qemu(directory.path()).await;
    let image = image(directory.path());
    let volume = directory.path().join("volume.raw");
    std::fs::File::create(&volume).unwrap().set_len(64 << 20).unwrap();
    assert!(std::process::Command::new("mkfs.ext4").arg("-q").arg(&volume).status().unwrap().success());
    for (round, script) in ["echo kept > /v/file; sync", "cat /v/file"].iter().enumerate() {
        let mut vm = boot(&qemu, spec(&format!("volume-{round}"))).await;
        let root = vm.attach(&image, true).await;
        let slot = vm.attach(&volume, false).await;
        let disk = v1::Disk { slot, fs_type: "ext4".into(), read_only: false };
        let mount =
            v1::Mount { destination: "/v".into(), source: Some(v1::mount::Source::Disk(disk)), ..Default::default() };
        vm.create("c", root, &["sh", "-c", script], vec![mount]).await;
        vm.start("c", "", None).await.unwrap();
        assert_eq!(vm.wait("c", "").await.exit_code, 0);
        let output = vm.output("c", "").await;
        assert_eq!(output, if round == 0 { "" } else { "kept\n" });
        vm.remove("c", "").await;
        vm.vm.detach_disk(DiskSlot(slot)).await.unwrap();
        vm.vm.kill().await.unwrap();
    }
    let check = std::process::Command::new("fsck.ext4").args(["-fn"]).arg(&volume).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_is_locked_in() {
    let directory = tempfile::tempdir().unwrap();
    let qemu = qemu(directory.path()).await;
    let spec = spec("locked-in");
    let id = spec.id.clone();
    let vm = boot(&qemu, spec).await;
    let pid = vm.vm.record().pid;
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    for namespace in ["mnt", "net", "pid", "ipc", "uts"] {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        assert_ne!(of(&pid.to_string()), of("self"), "{namespace}");
    }
    // Nothing is mounted but the root, and in that is nothing that was mounted there.
    assert_eq!(read("mountinfo").lines().count(), 1, "{}", read("mountinfo"));
    assert!(std::fs::read_dir(format!("/proc/{pid}/root/usr/")).unwrap().next().is_none());
    let status = read("status");
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert!(field("Uid:").split_whitespace().all(|uid| uid.parse::<u32>().unwrap() >= 0x6000_0000), "{status}");
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".into(), "2".into()));
    // Where this test may make control groups, the VM is in one of its own.
    let groups = read("cgroup");
    if groups.contains("hypernetes") {
        let own = |line: &str| line.contains("/hypernetes/tenant.") && line.ends_with(&format!("/{id}"));
        assert!(groups.lines().any(own), "{groups}");
    }
    vm.vm.kill().await.unwrap();
    for hierarchy in ["memory/", "cpu/", "pids/", ""] {
        let tenants =
            std::fs::read_dir(format!("/sys/fs/cgroup/{hierarchy}hypernetes")).into_iter().flatten().flatten();
        for tenant in tenants {
            let group = tenant.path().join(&id);
            assert!(!group.exists(), "{group:?}");
        }
    }
}

/// The last third of a VM's disks can be written to, as disks; what they hold need not be.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_on_any_disk_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let qemu = qemu(directory.path()).await;
    let mut vm = boot(&qemu, VmSpec { disk_slots: 3, ..spec("overlay") }).await;
    let image = image(directory.path());
    let volume = directory.path().join("volume.raw");
    std::fs::File::create(&volume).unwrap().set_len(8 << 20).unwrap();
    let mut copies = Vec::new();
    for n in 0..4 {
        let copy = directory.path().join(format!("copy-{n}.erofs"));
        assert!(
            std::process::Command::new("cp").arg("--sparse=always").args([&image, &copy]).status().unwrap().success()
        );
        copies.push(copy);
    }
    // A volume first: the disk has had another length.
    let first = vm.attach(&volume, false).await;
    assert_eq!(first, 2);
    vm.vm.detach_disk(DiskSlot(first)).await.unwrap();
    for (n, copy) in copies.iter().take(3).enumerate() {
        assert_eq!(vm.attach(copy, true).await, n as u32);
    }
    let full = vm.vm.attach_disk(DiskSource { path: copies[3].clone(), read_only: true }).await;
    assert!(matches!(full, Err(HypervisorError::NoFreeSlot { slots: 3, writable: 1, .. })));

    let request = v1::CreateContainerRequest {
        container_id: "c".into(),
        root: Some(v1::Disk { slot: 2, fs_type: "erofs".into(), read_only: true }),
        process: Some(v1::Process { privileged: true, ..process(&["sleep", "1000"]) }),
        ..Default::default()
    };
    vm.agent.create_container(request).await.unwrap();
    vm.start("c", "", None).await.unwrap();
    let script = "d=$(for b in /sys/block/*; do if [ \"$(cat $b/serial 2>/dev/null)\" = slot2 ]; then echo /dev/${b##*/}; fi; done); \
                  busybox blockdev --getro $d; dd if=/dev/urandom of=$d bs=4096 count=64 conv=notrunc,fsync 2>&1; echo $?";
    vm.start("c", "w", Some(v1::Process { privileged: true, ..process(&["sh", "-c", script]) })).await.unwrap();
    let output = vm.output("c", "w").await;
    assert!(output.starts_with("0\n") && output.contains("error") && output.ends_with("1\n"), "{output}");
    // It is the image still, and the VM goes on.
    assert_eq!(vm.exec("c", "r", &["cat", "/etc/passwd"]).await.0, 0);
    vm.kill("c").await;
    vm.remove("c", "").await;
    for slot in 0..3 {
        vm.vm.detach_disk(DiskSlot(slot)).await.unwrap();
    }
    let same = std::process::Command::new("cmp").args(["-n", "4194304"]).args([&image, &copies[2]]).status().unwrap();
    assert!(same.success());
    assert_eq!(vm.attach(&volume, false).await, 2);
    vm.vm.kill().await.unwrap();
}
