//! One layer: decompressed and verified while it streams into the tree and the image.

use std::{
    collections::BTreeMap,
    io::{self, BufReader, Read, Seek, Write},
};

use sha2::{Digest as _, Sha256};

use crate::{
    Digest, ImageError, Limits,
    erofs::Writer,
    tree::{Attributes, Content, Tree, invalid, text},
};

/// Digests of what is read through it.
struct Hashing<R> {
    inner: R,
    hasher: Sha256,
}

impl<R> Hashing<R> {
    fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new() }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// By what the bytes are, not by what the media type says.
fn decompressed<'a>(mut compressed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::with_capacity(4);
    compressed.by_ref().take(4).read_to_end(&mut magic)?;
    let whole = BufReader::with_capacity(64 << 10, io::Cursor::new(magic.clone()).chain(compressed));
    Ok(if magic.starts_with(&GZIP) {
        Box::new(flate2::bufread::MultiGzDecoder::new(whole))
    } else if magic.starts_with(&ZSTD) {
        Box::new(zstd::Decoder::with_buffer(whole)?)
    } else {
        Box::new(whole)
    })
}

/// How much of the image's limits is used up.
pub(crate) struct Budget {
    pub unpacked_left: u64,
}

impl Budget {
    pub fn new(limits: &Limits) -> Self {
        Self { unpacked_left: limits.unpacked_bytes }
    }
}

/// Streams a layer in. `diff_id` is the digest of the tar, which the image's configuration vouches for.
pub(crate) fn apply<W: Write + Seek>(
    compressed: impl Read,
    diff_id: Digest,
    tree: &mut Tree,
    writer: &mut Writer<W>,
    budget: &mut Budget,
) -> Result<(), ImageError> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ImageError::NoSpace(error.to_string()),
        _ => invalid(format!("the layer {diff_id} cannot be read: {error}")),
    };
    // The tar itself is bounded, too: padding and headers are not counted by its files. Hence twice.
    let bound = budget.unpacked_left.saturating_mul(2).saturating_add(1 << 20);
    let plain = decompressed(compressed).map_err(unreadable)?.take(bound);
    let mut archive = tar::Archive::new(Hashing::new(plain));
    tree.next_layer();
    for entry in archive.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let path = entry.path_bytes().into_owned();
        let size = entry.size();
        budget.unpacked_left = budget
            .unpacked_left
            .checked_sub(size)
            .ok_or_else(|| invalid("the image's files are larger than the limit"))?;
        let attributes = attributes(&mut entry).map_err(unreadable)?;
        let header = entry.header();
        let device = |value: io::Result<Option<u32>>| value.ok().flatten().unwrap_or(0);
        let (major, minor) = (device(header.device_major()), device(header.device_minor()));
        let target = entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
        use tar::EntryType as T;
        let content = match header.entry_type() {
            T::Link => {
                tree.insert_hard_link(&path, &target)?;
                continue;
            }
            T::Regular | T::Continuous | T::GNUSparse => {
                // Old archives mark directories by a slash.
                if path.ends_with(b"/") {
                    Content::Directory(BTreeMap::new())
                } else {
                    writer.file(&mut entry, size).map_err(unreadable)?
                }
            }
            T::Directory => Content::Directory(BTreeMap::new()),
            T::Symlink if target.is_empty() || target.len() >= 4096 || target.contains(&0) => {
                return Err(invalid(format!("the symbolic link {} has no proper target", text(&path))));
            }
            T::Symlink => Content::Symlink(target),
            T::Char => Content::CharacterDevice { major, minor },
            T::Block => Content::BlockDevice { major, minor },
            T::Fifo => Content::Fifo,
            // Global pax headers and what later formats may bring carry no file.
            _ => continue,
        };
        tree.insert(&path, content, attributes)?;
    }
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(unreadable)?;
    let found = Digest::from_hasher(rest.hasher);
    if found != diff_id {
        return Err(invalid(format!("the layer's digest is {found}, and the configuration says {diff_id}")));
    }
    Ok(())
}

fn attributes<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Attributes> {
    let header = entry.header();
    let number = |value: io::Result<u64>| value.ok().and_then(|v| u32::try_from(v).ok()).unwrap_or(0);
    let mut attributes = Attributes {
        mode: (header.mode()? & 0o7777) as u16,
        uid: number(header.uid()),
        gid: number(header.gid()),
        mtime: header.mtime().unwrap_or(0),
        ..Attributes::default()
    };
    let Some(extensions) = entry.pax_extensions()? else { return Ok(attributes) };
    for extension in extensions {
        let extension = extension?;
        let value = extension.value_bytes();
        let decimal = || std::str::from_utf8(value).ok().and_then(|v| v.split('.').next()?.parse::<u64>().ok());
        match extension.key_bytes() {
            b"uid" => attributes.uid = decimal().and_then(|v| u32::try_from(v).ok()).unwrap_or(attributes.uid),
            b"gid" => attributes.gid = decimal().and_then(|v| u32::try_from(v).ok()).unwrap_or(attributes.gid),
            b"mtime" => attributes.mtime = decimal().unwrap_or(attributes.mtime),
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    attributes.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
        }
    }
    Ok(attributes)
}
