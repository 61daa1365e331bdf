//! Which mounts there are in this process's mount namespace: `/proc/self/mountinfo`, see proc(5).

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// Mount points, outer ones before those inside of them.
pub fn mount_points() -> io::Result<Vec<PathBuf>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?))
}

/// Those at a path and below it.
pub fn below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut points = mount_points()?;
    points.retain(|point| point.starts_with(path));
    Ok(points)
}

fn parse(text: &[u8]) -> Vec<PathBuf> {
    let field = |line: &[u8]| line.split(|byte| *byte == b' ').nth(4).map(unescape);
    text.split(|byte| *byte == b'\n').filter_map(field).collect()
}

/// Blanks, tabs, newlines and backslashes are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok();
        match (first, tail.get(..3).and_then(octal)) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        let text =
            b"22 1 0:20 / / rw - tmpfs tmpfs rw\n31 22 0:5 / /a\\040b\\134 rw,nosuid shared:3 - ext4 /dev/x rw\n";
        assert_eq!(parse(text), [PathBuf::from("/"), PathBuf::from("/a b\\")]);
        assert_eq!(parse(b"\n1 2\n"), Vec::<PathBuf>::new());
        assert_eq!(unescape(b"/x\\04"), PathBuf::from("/x\\04"));
    }
}
