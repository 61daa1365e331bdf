//! VMs that are saved to the disk with their memory, and go on later.

mod common;

use std::{
    collections::HashSet,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use common::{Running, boot, connect, image, own, qemu, spec};
use hypernetes_guest_protocol::v1;
use hypernetes_hypervisor::{Hypervisor, HypervisorError, VmRecord, VmSpec};

/// Counts in its memory, and writes each number to the disk.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i > /data/count; sleep 0.05; done";

fn nobody() -> v1::agent_client::AgentClient<tonic::transport::Channel> {
    let nowhere = tonic::transport::Endpoint::from_static("http://nobody").connect_lazy();
    v1::agent_client::AgentClient::new(nowhere)
}

async fn count(vm: &mut Running, name: &str) -> u64 {
    // It may be between the two halves of being replaced.
    let script = "until n=$(cat /data/count) && [ -n \"$n\" ]; do sleep 0.01; done; echo $n";
    let (code, output) = vm.exec("c", name, &["sh", "-c", script]).await;
    assert_eq!(code, 0, "{output}");
    output.trim().parse().unwrap()
}

fn alive(record: &VmRecord) -> bool {
    Path::new(&format!("/proc/{}", record.pid)).exists()
}

async fn resume(qemu: &dyn Hypervisor, record: VmRecord) -> Running {
    let began = Instant::now();
    let vm = qemu.resume(record.clone()).await.unwrap();
    let restored = began.elapsed();
    assert_eq!(vm.record().disks, record.disks);
    vm.go_on().await.unwrap();
    let runs = began.elapsed();
    let mut agent = connect(&*vm).await;
    agent.hello(v1::HelloRequest { min_version: 1, max_version: 3 }).await.unwrap();
    println!("restored after {restored:?}, ran after {runs:?}, greeted after {:?}", began.elapsed());
    Running { vm, agent }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_hibernated_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let first = qemu(directory.path()).await;
    let image = image(directory.path());
    let volume = directory.path().join("volume");
    std::fs::File::create(&volume).unwrap().set_len(64 << 20).unwrap();
    assert!(std::process::Command::new("mkfs.ext4").arg("-q").arg(&volume).status().unwrap().success());

    let mut vm = boot(&first, VmSpec { memory_mib: 256, ..spec("one") }).await;
    let root = vm.attach(&image, true).await;
    let data = vm.attach(&volume, false).await;
    let mount = v1::Mount {
        destination: "/data".into(),
        source: Some(v1::mount::Source::Disk(v1::Disk { slot: data, fs_type: "ext4".into(), read_only: false })),
        ..Default::default()
    };
    vm.create("c", root, &["sh", "-c", COUNT], vec![mount]).await;
    vm.start("c", "", None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;

    // Saved and not ended, it goes on as if nothing had been.
    let record = vm.vm.record();
    first.hibernate(&record).await.unwrap();
    vm.vm.go_on().await.unwrap();
    first.forget(&own("one")).await;
    let before = count(&mut vm, "before").await;

    let began = Instant::now();
    first.hibernate(&record).await.unwrap();
    println!("hibernated in {:?}", began.elapsed());
    let files = directory.path().join("snapshots").join(own("one"));
    for name in ["memory", "state"] {
        let metadata = std::fs::metadata(files.join(name)).unwrap();
        println!("{name}: {} KiB of {} KiB", metadata.blocks() / 2, metadata.len() >> 10);
        assert_eq!(metadata.mode() & 0o777, 0o600);
    }
    assert_eq!(std::fs::metadata(directory.path().join("snapshots")).unwrap().mode() & 0o777, 0o700);
    vm.vm.kill().await.unwrap();
    assert!(!alive(&record));
    drop(vm);
    drop(first);

    let second = qemu(directory.path()).await;
    let keep = HashSet::from([own("one")]);
    second.sweep(&HashSet::new(), &keep).await;
    // Ended before it goes on, it can be resumed again; and again, from where it was saved then.
    second.resume(record.clone()).await.unwrap().kill().await.unwrap();
    let mut vm = resume(&second, record.clone()).await;
    second.forget(&own("one")).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = count(&mut vm, "after").await;
    assert!(after > before, "{before}, {after}");
    let (code, output) = vm.exec("c", "write", &["sh", "-c", "echo kept > /data/file && sync && cat /data/file"]).await;
    assert_eq!((code, output.as_str()), (0, "kept\n"));

    let record = vm.vm.record();
    second.hibernate(&record).await.unwrap();
    vm.vm.kill().await.unwrap();
    vm.agent = nobody();
    let mut vm = resume(&second, record).await;
    let (code, output) = vm.exec("c", "read", &["cat", "/data/file"]).await;
    assert_eq!((code, output.as_str()), (0, "kept\n"));
    assert!(count(&mut vm, "last").await >= after);
    vm.vm.kill().await.unwrap();
    // What nobody remembers is removed; what is not there cannot be resumed.
    second.sweep(&HashSet::new(), &HashSet::new()).await;
    assert!(!files.exists());
    let gone = second.resume(vm.vm.record()).await;
    assert!(matches!(gone, Err(HypervisorError::Resume { .. })));
    let left: Vec<_> = std::fs::read_dir(directory.path().join("machines")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
