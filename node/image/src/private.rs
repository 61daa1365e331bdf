//! Directories of root's alone: what a registry gave to one tenant is nothing for the host's users.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

const PRIVATE: u32 = 0o700;

/// Makes a directory, or makes one its owner's alone that is there already: earlier versions let all read it.
pub(crate) fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(PRIVATE).create(directory)?;
    fs::set_permissions(directory, Permissions::from_mode(PRIVATE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_one_is_and_an_old_one_becomes_private() {
        let place = tempfile::tempdir().unwrap();
        let (old, new) = (place.path().join("old"), place.path().join("old/new"));
        fs::create_dir(&old).unwrap();
        fs::set_permissions(&old, Permissions::from_mode(0o755)).unwrap();
        for directory in [&new, &old] {
            make(directory).unwrap();
            assert_eq!(fs::metadata(directory).unwrap().permissions().mode() & 0o7777, PRIVATE);
        }
    }
}
