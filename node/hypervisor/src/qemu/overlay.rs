//! What lies over an image in a slot that can be written to: a qcow2 file that takes nothing.
//!
//! A virtio disk that can be written to wants a block node that can be, and an image is opened for reading only. The overlay is
//! such a node: it has no cluster of its own, so all that is read is the image, and its file cannot grow, so the first
//! write of a guest that writes to an image fails, and every other.

use std::{
    ffi::CStr,
    fs::File,
    io::{self, Write},
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};

const NAME: &CStr = c"overlay";
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// What one entry of the first table stands for: a cluster full of entries of 8 bytes, each for a cluster.
const L1_ENTRY_BYTES: u64 = CLUSTER / 8 * CLUSTER;
/// Header, table of reference counts, the counts themselves, and the first of the two tables of clusters.
const CLUSTERS: u64 = 4;

/// An overlay of so many bytes; `bytes` is at most 4 TiB.
pub fn create(bytes: u64) -> io::Result<File> {
    let mut file = File::from(memfd_create(NAME, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    file.write_all(&content(bytes))?;
    let seals = SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

/// The format's version 2 (QEMU, docs/interop/qcow2.txt). All numbers are big endian.
fn content(bytes: u64) -> Vec<u8> {
    let l1_entries = bytes.div_ceil(L1_ENTRY_BYTES) as u32;
    let mut content = vec![0; (CLUSTERS * CLUSTER) as usize];
    let mut put = |at: u64, bytes: &[u8]| content[at as usize..][..bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &2u32.to_be_bytes());
    put(20, &CLUSTER_BITS.to_be_bytes());
    put(24, &bytes.to_be_bytes());
    put(36, &l1_entries.to_be_bytes());
    put(40, &(3 * CLUSTER).to_be_bytes());
    // The table of reference counts: where it is, and how many clusters it has.
    put(48, &CLUSTER.to_be_bytes());
    put(56, &1u32.to_be_bytes());
    put(CLUSTER, &(2 * CLUSTER).to_be_bytes());
    for cluster in 0..CLUSTERS {
        put(2 * CLUSTER + 2 * cluster, &1u16.to_be_bytes());
    }
    content
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::FileExt, process::Command};

    use super::*;

    #[test]
    fn qemu_finds_nothing_wrong_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("overlay");
        for bytes in [64 << 30, 1 << 20, 4 << 40] {
            std::fs::write(&path, content(bytes)).unwrap();
            let qemu = |command: &str| {
                let output = Command::new("qemu-img").args([command, "-f", "qcow2"]).arg(&path).output().unwrap();
                assert!(output.status.success(), "{output:?}");
                String::from_utf8(output.stdout).unwrap()
            };
            assert!(qemu("check").contains("No errors"));
            assert!(qemu("info").contains(&format!("({bytes} bytes)")));
        }
    }

    #[test]
    fn it_does_not_grow() {
        let file = create(64 << 30).unwrap();
        assert!(file.write_at(b"x", CLUSTERS * CLUSTER).is_err());
        assert!(file.set_len(1 << 30).is_err());
    }
}
