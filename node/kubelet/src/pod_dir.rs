//! The one handle through which a pod's files on this host are made, changed and removed.
//!
//! A [`PodDir`] holds the descriptor of a directory that belongs to one pod. Every path below it is a [`Place`], which is
//! made of parsed names alone, and is opened by `openat2` beneath that descriptor without following links: whatever a
//! pod's specification says, and whatever lies in the directory, nothing outside of it is touched. `clippy.toml` forbids
//! this crate the ways round.

use std::{
    ffi::{CString, OsStr, OsString},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use hypernetes_api::{ConfigKey, DnsLabel, DnsSubdomain, PathComponent, TenantId, Uid};
use hypernetes_beneath::Links;
use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, fchmod, fchown, fstat, fsync, ftruncate, mkdirat, openat,
        readlinkat, renameat, symlinkat, unlinkat,
    },
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

/// Directories of a pod's own: nobody but root looks in.
const PRIVATE: u32 = 0o700;
const READABLE: u32 = 0o755;
/// File systems that are mounted on each other.
const MAX_MOUNTS: usize = 64;
/// Largest file that is read back: the kubelet's own records.
const MAX_READ: usize = 1 << 20;
/// Deepest path of an item of a volume; the runtime copies no deeper ones.
const MAX_DEPTH: usize = 16;
/// Longest path of an item, as Linux has it.
const MAX_PATH_BYTES: usize = 4096;

/// A name that is one component of a path, by its type.
pub trait Name {
    fn component(&self) -> &Path;
}

macro_rules! names {
    ($($name:ty),*) => { $(impl Name for $name {
        fn component(&self) -> &Path {
            self.as_ref()
        }
    })* };
}

names!(ConfigKey, DnsLabel, DnsSubdomain, PathComponent, Uid);

/// A DNS label.
impl Name for TenantId {
    fn component(&self) -> &Path {
        Path::new(self.as_str())
    }
}

/// The kubelet's own words; never a text that came from elsewhere.
impl Name for &'static str {
    fn component(&self) -> &Path {
        Path::new(self)
    }
}

/// A path below a pod's directory, made of names only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place(PathBuf);

impl Place {
    pub fn of(name: impl Name) -> Self {
        Self(name.component().into())
    }

    pub fn then(&self, name: impl Name) -> Self {
        Self(self.0.join(name.component()))
    }

    pub fn item(&self, item: &ItemPath) -> Self {
        Self(self.0.join(&item.0))
    }

    fn split(&self) -> (&Path, &OsStr) {
        (self.0.parent().unwrap_or(Path::new("")), self.0.file_name().unwrap_or_default())
    }
}

/// Where an item of a volume goes, or a `subPath`: relative, of 1 to 16 file names, the first of which does not begin
/// with `..`, which is the kubelet's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ItemPath(PathBuf);

/// The text is no path in a volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a path in a volume: want a relative path without \"..\", of at most 16 names")]
pub struct InvalidItemPath(String);

impl ItemPath {
    /// # Errors
    /// For a path that is not of that form.
    pub fn parse(text: &str) -> Result<Self, InvalidItemPath> {
        let refuse = || InvalidItemPath(text.chars().take(80).collect());
        if text.is_empty() || text.len() > MAX_PATH_BYTES || text.contains('\0') || text.starts_with("..") {
            return Err(refuse());
        }
        let mut path = PathBuf::new();
        for component in Path::new(text).components() {
            match component {
                Component::Normal(name) if name.len() <= 255 => path.push(name),
                // `./a` and `a/./b` are paths that upstream takes.
                Component::CurDir => {}
                _ => return Err(refuse()),
            }
        }
        let first_is_ours = path.as_os_str().as_bytes().starts_with(b"..");
        if path.as_os_str().is_empty() || first_is_ours || path.components().count() > MAX_DEPTH {
            return Err(refuse());
        }
        Ok(Self(path))
    }

    /// The first name: what of it a volume's top directory has.
    #[must_use]
    pub fn top(&self) -> Self {
        Self(self.0.iter().next().unwrap_or_default().into())
    }

    /// Whether it is just this name.
    pub fn is(&self, name: &PathComponent) -> bool {
        self.0.as_os_str() == &**name
    }

    pub fn as_path(&self) -> &Path {
        &self.0
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_os_str().as_bytes()
    }
}

