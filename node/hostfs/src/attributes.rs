//! Attributes of files as the contract has them.

use std::os::fd::AsFd;

use hypernetes_guest_protocol::v1;
use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid},
    io::Errno,
};

/// Permissions that a guest may give. Setuid and setgid programs are for those who run them, which is the host: what a
/// guest left there must not become somebody else's privilege. chmod(2) may ignore them.
pub(crate) fn permissions(mode: u32, kind: FileType) -> Mode {
    let allowed = if kind == FileType::Directory { 0o3777 } else { 0o1777 };
    Mode::from_raw_mode(mode & allowed)
}

/// A number for a file that is its own among all file systems below what is shared.
pub(crate) fn inode(device: u64, number: u64, root_device: u64) -> u64 {
    let offset = device.wrapping_sub(root_device).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    number.wrapping_add(offset).max(1)
}

pub(crate) fn of(stat: &Stat, root_device: u64) -> v1::HostPathAttributes {
    let time = |seconds, nanos: u64| v1::HostPathTime { now: false, seconds, nanos: u32::try_from(nanos).unwrap_or(0) };
    v1::HostPathAttributes {
        inode: inode(stat.st_dev, stat.st_ino, root_device),
        mode: stat.st_mode,
        links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
        block_size: u32::try_from(stat.st_blksize).unwrap_or(4096),
        device: stat.st_rdev,
        accessed: Some(time(stat.st_atime, stat.st_atime_nsec)),
        modified: Some(time(stat.st_mtime, stat.st_mtime_nsec)),
        changed: Some(time(stat.st_ctime, stat.st_ctime_nsec)),
    }
}

pub(crate) fn owner(uid: Option<u32>, gid: Option<u32>) -> Result<(Option<Uid>, Option<Gid>), Errno> {
    // The highest number means "leave it" to the kernel.
    if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
        return Err(Errno::INVAL);
    }
    Ok((uid.map(Uid::from_raw), gid.map(Gid::from_raw)))
}

pub(crate) fn times(accessed: Option<&v1::HostPathTime>, modified: Option<&v1::HostPathTime>) -> Timestamps {
    let time = |wanted: Option<&v1::HostPathTime>| match wanted {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(wanted) if wanted.now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(wanted) => Timespec { tv_sec: wanted.seconds, tv_nsec: i64::from(wanted.nanos.min(999_999_999)) },
    };
    Timestamps { last_access: time(accessed), last_modification: time(modified) }
}

/// Gives a new file to the one who made it. In a directory with the setgid bit the kernel has chosen the group.
pub(crate) fn give(file: impl AsFd, directory_mode: u32, uid: u32, gid: u32) -> Result<(), Errno> {
    let inherits = directory_mode & libc::S_ISGID != 0;
    let (uid, gid) = owner(Some(uid), (!inherits).then_some(gid))?;
    rustix::fs::chownat(file, "", uid, gid, AtFlags::EMPTY_PATH)
}
