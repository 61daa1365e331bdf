//! What is mounted where: proc_pid_mountinfo(5).

use std::{ffi::OsString, io, os::unix::ffi::OsStringExt, path::PathBuf};

use nix::mount::MsFlags;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Of the file system.
    pub device: Vec<u8>,
    /// What of it is mounted.
    pub root: PathBuf,
    pub point: PathBuf,
    /// Of the mount, not of the file system.
    pub flags: MsFlags,
    /// What is mounted below it is seen in other namespaces.
    pub shared: bool,
}

impl Mount {
    /// `id parent device root mount-point options optional-fields… - type source super-options`.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ').skip(2);
        let device = fields.next()?.to_vec();
        let mut path = || Some(PathBuf::from(unescaped(fields.next()?)));
        let (root, point) = (path()?, path()?);
        let options = fields.next()?.split(|byte| *byte == b',');
        let flags = options.fold(MsFlags::empty(), |flags, option| flags | flag(option));
        let shared = fields.take_while(|field| *field != b"-").any(|field| field.starts_with(b"shared:"));
        Some(Self { device, root, point, flags, shared })
    }
}

/// Those that a mount has of its own, and that a remount would clear.
fn flag(option: &[u8]) -> MsFlags {
    match option {
        b"ro" => MsFlags::MS_RDONLY,
        b"nosuid" => MsFlags::MS_NOSUID,
        b"nodev" => MsFlags::MS_NODEV,
        b"noexec" => MsFlags::MS_NOEXEC,
        b"noatime" => MsFlags::MS_NOATIME,
        b"nodiratime" => MsFlags::MS_NODIRATIME,
        b"relatime" => MsFlags::MS_RELATIME,
        _ => MsFlags::empty(),
    }
}

/// Blanks, tabs, newlines and backslashes are three octal digits behind a backslash.
fn unescaped(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, behind @ ..] = rest {
        let code = behind.get(..3).filter(|_| *first == b'\\');
        let code = code.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { behind.get(3..).unwrap_or_default() } else { behind };
    }
    OsString::from_vec(bytes)
}

/// In the order in which they were mounted: what is mounted later at a point hides what was.
///
/// # Errors
/// When there is no /proc.
pub fn of_this_thread() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/thread-self/mountinfo")?))
}

/// All lines that are some.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(Mount::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let line = b"31 30 8:2 /srv/a /var/lib/a\\040b ro,nosuid,relatime shared:7 master:1 - ext4 /dev/sda ro";
        let mount = Mount::parse(line).unwrap();
        assert_eq!((mount.root.to_str(), mount.point.to_str()), (Some("/srv/a"), Some("/var/lib/a b")));
        assert_eq!(mount.flags, MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_RELATIME);
        assert!(mount.shared);
        assert!(!Mount::parse(b"1 0 8:2 / / rw - ext4 shared:1 rw").unwrap().shared);
        for odd in [&b""[..], b"1", b"1 2 3 4", b"\\", b"1 2 3 \\777 \\9"] {
            assert!(Mount::parse(odd).is_none());
        }
    }

    #[test]
    fn names_come_as_they_are() {
        assert_eq!(unescaped(br"a\040b\134\011"), "a b\\\t");
        assert_eq!(unescaped(br"\9\04"), r"\9\04");
        assert_eq!(unescaped("ä\\".as_bytes()), "ä\\");
    }
}
