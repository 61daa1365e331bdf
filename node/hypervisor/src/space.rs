//! Room on the disk for a VM's memory.

use std::{fs::File, io, os::unix::fs::FileExt};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
    sys::statvfs::fstatvfs,
};

/// Of the memory, when it is looked for what is empty.
const PIECE: usize = 64 << 10;

/// Has the disk keep room for the whole file: a VMM that finds none when it writes to its memory is killed.
pub fn reserve(file: &File, length: u64) -> io::Result<()> {
    // Some file systems give what there is before they say that it is too little.
    let space = fstatvfs(file)?;
    if space.blocks_available().saturating_mul(space.fragment_size()) < length {
        return Err(Errno::ENOSPC.into());
    }
    file.set_len(length)?;
    match fallocate(file, FallocateFlags::empty(), 0, offset(length)?) {
        // A file system without reservations.
        Err(Errno::EOPNOTSUPP) => Ok(()),
        other => Ok(other?),
    }
}

/// Gives back the parts that hold nothing but zeros, most of which were reserved and never written. Where the file system
/// says that there are holes is of no use: what was read of one counts as data.
pub fn release_empty(file: &File, length: u64) -> io::Result<()> {
    let mut block = vec![0; PIECE];
    let zeros = vec![0; PIECE];
    let mut empty_from = None;
    for at in (0..length).step_by(PIECE) {
        let block = &mut block[..usize::try_from(length - at).unwrap_or(PIECE).min(PIECE)];
        file.read_exact_at(block, at)?;
        if *block == zeros[..block.len()] {
            empty_from.get_or_insert(at);
        } else if let Some(from) = empty_from.take() {
            punch(file, from, at)?;
        }
    }
    empty_from.map_or(Ok(()), |from| punch(file, from, length))
}

fn punch(file: &File, from: u64, to: u64) -> io::Result<()> {
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match fallocate(file, hole, offset(from)?, offset(to - from)?) {
        // A file system without holes.
        Err(Errno::EOPNOTSUPP) => Ok(()),
        other => Ok(other?),
    }
}

fn offset(length: u64) -> io::Result<i64> {
    i64::try_from(length).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn room_that_is_not_needed_is_given_back() {
        let file = tempfile::tempfile().unwrap();
        let length = 16 << 20;
        reserve(&file, length).unwrap();
        file.write_all_at(b"kept", 4 << 20).unwrap();
        file.write_all_at(b"last", length - 4).unwrap();
        file.read_exact_at(&mut [0; 4096], 8 << 20).unwrap();
        release_empty(&file, length).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), length);
        assert!(metadata.blocks() * 512 < 1 << 20, "{}", metadata.blocks());
        for (at, text) in [(4 << 20, b"kept"), (length - 4, b"last")] {
            let mut found = [0; 4];
            file.read_exact_at(&mut found, at).unwrap();
            assert_eq!(&found, text);
        }
    }

    #[test]
    fn a_full_disk_is_seen_before_anything_is_written() {
        let file = tempfile::tempfile().unwrap();
        let error = reserve(&file, 1 << 60).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::ENOSPC as i32));
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
}
