//! The group that a pod's volumes are given to (`fsGroup`).

use std::io;

use k8s_openapi::api::core::v1::PodSpec;

use crate::pod_dir::{Place, PodDir};

/// The group that a pod wants for its volumes.
pub fn of(spec: &PodSpec) -> Option<u32> {
    let group = spec.security_context.as_ref().and_then(|context| context.fs_group);
    group.and_then(|group| u32::try_from(group).ok())
}

/// Makes a directory everybody's, or that of the pod's group (`fsGroup`), which what is made in it belongs to, too. The runtime
/// makes what the pod sees like it; on the host the pod's own directory lets nobody in.
pub fn share(dir: &PodDir, place: &Place, mode: u32, group: Option<u32>) -> io::Result<()> {
    dir.share(place, mode | group.map_or(0, |_| 0o2000), group)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "what a pod's directory holds is looked at from outside")]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use hypernetes_api::Uid;

    use super::*;
    use crate::pod_dir::PodDirs;

    #[test]
    fn a_pods_group_may_use_its_volumes() {
        assert!(nix::unistd::geteuid().is_root(), "giving files away needs root");
        let directory = tempfile::tempdir().unwrap();
        let dir = PodDirs::open(directory.path()).unwrap().make(Uid::new("uid-1").unwrap()).unwrap();
        let of = |place: &Place| {
            let found = fs::metadata(dir.path(place)).unwrap();
            (found.gid(), found.mode() & 0o7777)
        };
        let scratch = Place::of("scratch");
        dir.make_dir(&scratch).unwrap();
        share(&dir, &scratch, 0o777, None).unwrap();
        assert_eq!(of(&scratch), (0, 0o777));
        share(&dir, &scratch, 0o777, Some(2000)).unwrap();
        assert_eq!(of(&scratch), (2000, 0o2777));
        // Block volumes have a file there.
        let device = Place::of("device");
        dir.write(&device, b"", 0o600, None).unwrap();
        share(&dir, &device, 0o770, Some(2000)).unwrap();
        assert_eq!(of(&device), (0, 0o600));
    }
}
