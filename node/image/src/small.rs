//! An image of a few files, made of no layers: what hyperd itself has run in VMs.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom, Write},
    path::Path,
};

use crate::{
    DISK_BYTES, ImageError,
    erofs::{self, BLOCK},
    error::store_error,
    tree::{Attributes, Content, Tree},
};

/// Writes the disk of an image with those files (path without the leading `/`, content), root's and executable.
pub fn small(files: &[(&str, &[u8])], path: &Path) -> Result<(), ImageError> {
    let mut tree = Tree::new(2 * files.len() + 8);
    tree.next_layer();
    let attributes = Attributes { mode: 0o755, ..Attributes::default() };
    let mut next_block = 1;
    for (name, data) in files {
        let content = Content::File { first_block: next_block, size: data.len() as u64 };
        tree.insert(name.as_bytes(), content, attributes.clone())?;
        next_block += data.len().div_ceil(BLOCK) as u32;
    }
    let mut metadata = Vec::new();
    let (superblock, _) = erofs::write_metadata(&tree, next_block, &mut metadata)?;
    let write = || -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(&superblock)?;
        for (_, data) in files {
            file.write_all(data)?;
            let written = file.stream_position()?;
            file.seek(SeekFrom::Start(written.next_multiple_of(BLOCK as u64)))?;
        }
        file.write_all(&metadata)?;
        file.set_len(DISK_BYTES)
    };
    write().map_err(store_error(path))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_kernels_tools_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("small.erofs");
        let program = vec![7; 10_000];
        small(&[("bin/program", &program), ("etc/passwd", b"root:x:0:0::/:\n"), ("empty", b"")], &path).unwrap();
        let check = Command::new("fsck.erofs").arg(&path).output().expect("apt-get install erofs-utils");
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
        let dump = Command::new("dump.erofs").args(["--path=/bin/program"]).arg(&path).output().unwrap();
        let text = String::from_utf8_lossy(&dump.stdout).into_owned();
        assert!(dump.status.success() && text.contains("Size: 10000"), "{text}");
    }
}
