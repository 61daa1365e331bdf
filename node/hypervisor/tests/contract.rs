//! What every VMM driver keeps to: the same for QEMU, with a guest, and for Firecracker, on a double of it where there is no KVM.

mod common;

use std::{
    collections::HashSet,
    fs::File,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use common::{connect, image, own, qemu, spec};
use hypernetes_guest_protocol::v1;
use hypernetes_hypervisor::{
    DiskSlot, DiskSource, Hypervisor, HypervisorError, Nic, TemplateLimits, Vm, VmRecord, VmSpec,
    firecracker::{Firecracker, FirecrackerConfig},
    tap::Nowhere,
};

fn config(directory: &Path) -> FirecrackerConfig {
    FirecrackerConfig {
        program: Some(env!("CARGO_BIN_EXE_fake-firecracker").into()),
        // A device that everybody may open.
        kvm: "/dev/zero".into(),
        patience: Duration::from_secs(1),
        templates: TemplateLimits { delay: Duration::ZERO, ..TemplateLimits::default() },
        ..FirecrackerConfig::new(
            directory.to_owned(),
            common::guest_files(),
            env!("CARGO_BIN_EXE_hypernetes-vmm").into(),
        )
    }
}

async fn firecracker(directory: &Path) -> Firecracker {
    Firecracker::new(config(directory)).await.unwrap()
}

/// Ends the VM however the test ends.
struct Guard(i32);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.0), nix::sys::signal::Signal::SIGKILL);
    }
}

fn guard(vm: &dyn Vm) -> Guard {
    Guard(vm.record().pid)
}

