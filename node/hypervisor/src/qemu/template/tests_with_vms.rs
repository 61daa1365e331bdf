use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    Accelerator, GuestFiles, Hypervisor, Vm,
    qemu::{Qemu, QemuConfig, memory},
};

async fn qemu(directory: &Path) -> Qemu {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned();
    let guest = GuestFiles::in_checkout(&checkout);
    let accelerator = Some(Accelerator::Tcg);
    let templates = TemplateLimits { count: 4, bytes: 1 << 30, delay: Duration::ZERO };
    let (jail, fork, rehearsal) = (None, None, None);
    let directory = directory.to_owned();
    Qemu::new(QemuConfig { directory, guest, jail, fork, accelerator, templates, rehearsal }).await.unwrap()
}

fn is_copy(vm: &dyn Vm) -> bool {
    let line = fs::read(format!("/proc/{}/cmdline", vm.record().pid)).unwrap();
    line.split(|b| *b == 0).any(|word| word == b"-incoming")
}

async fn ready(qemu: &Qemu, spec: &VmSpec) {
    let began = Instant::now();
    while !qemu.would_copy(spec) {
        assert!(began.elapsed() < Duration::from_secs(90), "there is no template");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_boots_when_its_template_does_not_work() {
    let directory = tempfile::tempdir().unwrap();
    let qemu = qemu(directory.path()).await;
    let spec =
        |id: &str| VmSpec { id: id.into(), tenant: "a".into(), cpus: 1, memory_mib: 128, nic: None, disk_slots: 3 };
    let first = qemu.create(spec("first")).await.unwrap();
    ready(&qemu, &spec("any")).await;
    let copy = qemu.create(spec("copy")).await.unwrap();
    assert!(is_copy(&*copy));

    // The state is damaged: in the middle, at its end, all of it.
    let templates = &qemu.shared.templates;
    let key = key(&qemu.shared, &spec("any")).unwrap();
    let good = templates.find(&key).unwrap();
    let mut bytes = Vec::new();
    let Form::Saved { memory: good_memory, state: good_state } = &good.form else { panic!("it is forked") };
    std::io::Read::read_to_end(&mut File::from(memory::reader(good_state).unwrap()), &mut bytes).unwrap();
    println!("its state has {} KiB", bytes.len() >> 10);
    let half = bytes.len() / 2;
    let mut flipped = bytes.clone();
    flipped[..half].iter_mut().step_by(97).for_each(|byte| *byte ^= 0x5a);
    for (n, damaged) in [flipped, bytes[..half].to_vec(), Vec::new()].into_iter().enumerate() {
        ready(&qemu, &spec("any")).await;
        let state = memory::create("damaged", 0).unwrap();
        File::from(state.try_clone().unwrap()).write_all(&damaged).unwrap();
        let form = Form::Saved { memory: good_memory.try_clone().unwrap(), state };
        let bad = Template::new(key.clone(), form, 1 << 20);
        templates.insert(bad.clone());
        let began = Instant::now();
        let vm = qemu.create(spec(&format!("vm-{n}"))).await.unwrap();
        println!("booted instead after {:?}", began.elapsed());
        assert!(!is_copy(&*vm));
        assert!(templates.find(&key).is_none_or(|found| !Arc::ptr_eq(&found, &bad)), "it is used no more");
        vm.kill().await.unwrap();
    }
    // And is made anew.
    ready(&qemu, &spec("any")).await;
    let copy_again = qemu.create(spec("again")).await.unwrap();
    assert!(is_copy(&*copy_again));
    for vm in [first, copy, copy_again] {
        vm.kill().await.unwrap();
    }
}
