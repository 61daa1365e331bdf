//! User namespaces: the container's users are others in the guest, and its root has no power outside of it. Files of
//! images and volumes keep their owners by mounts that translate them (`mount_setattr(2)`, MOUNT_ATTR_IDMAP).

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use hypernetes_guest_protocol::v1;
use nix::{
    libc,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// First argument of the process that makes a namespace: `hyperstart HOLD`.
pub const HOLD: &str = "hold-user-namespace";

/// Makes a user namespace that stays as a file.
pub fn make(mapping: v1::UserNamespace, file: &Path) -> io::Result<()> {
    if mapping.length == 0 || mapping.host_id.checked_add(mapping.length).is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "that is no mapping of users"));
    }
    let mut command = Command::new("/proc/self/exe");
    // The reaper reaps it.
    let mut child = command.arg(HOLD).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let made = || -> io::Result<()> {
        let mut ready = [0];
        let mut stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        stdout.read_exact(&mut ready)?;
        let process = Path::new("/proc").join(child.id().to_string());
        let line = format!("0 {} {}", mapping.host_id, mapping.length);
        fs::write(process.join("uid_map"), &line)?;
        fs::write(process.join("gid_map"), &line)?;
        File::create(file)?;
        mount(Some(&process.join("ns/user")), file, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    }();
    // Its input ends, and so does it.
    drop(child.stdin.take());
    made
}

/// The process that makes a namespace, and is in it until it was seen.
pub fn hold() -> ExitCode {
    let held = || -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWUSER)?;
        io::stdout().write_all(b"r")?;
        io::stdout().flush()?;
        io::stdin().read_to_end(&mut Vec::new()).map(drop)
    };
    if held().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Mounts what is at `source` at `target`, with the owners that a user namespace says.
pub fn translate(source: &Path, target: &Path, namespace: &Path) -> io::Result<()> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from);
    let (from, to) = (text(source)?, text(target)?);
    let namespace = File::open(namespace)?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?,
    };
    let check = |result: libc::c_long| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) };
    #[allow(unsafe_code)]
    // SAFETY: paths and attributes live until the calls return, and the size is that of the attributes; the descriptor
    // that the first call answers is new and nobody else's.
    unsafe {
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        let tree = check(libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, from.as_ptr(), flags))?;
        let tree = OwnedFd::from_raw_fd(i32::try_from(tree).map_err(io::Error::other)?);
        check(libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(&attributes),
            size_of::<libc::mount_attr>(),
        ))?;
        check(libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_have_bounds() {
        let file = Path::new("/nonexistent/userns");
        for (host_id, length) in [(0, 0), (u32::MAX, 2)] {
            assert!(make(v1::UserNamespace { host_id, length }, file).is_err());
        }
    }
}
