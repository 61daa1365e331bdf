//! The jail with something else in the VMM's place. Needs root, as locking in does.

use std::{os::unix::process::ExitStatusExt, process::Command};

use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::Pid,
};

/// Runs a shell's script where the VMM would run, started by somebody with umask 077, as hyperd is. Gives what it printed.
fn within(options: &[&str], script: &str) -> (WaitStatus, String) {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().to_str().unwrap();
    let jailer = env!("CARGO_BIN_EXE_hypernetes-vmm");
    let mut line =
        vec!["-c", "umask 077 && exec \"$0\" \"$@\"", jailer, "--root", root, "--uid", "70000", "--gid", "70000"];
    line.extend_from_slice(options);
    line.extend(["--", "/bin/sh", "-c", script]);
    let jailer = Command::new("/bin/sh").args(line).output().unwrap();
    let errors = String::from_utf8_lossy(&jailer.stderr);
    assert!(jailer.status.success(), "{:?}: {errors}", jailer.status.into_raw());
    let output = String::from_utf8(jailer.stdout).unwrap();
    // What it ran has become this process's child.
    let (pid, words) = output.split_once('\n').expect("a pid");
    let pid = Pid::from_raw(pid.parse().expect("a pid"));
    (waitpid(pid, None).unwrap(), format!("{words}{errors}"))
}

#[test]
fn the_vmms_user_reaches_its_devices_whatever_hyperds_umask_is() {
    let script = "id -u; umask; echo x > /dev/null && test ! -w /usr && test ! -e /etc && echo fine";
    let (ended, words) = within(&["--device", "/dev/null"], script);
    assert!(matches!(ended, WaitStatus::Exited(_, 0)), "{ended:?}: {words}");
    assert_eq!(words, "70000\n0077\nfine\n");
}
