//! Attributes as FUSE has them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use hypernetes_guest_protocol::v1;
use nix::libc;

/// The type bits of a mode.
pub fn kind(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

pub fn attributes(number: u64, from: &v1::HostPathAttributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(number),
        size: from.size,
        blocks: from.blocks,
        atime: time(from.accessed.as_ref()),
        mtime: time(from.modified.as_ref()),
        ctime: time(from.changed.as_ref()),
        crtime: UNIX_EPOCH,
        kind: kind(from.mode),
        perm: (from.mode & 0o7777) as u16,
        nlink: from.links,
        uid: from.uid,
        gid: from.gid,
        rdev: u32::try_from(from.device).unwrap_or(0),
        blksize: from.block_size,
        flags: 0,
    }
}

fn time(from: Option<&v1::HostPathTime>) -> SystemTime {
    let Some(from) = from else { return UNIX_EPOCH };
    let seconds = Duration::from_secs(from.seconds.unsigned_abs());
    let whole = if from.seconds < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    whole.and_then(|t| t.checked_add(Duration::from_nanos(u64::from(from.nanos)))).unwrap_or(UNIX_EPOCH)
}

pub fn wanted_time(wanted: TimeOrNow) -> v1::HostPathTime {
    let TimeOrNow::SpecificTime(at) = wanted else { return v1::HostPathTime { now: true, ..Default::default() } };
    // Before the epoch the whole seconds are rounded down, and the rest counts forward.
    let (seconds, nanos) = match at.duration_since(UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let whole = -i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            if before.subsec_nanos() == 0 { (whole, 0) } else { (whole - 1, 1_000_000_000 - before.subsec_nanos()) }
        }
    };
    v1::HostPathTime { now: false, seconds, nanos }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_come_back() {
        for at in [
            UNIX_EPOCH,
            UNIX_EPOCH + Duration::new(5, 7),
            UNIX_EPOCH - Duration::new(5, 0),
            UNIX_EPOCH - Duration::new(5, 7),
        ] {
            assert_eq!(time(Some(&wanted_time(TimeOrNow::SpecificTime(at)))), at);
        }
        assert!(wanted_time(TimeOrNow::Now).now);
    }
}
