//! Writing a volume's files so that a reader sees the old ones or the new ones.
//!
//! They are laid out as the kubelet always has: `..data` is a link to the newest directory, and each name a link through
//! it, so that a change of one link changes all of a volume at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use hypernetes_api::PathComponent;
use sha2::{Digest, Sha256};

use crate::pod_dir::{ItemPath, Place, PodDir};

/// Bounds of one volume, as the runtime has them that copies it.
const MAX_FILES: usize = 4096;
const MAX_BYTES: usize = 16 << 20;

/// One file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub mode: i32,
    pub content: Vec<u8>,
}

pub(super) type Files = BTreeMap<ItemPath, File>;

/// Brings the volume at `volume` to hold `files`, and nothing else.
pub(super) fn write(dir: &PodDir, volume: &Place, files: &Files, group: Option<u32>) -> io::Result<()> {
    if files.len() > MAX_FILES || files.values().map(|file| file.content.len()).sum::<usize>() > MAX_BYTES {
        return Err(io::Error::other("the volume has more than 4096 files, or 16 MiB"));
    }
    let name = version(files)?;
    let (target, data) = (volume.then(name.clone()), volume.then("..data"));
    let old = dir.read_link(&data)?;
    if old.as_deref() == Some(name.as_ref()) && dir.has_dir(&target)? {
        return Ok(());
    }
    dir.make_dir(volume)?;
    // What an attempt has left that was interrupted.
    dir.remove(&target)?;
    dir.make_readable_dir(&target)?;
    for (path, file) in files {
        // The group reads what its pod is given.
        let mode = (file.mode & 0o777).unsigned_abs() | group.map_or(0, |_| 0o440);
        dir.write(&target.item(path), &file.content, mode, group)?;
    }
    dir.link(&data, name.as_ref())?;
    let tops: BTreeSet<ItemPath> = files.keys().map(ItemPath::top).collect();
    for top in &tops {
        let (link, to) = (volume.item(top), Path::new("..data").join(top.as_path()));
        if dir.read_link(&link)?.as_deref() != Some(&to) {
            dir.remove(&link)?;
            dir.link(&link, &to)?;
        }
    }
    for entry in dir.names(volume)? {
        let is_ours = entry.starts_with("..");
        let stays = if is_ours { entry == name || &*entry == "..data" } else { tops.iter().any(|t| t.is(&entry)) };
        if !stays {
            dir.remove(&volume.then(entry))?;
        }
    }
    Ok(())
}

/// The directory's name: the same for the same files.
fn version(files: &Files) -> io::Result<PathComponent> {
    let mut hasher = Sha256::new();
    for (path, file) in files {
        for part in [path.as_bytes(), &file.mode.to_le_bytes(), &file.content] {
            hasher.update(part.len().to_le_bytes());
            hasher.update(part);
        }
    }
    PathComponent::new(&format!("..{}", hex::encode(&hasher.finalize()[..16]))).map_err(io::Error::other)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "what a pod's directory holds is looked at from outside")]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt},
        path::PathBuf,
    };

    use hypernetes_api::Uid;

    use super::*;
    use crate::pod_dir::PodDirs;

    fn volume() -> (tempfile::TempDir, PodDir, Place, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let dir = PodDirs::open(directory.path()).unwrap().make(Uid::new("uid-1").unwrap()).unwrap();
        let place = Place::of("volumes").then("v");
        let path = dir.path(&place);
        (directory, dir, place, path)
    }

    fn files(mode: i32, pairs: &[(&str, &str)]) -> Files {
        let file = |content: &str| File { mode, content: content.into() };
        pairs.iter().map(|(path, content)| (ItemPath::parse(path).unwrap(), file(content))).collect()
    }

    #[test]
    fn a_volume_changes_all_at_once() {
        let (_keep, dir, place, path) = volume();
        let two = files(0o640, &[("a", "1"), ("dir/b", "2")]);
        write(&dir, &place, &two, None).unwrap();
        let first = fs::read_link(path.join("..data")).unwrap();
        assert_eq!(fs::read_to_string(path.join("dir/b")).unwrap(), "2");
        let mode = |name: &str| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("a"), mode("dir"), mode("..data"), mode(".")), (0o640, 0o755, 0o755, 0o700));
        write(&dir, &place, &two, None).unwrap();
        assert_eq!(fs::read_link(path.join("..data")).unwrap(), first, "nothing changed");
        // A file that is called so changes like any other.
        write(&dir, &place, &files(0o640, &[("token", "1")]), None).unwrap();
        write(&dir, &place, &files(0o640, &[("token", "2")]), None).unwrap();
        assert_eq!(fs::read_to_string(path.join("token")).unwrap(), "2");
        write(&dir, &place, &files(0o640, &[("a", "3")]), None).unwrap();
        assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "3");
        assert!(!path.join("dir").exists() && !path.join(first).exists());
        assert_eq!(fs::read_dir(&path).unwrap().count(), 3, "..data, its directory, a");
        write(&dir, &place, &Files::new(), None).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 2);
    }

    #[test]
    fn a_pods_group_reads_its_files() {
        assert!(nix::unistd::geteuid().is_root(), "giving files away needs root");
        let (_keep, dir, place, path) = volume();
        write(&dir, &place, &files(0o400, &[("key", "value")]), Some(2000)).unwrap();
        let found = fs::metadata(path.join("key")).unwrap();
        assert_eq!((found.gid(), found.mode() & 0o7777), (2000, 0o440));
    }

    #[test]
    fn what_is_too_much_is_not_written() {
        let (_keep, dir, place, path) = volume();
        let large = "x".repeat(MAX_BYTES + 1);
        assert!(write(&dir, &place, &files(0o600, &[("a", &large)]), None).is_err());
        assert!(write(&dir, &place, &files(0o600, &[("a", "1"), ("a/b", "2")]), None).is_err());
        assert!(!path.join("..data").exists());
    }
}
