//! Mounting: disks, scratch space, and what every container finds in its root.

use std::{
    fs, io,
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use hypernetes_guest_protocol::v1;
use nix::{
    fcntl::OFlag,
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{Mode, SFlag, makedev, mknod},
};

use crate::{
    files, hostfs,
    init::RUN,
    mountinfo, ownership,
    rootfs::{Make, Root, handle_path},
    userns,
};

// linux/fs.h: forgets what is cached of a block device.
nix::ioctl_none!(flush_buffers, 0x12, 97);

fn at(what: &str, path: &Path, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

/// How long a disk that the host has just filled may take to have a size.
const SIZE_PATIENCE: Duration = Duration::from_secs(2);
const SIZE_POLL: Duration = Duration::from_millis(1);

/// The device of a placeholder disk, by the serial number that the host gave it. A VMM that gives none has the disks in the
/// order of the slots.
pub fn device(slot: u32) -> io::Result<PathBuf> {
    let names: Vec<String> =
        fs::read_dir("/sys/block")?.flatten().filter_map(|block| block.file_name().into_string().ok()).collect();
    let serial = |name: &String| fs::read_to_string(format!("/sys/block/{name}/serial")).unwrap_or_default();
    let disks = names.into_iter().map(|name| (serial(&name).trim().to_owned(), name)).collect::<Vec<_>>();
    let name = find(slot, &disks);
    let name = name.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no disk slot {slot}")))?;
    Ok(Path::new("/dev").join(name))
}

/// Among serial numbers and names.
fn find(slot: u32, disks: &[(String, String)]) -> Option<&str> {
    let numbered = disks.iter().any(|(serial, _)| serial.starts_with("slot"));
    let wanted =
        if numbered { format!("slot{slot}") } else { format!("vd{}", char::from_digit(slot.checked_add(10)?, 36)?) };
    let is_wanted = |(serial, name): &&(String, String)| *(if numbered { serial } else { name }) == wanted;
    disks.iter().find(is_wanted).map(|(_, name)| name.as_str())
}

/// Waits until the guest's kernel has been told that a disk has been filled: one that has no size holds nothing.
fn wait_for_size(device: &Path) -> io::Result<()> {
    let name = device.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let size = Path::new("/sys/block").join(name).join("size");
    let began = Instant::now();
    while fs::read_to_string(&size)?.trim() == "0" {
        if began.elapsed() > SIZE_PATIENCE {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{} is empty", device.display())));
        }
        std::thread::sleep(SIZE_POLL);
    }
    Ok(())
}

/// `MAJOR:MINOR` of a placeholder disk.
pub fn device_number(slot: u32) -> io::Result<String> {
    let device = device(slot)?;
    let name = device.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(fs::read_to_string(Path::new("/sys/block").join(name).join("dev"))?.trim().to_owned())
}

/// The device of a slot whose content the host has just changed: nothing of the old one is kept.
pub fn fresh_device(slot: u32) -> io::Result<PathBuf> {
    let path = device(slot)?;
    wait_for_size(&path)?;
    let file = fs::File::open(&path)?;
    #[allow(unsafe_code)]
    // SAFETY: the descriptor is open; the call has no argument.
    unsafe {
        flush_buffers(file.as_raw_fd())?;
    }
    Ok(path)
}

/// Mounts a disk at its own place.
pub fn disk(disk: &v1::Disk, target: &Path) -> io::Result<()> {
    if !matches!(disk.fs_type.as_str(), "erofs" | "ext4") {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the file system {:?} is not known", disk.fs_type),
        ));
    }
    let device = fresh_device(disk.slot)?;
    fs::create_dir_all(target)?;
    let mut flags = MsFlags::MS_NODEV;
    // An image keeps its setuid programs, as everywhere; what a volume holds is only data.
    if disk.fs_type != "erofs" {
        flags |= MsFlags::MS_NOSUID;
    }
    if disk.read_only {
        flags |= MsFlags::MS_RDONLY;
    }
    mount(Some(&device), target, Some(disk.fs_type.as_str()), flags, None::<&str>)
        .map_err(|e| at("mounting", &device, e))?;
    // As for scratch space; an image is the same for all.
    if disk.read_only { Ok(()) } else { propagate(target, MsFlags::MS_SHARED) }
}

pub fn tmpfs(target: &Path, mode: u32, bytes: u64) -> io::Result<()> {
    fs::create_dir_all(target)?;
    let size = if bytes == 0 { String::new() } else { format!(",size={bytes}") };
    let data = format!("mode={mode:o}{size}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(data.as_str()))
        .map_err(|e| at("mounting a tmpfs on", target, e))
}

/// The writable root: an overlay of `lower` and a tmpfs with a size.
pub fn overlay(lower: &Path, directory: &Path, target: &Path, bytes: u64) -> io::Result<()> {
    tmpfs(directory, 0o755, bytes)?;
    let (upper, work) = (directory.join("upper"), directory.join("work"));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    fs::create_dir_all(target)?;
    // The root of the upper layer is what a container sees as the attributes of `/`.
    let root = fs::metadata(lower)?;
    std::os::unix::fs::chown(
        &upper,
        Some(std::os::unix::fs::MetadataExt::uid(&root)),
        Some(std::os::unix::fs::MetadataExt::gid(&root)),
    )?;
    fs::set_permissions(&upper, root.permissions())?;
    let data = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(data.as_str()))
        .map_err(|e| at("mounting", target, e))
}