impl From<&ConfigKey> for ItemPath {
    fn from(key: &ConfigKey) -> Self {
        Self(PathBuf::from(&**key))
    }
}

/// A directory of the kubelet's in which each pod has one of its own. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PodDirs {
    directory: Arc<OwnedFd>,
    path: Arc<Path>,
}

impl PodDirs {
    /// `path` is the operator's, not a tenant's. It is made where it is not there, and made private.
    ///
    /// # Errors
    /// As the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "the path is the operator's own")]
        std::fs::create_dir_all(path)?;
        let directory = openat(CWD, path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        fchmod(&directory, Mode::from_raw_mode(PRIVATE))?;
        Ok(Self { directory: directory.into(), path: path.into() })
    }

    /// The handle for what lies together below a further name, as a tenant's logs do.
    ///
    /// # Errors
    /// As the system says.
    pub fn below(&self, name: impl Name) -> io::Result<Self> {
        let made = self.make(name)?;
        Ok(Self { directory: made.directory, path: made.path })
    }

    /// As [`PodDirs::below`], if it is there.
    ///
    /// # Errors
    /// As the system says.
    pub fn find_below(&self, name: impl Name) -> io::Result<Option<Self>> {
        Ok(self.find(name)?.map(|found| Self { directory: found.directory, path: found.path }))
    }

