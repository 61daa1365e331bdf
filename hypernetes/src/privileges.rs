//! How a role that needs no root gives it up: its directories become its own user's and are opened, and then root is gone
//! for good. What one that needs root gives up is in a file of its own.
//!
//! Before any thread is started, so that no thread keeps what the others gave up. What lies above the directories need not be
//! open to the user: the process works in its directory from within, and has the others open.

pub mod node;

use std::{
    ffi::CString,
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::{
    sys::stat::{Mode, umask},
    unistd::{Gid, Uid, setgroups, setresgid, setresuid},
};
use rustix::fs::{AtFlags, CWD, Dir, FileType, OFlags};

/// Who the server is under `hypernetes up`: nobody else on the host, and below the numbers of the VMs' users.
pub const SERVER_USER: u32 = 0x5fff_ff00;

/// Makes `directory` the user's, with all that is in it, enters it, and becomes that user. Returns what the directories of
/// `others`, made the user's too, are called from now on.
///
/// # Errors
/// When it is not root that does so, or a directory cannot be made, given away or entered.
pub fn become_owner(user: u32, directory: &Path, others: &[&Path]) -> Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for other in others {
        let opened = own(other, user)?;
        names.push(PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd())));
        // For as long as the process lives.
        std::mem::forget(opened);
    }
    let home = own(directory, user)?;
    rustix::process::fchdir(&home).with_context(|| format!("entering {}", directory.display()))?;
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    let give_up = || -> nix::Result<()> {
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)
    };
    give_up().with_context(|| format!("becoming the user {user}: only root can"))?;
    rustix::thread::set_no_new_privs(true)?;
    keep_files_private();
    Ok(names)
}

/// What this process makes from now on is its user's alone, unless it says otherwise.
pub fn keep_files_private() {
    umask(Mode::from_bits_truncate(0o077));
}

/// Makes a directory where it is missing, and the user's, with what is in it.
///
/// Who was this user before may have been taken over, and has put there what they like: only what is root's becomes the user's,
/// no link is followed, and no file that has another name elsewhere is given away. The directory itself comes last: when it is
/// the user's, all of it is, whenever this was interrupted.
fn own(directory: &Path, user: u32) -> Result<OwnedFd> {
    std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let opened: OwnedFd = File::open(directory).with_context(|| format!("opening {}", directory.display()))?.into();
    if rustix::fs::fstat(&opened)?.st_uid != user {
        give_away_content(&opened, user)
            .with_context(|| format!("giving {} to the user {user}", directory.display()))?;
        rustix::fs::fchmod(&opened, rustix::fs::Mode::RWXU)?;
        rustix::fs::fchown(&opened, owner(user), group(user))
            .with_context(|| format!("giving {} to the user {user}", directory.display()))?;
    }
    Ok(opened)
}

fn owner(user: u32) -> Option<rustix::fs::Uid> {
    Some(rustix::fs::Uid::from_raw(user))
}

fn group(user: u32) -> Option<rustix::fs::Gid> {
    Some(rustix::fs::Gid::from_raw(user))
}

fn give_away_content(directory: &OwnedFd, user: u32) -> io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name: CString = entry.file_name().to_owned();
        if matches!(name.as_bytes(), b"." | b"..") {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(directory, &name, flags, rustix::fs::Mode::empty())?;
        let state = rustix::fs::fstat(&opened)?;
        if state.st_uid != 0 {
            continue;
        }
        match FileType::from_raw_mode(state.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = rustix::fs::openat(directory, &name, flags, rustix::fs::Mode::empty())?;
                give_away_content(&below, user)?;
                rustix::fs::fchown(&below, owner(user), group(user))?;
            }
            FileType::RegularFile if state.st_nlink == 1 => {
                rustix::fs::chownat(&opened, "", owner(user), group(user), AtFlags::EMPTY_PATH)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Gives what root has made in a directory of another user's to that user.
///
/// # Errors
/// When the directory cannot be read, or something in it cannot be given away.
pub fn give_content_to_owner(directory: &Path) -> io::Result<()> {
    let opened: OwnedFd = File::open(directory)?.into();
    let owner = rustix::fs::fstat(&opened)?.st_uid;
    if rustix::process::geteuid().is_root() && owner != 0 { give_away_content(&opened, owner) } else { Ok(()) }
}

/// Gives a file that root has made in a directory of another user's to that user, who could not read it otherwise.
///
/// # Errors
/// When the file or its directory cannot be looked at, or the file cannot be given away.
pub fn give_to_directory_owner(file: &File, directory: &Path) -> io::Result<()> {
    let directory = rustix::fs::statat(CWD, directory, AtFlags::empty())?;
    if rustix::process::geteuid().is_root() && directory.st_uid != 0 {
        rustix::fs::fchown(file, owner(directory.st_uid), group(directory.st_gid))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// Needs root, as all tests of what root gives away do.
    #[test]
    fn a_directory_is_given_away_whole_and_nothing_beside_it() {
        let place = tempfile::tempdir().unwrap();
        let (home, outside) = (place.path().join("home"), place.path().join("outside"));
        std::fs::create_dir_all(home.join("below")).unwrap();
        for file in ["a", "below/b"] {
            std::fs::write(home.join(file), "x").unwrap();
        }
        std::fs::write(&outside, "root's").unwrap();
        std::os::unix::fs::symlink(&outside, home.join("link")).unwrap();
        std::fs::hard_link(&outside, home.join("hard")).unwrap();
        own(&home, 12345).unwrap();
        for path in ["", "a", "below", "below/b"] {
            assert_eq!(std::fs::metadata(home.join(path)).unwrap().uid(), 12345, "{path:?}");
        }
        assert_eq!(std::fs::metadata(&outside).unwrap().uid(), 0);
        assert_eq!(std::fs::metadata(&home).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_root_puts_into_anothers_directory_is_that_others() {
        let home = tempfile::tempdir().unwrap();
        own(home.path(), 12345).unwrap();
        std::fs::create_dir(home.path().join("store")).unwrap();
        std::fs::write(home.path().join("store/log-0"), "x").unwrap();
        give_content_to_owner(home.path()).unwrap();
        for path in ["store", "store/log-0"] {
            assert_eq!(std::fs::metadata(home.path().join(path)).unwrap().uid(), 12345, "{path}");
        }
    }

    /// Interrupted before the directory itself was given away, it begins again.
    #[test]
    fn what_was_interrupted_is_repeated() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("first"), "x").unwrap();
        give_away_content(&File::open(home.path()).unwrap().into(), 12345).unwrap();
        std::fs::write(home.path().join("second"), "x").unwrap();
        own(home.path(), 12345).unwrap();
        assert_eq!(std::fs::metadata(home.path().join("second")).unwrap().uid(), 12345);
    }
}
