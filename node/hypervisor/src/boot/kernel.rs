//! The kernel as QEMU can enter it directly: the ELF file inside a bzImage (Linux `Documentation/arch/x86/boot.rst`).

use std::{
    fs,
    io::{self, Read, Seek, Write},
    path::Path,
};

const SETUP_SECTORS: usize = 0x1f1;
const HEADER_MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const ELF: &[u8] = b"\x7fELF";
/// Larger than any kernel; a damaged file asks for no more memory than this.
const MAX_BYTES: usize = 512 << 20;
/// lz4's legacy frame, which the kernel's build uses: blocks of 8 MiB, each behind its compressed length.
const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
const LZ4_BLOCK: usize = 8 << 20;

/// Writes the kernel in a file, as Debian packages it or as it was linked, to another, as VMMs boot it.
pub fn place(image: &Path, to: &Path) -> io::Result<()> {
    let mut magic = [0; ELF.len()];
    let mut file = fs::File::open(image)?;
    if file.read(&mut magic)? == ELF.len() && magic == *ELF {
        file.rewind()?;
        return io::copy(&mut file, &mut fs::File::create(to)?).map(drop);
    }
    fs::write(to, extract(&fs::read(image)?)?)
}

/// The uncompressed kernel.
///
/// # Errors
/// When the file is no kernel, or is compressed in a way that is not known here.
fn extract(image: &[u8]) -> io::Result<Vec<u8>> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let number = |offset: usize| {
        let bytes = image.get(offset..offset + 4).and_then(|b| b.try_into().ok());
        bytes.map(|b| u32::from_le_bytes(b) as usize)
    };
    if image.get(HEADER_MAGIC..HEADER_MAGIC + 4) != Some(b"HdrS") {
        return Err(invalid("it is neither a bzImage nor an ELF file"));
    }
    let sectors = match image[SETUP_SECTORS] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let truncated = || invalid("the bzImage is truncated");
    let (offset, length) = number(PAYLOAD_OFFSET).zip(number(PAYLOAD_LENGTH)).ok_or_else(truncated)?;
    let start = (sectors + 1) * 512 + offset;
    let payload = start.checked_add(length).and_then(|end| image.get(start..end)).ok_or_else(truncated)?;
    let kernel = if payload.starts_with(&LZ4_LEGACY) {
        decompress_lz4(&payload[LZ4_LEGACY.len()..])?
    } else if payload.starts_with(b"\xfd7zXZ") {
        filter("xz", &["--decompress", "--stdout", "--single-stream"], payload)?
    } else if payload.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        filter("zstd", &["--decompress", "--stdout"], payload)?
    } else if payload.starts_with(&[0x1f, 0x8b]) {
        filter("gzip", &["--decompress", "--stdout"], payload)?
    } else {
        return Err(invalid("the kernel is compressed in a way that is not known"));
    };
    if kernel.starts_with(ELF) { Ok(kernel) } else { Err(invalid("what is inside is no ELF file")) }
}

fn decompress_lz4(mut rest: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    // Behind the last block is the length of the kernel, which is no length of a block that fits.
    while let Some((head, blocks)) = rest.split_at_checked(4) {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some((block, next)) = blocks.split_at_checked(length) else { break };
        if length == 0 || out.len() > MAX_BYTES {
            break;
        }
        let data = lz4_flex::block::decompress(block, LZ4_BLOCK)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
        out.extend(data);
        rest = next;
    }
    Ok(out)
}

/// Through a program that every Debian has. What is behind the stream (the kernel's length) makes it complain, and is not
/// its concern: what counts is what came out.
fn filter(program: &str, arguments: &[&str], input: &[u8]) -> io::Result<Vec<u8>> {
    use std::process::{Command, Stdio};
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("running {program}: {e}")))?;
    let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut out = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ = stdin.write_all(input);
        });
        child.stdout.take().map_or(Ok(0), |stdout| stdout.take(MAX_BYTES as u64).read_to_end(&mut out))
    })?;
    child.wait()?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_files_are_refused() {
        let mut image = vec![0; 0x300];
        assert!(extract(b"").is_err());
        assert!(extract(&image).is_err());
        image[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 8].fill(0xff);
        assert!(extract(&image).is_err());
    }

    #[test]
    fn a_linked_kernel_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("vmlinux"), directory.path().join("placed"));
        for (content, fine) in [(&b"\x7fELF rest"[..], true), (b"\x7fEL", false), (b"", false)] {
            fs::write(&from, content).unwrap();
            assert_eq!(place(&from, &to).is_ok(), fine);
        }
        fs::write(&from, b"\x7fELF rest").unwrap();
        place(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"\x7fELF rest");
    }

    #[test]
    fn lz4_blocks_are_joined() {
        let mut stream = Vec::new();
        for part in [&b"hello "[..], b"world"] {
            let block = lz4_flex::block::compress(part);
            stream.extend((block.len() as u32).to_le_bytes());
            stream.extend(block);
        }
        stream.extend(11u32.to_le_bytes());
        assert_eq!(decompress_lz4(&stream).unwrap(), b"hello world");
    }
}