    /// A pod's directory, made where it is not there.
    ///
    /// # Errors
    /// As the system says.
    pub fn make(&self, name: impl Name) -> io::Result<PodDir> {
        match mkdirat(&self.directory, name.component(), Mode::from_raw_mode(PRIVATE)) {
            Err(Errno::EXIST) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        let made = self.open_one(name)?;
        // An earlier version made it for everybody.
        fchmod(&made.directory, Mode::from_raw_mode(PRIVATE))?;
        Ok(made)
    }

    /// A pod's directory, if it has one.
    ///
    /// # Errors
    /// As the system says.
    pub fn find(&self, name: impl Name) -> io::Result<Option<PodDir>> {
        match self.open_one(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    fn open_one(&self, name: impl Name) -> io::Result<PodDir> {
        let directory = beneath(&self.directory, name.component(), OFlags::DIRECTORY, Mode::empty())?;
        Ok(PodDir { directory: directory.into(), path: self.path.join(name.component()).into() })
    }

    /// Names of all that is here.
    ///
    /// # Errors
    /// As the system says.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        list(&beneath(&self.directory, Path::new("."), OFlags::DIRECTORY, Mode::empty())?)
    }

    /// Removes a pod's directory with all that is in it; one that is not there is no error.
    ///
    /// # Errors
    /// As the system says.
    pub fn remove(&self, name: impl Name) -> io::Result<()> {
        remove(&self.directory, name.component().as_os_str())
    }
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PodDir {
    directory: Arc<OwnedFd>,
    path: Arc<Path>,
}

impl PodDir {
    /// The absolute path, for what other processes are told; nothing is opened by it here.
    pub fn path(&self, place: &Place) -> PathBuf {
        self.path.join(&place.0)
    }

    /// As [`PodDir::path`], of the pod's directory itself.
    pub fn root(&self) -> &Path {
        &self.path
    }

    /// Makes a directory and those above it, for root alone.
    ///
    /// # Errors
    /// As the system says, all methods alike.
    pub fn make_dir(&self, place: &Place) -> io::Result<()> {
        self.make_dirs(&place.0, PRIVATE).map(drop)
    }

    /// As [`PodDir::make_dir`], what is made being everybody's to read: the runtime copies it so into the VM.
    pub fn make_readable_dir(&self, place: &Place) -> io::Result<()> {
        self.make_dirs(&place.0, READABLE).map(drop)
    }

    /// Whether there is such a directory.
    pub fn has_dir(&self, place: &Place) -> io::Result<bool> {
        match beneath(&self.directory, &place.0, OFlags::DIRECTORY, Mode::empty()) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts a file system in memory of at most so many bytes at a directory, which is made; one that is there stays.
    pub fn make_memory(&self, place: &Place, bytes: u64, options: MountFlags) -> io::Result<()> {
        let (above, _) = place.split();
        let above = self.make_dirs(above, PRIVATE)?;
        let directory = self.make_dirs(&place.0, PRIVATE)?;
        if fstat(&directory)?.st_dev != fstat(&above)?.st_dev {
            return Ok(());
        }
        let settings = CString::new(format!("mode=0700,size={bytes}"))?;
        Ok(mount("tmpfs", descriptor_path(&directory), "tmpfs", options, settings.as_c_str())?)
    }

    /// Takes a file system in memory away, with all that is in it; a directory that has none stays as it is.
    pub fn drop_memory(&self, place: &Place) -> io::Result<()> {
        let (above, name) = place.split();
        let above = match beneath(&self.directory, above, OFlags::DIRECTORY, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        match beneath(&above, Path::new(name), OFlags::DIRECTORY, Mode::empty()) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(()),
            directory => unmounted(&above, name, directory?).map(drop),
        }
    }

    /// What is made has `mode` whatever the process's mask.
    fn make_dirs(&self, path: &Path, mode: u32) -> io::Result<OwnedFd> {
        let mut at = PathBuf::new();
        let mut directory = beneath(&self.directory, Path::new("."), OFlags::DIRECTORY, Mode::empty())?;
        for name in path {
            at.push(name);
            let made = match mkdirat(&directory, name, Mode::from_raw_mode(PRIVATE)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(error.into()),
            };
            directory = beneath(&self.directory, &at, OFlags::DIRECTORY, Mode::empty())?;
            if made {
                fchmod(&directory, Mode::from_raw_mode(mode))?;
            }
        }
        Ok(directory)
    }

    /// Writes a file anew; directories above it that are not there are everybody's to read. `mode` and `group` are the
    /// file's, whatever the process's mask.
    pub fn write(&self, place: &Place, content: &[u8], mode: u32, group: Option<u32>) -> io::Result<()> {
        let (above, name) = place.split();
        let above = self.make_dirs(above, READABLE)?;
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let file = beneath(&above, Path::new(name), flags, Mode::from_raw_mode(0o600))?;
        if !FileType::from_raw_mode(fstat(&file)?.st_mode).is_file() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        ftruncate(&file, 0)?;
        write_all(&file, content)?;
        own(&file, mode, group)
    }

    /// Puts a file of root's in the place of another: the file is there as a whole or not at all, also after a power
    /// failure.
    pub fn replace(&self, place: &Place, content: &[u8]) -> io::Result<()> {
        let (above, name) = place.split();
        let above = self.make_dirs(above, PRIVATE)?;
        let mut unfinished = name.to_owned();
        unfinished.push(".new");
        match unlinkat(&above, &unfinished, AtFlags::empty()) {
            Err(Errno::NOENT) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = beneath(&above, Path::new(&unfinished), flags, Mode::from_raw_mode(0o600))?;
        write_all(&file, content)?;
        fsync(&file)?;
        renameat(&above, &unfinished, &above, name)?;
        Ok(fsync(&above)?)
    }

    /// What a file holds; none where there is no such file.
    pub fn read(&self, place: &Place) -> io::Result<Option<Vec<u8>>> {
        let file = match beneath(&self.directory, &place.0, OFlags::NONBLOCK, Mode::empty()) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            other => other?,
        };
        let mut text = Vec::new();
        let mut buffer = [0; 8192];
        loop {
            match rustix::io::read(&file, &mut buffer) {
                Ok(0) => return Ok(Some(text)),
                Ok(read) if text.len() + read > MAX_READ => return Err(io::ErrorKind::FileTooLarge.into()),
                Ok(read) => text.extend(&buffer[..read]),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A file for reading, which is not followed where it is a link.
    pub fn open(&self, place: &Place) -> io::Result<OwnedFd> {
        beneath(&self.directory, &place.0, OFlags::NONBLOCK, Mode::empty())
    }

    /// Makes `place` a link with the text `to`, in one step. The directory has to be there.
    pub fn link(&self, place: &Place, to: &Path) -> io::Result<()> {
        let (above, name) = place.split();
        let above = beneath(&self.directory, above, OFlags::DIRECTORY, Mode::empty())?;
        match unlinkat(&above, "..new", AtFlags::empty()) {
            Err(Errno::NOENT) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        symlinkat(to, &above, "..new")?;
        Ok(renameat(&above, "..new", &above, name)?)
    }

    /// The text of a link; none where there is no link.
    pub fn read_link(&self, place: &Place) -> io::Result<Option<PathBuf>> {
        let (above, name) = place.split();
        let above = match beneath(&self.directory, above, OFlags::DIRECTORY, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        match readlinkat(&above, name, Vec::new()) {
            Ok(text) => Ok(Some(OsString::from(OsStr::from_bytes(text.to_bytes())).into())),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Names in a directory; none where there is no such directory.
    pub fn names(&self, place: &Place) -> io::Result<Vec<PathComponent>> {
        let directory = match beneath(&self.directory, &place.0, OFlags::DIRECTORY, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        Ok(list(&directory)?.iter().filter_map(|name| PathComponent::new(name.to_str()?).ok()).collect())
    }

    /// Removes whatever is there, with all that is in it; nothing there is no error.
    pub fn remove(&self, place: &Place) -> io::Result<()> {
        let (above, name) = place.split();
        match beneath(&self.directory, above, OFlags::DIRECTORY, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            above => remove(&above?, name),
        }
    }

    /// Gives a directory a mode and a group; what is no directory stays as it is.
    pub fn share(&self, place: &Place, mode: u32, group: Option<u32>) -> io::Result<()> {
        match beneath(&self.directory, &place.0, OFlags::DIRECTORY, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(()),
            directory => own(&directory?, mode, group),
        }
    }
}

fn beneath(directory: impl AsFd, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    Ok(hypernetes_beneath::open(directory, path, flags | OFlags::NOFOLLOW, mode, Links::None)?)
}

/// A name of an open directory for system calls that take none.
fn descriptor_path(directory: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", directory.as_raw_fd())
}

fn write_all(file: &OwnedFd, mut content: &[u8]) -> io::Result<()> {
    while !content.is_empty() {
        match rustix::io::write(file, content) {
            Ok(written) => content = &content[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The group first: changing it takes the set-group-id bit away.
fn own(file: &OwnedFd, mode: u32, group: Option<u32>) -> io::Result<()> {
    if let Some(group) = group {
        fchown(file, None, Some(Gid::from_raw(group)))?;
    }
    Ok(fchmod(file, Mode::from_raw_mode(mode))?)
}

fn list(directory: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// The directory without file systems in memory that are mounted on it: they go as a whole, at the latest with their last
/// descriptor.
fn unmounted(above: &OwnedFd, name: &OsStr, mut directory: OwnedFd) -> io::Result<OwnedFd> {
    let device = fstat(above)?.st_dev;
    for _ in 0..MAX_MOUNTS {
        if fstat(&directory)?.st_dev == device {
            break;
        }
        unmount(descriptor_path(&directory), UnmountFlags::DETACH)?;
        directory = beneath(above, Path::new(name), OFlags::DIRECTORY, Mode::empty())?;
    }
    Ok(directory)
}

/// Depth is bounded by that of items: nothing but the kubelet writes here.
fn remove(above: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(above, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM | Errno::BUSY) => {}
        Err(error) => return Err(error.into()),
    }
    let directory = match beneath(above, Path::new(name), OFlags::DIRECTORY, Mode::empty()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let directory = unmounted(above, name, directory)?;
    for inner in list(&directory)? {
        remove(&directory, &inner)?;
    }
    match unlinkat(above, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "what a pod's directory holds is looked at from outside")]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    };

    use proptest::prelude::*;

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

    #[test]
    fn items_stay_in_their_volume() {
        for (text, path) in [("a", "a"), ("a/b", "a/b"), ("./a", "a"), ("a//b/", "a/b"), (".a", ".a"), ("a..b", "a..b")]
        {
            assert_eq!(ItemPath::parse(text).unwrap().0, Path::new(path), "{text}");
        }
        let deep = "a/".repeat(17);
        for bad in
            ["", ".", "..", "/a", "../a", "a/../b", "a/..", "..data", "./..data", "a\0b", &deep, &"a".repeat(256)]
        {
            assert!(ItemPath::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        /// Whatever the text, a path of an item below a place is below it.
        #[test]
        fn no_item_leaves_its_place(text in "\\PC{0,20}|[./a\\x00]{0,10}") {
            if let Ok(item) = ItemPath::parse(&text) {
                let place = Place::of("volumes").item(&item);
                prop_assert!(place.0.starts_with("volumes") && place.0.components().count() > 1);
                prop_assert!(place.0.components().all(|c| matches!(c, Component::Normal(_))));
            }
        }
    }
}
