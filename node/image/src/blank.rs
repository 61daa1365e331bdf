//! An image with nothing in it.

use std::{fs::File, io::Write, path::Path};

use crate::{
    DISK_BYTES, ImageError,
    erofs::{self, BLOCK},
    error::store_error,
    tree::Tree,
};

/// Writes the disk of an image without layers: an empty root directory.
pub fn blank(path: &Path) -> Result<(), ImageError> {
    let mut metadata = Vec::new();
    let (superblock, _) = erofs::write_metadata(&Tree::new(1), 1, &mut metadata)?;
    debug_assert_eq!(superblock.len(), BLOCK);
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(&superblock)?;
        file.write_all(&metadata)?;
        file.set_len(DISK_BYTES)
    };
    write().map_err(store_error(path))
}