fn alive(record: &VmRecord) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", record.pid)).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Whether the VMM has that very file open.
fn holds(record: &VmRecord, file: &Path) -> bool {
    let wanted = std::fs::metadata(file).unwrap();
    let open = std::fs::read_dir(format!("/proc/{}/fd", record.pid)).into_iter().flatten().flatten();
    open.filter_map(|fd| std::fs::metadata(fd.path()).ok())
        .any(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
}

async fn greet(vm: &dyn Vm) {
    let hello = connect(vm).await.hello(v1::HelloRequest { min_version: 1, max_version: 1 }).await.unwrap();
    assert_eq!(hello.into_inner().version, 1);
}

fn left(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// `restart` gives the driver as a process that was started anew has it.
async fn contract(directory: &Path, restart: impl AsyncFn() -> Box<dyn Hypervisor>) {
    let hypervisor = restart().await;
    let image = image(directory);
    let volume = directory.join("volume.raw");
    File::create(&volume).unwrap().set_len(64 << 20).unwrap();
    let source = |path: &Path, read_only| DiskSource { path: path.to_owned(), read_only };
    let most = hypervisor.describe().disk_slots;

    for wrong in [
        VmSpec { id: "no/id".into(), ..spec("") },
        VmSpec { cpus: 0, ..spec("wrong") },
        VmSpec { memory_mib: 1, ..spec("wrong") },
        VmSpec { disk_slots: most + 1, ..spec("wrong") },
        VmSpec {
            nic: Some(Nic { tap: "no-such/tap".into(), netns: None, mac: "52:54:00:00:00:01".into() }),
            ..spec("wrong")
        },
        VmSpec {
            nic: Some(Nic { tap: "tap0".into(), netns: Some("/nowhere".into()), mac: "52:54:00:00:00:01".into() }),
            ..spec("wrong")
        },
    ] {
        let refused = hypervisor.create(wrong.clone()).await.map(drop);
        assert!(matches!(refused, Err(HypervisorError::Start { .. })), "{wrong:?}: {refused:?}");
    }
    assert_eq!(left(&directory.join("machines")), Vec::<PathBuf>::new());

    let vm = hypervisor.create(spec("one")).await.unwrap();
    let _guard = guard(&*vm);
    let record = vm.record();
    assert_eq!((record.spec.clone(), record.disks.clone()), (spec("one"), vec![None; 6]));
    greet(&*vm).await;
    // Once it runs, it is in a root with nothing in it, and may nothing.
    let status = std::fs::read_to_string(format!("/proc/{}/status", record.pid)).unwrap();
    assert!(status.contains("CapEff:\t0000000000000000") && status.contains("NoNewPrivs:\t1"), "{status}");
    let root = PathBuf::from(format!("/proc/{}/root", record.pid));
    assert!(!root.join("usr/bin").exists() && !root.join("proc/self").exists());
    assert!(std::fs::write(root.join("run/written"), "").is_err());
    assert!(matches!(hypervisor.create(spec("one")).await.map(drop), Err(HypervisorError::Start { .. })));
    assert!(alive(&record), "another of its name is refused, and does not harm it");

    // Disks.
    let root_slot = vm.attach_disk(source(&image, true)).await.unwrap();
    let data_slot = vm.attach_disk(source(&volume, false)).await.unwrap();
    assert_eq!((root_slot, data_slot), (DiskSlot(0), DiskSlot(4)));
    assert!(holds(&record, &image) && holds(&record, &volume));
    let missing = vm.attach_disk(source(Path::new("/nowhere"), true)).await;
    assert!(matches!(missing, Err(HypervisorError::AttachDisk { .. })), "{missing:?}");
    let directory_itself = vm.attach_disk(source(directory, true)).await;
    assert!(matches!(directory_itself, Err(HypervisorError::AttachDisk { .. })), "{directory_itself:?}");
    let second = directory.join("second.raw");
    File::create(&second).unwrap().set_len(1 << 20).unwrap();
    assert_eq!(vm.attach_disk(source(&second, false)).await.unwrap(), DiskSlot(5));
    let full = vm.attach_disk(source(&second, false)).await;
    assert!(matches!(full, Err(HypervisorError::NoFreeSlot { .. })), "{full:?}");
    vm.detach_disk(DiskSlot(5)).await.unwrap();
    vm.detach_disk(DiskSlot(5)).await.unwrap();
    assert!(!holds(&record, &second));
    assert_eq!(std::fs::metadata(&second).unwrap().uid(), 0);
    let held = vm.record().disks;
    assert_eq!((held[0].clone(), held[4].clone()), (Some(source(&image, true)), Some(source(&volume, false))));
    assert_eq!(held.iter().flatten().count(), 2);

    // The process that made it ends. Its successor knows of one disk too few, and of one too many.
    drop((vm, hypervisor));
    let hypervisor = restart().await;
    let mut known = record.clone();
    known.disks = vec![None, None, None, None, Some(source(&volume, false)), Some(source(&second, false))];
    let vm = hypervisor.adopt(known).await.unwrap();
    vm.settle_disks().await.unwrap();
    let settled = vm.record();
    assert!(settled.disks[0].is_none() && !holds(&record, &image));
    assert!(settled.disks[4].is_some() && holds(&record, &volume));
    assert_eq!(settled.disks[5].is_some(), holds(&record, &second));
    greet(&*vm).await;

    // What nobody wants goes; what somebody wants stays.
    let other = hypervisor.create(VmSpec { disk_slots: 0, ..spec("other") }).await.unwrap();
    let (_other_guard, other_record) = (guard(&*other), other.record());
    drop(other);
    hypervisor.sweep(&HashSet::from([own("one")]), &HashSet::new()).await;
    assert!(!alive(&other_record) && !other_record.directory.exists());
    assert!(alive(&record));
    assert!(matches!(hypervisor.adopt(other_record).await.map(drop), Err(HypervisorError::Gone { .. })));

    // Saved, it goes on; saved and ended, it is made again.
    assert_eq!(vm.attach_disk(source(&image, true)).await.unwrap(), DiskSlot(0));
    let record = vm.record();
    hypervisor.hibernate(&record).await.unwrap();
    assert!(alive(&record));
    vm.go_on().await.unwrap();
    vm.go_on().await.unwrap();
    greet(&*vm).await;
    hypervisor.hibernate(&record).await.unwrap();
    vm.kill().await.unwrap();
    assert!(!alive(&record) && !record.directory.exists());
    let vm = hypervisor.resume(record.clone()).await.unwrap();
    let _resumed_guard = guard(&*vm);
    let resumed = vm.record();
    assert_eq!(resumed.disks, record.disks);
    assert!(holds(&resumed, &image) && holds(&resumed, &volume));
    vm.go_on().await.unwrap();
    greet(&*vm).await;
    hypervisor.forget(&own("one")).await;
    hypervisor.forget(&own("one")).await;
    assert!(matches!(hypervisor.resume(record.clone()).await.map(drop), Err(HypervisorError::Resume { .. })));

    templates(&*hypervisor, directory, &image).await;

    // Its end: seen by whoever waits, and any number of times.
    let watcher = hypervisor.adopt(vm.record()).await.unwrap();
    let watched = tokio::spawn(async move { watcher.wait().await });
    vm.kill().await.unwrap();
    vm.kill().await.unwrap();
    let exit = tokio::time::timeout(Duration::from_secs(10), watched).await.unwrap().unwrap();
    assert!(!exit.reason.is_empty());
    vm.wait().await;
    assert!(matches!(hypervisor.adopt(vm.record()).await.map(drop), Err(HypervisorError::Gone { .. })));
    let attached = vm.attach_disk(source(&second, false)).await;
    assert!(matches!(attached, Err(HypervisorError::AttachDisk { .. } | HypervisorError::NoFreeSlot { .. })));
    // Templates go with their driver, and what is left of them when the next one starts.
    drop(hypervisor);
    drop(restart().await);
    for place in ["machines", "snapshots"] {
        assert_eq!(left(&directory.join(place)), Vec::<PathBuf>::new(), "{place}");
    }
    for file in [&volume, &second] {
        assert_eq!(std::fs::metadata(file).unwrap().uid(), 0, "a volume is nobody's when no VM has it");
    }
}

/// VMs of one owner are copies of one that booted; those of others are not, and everything else is as with any VM.
async fn templates(hypervisor: &dyn Hypervisor, directory: &Path, image: &Path) {
    let owned = |id: &str, tenant: &str| VmSpec { tenant: tenant.into(), ..spec(id) };
    let networks = [Nowhere::new().await.unwrap(), Nowhere::new().await.unwrap()];
    let connected = |id: &str, n: usize| {
        let nic = networks[n].nic(&format!("52:54:00:00:00:0{n}"));
        VmSpec { nic: Some(nic), ..owned(id, "a") }
    };
    let first = hypervisor.create(connected("first", 0)).await.unwrap();
    let _first_guard = guard(&*first);
    let began = Instant::now();
    while !hypervisor.would_copy(&connected("any", 1)) {
        assert!(began.elapsed() < Duration::from_secs(90), "there is no template");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for other in [owned("any", "a"), VmSpec { tenant: "b".into(), ..connected("any", 1) }, owned("any", "")] {
        assert!(!hypervisor.would_copy(&other), "{other:?}");
    }
    let copy = hypervisor.create(connected("copy", 1)).await.unwrap();
    let _copy_guard = guard(&*copy);
    let [made] = &hypervisor.templates()[..] else { panic!("{:?}", hypervisor.templates()) };
    assert_eq!((made.tenant.as_str(), made.copies, made.has_nic), ("a", 1, true));
    greet(&*copy).await;
    let slot = copy.attach_disk(DiskSource { path: image.to_owned(), read_only: true }).await.unwrap();
    assert!(holds(&copy.record(), image));
    copy.detach_disk(slot).await.unwrap();
    // Copies do not depend on it, nor on one another.
    first.kill().await.unwrap();
    greet(&*copy).await;
    copy.kill().await.unwrap();
    let ours = directory.join("machines").join(own("one"));
    let others = left(&directory.join("machines")).into_iter().filter(|path| *path != ours);
    // A template may be a VM that stands still.
    let others: Vec<_> = others.filter(|path| !path.to_string_lossy().contains("/template-")).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_keeps_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    contract(directory.path(), async || Box::new(qemu(&path).await) as Box<dyn Hypervisor>).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn firecracker_keeps_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    contract(directory.path(), async || Box::new(firecracker(&path).await) as Box<dyn Hypervisor>).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firecracker_that_misbehaves_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let hypervisor = firecracker(directory.path()).await;
    for (id, says) in [
        ("dies-at-once", "it was told to"),
        ("no-api", "API was not there within 1 s"),
        ("silent", "PUT /actions: no answer within 1 s"),
        ("nonsense", "PUT /actions: the answer makes no sense"),
        ("refuses", "PUT /actions: Internal error while starting microVM: it was told to"),
        ("dies-at-start", "KVM has gone"),
    ] {
        let began = Instant::now();
        let error = hypervisor.create(VmSpec { id: id.into(), ..spec(id) }).await.map(drop).unwrap_err();
        assert!(matches!(error, HypervisorError::Start { .. }) && error.to_string().contains(says), "{id}: {error}");
        assert!(began.elapsed() < Duration::from_secs(10));
        let named = |line: Vec<u8>| line.split(|b| *b == 0).any(|word| word == id.as_bytes());
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let left: Vec<_> = processes
            .filter(|process| {
                let ours = format!("PPid:\t{}\n", std::process::id());
                std::fs::read_to_string(process.path().join("status")).is_ok_and(|status| status.contains(&ours))
                    && std::fs::read(process.path().join("cmdline")).is_ok_and(named)
            })
            .map(|process| process.path())
            .collect();
        assert!(left.is_empty(), "{id}: {left:?}");
    }
    assert_eq!(left(&directory.path().join("machines")), Vec::<PathBuf>::new());

    // One that is killed from outside is seen to be gone, and nothing is asked of it.
    let vm = hypervisor.create(spec("killed")).await.unwrap();
    let record = vm.record();
    drop(guard(&*vm));
    tokio::time::timeout(Duration::from_secs(10), vm.wait()).await.unwrap();
    let source = DiskSource { path: image(directory.path()), read_only: true };
    assert!(matches!(vm.attach_disk(source).await, Err(HypervisorError::AttachDisk { .. })));
    assert!(matches!(hypervisor.hibernate(&record).await, Err(HypervisorError::Gone { .. })));
    assert!(matches!(hypervisor.adopt(record).await.map(drop), Err(HypervisorError::Gone { .. })));
    for place in ["machines", "snapshots"] {
        assert_eq!(left(&directory.path().join(place)), Vec::<PathBuf>::new(), "{place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_in_pieces_are_joined_for_firecracker() {
    let directory = tempfile::tempdir().unwrap();
    let hypervisor = firecracker(directory.path()).await;
    let descriptor = directory.path().join("image.vmdk");
    std::fs::write(directory.path().join("piece"), [b'x'; 8192]).unwrap();
    std::fs::write(&descriptor, "RW 8 FLAT \"piece\" 8\nRW 8 FLAT \"piece\" 0\n").unwrap();
    let vms = [hypervisor.create(spec("one")).await.unwrap(), hypervisor.create(spec("two")).await.unwrap()];
    for vm in &vms {
        let _ = vm.attach_disk(DiskSource { path: descriptor.clone(), read_only: true }).await.unwrap();
    }
    let joined = left(&directory.path().join("joined"));
    assert_eq!(joined.len(), 1);
    assert!(vms.iter().all(|vm| holds(&vm.record(), &joined[0].join("disk"))));
    for vm in vms {
        vm.kill().await.unwrap();
    }
}

#[tokio::test]
async fn a_host_without_what_is_needed_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let ours = || config(directory.path());
    for (config, says) in [
        (FirecrackerConfig { program: Some("/nowhere/firecracker".into()), ..ours() }, "/nowhere/firecracker"),
        (FirecrackerConfig { program: Some("/bin/true".into()), ..ours() }, "does not say that it is Firecracker"),
        (FirecrackerConfig { kvm: "/dev/no-kvm".into(), ..ours() }, "there is no /dev/no-kvm"),
        (FirecrackerConfig { jail: "/nowhere/jail".into(), ..ours() }, "make build makes it"),
    ] {
        let error = Firecracker::new(config).await.map(drop).unwrap_err();
        assert!(matches!(error, HypervisorError::Host(_)) && error.to_string().contains(says), "{error}");
    }
}
