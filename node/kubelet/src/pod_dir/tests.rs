//! What is done in a pod's directory stays in it.
#![expect(clippy::disallowed_methods, reason = "what a pod's directory holds is looked at from outside")]

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use hypernetes_api::{DnsLabel, Uid};
use rustix::mount::MountFlags;

use super::*;

fn pod() -> (tempfile::TempDir, PodDir) {
    let directory = tempfile::tempdir().unwrap();
    let dirs = PodDirs::open(&directory.path().join("pods")).unwrap();
    let pod = dirs.make(Uid::new("uid-1").unwrap()).unwrap();
    (directory, pod)
}

#[test]
fn what_is_made_is_private_and_gone_afterwards() {
    let (directory, pod) = pod();
    let place = Place::of("volumes").then(DnsLabel::new("data").unwrap());
    pod.make_dir(&place).unwrap();
    for path in ["pods", "pods/uid-1", "pods/uid-1/volumes", "pods/uid-1/volumes/data"] {
        assert_eq!(fs::metadata(directory.path().join(path)).unwrap().mode() & 0o7777, 0o700, "{path}");
    }
    pod.replace(&place.then("record"), b"one").unwrap();
    pod.replace(&place.then("record"), b"two").unwrap();
    assert_eq!(pod.read(&place.then("record")).unwrap().unwrap(), b"two");
    assert_eq!(pod.read(&place.then("else")).unwrap(), None);
    let dirs = PodDirs::open(&directory.path().join("pods")).unwrap();
    assert_eq!(dirs.names().unwrap(), ["uid-1"]);
    dirs.remove(Uid::new("uid-1").unwrap()).unwrap();
    dirs.remove(Uid::new("uid-1").unwrap()).unwrap();
    assert!(dirs.find(Uid::new("uid-1").unwrap()).unwrap().is_none());
}

#[test]
fn what_is_in_memory_goes_as_a_whole() {
    assert!(rustix::process::geteuid().is_root(), "mounting needs root");
    let (directory, pod) = pod();
    let secret = Place::of("volumes").then("secret");
    let device = |place: &Place| fs::metadata(pod.path(place)).unwrap().dev();
    let is_mounted = || device(&secret) != device(&Place::of("volumes"));
    for _ in 0..2 {
        pod.make_memory(&secret, 1 << 20, MountFlags::NOSUID).unwrap();
        pod.make_memory(&secret, 1 << 20, MountFlags::NOSUID).unwrap();
        pod.write(&secret.then("s").then("key"), b"value", 0o600, None).unwrap();
        assert!(is_mounted());
        pod.drop_memory(&secret).unwrap();
        pod.drop_memory(&secret).unwrap();
        assert!(!is_mounted() && pod.names(&secret).unwrap().is_empty());
    }
    pod.drop_memory(&Place::of("else").then("where")).unwrap();
    pod.make_memory(&secret, 1 << 20, MountFlags::NOSUID).unwrap();
    pod.write(&secret.then("key"), b"value", 0o600, None).unwrap();
    let dirs = PodDirs::open(&directory.path().join("pods")).unwrap();
    dirs.remove(Uid::new("uid-1").unwrap()).unwrap();
    assert_eq!(dirs.names().unwrap().len(), 0);
}

/// Links that lie in a pod's directory, however they came there, lead nowhere.
#[test]
fn no_link_is_followed() {
    let (directory, pod) = pod();
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "theirs").unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o711)).unwrap();
    symlink(&outside, pod.root().join("volumes")).unwrap();
    symlink(outside.join("file"), pod.root().join("file")).unwrap();
    let (inside, link) = (Place::of("volumes").then("file"), Place::of("file"));
    for place in [&inside, &link] {
        assert!(pod.write(place, b"ours", 0o644, None).is_err());
        assert!(pod.read(place).is_err());
    }
    assert!(pod.replace(&inside, b"ours").is_err());
    assert!(pod.make_dir(&Place::of("volumes").then("new")).is_err());
    // A link is no directory, which stays as it is.
    pod.share(&Place::of("volumes"), 0o777, None).unwrap();
    assert!(pod.remove(&inside).is_err());
    pod.remove(&Place::of("volumes")).unwrap();
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"theirs");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o777, 0o711);
    // What takes the place of a link is the pod's own.
    pod.replace(&link, b"ours").unwrap();
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"theirs");
}
