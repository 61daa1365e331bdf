use std::{fs::File, io::Write, path::Path};

use super::*;
use crate::{
    Accelerator, Hypervisor, Vm,
    qemu::{GuestFiles, Qemu, QemuConfig, memory},
};

fn limits(count: usize, bytes: u64) -> TemplateLimits {
    TemplateLimits { count, bytes, delay: Duration::ZERO }
}

fn key(tenant: &str) -> Key {
    Key {
        tenant: tenant.into(),
        cpus: 1,
        memory_mib: 128,
        disk_slots: 3,
        has_nic: true,
        machine: "QEMU".into(),
        program: (1, 2, 3),
    }
}

fn saved() -> Form {
    let file = || memory::create("test", 0).unwrap();
    Form::Saved { memory: file(), state: file() }
}

fn template(tenant: &str, bytes: u64) -> Arc<Template> {
    Arc::new(Template { key: key(tenant), form: saved(), bytes, copies: Default::default() })
}

#[test]
fn those_not_used_for_longest_make_room() {
    let templates = Templates::new(limits(3, 100));
    let there = |tenant: &str| templates.state.lock().ready.iter().any(|t| t.key.tenant == tenant);
    for tenant in ["a", "b", "c"] {
        templates.insert(template(tenant, 10));
    }
    assert!(templates.find(&key("a")).is_some());
    templates.insert(template("d", 10));
    assert!(there("a") && !there("b") && there("c") && there("d"));
    templates.insert(template("e", 85));
    assert!(!there("c") && !there("a") && there("d") && there("e"));
    // A newer one takes the place of an older, and QEMU's upgrade that of all.
    templates.insert(template("e", 20));
    assert_eq!(templates.state.lock().ready.len(), 2);
    let mut upgraded = key("f");
    upgraded.program.1 += 1;
    templates.insert(Arc::new(Template { key: upgraded, form: saved(), bytes: 1, copies: Default::default() }));
    assert_eq!(templates.state.lock().ready.len(), 1);
}

#[test]
fn one_is_made_at_a_time_and_not_again_after_a_failure() {
    let templates = Templates::new(limits(3, 100));
    assert!(templates.claim(&key("a")) && templates.claim(&key("b")));
    assert!(!templates.claim(&key("a")));
    drop(Claim { templates: &templates, key: &key("a") });
    assert!(templates.claim(&key("a")));
    drop(Claim { templates: &templates, key: &key("a") });
    templates.fail(&key("a"));
    assert!(!templates.claim(&key("a")));
    templates.insert(template("c", 1));
    assert!(!templates.claim(&key("c")));
}

async fn qemu(directory: &Path) -> Qemu {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned();
    let guest = GuestFiles::in_checkout(&checkout);
    let (accelerator, templates) = (Some(Accelerator::Tcg), limits(4, 1 << 30));
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
    let spec = |id: &str| VmSpec { id: id.into(), ..key("a").spec(String::new()) };
    // There is no tap here.
    let spec = |id: &str| VmSpec { nic: None, ..spec(id) };
    let first = qemu.create(spec("first")).await.unwrap();
    ready(&qemu, &spec("any")).await;
    let copy = qemu.create(spec("copy")).await.unwrap();
    assert!(is_copy(&*copy));

    // The state is damaged: in the middle, at its end, all of it.
    let templates = &qemu.shared.templates;
    let good = templates.state.lock().ready[0].clone();
    println!("a template of {} MiB takes {} KiB", good.key.memory_mib, good.bytes >> 10);
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
        let bad = Arc::new(Template { key: good.key.clone(), form, bytes: good.bytes, copies: Default::default() });
        templates.insert(bad.clone());
        let began = Instant::now();
        let vm = qemu.create(spec(&format!("vm-{n}"))).await.unwrap();
        println!("booted instead after {:?}", began.elapsed());
        assert!(!is_copy(&*vm));
        assert!(!templates.state.lock().ready.iter().any(|t| Arc::ptr_eq(t, &bad)), "it is used no more");
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
