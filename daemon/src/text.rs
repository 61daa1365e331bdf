//! The program's code in memory.

use std::{ffi::c_void, num::NonZeroUsize, path::Path, ptr::NonNull};

use nix::sys::mman::{MmapAdvise, madvise};

/// Forgets what of the program's code was needed until now: it stays in the page cache, and what is needed again is mapped again.
/// The kernel maps sixteen pages for each that is touched, and a start touches nearly all: of forty-five megabytes of the server's,
/// twenty-nine come again with the first renewal of a lease, and then no more while nobody asks.
pub fn forget() {
    let Ok(program) = std::fs::read_link("/proc/self/exe") else { return };
    let maps = std::fs::read("/proc/self/maps").unwrap_or_default();
    for (start, len) in maps.split(|byte| *byte == b'\n').filter_map(|line| code(line, &program)) {
        let Some(start) = NonNull::new(start.get() as *mut c_void) else { continue };
        #[allow(unsafe_code)]
        // SAFETY: a mapping of this program's file that is never written to: what is dropped is read again as it was.
        let forgotten = unsafe { madvise(start, len, MmapAdvise::MADV_DONTNEED) };
        if let Err(error) = forgotten {
            tracing::debug!(%error, "forgetting the code of the start");
        }
    }
}

/// Start and length of a line's mapping (proc_pid_maps(5)), if it is code of that file, and nobody's to write.
fn code(line: &[u8], program: &Path) -> Option<(NonZeroUsize, usize)> {
    let line = str::from_utf8(line).ok()?;
    let (range, rest) = line.split_once(' ')?;
    let (rights, rest) = rest.split_once(' ')?;
    let path = rest.splitn(4, ' ').nth(3)?.trim_start();
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    (rights == "r-xp" && Path::new(path) == program).then_some(())?;
    Some((NonZeroUsize::new(start)?, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_the_program_is_found() {
        let found = |line: &str| code(line.as_bytes(), Path::new("/usr/bin/hyper netes"));
        let code = "55a71dfad000-55a720bd2000 r-xp 01220000 fe:00 10625197                   /usr/bin/hyper netes";
        assert_eq!(found(code), Some((NonZeroUsize::new(0x55a71dfad000).unwrap(), 0x2c25000)));
        for other in [
            code.replace("r-xp", "r--p"),
            code.replace("r-xp", "rwxp"),
            code.replace("netes", "other"),
            code.replace("/usr/bin/hyper netes", ""),
            String::new(),
        ] {
            assert_eq!(found(&other), None, "{other}");
        }
    }

    /// Of this process's files, in KiB.
    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn what_is_forgotten_comes_again() {
        // All of it is touched.
        let maps = std::fs::read("/proc/self/maps").unwrap();
        let program = std::fs::read_link("/proc/self/exe").unwrap();
        let (start, len) = maps.split(|byte| *byte == b'\n').find_map(|line| code(line, &program)).unwrap();
        let start = NonNull::new(start.get() as *mut c_void).unwrap();
        #[allow(unsafe_code)]
        // SAFETY: it is only read ahead.
        unsafe { madvise(start, len, MmapAdvise::MADV_POPULATE_READ) }.unwrap();
        let before = resident();
        forget();
        let after = resident();
        assert!(after < before, "{before} and {after} KiB");
        assert_eq!(str::from_utf8(b"still there"), Ok("still there"));
    }
}
