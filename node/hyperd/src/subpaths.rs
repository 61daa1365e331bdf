//! Where a `subPath` leads that a kubelet has bound: upstream's resolves it on the host, so that no link of a tenant's leads
//! elsewhere, binds what it finds to `volume-subpaths/<volume>/<container>/<number>` and names that as the mount's source.

use std::{
    io,
    path::{Path, PathBuf},
};

use hypernetes_daemon::mountinfo::{self, Mount};

/// The part of the directory `base` that is mounted at `path`, e.g. `logs/web`; none when it is not a part of that.
pub(crate) fn bound(path: &Path, base: &Path) -> io::Result<Option<PathBuf>> {
    Ok(part(&mountinfo::of_this_thread()?, &path.canonicalize()?, &base.canonicalize()?))
}

/// Where in the file system something is that is seen below the mount point.
fn place(mount: &Mount, path: &Path) -> Option<PathBuf> {
    Some(mount.root.join(path.strip_prefix(&mount.point).ok()?))
}

/// Both paths are without links.
fn part(mounts: &[Mount], path: &Path, base: &Path) -> Option<PathBuf> {
    // What is mounted later at a point hides what was.
    let bound = mounts.iter().rfind(|mount| mount.point == path)?;
    let above = mounts.iter().filter(|mount| base.starts_with(&mount.point));
    let of_base = above.max_by_key(|mount| mount.point.components().count())?;
    let removed = bound.root.as_os_str().as_encoded_bytes().ends_with(b"//deleted");
    if bound.device != of_base.device || removed {
        return None;
    }
    Some(bound.root.strip_prefix(place(of_base, base)?).ok()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = r"21 1 8:1 / / rw - ext4 /dev/sda1 rw
30 21 8:2 /srv/state /var/lib rw shared:1 - xfs /dev/sdb rw
31 30 8:2 /srv/state/pods/u/volumes/kubernetes.io~empty-dir/e/a\040b /var/lib/pods/u/volume-subpaths/e/main/0 rw - xfs /dev/sdb rw
32 30 0:50 / /var/lib/pods/u/volumes/kubernetes.io~empty-dir/m rw - tmpfs tmpfs rw
33 30 0:50 /x/y /var/lib/pods/u/volume-subpaths/m/main/1 rw - tmpfs tmpfs rw
34 30 8:1 /etc /var/lib/pods/u/volume-subpaths/e/main/2 rw - ext4 /dev/sda1 rw
35 30 8:2 /srv/state/pods/u/volumes/kubernetes.io~empty-dir/e/gone//deleted /var/lib/pods/u/volume-subpaths/e/main/3 rw - xfs /dev/sdb rw
36 30 8:2 /srv/state/pods/v /var/lib/pods/u/volume-subpaths/e/main/4 rw - xfs /dev/sdb rw";

    #[test]
    fn what_is_bound_is_found_in_its_volume() {
        let pod = Path::new("/var/lib/pods/u");
        let of = |bound: &str, volume: &str| {
            let (path, base) =
                (pod.join("volume-subpaths").join(bound), pod.join("volumes/kubernetes.io~empty-dir").join(volume));
            part(&mountinfo::parse(MOUNTS.as_bytes()), &path, &base)
        };
        assert_eq!(of("e/main/0", "e").unwrap(), Path::new("a b"));
        assert_eq!(of("m/main/1", "m").unwrap(), Path::new("x/y"));
        // Another volume, another file system, another pod; removed; not mounted.
        for (bound, volume) in [
            ("e/main/0", "m"),
            ("m/main/1", "e"),
            ("e/main/2", "e"),
            ("e/main/3", "e"),
            ("e/main/4", "e"),
            ("e/main/9", "e"),
        ] {
            assert_eq!(of(bound, volume), None, "{bound} in {volume}");
        }
    }
}
