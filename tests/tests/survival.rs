//! kill -9 of each process: pods go on running, and the process that is started again takes them over.
//!
//! These tests disturb every other user of the installation: `scripts/test-e2e.sh` runs them alone, one by one.

use hypernetes_tests::{System, eventually, shell_pod};

fn kill_9(system: &System, role: &str) {
    let pid = system.pid_of(role);
    assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    eventually("the supervisor has started it again", || {
        let text = std::fs::read_to_string(system.root.join("run").join(format!("{role}.pid"))).ok()?;
        let new: i32 = text.split(' ').next()?.parse().ok()?;
        (new != pid && std::path::Path::new(&format!("/proc/{new}")).exists()).then_some(())
    });
}

/// It may take so much memory and no more, also when it has been started again.
fn has_a_limit(system: &System, role: &str) {
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", system.pid_of(role))).unwrap();
    assert!(groups.contains("/hypernetes-roles/"), "{role}: {groups}");
}

fn survives(role: &str) {
    let system = System::shared();
    has_a_limit(&system, role);
    let tenant = system.tenant(&format!("kill-{role}"));
    let k = tenant.kubectl();
    k.apply(&shell_pod("p", "i=0; while true; do i=$((i+1)); echo count $i; sleep 1; done"));
    k.wait_ready("p");
    let boot_id = k.shell("p", "cat /proc/sys/kernel/random/boot_id").success().to_owned();
    kill_9(&system, role);
    has_a_limit(&system, role);
    let again = eventually("exec works again", || {
        let out = k.shell("p", "cat /proc/sys/kernel/random/boot_id");
        (out.code == Some(0)).then(|| out.success().to_owned())
    });
    assert_eq!(again, boot_id, "the pod's VM is the same");
    assert_eq!(k.field("pod/p", ".status.containerStatuses[0].restartCount"), "0");
    // The log goes on, without gaps and without repetition.
    let counted = || -> Vec<u32> {
        k.run("logs p").stdout.lines().filter_map(|l| l.strip_prefix("count ")?.parse().ok()).collect()
    };
    let before = counted().len();
    eventually("the log goes on", || (counted().len() > before + 3).then_some(()));
    let numbers = counted();
    assert!(numbers.iter().zip(1..).all(|(a, b)| *a == b), "{numbers:?}");
    // And new pods start.
    k.apply(&shell_pod("later", "sleep 100000"));
    k.wait_ready("later");
    k.run("delete pod p later --grace-period=1").success();
}

#[test]
fn of_the_server() {
    survives("server");
}

#[test]
fn of_hyperd() {
    survives("hyperd");
}

#[test]
fn of_the_node() {
    survives("node");
}
