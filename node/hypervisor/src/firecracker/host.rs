//! What Firecracker needs of the host.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::HypervisorError;

/// The first that can put a resumed VM on another tap (`network_overrides`).
const OLDEST: (u32, u32) = (1, 12);

fn host(message: String) -> HypervisorError {
    HypervisorError::Host(message)
}

pub fn find_program() -> Result<PathBuf, HypervisorError> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let found = std::env::split_paths(&path).map(|directory| directory.join("firecracker")).find(|file| file.is_file());
    found.ok_or_else(|| {
        let (major, minor) = OLDEST;
        host(format!(
            "firecracker is missing: put version {major}.{minor} or later of it into the PATH \
             (https://github.com/firecracker-microvm/firecracker/releases), or use --vmm qemu"
        ))
    })
}

/// e.g. `Firecracker v1.16.1`.
///
/// # Errors
/// When it is too old, or another program.
pub async fn version(program: &Path) -> Result<String, HypervisorError> {
    let output = tokio::process::Command::new(program).arg("--version").output().await;
    let output = output.map_err(|e| host(format!("running {}: {e}", program.display())))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some((version, number)) = parse(&text) else {
        return Err(host(format!("{} does not say that it is Firecracker", program.display())));
    };
    if number < OLDEST {
        let (major, minor) = OLDEST;
        return Err(host(format!("{} is {version}: {major}.{minor} or later is needed", program.display())));
    }
    Ok(version)
}

/// The name as it says it, and the first two numbers of it.
fn parse(text: &str) -> Option<(String, (u32, u32))> {
    let name = text.lines().next()?.trim();
    let mut numbers = name.strip_prefix("Firecracker v")?.split('.').map(str::parse);
    let number = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some((name.chars().filter(|c| !c.is_control()).take(64).collect(), number))
}

/// Whether VMMs, which are users of their own, can use KVM.
pub fn check_kvm(device: &Path) -> Result<(), HypervisorError> {
    let metadata = fs::metadata(device).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => host(format!(
            "there is no {}: Firecracker runs on KVM only; load kvm_intel or kvm_amd, or use --vmm qemu",
            device.display()
        )),
        _ => host(format!("{}: {error}", device.display())),
    })?;
    if !usable(metadata.mode(), metadata.gid()) {
        let device = device.display();
        return Err(host(format!("{device} is for root alone: chgrp kvm {device} && chmod 0660 {device}")));
    }
    Ok(())
}

/// By everybody, or by a group that is not root's.
fn usable(mode: u32, gid: u32) -> bool {
    mode & 0o006 == 0o006 || (gid != 0 && mode & 0o060 == 0o060)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_understood() {
        let said = "Firecracker v1.16.1\n\n2026-11-25T22:21:30 [anonymous-instance:main] exiting\n";
        assert_eq!(parse(said), Some(("Firecracker v1.16.1".into(), (1, 16))));
        assert_eq!(parse("Firecracker v1.17.0-dev\n").unwrap().1, (1, 17));
        assert!(parse("Firecracker v2.0.0").unwrap().1 > OLDEST && parse("Firecracker v1.9.1").unwrap().1 < OLDEST);
        for other in
            ["", "Firecracker", "Firecracker v", "Firecracker v1", "Firecracker vx.y", "QEMU emulator version 7"]
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_device_is_for_a_group_or_everybody() {
        assert!(usable(0o20660, 106) && usable(0o20666, 0));
        assert!(!usable(0o20660, 0) && !usable(0o20600, 106) && !usable(0o20640, 106));
    }

    #[tokio::test]
    async fn what_is_missing_is_said_with_what_to_do() {
        let error = check_kvm(Path::new("/nonexistent/kvm")).unwrap_err();
        assert!(matches!(&error, HypervisorError::Host(text) if text.contains("--vmm qemu")), "{error}");
        assert!(matches!(version(Path::new("/bin/true")).await, Err(HypervisorError::Host(_))));
        assert!(matches!(version(Path::new("/nonexistent")).await, Err(HypervisorError::Host(_))));
    }
}
