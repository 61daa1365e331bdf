//! Images in pieces as one file: Firecracker reads nothing else. The file is made once, where the file system can without a
//! copy of the data, and serves every VM; it goes when its image has gone.
//!
//! ```text
//! joined/<key>/of    a link to the image's descriptor
//! joined/<key>/disk  the file
//! ```

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    unistd::{Whence, lseek},
};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::pieces::{Extent, Pieces};

const SECTOR: u64 = 512;

pub struct Joined {
    directory: PathBuf,
    /// One is made at a time: it is the disk that takes its time.
    turn: Mutex<()>,
}

impl Joined {
    pub fn open(directory: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        Ok(Self { directory, turn: Mutex::default() })
    }

    /// The file of a disk in pieces, made if there is none. Takes as long as the disk does to write all of it.
    pub fn file(&self, descriptor: &Path) -> io::Result<PathBuf> {
        let _turn = self.turn.lock();
        let entry = self.directory.join(key(descriptor)?);
        let disk = entry.join("disk");
        if disk.exists() {
            return Ok(disk);
        }
        self.collect();
        let pieces = Pieces::open(descriptor)?;
        let _ = fs::remove_dir_all(&entry);
        fs::DirBuilder::new().mode(0o700).create(&entry)?;
        let making = entry.join("new");
        let made = join(&pieces, &making)
            .and_then(|()| symlink(descriptor, entry.join("of")))
            .and_then(|()| fs::rename(&making, &disk));
        if let Err(error) = made {
            let _ = fs::remove_dir_all(&entry);
            return Err(io::Error::new(
                error.kind(),
                format!("joining the pieces of {}: {error}", descriptor.display()),
            ));
        }
        Ok(disk)
    }

    /// Removes those whose images have gone. VMs that have one open keep it.
    pub fn collect(&self) {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let current = fs::read_link(entry.path().join("of")).ok().and_then(|descriptor| key(&descriptor).ok());
            if current.is_none_or(|key| entry.file_name() != key.as_str()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// Of this descriptor as it is: another one in its place has another.
fn key(descriptor: &Path) -> io::Result<String> {
    let metadata = fs::metadata(descriptor)?;
    let mut hasher = Sha256::new();
    hasher.update(descriptor.as_os_str().as_encoded_bytes());
    for number in
        [metadata.ino(), metadata.len(), metadata.mtime().cast_unsigned(), metadata.mtime_nsec().cast_unsigned()]
    {
        hasher.update(number.to_le_bytes());
    }
    Ok(hex::encode(&hasher.finalize()[..16]))
}

fn join(pieces: &Pieces, path: &Path) -> io::Result<()> {
    let out = OpenOptions::new().write(true).create_new(true).mode(0o640).open(path)?;
    let mut at = 0;
    for Extent { sectors, file, offset } in &pieces.extents {
        let (length, offset) = sectors.checked_mul(SECTOR).zip(offset.checked_mul(SECTOR)).ok_or(Errno::EOVERFLOW)?;
        let file = pieces.files.get(*file).ok_or(io::ErrorKind::InvalidInput)?;
        copy(file, offset, length, &out, at)?;
        at = length.checked_add(at).ok_or(Errno::EOVERFLOW)?;
    }
    out.set_len(at)?;
    out.sync_all()
}

/// Copies what there is of a part of a file: holes stay holes.
fn copy(from: &File, offset: u64, length: u64, to: &File, at: u64) -> io::Result<()> {
    let end = offset.checked_add(length).ok_or(Errno::EOVERFLOW)?;
    let mut next = offset;
    while let Some((data, hole)) = data(from, next)?.filter(|(data, _)| *data < end) {
        let (mut source, mut target) = (data, at + (data - offset));
        let stop = hole.min(end);
        while source < stop {
            let part = usize::try_from(stop - source).unwrap_or(usize::MAX).min(1 << 30);
            let copied = rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), part)?;
            if copied == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        next = stop;
    }
    Ok(())
}

/// The first data of a file from an offset on, and where it ends; none: there is none.
fn data(file: &File, from: u64) -> io::Result<Option<(u64, u64)>> {
    let seek = |from: i64, what| lseek(file, from, what).map(i64::cast_unsigned);
    let from = i64::try_from(from).map_err(|_| Errno::EOVERFLOW)?;
    let start = match seek(from, Whence::SeekData) {
        Err(Errno::ENXIO) => return Ok(None),
        start => start?,
    };
    Ok(Some((start, seek(start.cast_signed(), Whence::SeekHole)?)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn pieces_become_one_sparse_file_once() {
        let directory = tempfile::tempdir().unwrap();
        let image = |name: &str| directory.path().join(name);
        fs::write(image("own"), [[b'h'; 4096], [b't'; 4096]].concat()).unwrap();
        File::options().write(true).open(image("own")).unwrap().set_len(1 << 30).unwrap();
        fs::write(image("layer"), [b'l'; 8192]).unwrap();
        let text = "# head\nRW 8 FLAT \"own\" 0\nRW 16 FLAT \"layer\" 0\nRW 2097144 FLAT \"own\" 8\n";
        fs::write(image("disk.vmdk"), text).unwrap();
        let joined = Joined::open(directory.path().join("joined")).unwrap();
        let file = joined.file(&image("disk.vmdk")).unwrap();
        let metadata = fs::metadata(&file).unwrap();
        assert_eq!(metadata.len(), (1 << 30) + 8192);
        assert!(metadata.blocks() * 512 < 1 << 20);
        let mut found = vec![0; 20480];
        File::open(&file).unwrap().read_exact_at(&mut found, 0).unwrap();
        let expected = [[b'h'; 4096], [b'l'; 4096], [b'l'; 4096], [b't'; 4096], [0; 4096]].concat();
        assert_eq!(found, expected);
        // It is there now.
        fs::remove_file(image("layer")).unwrap();
        assert_eq!(joined.file(&image("disk.vmdk")).unwrap(), file);
        joined.collect();
        assert!(file.exists());
        // Another image of the same name cannot be joined, and leaves nothing.
        fs::write(image("disk.vmdk"), format!("{text}# another\n")).unwrap();
        assert!(joined.file(&image("disk.vmdk")).is_err());
        assert_eq!(fs::read_dir(directory.path().join("joined")).unwrap().count(), 0);
    }
}
