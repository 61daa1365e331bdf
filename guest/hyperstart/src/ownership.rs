//! Who owns what is in a volume: Kubernetes' `fsGroup`.

use std::{
    io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use hypernetes_guest_protocol::v1;
use nix::fcntl::OFlag;

use crate::rootfs::{Root, handle_path};

/// Files are the group's to read and write, directories to enter as well, and new files in them belong to it.
const FILE: u32 = 0o660;
const DIRECTORY: u32 = 0o2770;

/// Gives a directory that has just been made its owner.
pub fn own(directory: &Path, owner: &v1::Owner) -> io::Result<()> {
    chown(directory, Some(owner.uid), Some(owner.gid))?;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(owner.mode & 0o7777))
}

/// Gives a volume to a group, with all that is in it, unless its root is the group's already (`OnRootMismatch`). What is
/// written meanwhile by others cannot lead out of it.
pub fn give(volume: &Path, group: u32) -> io::Result<()> {
    let there = std::fs::metadata(volume)?;
    if there.gid() == group && there.mode() & DIRECTORY == DIRECTORY {
        return Ok(());
    }
    let root = Root::open(volume)?;
    let mut left = vec![PathBuf::from("/")];
    // The root is the last: what was interrupted is done again.
    let mut at = 0;
    while at < left.len() {
        let directory = left[at].clone();
        at += 1;
        let handle = root.open_inside(&directory, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY);
        // It may have been removed, or replaced.
        let Ok(handle) = handle else { continue };
        for entry in std::fs::read_dir(handle_path(&handle))? {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            match entry.file_type()? {
                kind if kind.is_dir() => left.push(path),
                kind if kind.is_symlink() => {}
                _ => give_one(&root, &path, group)?,
            }
        }
    }
    left.iter().rev().try_for_each(|directory| give_one(&root, directory, group))
}

fn give_one(root: &Root, path: &Path, group: u32) -> io::Result<()> {
    let handle = match root.open_inside(path, OFlag::O_PATH | OFlag::O_NOFOLLOW) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let place = handle_path(&handle);
    let found = std::fs::metadata(&place)?;
    let more = match found.file_type() {
        kind if kind.is_dir() => DIRECTORY,
        kind if kind.is_symlink() => return Ok(()),
        _ => FILE,
    };
    chown(&place, None, Some(group))?;
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode((found.mode() & 0o7777) | more))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_volume_becomes_its_groups_once() {
        assert!(nix::unistd::geteuid().is_root(), "giving files away needs root");
        let place = std::env::temp_dir().join(format!("hyperstart-ownership-{}", std::process::id()));
        let volume = place.join("volume");
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::write(place.join("outside"), "").unwrap();
        for file in ["a/b/file", "top"] {
            fs::write(volume.join(file), "").unwrap();
            fs::set_permissions(volume.join(file), fs::Permissions::from_mode(0o600)).unwrap();
        }
        std::os::unix::fs::symlink("../outside", volume.join("link")).unwrap();
        give(&volume, 2000).unwrap();
        let of = |path: &Path| {
            let found = fs::symlink_metadata(path).unwrap();
            (found.gid(), found.mode() & 0o7777)
        };
        assert_eq!(of(&volume), (2000, 0o2775));
        assert_eq!(of(&volume.join("a/b")), (2000, 0o2775));
        assert_eq!(of(&volume.join("a/b/file")), (2000, 0o660));
        assert_eq!(of(&place.join("outside")).0, 0);
        // What its root says is believed.
        chown(volume.join("top"), None, Some(7)).unwrap();
        give(&volume, 2000).unwrap();
        assert_eq!(of(&volume.join("top")).0, 7);
        give(&volume, 3000).unwrap();
        assert_eq!(of(&volume.join("top")).0, 3000);
        fs::remove_dir_all(place).unwrap();
    }
}
