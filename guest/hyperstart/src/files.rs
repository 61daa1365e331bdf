//! Sets of small files that hyperd sends: replaced so that a reader sees the old set or the new one.
//!
//! Directories and files come first, each by a rename; then symbolic links, which is how the kubelet's own layout
//! (`..data` points to the newest directory) changes all of a set at once; then what is no longer named is removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
};

use hypernetes_guest_protocol::v1;

use crate::{init::RUN, rootfs};

/// All files of one set.
const MAX_SET_BYTES: usize = 64 << 20;
const MAX_FILES: usize = 10_000;

/// Where a set lies.
pub fn directory(set: &str) -> Option<PathBuf> {
    let plain = !set.is_empty() && set.len() <= 200 && !set.starts_with('.') && !set.contains('/');
    plain.then(|| Path::new(RUN).join("files").join(set))
}

/// A set that is being received.
#[derive(Default)]
pub struct Incoming {
    files: BTreeMap<PathBuf, v1::File>,
    bytes: usize,
}

impl Incoming {
    pub fn add(&mut self, mut file: v1::File) -> Result<(), String> {
        let path = rootfs::plain(&file.path).ok_or_else(|| format!("{:?} is not a plain relative path", file.path))?;
        self.bytes += file.data.len();
        if self.bytes > MAX_SET_BYTES || self.files.len() >= MAX_FILES {
            return Err("the set of files is too large".into());
        }
        match self.files.get_mut(&path) {
            Some(earlier) => earlier.data.append(&mut file.data),
            None => drop(self.files.insert(path, file)),
        }
        Ok(())
    }

    /// Makes the set what was received.
    pub fn commit(self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        let (links, others): (Vec<_>, Vec<_>) =
            self.files.iter().partition(|(_, file)| !file.symlink_target.is_empty());
        for (path, file) in others.into_iter().chain(links) {
            put(&directory.join(path), file)?;
        }
        let named: BTreeSet<&Path> = self.files.keys().flat_map(|path| path.ancestors()).collect();
        remove_unnamed(directory, Path::new(""), &named)
    }
}

fn put(target: &Path, file: &v1::File) -> io::Result<()> {
    let parent = target.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(parent)?;
    if file.directory {
        fs::create_dir_all(target)?;
    } else {
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy().into_owned();
        let temporary = parent.join(format!(".new-{name}"));
        let _ = fs::remove_file(&temporary);
        if file.symlink_target.is_empty() {
            use std::io::Write;
            let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            out.write_all(&file.data)?;
        } else {
            symlink(&file.symlink_target, &temporary)?;
        }
        fs::rename(&temporary, target)?;
    }
    if file.symlink_target.is_empty() {
        chown(target, Some(file.uid), Some(file.gid))?;
        fs::set_permissions(target, fs::Permissions::from_mode(file.mode & 0o7777))?;
    }
    Ok(())
}

fn remove_unnamed(root: &Path, below: &Path, named: &BTreeSet<&Path>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        let is_directory = entry.file_type()?.is_dir();
        match (named.contains(path.as_path()), is_directory) {
            (true, true) => remove_unnamed(root, &path, named)?,
            (true, false) => {}
            (false, true) => fs::remove_dir_all(entry.path())?,
            (false, false) => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, data: &str) -> v1::File {
        let uid = nix::unistd::getuid().as_raw();
        let gid = nix::unistd::getgid().as_raw();
        v1::File { path: path.into(), mode: 0o640, data: data.into(), uid, gid, ..Default::default() }
    }

    fn link(path: &str, target: &str) -> v1::File {
        v1::File { path: path.into(), symlink_target: target.into(), ..Default::default() }
    }

    #[test]
    fn a_set_is_replaced() {
        let root = std::env::temp_dir().join(format!("hyperstart-files-{}", std::process::id()));
        let put = |files: Vec<v1::File>| {
            let mut incoming = Incoming::default();
            files.into_iter().for_each(|f| incoming.add(f).unwrap());
            incoming.commit(&root).unwrap();
        };
        put(vec![
            file("..1/a", "one"),
            file("..1/a", " more"),
            link("..data", "..1"),
            link("a", "..data/a"),
            file("old", "x"),
        ]);
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "one more");
        assert_eq!(fs::metadata(root.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        put(vec![file("..2/a", "two"), link("..data", "..2"), link("a", "..data/a")]);
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "two");
        assert!(!root.join("..1").exists() && !root.join("old").exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn sets_cannot_leave_their_place() {
        let mut incoming = Incoming::default();
        for bad in ["../x", "/etc/passwd", "a/../../b", ""] {
            assert!(incoming.add(file(bad, "x")).is_err(), "{bad}");
        }
        for bad in ["", "..", "a/b", ".hidden"] {
            assert!(directory(bad).is_none(), "{bad}");
        }
    }
}
