//! A disk in pieces: a VMDK descriptor, as the image store writes it for images that share layers. A VMM can open no file of
//! the host, so every piece is opened here.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read, Seek, Write},
    path::Path,
};

/// Largest descriptor; 256 layers are a tenth of it.
const MAX_BYTES: u64 = 256 << 10;
/// Most files of a disk, with the descriptor itself.
pub const MAX_FILES: usize = 512;

/// One disk's.
pub struct Pieces {
    pub files: Vec<File>,
    /// In their order on the disk.
    pub extents: Vec<Extent>,
}

pub struct Extent {
    pub sectors: u64,
    /// Index in `files`.
    pub file: usize,
    /// First sector in the file.
    pub offset: u64,
}

impl Pieces {
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut text = String::new();
        File::open(path)?.take(MAX_BYTES).read_to_string(&mut text)?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        let (mut names, mut files, mut extents) = (Vec::new(), Vec::new(), Vec::new());
        for line in text.lines().filter(|line| line.starts_with("RW ")) {
            let (sectors, name, offset) = extent(line).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{}: {line:?} is no piece", path.display()))
            })?;
            let file = match names.iter().position(|known| known == name) {
                Some(known) => known,
                None => {
                    let piece = directory.join(name);
                    let open = File::open(&piece);
                    files.push(open.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", piece.display())))?);
                    names.push(name.to_owned());
                    files.len() - 1
                }
            };
            extents.push(Extent { sectors, file, offset });
        }
        if extents.is_empty() || files.len() >= MAX_FILES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{}: no disk in pieces", path.display())));
        }
        Ok(Self { files, extents })
    }

    /// The descriptor with the names that QEMU knows the files by, as an open file of its own.
    pub fn descriptor(&self, name: impl Fn(usize) -> String) -> io::Result<File> {
        let mut text = String::from(
            "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n",
        );
        for Extent { sectors, file, offset } in &self.extents {
            let _ = writeln!(text, "RW {sectors} FLAT \"{}\" {offset}", name(*file));
        }
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        let mut file = File::from(nix::sys::memfd::memfd_create(c"disk", flags)?);
        file.write_all(text.as_bytes())?;
        file.rewind()?;
        // QEMU looks for a descriptor that may be read only.
        File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)))
    }
}

/// `RW <sectors> FLAT "<file>" <offset>`
fn extent(line: &str) -> Option<(u64, &str, u64)> {
    let (sectors, rest) = line.strip_prefix("RW ")?.split_once(" FLAT \"")?;
    let (name, offset) = rest.rsplit_once("\" ")?;
    Some((sectors.parse().ok()?, name, offset.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_opened_once_and_named_anew() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), "a").unwrap();
        std::fs::write(directory.path().join("b"), "b").unwrap();
        let path = directory.path().join("disk.vmdk");
        std::fs::write(&path, "# head\nRW 8 FLAT \"a\" 0\nRW 16 FLAT \"b\" 0\nRW 99 FLAT \"a\" 8\n").unwrap();
        let pieces = Pieces::open(&path).unwrap();
        assert_eq!(pieces.files.len(), 2);
        let mut text = String::new();
        pieces.descriptor(|file| format!("/dev/fdset/{file}")).unwrap().read_to_string(&mut text).unwrap();
        assert!(
            text.ends_with(
                "RW 8 FLAT \"/dev/fdset/0\" 0\nRW 16 FLAT \"/dev/fdset/1\" 0\nRW 99 FLAT \"/dev/fdset/0\" 8\n"
            )
        );
        for wrong in ["", "RW x FLAT \"a\" 0\n", "RW 1 FLAT \"missing\" 0\n", "RW 1 SPARSE \"a\"\n"] {
            std::fs::write(&path, wrong).unwrap();
            assert!(Pieces::open(&path).is_err(), "{wrong}");
        }
    }
}