pub fn bind(source: &Path, target: &Path, read_only: bool) -> io::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|e| at("mounting", source, e))?;
    if read_only {
        remount_read_only(target)?;
    }
    Ok(())
}

/// Makes one mount read-only; what else it forbids stays.
pub fn remount_read_only(target: &Path) -> io::Result<()> {
    use nix::sys::statvfs::{FsFlags, statvfs};
    let present = statvfs(target).map_err(|e| at("looking at", target, e))?.flags();
    let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    for (has, keep) in [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
    ] {
        if present.contains(has) {
            flags |= keep;
        }
    }
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>).map_err(|e| at("making read-only", target, e))
}

/// Says how a mount, and what is below it, shares later mounts with its copies elsewhere.
pub fn propagate(target: &Path, how: MsFlags) -> io::Result<()> {
    mount(None::<&str>, target, None::<&str>, how, None::<&str>).map_err(|e| at("the propagation of", target, e))
}

/// Takes away a mount with all below it, here and nowhere else: copies in other places, that a volume with
/// propagation has, stay.
pub fn unmount_tree(target: &Path) {
    let _ = propagate(target, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    unmount(target);
}

/// Takes away a mount, at once or when its last user is gone. That there is none is fine.
pub fn unmount(target: &Path) {
    match umount2(target, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => eprintln!("hyperstart: unmounting {}: {error}", target.display()),
    }
}

/// Character devices that every container has: name, major, minor.
const DEVICES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
/// `tty`, in every distribution.
const TERMINAL_GROUP: u32 = 5;
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// `/dev`, `/sys` and `/proc`'s place in a container's root. `/proc` itself is mounted by the container's first process,
/// whose processes it shows.
///
/// `owner`: who the container's root is in the guest.
pub fn system(root: &Root, privileged: bool, owner: u32) -> io::Result<()> {
    let dev = root.locate(Path::new("/dev"), Make::Directory)?;
    if privileged {
        // Root of the guest sees the guest's devices.
        bind(Path::new("/dev"), &handle_path(&dev), false)?;
    } else {
        mount(Some("tmpfs"), &handle_path(&dev), Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755,size=65536k"))?;
        let dev = root.locate(Path::new("/dev"), Make::Nothing)?;
        let path = handle_path(&dev);
        for (name, major, minor) in DEVICES {
            let target = path.join(name);
            mknod(&target, SFlag::S_IFCHR, Mode::empty(), makedev(major, minor))?;
            fs::set_permissions(&target, fs::Permissions::from_mode(0o666))?;
        }
        for (name, target) in LINKS {
            std::os::unix::fs::symlink(target, path.join(name))?;
        }
        for name in ["pts", "shm", "mqueue"] {
            fs::create_dir(path.join(name))?;
        }
        let terminals = owner.saturating_add(TERMINAL_GROUP);
        let data = format!("newinstance,ptmxmode=0666,mode=0620,gid={terminals}");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        mount(Some("devpts"), &path.join("pts"), Some("devpts"), flags, Some(data.as_str()))?;
    }
    let shm = root.locate(Path::new("/dev/shm"), Make::Directory)?;
    let shared = Path::new(RUN).join("shm");
    if shared.exists() {
        bind(&shared, &handle_path(&shm), false)?;
    }
    let mqueue = root.locate(Path::new("/dev/mqueue"), Make::Directory)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // Not every kernel has message queues.
    let _ = mount(Some("mqueue"), &handle_path(&mqueue), Some("mqueue"), flags, None::<&str>);
    let sys = root.locate(Path::new("/sys"), Make::Directory)?;
    let access = if privileged { MsFlags::empty() } else { MsFlags::MS_RDONLY };
    mount(Some("sysfs"), &handle_path(&sys), Some("sysfs"), flags | access, None::<&str>)?;
    root.locate(Path::new("/proc"), Make::Directory)?;
    Ok(())
}

/// Puts what a mount says where it says.
pub fn into_container(
    root: &Root,
    wanted: &v1::Mount,
    disk_directory: impl Fn(&v1::Disk) -> io::Result<PathBuf>,
    user_namespace: Option<&Path>,
) -> io::Result<()> {
    use v1::mount::Source;
    let destination = Path::new(&wanted.destination);
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
    if !destination.is_absolute() || destination == Path::new("/") {
        return Err(invalid(format!("{:?} is not a place to mount at", wanted.destination)));
    }
    let source = match &wanted.source {
        None => return Err(invalid(format!("the mount at {} has no source", wanted.destination))),
        Some(Source::Tmpfs(tmpfs)) => {
            let target = root.locate(destination, Make::Directory)?;
            let mode = if tmpfs.mode == 0 { 0o1777 } else { tmpfs.mode };
            let size = if wanted.size_bytes == 0 { String::new() } else { format!(",size={}", wanted.size_bytes) };
            let data = format!("mode={mode:o}{size}");
            mount(
                Some("tmpfs"),
                &handle_path(&target),
                Some("tmpfs"),
                MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
                Some(data.as_str()),
            )?;
            return Ok(());
        }
        Some(Source::Disk(disk)) if wanted.block_device => {
            let device = fresh_device(disk.slot)?;
            let target = root.locate(destination, Make::File)?;
            return bind(&device, &handle_path(&target), false);
        }
        Some(Source::Disk(disk)) => {
            let directory = disk_directory(disk)?;
            if wanted.fs_group != 0 && !disk.read_only {
                ownership::give(&directory, wanted.fs_group).map_err(|e| at("giving to its group", &directory, e))?;
            }
            directory
        }
        Some(Source::FileSet(set)) => files::directory(set).ok_or_else(|| invalid(format!("the file set {set:?}")))?,
        Some(Source::Scratch(name)) => scratch(name, wanted)?,
        Some(Source::HostPath(name)) => {
            let place = hostfs::mount_point(name).ok_or_else(|| invalid(format!("the host path {name:?}")))?;
            hostfs::read_ahead(&place);
            place
        }
    };
    let make_missing = match &wanted.source {
        Some(Source::Scratch(_)) => true,
        Some(Source::Disk(disk)) => !disk.read_only,
        _ => false,
    };
    let source = match wanted.sub_path.as_str() {
        "" => nix::fcntl::open(&source, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?,
        path => {
            // What is in a volume is the tenant's: its links are followed inside of it only.
            // As the kubelet makes them: who may write to the volume may write to its parts.
            let mode = fs::metadata(&source)?.permissions().mode();
            let make = if make_missing { Make::DirectoryOf(mode) } else { Make::Nothing };
            Root::open(&source)?.locate(Path::new(path), make).map_err(|e| at("finding", Path::new(path), e))?
        }
    };
    let source_path = handle_path(&source);
    let make = if fs::metadata(&source_path)?.is_dir() { Make::Directory } else { Make::File };
    let target = root.locate(destination, make).map_err(|e| at("making", destination, e))?;
    match user_namespace.filter(|_| matches!(wanted.source, Some(Source::Disk(_)))) {
        // Owners on a disk are the container's; those of the other places are the guest's, which cannot be translated.
        Some(namespace) => {
            let (from, to) = (fs::read_link(&source_path)?, fs::read_link(handle_path(&target))?);
            userns::translate(&from, &to, namespace).map_err(|e| at("translating owners of", &from, e))?;
        }
        None => bind(&source_path, &handle_path(&target), false)?,
    }
    if wanted.read_only {
        // The handle is of what lies below the mount; looked up again, it is the mount.
        let mounted = root.locate(destination, Make::Nothing)?;
        remount_read_only(&handle_path(&mounted))?;
        if wanted.recursive_read_only {
            let place = fs::read_link(handle_path(&mounted))?;
            for below in mountinfo::below(&place)? {
                remount_read_only(&below)?;
            }
        }
    }
    Ok(())
}

/// A directory that the pod's containers share, made at its first use.
fn scratch(name: &str, wanted: &v1::Mount) -> io::Result<PathBuf> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not a name for scratch space")));
    }
    let path = Path::new(RUN).join("scratch").join(name);
    if !path.exists() {
        tmpfs(&path, 0o777, wanted.size_bytes)?;
        if let Some(owner) = &wanted.owner {
            ownership::own(&path, owner).map_err(|e| at("the owner of", &path, e))?;
        }
        // What a container mounts in it may be for others to see; who does not want that has a private copy.
        propagate(&path, MsFlags::MS_SHARED)?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_found_by_serial_number_or_order() {
        let disks = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(serial, name)| ((*serial).to_owned(), (*name).to_owned())).collect()
        };
        let numbered = disks(&[("slot1", "vda"), ("slot10", "vdb"), ("slot0", "vdc"), ("", "loop0")]);
        assert_eq!(find(0, &numbered), Some("vdc"));
        assert_eq!(find(1, &numbered), Some("vda"));
        assert_eq!(find(2, &numbered), None);
        let in_order = disks(&[("254261", "vdb"), ("", "loop0"), ("254261", "vda")]);
        assert_eq!(find(0, &in_order), Some("vda"));
        assert_eq!(find(1, &in_order), Some("vdb"));
        assert_eq!(find(2, &in_order), None);
        assert_eq!(find(u32::MAX, &in_order), None);
    }
}
