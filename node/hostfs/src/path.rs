//! Paths that a guest names.

use rustix::io::Errno;

/// Linux' limits, in bytes.
const MAX_PATH: usize = 4095;
const MAX_NAME: usize = 255;

/// A path beneath what is shared, of plain names only; empty: what is shared itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Relative<'a>(&'a [u8]);

impl<'a> Relative<'a> {
    pub(crate) fn new(path: &'a [u8]) -> Result<Self, Errno> {
        if path.len() > MAX_PATH {
            return Err(Errno::NAMETOOLONG);
        }
        for name in path.split(|b| *b == b'/').filter(|_| !path.is_empty()) {
            match name {
                b"" | b"." | b".." => return Err(Errno::INVAL),
                name if name.contains(&0) => return Err(Errno::INVAL),
                name if name.len() > MAX_NAME => return Err(Errno::NAMETOOLONG),
                _ => {}
            }
        }
        Ok(Self(path))
    }

    pub(crate) fn is_root(self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// The directory and the name in it.
    ///
    /// # Errors
    /// `EBUSY` for what is shared itself, which has no name.
    pub(crate) fn split(self) -> Result<(Self, &'a [u8]), Errno> {
        match self.0.iter().rposition(|b| *b == b'/') {
            _ if self.is_root() => Err(Errno::BUSY),
            Some(slash) => Ok((Self(&self.0[..slash]), &self.0[slash + 1..])),
            None => Ok((Self(b""), self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_plain_names_pass() {
        for bad in ["/", "/a", "a/", "a//b", ".", "..", "a/..", "a/./b", "../a", "a\0b", "\0"] {
            assert!(Relative::new(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert_eq!(Relative::new("a".repeat(256).as_bytes()), Err(Errno::NAMETOOLONG));
        assert_eq!(Relative::new("a/".repeat(3000).as_bytes()), Err(Errno::NAMETOOLONG));
        assert_eq!(Relative::new(b"").unwrap().split(), Err(Errno::BUSY));
        assert_eq!(Relative::new(b"a").unwrap().split(), Ok((Relative(b""), &b"a"[..])));
        assert_eq!(Relative::new(b"a/b/..c").unwrap().split(), Ok((Relative(b"a/b"), &b"..c"[..])));
    }

    proptest! {
        #[test]
        fn what_passes_is_plain(path in proptest::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), Just(b'a'), any::<u8>()], 0..12)) {
            if Relative::new(&path).is_ok() && !path.is_empty() {
                let path = std::path::Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&path));
                let plain = |c| matches!(c, std::path::Component::Normal(_));
                prop_assert!(path.components().all(plain));
                let again: std::path::PathBuf = path.components().collect();
                prop_assert_eq!(again.as_os_str(), path.as_os_str());
            }
        }
    }
}
