//! Which system calls a container may make: CRI's seccomp profile becomes programs that the guest's kernel runs.
//!
//! ```text
//! RuntimeDefault ─ default.json ─┐
//!                                ├─▶ profile ──▶ compile ──▶ agent, which installs the programs
//! Localhost ─ a file of the node ┘   (OCI's format)
//! ```

mod compile;
mod profile;

use std::{fs, io::Read, os::unix::fs::OpenOptionsExt, path::Path};

use hypernetes_guest_protocol::v1;
use k8s_cri::v1 as cri;

use crate::error::{Error, Result};
use profile::Profile;

/// Largest profile that is read.
const MAX_PROFILE_BYTES: u64 = 1 << 20;
const DEFAULT: &str = include_str!("default.json");

/// The programs of a container's profile, given the capabilities (`CAP_…`) that it has. None: unconfined.
///
/// # Errors
/// `InvalidArgument` with what is wrong with a profile of the node.
pub(crate) fn filters(
    context: &cri::LinuxContainerSecurityContext,
    capabilities: &[String],
) -> Result<Vec<v1::SeccompFilter>> {
    use cri::security_profile::ProfileType;
    if context.privileged {
        return Ok(Vec::new());
    }
    let (kind, path) = match &context.seccomp {
        Some(profile) => (profile.profile_type(), profile.localhost_ref.clone()),
        None => named(&context.seccomp_profile_path)?,
    };
    let (what, profile) = match kind {
        ProfileType::Unconfined => return Ok(Vec::new()),
        ProfileType::RuntimeDefault => ("the default seccomp profile".to_owned(), Profile::parse(DEFAULT.as_bytes())),
        ProfileType::Localhost => (format!("the seccomp profile {path:?}"), read(Path::new(&path))),
    };
    let programs = profile.and_then(|profile| compile::compile(&profile, capabilities));
    programs.map_err(|reason| Error::InvalidArgument(format!("{what}: {reason}")))
}

/// The older field: `runtime/default`, `unconfined`, `localhost/PATH`.
fn named(text: &str) -> Result<(cri::security_profile::ProfileType, String)> {
    use cri::security_profile::ProfileType;
    match text {
        "" | "unconfined" => Ok((ProfileType::Unconfined, String::new())),
        "runtime/default" | "docker/default" => Ok((ProfileType::RuntimeDefault, String::new())),
        _ => match text.strip_prefix("localhost/") {
            Some(path) => Ok((ProfileType::Localhost, path.to_owned())),
            None => Err(Error::InvalidArgument(format!("{text:?} is not the name of a seccomp profile"))),
        },
    }
}

fn read(path: &Path) -> Result<Profile, String> {
    if !path.is_absolute() {
        return Err("it has to be an absolute path".into());
    }
    // A pipe that lies there must not hold us up.
    let file = fs::File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let file = file.map_err(|e| e.to_string())?;
    if !file.metadata().is_ok_and(|m| m.is_file()) {
        return Err("it is not a regular file".into());
    }
    let mut text = Vec::new();
    file.take(MAX_PROFILE_BYTES + 1).read_to_end(&mut text).map_err(|e| e.to_string())?;
    if text.len() as u64 > MAX_PROFILE_BYTES {
        return Err("it is larger than 1 MiB".into());
    }
    Profile::parse(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(kind: i32, path: &str) -> cri::LinuxContainerSecurityContext {
        cri::LinuxContainerSecurityContext {
            seccomp: Some(cri::SecurityProfile { profile_type: kind, localhost_ref: path.into() }),
            ..Default::default()
        }
    }

    #[test]
    fn a_profile_is_found() {
        assert_eq!(filters(&with(0, ""), &[]).unwrap().len(), 2);
        assert!(filters(&with(1, ""), &[]).unwrap().is_empty());
        assert!(filters(&Default::default(), &[]).unwrap().is_empty());
        let privileged = cri::LinuxContainerSecurityContext { privileged: true, ..with(0, "") };
        assert!(filters(&privileged, &[]).unwrap().is_empty());
        let older =
            |path: &str| cri::LinuxContainerSecurityContext { seccomp_profile_path: path.into(), ..Default::default() };
        assert_eq!(filters(&older("runtime/default"), &[]).unwrap().len(), 2);
        assert!(filters(&older("nonsense"), &[]).is_err());

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p.json");
        let local = || filters(&with(2, path.to_str().unwrap()), &[]);
        let refused = |what: &str| {
            let error = local().unwrap_err();
            assert!(matches!(&error, Error::InvalidArgument(m) if m.contains(what)), "{error}");
        };
        refused("No such file");
        fs::write(
            &path,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["chmod"], "action": "SCMP_ACT_ERRNO"}]}"#,
        )
        .unwrap();
        assert_eq!(local().unwrap().len(), 1);
        fs::write(&path, vec![b' '; (1 << 20) + 1]).unwrap();
        refused("1 MiB");
        assert!(filters(&with(2, "etc/profile.json"), &[]).is_err());
        assert!(filters(&with(2, directory.path().to_str().unwrap()), &[]).is_err());
        nix::unistd::mkfifo(&directory.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(filters(&with(2, directory.path().join("pipe").to_str().unwrap()), &[]).is_err());
    }
}
