//! Paths in a pod's directory, made of parsed names alone.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use hypernetes_api::{ConfigKey, DnsLabel, DnsSubdomain, PathComponent, TenantId, Uid};

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

    pub(super) fn as_path(&self) -> &Path {
        &self.0
    }

    /// What is above the last name, and that name.
    pub(super) fn split(&self) -> (&Path, &OsStr) {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
