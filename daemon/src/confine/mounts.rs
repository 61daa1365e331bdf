//! A mount namespace of a role's own, in which what the role does not touch is read-only or gone (docs/decisions/0030).
//!
//! What roles mount has to be seen by each other and outlive them: networks' namespaces, pods' secrets in memory. So the
//! directories for these are on mounts that the host's namespace shares, and all else of a role's namespace is its own. Where
//! nobody shares the host's mounts `hypernetes up` makes such mounts of the directories ([`share`], which `down` undoes).

use std::{
    collections::BTreeSet,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use rustix::{
    fs::CWD,
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

use crate::mountinfo::{self, Mount};

/// Interfaces of the kernel's: what may be done there is decided elsewhere.
const KERNELS: [&str; 3] = ["/proc", "/sys", "/dev"];
/// Users' own, and what the host is started with.
const OTHERS: [&str; 6] = ["/home", "/root", "/boot", "/mnt", "/media", "/srv"];

/// What a role touches of the host's files.
#[derive(Debug, Default)]
pub struct Touched {
    /// Directories on mounts that are shared: what is mounted below them is seen by others. Those that are not there are made.
    pub shares: Vec<PathBuf>,
    /// Other directories that it, or a program that it executes, writes in. Those that are not there are left out.
    pub writes: Vec<PathBuf>,
    /// What it reads, where that may lie among users' files.
    pub reads: Vec<PathBuf>,
}

/// Those of the calling thread, of which each hides what was at its point before.
fn mounts() -> io::Result<Vec<Mount>> {
    let mut mounts: Vec<Mount> = Vec::new();
    for mount in mountinfo::of_this_thread()? {
        mounts.retain(|other| other.point != mount.point);
        mounts.push(mount);
    }
    Ok(mounts)
}

/// The mount that a path without links lies on.
fn holder<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let above = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    above.max_by_key(|mount| mount.point.components().count())
}

const NOTHING: Option<&str> = None;

/// Makes what is mounted below the directory from now on be seen by roles with mounts of their own, and what they mount there
/// by everybody. Once is as good as twice. False: nothing was done, since an earlier version, whose pods run, has mounted
/// things below it that would be hidden.
///
/// # Errors
/// When the directory is not there, or it is not root that asks.
pub fn share(directory: &Path) -> io::Result<bool> {
    let directory = directory.canonicalize()?;
    let mounts = mounts()?;
    if !mounts.iter().any(|mount| mount.point == directory) {
        if mounts.iter().any(|mount| mount.point.starts_with(&directory)) {
            return Ok(false);
        }
        mount(Some(&directory), &directory, NOTHING, MsFlags::MS_BIND, NOTHING)?;
    }
    mount(NOTHING, &directory, NOTHING, MsFlags::MS_SHARED | MsFlags::MS_REC, NOTHING)?;
    Ok(true)
}

/// Undoes [`share`]; a file system that is mounted there for itself stays.
///
/// # Errors
/// When something is still mounted below the directory, or in use there.
pub fn unshared(directory: &Path) -> io::Result<()> {
    let directory = directory.canonicalize()?;
    let mounts = mounts()?;
    let Some(own) = mounts.iter().find(|mount| mount.point == directory) else { return Ok(()) };
    let others: Vec<Mount> = mounts.iter().filter(|mount| mount.point != directory).cloned().collect();
    let same = holder(&others, &directory).is_some_and(|beneath| {
        let place = directory.strip_prefix(&beneath.point).map(|rest| beneath.root.join(rest));
        own.device == beneath.device && place.is_ok_and(|place| place == own.root)
    });
    if same {
        // Whoever has a file open there keeps it.
        umount2(&directory, MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

/// Gives the calling thread, which must be the process's only one, mounts of its own. Of what it says that it touches the
/// kernel lets it write what it writes; the rest of the host's files is read-only, and users' directories are empty unless
/// something in them is touched. False: nothing was done, since what it mounts would be seen by nobody.
///
/// # Errors
/// When a directory cannot be made, or the kernel refuses.
pub fn own(touched: &Touched) -> io::Result<bool> {
    let found = |paths: &[PathBuf]| -> Vec<PathBuf> { paths.iter().filter_map(|p| p.canonicalize().ok()).collect() };
    let made = |path: &PathBuf| std::fs::create_dir_all(path).and_then(|()| path.canonicalize());
    let made = touched.shares.iter().map(made).collect::<io::Result<BTreeSet<_>>>()?;
    // One in another is on that one's mount: a mount of its own there would be the host's, too.
    let is_in_another = |path: &&PathBuf| path.ancestors().skip(1).any(|above| made.contains(above));
    let shares: Vec<PathBuf> = made.iter().filter(|path| !is_in_another(path)).cloned().collect();
    let (writes, reads) = (found(&touched.writes), found(&touched.reads));
    let before = mounts()?;
    let root = Path::new("/");
    let holders: Vec<(&PathBuf, &Mount)> =
        shares.iter().filter_map(|path| Some((path, holder(&before, path)?))).collect();
    if holders.iter().any(|(path, mount)| !mount.shared || *path == root) {
        return Ok(false);
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    // On the host's root itself, which is not to be written, the directory becomes a mount that only this namespace has: what
    // is mounted below it is seen by all that share the root.
    let own_mounts: Vec<(&PathBuf, OwnedFd)> = holders
        .iter()
        .filter(|(_, mount)| mount.point == root)
        .map(|(path, _)| {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
            Ok((*path, open_tree(CWD, path.as_path(), flags)?))
        })
        .collect::<io::Result<_>>()?;
    let kept: Vec<&Path> = holders
        .iter()
        .map(|(path, mount)| if mount.point == root { path.as_path() } else { mount.point.as_path() })
        .collect();
    let is_kept = |path: &Path| kept.iter().any(|kept| path.starts_with(kept));
    // What the host mounts later still comes; what is mounted here stays here.
    for mount in before.iter().filter(|mount| !is_kept(&mount.point)) {
        ignore_hidden(self::mount(NOTHING, &mount.point, NOTHING, MsFlags::MS_SLAVE, NOTHING))?;
    }
    for (path, own) in &own_mounts {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(own, "", CWD, path.as_path(), flags)?;
    }
    let writes: Vec<&PathBuf> = writes.iter().filter(|path| !is_kept(path)).collect();
    for path in &writes {
        mount(Some(*path), *path, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING)?;
    }
    let is_written = |path: &Path| writes.iter().any(|written| path.starts_with(written));
    for mount in &before {
        let kernels = KERNELS.iter().any(|kernels| mount.point.starts_with(kernels));
        if !kernels && !is_kept(&mount.point) && !is_written(&mount.point) {
            let flags = mount.flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            ignore_hidden(self::mount(NOTHING, &mount.point, NOTHING, flags, NOTHING))?;
        }
    }
    let touched: Vec<&PathBuf> = shares.iter().chain(writes).chain(&reads).collect();
    for directory in OTHERS.map(Path::new) {
        if directory.is_dir() && !touched.iter().any(|path| path.starts_with(directory)) {
            let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("nothing"), directory, Some("tmpfs"), flags, Some("size=4k,nr_inodes=1,mode=0"))?;
        }
    }
    Ok(true)
}

/// A mount below one that was made later cannot be reached by its path, and by nobody else.
fn ignore_hidden(result: nix::Result<()>) -> io::Result<()> {
    match result {
        Err(nix::errno::Errno::ENOENT | nix::errno::Errno::EINVAL) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    /// Mounts of a test's own, as a host's; on a thread of its own.
    fn on_a_host(test: impl FnOnce(&Path) + Send) {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().canonicalize().unwrap();
        std::thread::scope(|scope| {
            let host = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNS).unwrap();
                let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                mount(NOTHING, "/", NOTHING, private, NOTHING).unwrap();
                test(&directory);
            });
            host.join().unwrap();
        });
    }

    /// A role, on a thread that has the host's mounts and then its own.
    fn as_role<T: Send>(touched: &Touched, then: impl FnOnce(bool) -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    unshare(CloneFlags::CLONE_FS).unwrap();
                    then(own(touched).unwrap())
                })
                .join()
                .unwrap()
        })
    }

    fn tmpfs(at: &Path) {
        mount(Some("t"), at, Some("tmpfs"), MsFlags::empty(), NOTHING).unwrap();
    }

    #[test]
    fn what_a_role_mounts_is_seen_and_outlives_it_and_the_rest_it_cannot_write() {
        on_a_host(|directory| {
            let path = |name: &str| directory.join(name);
            for name in ["root/pod", "other", "scratch", "readable"] {
                fs::create_dir_all(path(name)).unwrap();
            }
            fs::write(path("readable/file"), "text").unwrap();
            let touched =
                Touched { shares: vec![path("root")], writes: vec![path("scratch"), path("missing")], reads: vec![] };
            assert!(!as_role(&touched, |own| own), "nothing is shared yet");
            assert!(share(&path("root")).unwrap() && share(&path("root")).unwrap());
            as_role(&touched, |own| {
                assert!(own);
                tmpfs(&path("root/pod"));
                fs::write(path("root/pod/secret"), "s").unwrap();
                fs::write(path("scratch/file"), "s").unwrap();
                assert_eq!(fs::read_to_string(path("readable/file")).unwrap(), "text");
                let refused = fs::write(path("other/file"), "s").unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
                assert!(fs::write("/etc/hypernetes-test", "s").is_err());
                for hidden in OTHERS.map(Path::new).into_iter().filter(|path| path.is_dir()) {
                    assert_eq!(fs::metadata(hidden).unwrap().permissions().mode() & 0o7777, 0, "{}", hidden.display());
                    assert_eq!(fs::read_dir(hidden).unwrap().count(), 0);
                }
                // Its own: nobody else sees it.
                tmpfs(&path("scratch"));
                fs::write(path("scratch/own"), "s").unwrap();
            });
            assert_eq!(fs::read_to_string(path("root/pod/secret")).unwrap(), "s");
            assert!(path("scratch/file").exists() && !path("scratch/own").exists());
            // The next one sees it, and takes it away for all.
            as_role(&touched, |own| {
                assert!(own && path("root/pod/secret").exists());
                nix::mount::umount(&path("root/pod")).unwrap();
            });
            assert!(!path("root/pod/secret").exists());
            unshared(&path("root")).unwrap();
            unshared(&path("root")).unwrap();
            assert!(mounts().unwrap().iter().all(|mount| mount.point != path("root")));
            fs::remove_dir_all(path("root")).unwrap();
        });
    }

    #[test]
    fn a_role_without_up_has_mounts_of_its_own_where_the_host_shares_its_own() {
        on_a_host(|directory| {
            mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_SHARED, NOTHING).unwrap();
            let path = |name: &str| directory.join(name);
            for name in ["root/pod", "root/later", "other"] {
                fs::create_dir_all(path(name)).unwrap();
            }
            // Of a role before this one.
            tmpfs(&path("root/pod"));
            fs::write(path("root/pod/secret"), "s").unwrap();
            // One in another, and one that has not been made yet.
            let shares = ["root", "root/pods", "new/root"].map(path).to_vec();
            let (touched, before) = (Touched { shares, ..Touched::default() }, mounts().unwrap().len());
            as_role(&touched, |own| {
                assert!(own && path("root/pod/secret").exists());
                for shared in ["root/file", "root/pods/file", "new/root/file"] {
                    fs::write(path(shared), "s").unwrap();
                }
                assert_eq!(fs::write(path("new/file"), "s").unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
                assert_eq!(fs::write(path("other/file"), "s").unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
                tmpfs(&path("root/later"));
                fs::write(path("root/later/secret"), "s").unwrap();
                nix::mount::umount(&path("root/pod")).unwrap();
            });
            // Both are the host's, which has nothing mounted besides.
            assert!(path("root/later/secret").exists() && !path("root/pod/secret").exists());
            assert_eq!(mounts().unwrap().len(), before);
            fs::write(path("other/file"), "the host may").unwrap();
            as_role(&touched, |own| {
                assert!(own && path("root/later/secret").exists());
                // The host's mounts of later are seen.
                nix::mount::umount(&path("root/later")).unwrap();
            });
            assert!(!path("root/later/secret").exists());
        });
    }

    #[test]
    fn a_file_system_of_its_own_stays_mounted_and_old_mounts_are_not_hidden() {
        on_a_host(|directory| {
            let root = directory.join("root");
            fs::create_dir_all(&root).unwrap();
            tmpfs(&root);
            fs::create_dir(root.join("pod")).unwrap();
            tmpfs(&root.join("pod"));
            fs::write(root.join("pod/secret"), "s").unwrap();
            assert!(!share(directory).unwrap());
            assert!(share(&root).unwrap());
            let touched = Touched { shares: vec![root.clone()], ..Touched::default() };
            as_role(&touched, |own| {
                assert!(own && root.join("pod/secret").exists());
                nix::mount::umount(&root.join("pod")).unwrap();
            });
            assert!(!root.join("pod/secret").exists());
            unshared(&root).unwrap();
            assert!(mounts().unwrap().iter().any(|mount| mount.point == root));
        });
    }
}
