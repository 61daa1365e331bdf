//! One layer: decompressed and verified while it streams into a file of its files' data and a list of its entries.

use std::{
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    Digest, ImageError, Limits,
    erofs::BLOCK,
    error::invalid,
    tarball::{self, Kind, Member, Stream},
    tree::{Attributes, text},
};

/// One member of a layer's tar, without its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub path: Vec<u8>,
    pub what: What,
    pub attributes: Attributes,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    Directory,
    /// `first_block` counts in the layer's data.
    File {
        first_block: u32,
        size: u64,
    },
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    CharacterDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
}

/// What an unpacked layer consists of, beside its data.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub entries: Vec<Entry>,
    /// Length of the data.
    pub blocks: u32,
    /// Sum of the files' sizes.
    pub bytes: u64,
}

/// What is known of a layer before it is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    /// Of the tar; the image's configuration vouches for it.
    pub diff_id: Digest,
    /// Of the bytes as they are stored, unless they have been verified already.
    pub stored: Option<Digest>,
}

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Largest window of a zstd frame, as its command line tool has it without `--long`.
const ZSTD_WINDOW_LOG: u32 = 27;

/// By what the bytes are, not by what the media type says.
fn decompressed<'a>(mut compressed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::with_capacity(4);
    compressed.by_ref().take(4).read_to_end(&mut magic)?;
    let whole = BufReader::with_capacity(256 << 10, io::Cursor::new(magic.clone()).chain(compressed));
    Ok(if magic.starts_with(&GZIP) {
        Box::new(flate2::bufread::MultiGzDecoder::new(whole))
    } else if magic.starts_with(&ZSTD) {
        let mut decoder = zstd::Decoder::with_buffer(whole)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG)?;
        Box::new(decoder)
    } else {
        Box::new(whole)
    })
}

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

/// Bytes from another thread.
struct Piped {
    chunks: Receiver<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Read for Piped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() && !self.ended {
            match self.chunks.recv() {
                Ok(chunk) => (self.chunk, self.at) = (chunk?, 0),
                Err(_) => self.ended = true,
            }
        }
        let length = buffer.len().min(self.chunk.len() - self.at);
        buffer[..length].copy_from_slice(&self.chunk[self.at..][..length]);
        self.at += length;
        Ok(length)
    }
}

const CHUNK: usize = 256 << 10;
const CHUNKS_AHEAD: usize = 8;

/// Sends what a reader gives until it ends; false when nobody listens any more.
fn pump(mut reader: impl Read, chunks: &SyncSender<io::Result<Vec<u8>>>) -> bool {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let read = reader.by_ref().take(CHUNK as u64).read_to_end(&mut chunk);
        let last = !matches!(read, Ok(CHUNK));
        if chunks.send(read.map(|_| chunk)).is_err() {
            return false;
        }
        if last {
            return true;
        }
    }
}

/// Reads a layer, whose files' data goes to `data`. One thread decompresses, another hashes and writes.
pub(crate) fn unpack<W: Write + Seek>(
    stored: impl Read + Send,
    expected: Expected,
    data: W,
    limits: &Limits,
) -> Result<Unpacked, ImageError> {
    std::thread::scope(|scope| {
        let (sender, chunks) = sync_channel(CHUNKS_AHEAD);
        let decompressor = scope.spawn(move || {
            let mut stored = Hashing::new(stored);
            let listened = match decompressed(&mut stored) {
                // The tar itself is bounded, too: padding and headers are not counted by its files. Hence twice.
                Ok(plain) => pump(plain.take(limits.unpacked_bytes.saturating_mul(2).saturating_add(1 << 20)), &sender),
                Err(error) => sender.send(Err(error)).is_ok(),
            };
            drop(sender);
            if listened {
                // What follows the compressed stream counts for the digest.
                io::copy(&mut stored, &mut io::sink())?;
            }
            Ok::<_, io::Error>(Digest::from_hasher(stored.hasher))
        });
        let plain = Piped { chunks, chunk: Vec::new(), at: 0, ended: false };
        let unpacked = read_tar(plain, expected.diff_id, data, limits)?;
        let unreadable =
            |why: &dyn std::fmt::Display| invalid(format!("the layer {} cannot be read: {why}", expected.diff_id));
        let found = decompressor.join().map_err(|_| unreadable(&"its decompression failed"))?;
        let found = found.map_err(|error| unreadable(&error))?;
        match expected.stored {
            Some(digest) if digest != found => Err(invalid(format!("the bytes of {digest} have the digest {found}"))),
            _ => Ok(unpacked),
        }
    })
}

fn read_tar<W: Write + Seek>(
    plain: impl Read,
    diff_id: Digest,
    data: W,
    limits: &Limits,
) -> Result<Unpacked, ImageError> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ImageError::NoSpace(error.to_string()),
        _ => invalid(format!("the layer {diff_id} cannot be read: {error}")),
    };
    let mut members = tarball::Reader::new(Stream(Hashing::new(plain)));
    let mut data = Data { out: data, buffer: Vec::with_capacity(BUFFER), blocks: 0 };
    let (mut entries, mut bytes, mut names) = (Vec::new(), 0u64, 0u64);
    while let Some(member) = members.next_member().map_err(unreadable)? {
        bytes = bytes.saturating_add(member.size);
        if bytes > limits.unpacked_bytes {
            return Err(invalid(format!(
                "the image's files are larger than the limit of {} bytes",
                limits.unpacked_bytes
            )));
        }
        let attributes = member.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        names += (member.path.len() + member.target.len() + attributes) as u64;
        if entries.len() >= limits.entries || names > limits.names_bytes {
            return Err(invalid(format!(
                "more than {} files, or more than {} bytes of names and attributes",
                limits.entries, limits.names_bytes
            )));
        }
        let what = match member.kind {
            Kind::Other => continue,
            Kind::Directory => What::Directory,
            Kind::File => {
                let first_block = data.file(&mut members, &member).map_err(unreadable)?;
                What::File { first_block, size: member.size }
            }
            Kind::Symlink if member.target.is_empty() || member.target.len() >= 4096 || member.target.contains(&0) => {
                return Err(invalid(format!("the symbolic link {} has no proper target", text(&member.path))));
            }
            Kind::Symlink => What::Symlink(member.target),
            Kind::HardLink => What::HardLink(member.target),
            Kind::CharacterDevice => What::CharacterDevice { major: member.major, minor: member.minor },
            Kind::BlockDevice => What::BlockDevice { major: member.major, minor: member.minor },
            Kind::Fifo => What::Fifo,
        };
        let attributes = Attributes {
            mode: (member.mode & 0o7777) as u16,
            uid: member.uid,
            gid: member.gid,
            mtime: member.mtime,
            xattrs: member.xattrs,
        };
        entries.push(Entry { path: member.path, what, attributes });
    }
    data.flush().map_err(unreadable)?;
    let mut rest = members.into_inner().0;
    io::copy(&mut rest, &mut io::sink()).map_err(unreadable)?;
    let found = Digest::from_hasher(rest.hasher);
    if found != diff_id {
        return Err(invalid(format!("the layer's digest is {found}, and the configuration says {diff_id}")));
    }
    Ok(Unpacked { entries, blocks: data.blocks, bytes })
}

/// A multiple of [`BLOCK`].
const BUFFER: usize = 1 << 20;

/// Appends files, each from a block's start. Blocks of zeros become holes.
struct Data<W> {
    out: W,
    buffer: Vec<u8>,
    /// With those in the buffer.
    blocks: u32,
}

impl<W: Write + Seek> Data<W> {
    fn file(&mut self, source: &mut impl Read, member: &Member) -> io::Result<u32> {
        let first = self.blocks;
        let blocks = u32::try_from(member.size.div_ceil(BLOCK as u64)).ok().and_then(|b| first.checked_add(b));
        let after = blocks.ok_or(io::ErrorKind::FileTooLarge)?;
        match &member.segments {
            None => self.copy(source, member.size)?,
            Some(segments) => {
                let mut position = 0;
                for segment in segments {
                    self.zeros(segment.offset - position)?;
                    self.copy(source, segment.length)?;
                    position = segment.offset + segment.length;
                }
                self.zeros(member.size - position)?;
            }
        }
        self.buffer.resize(self.buffer.len().next_multiple_of(BLOCK), 0);
        self.blocks = after;
        Ok(first)
    }

    fn copy(&mut self, source: &mut impl Read, mut length: u64) -> io::Result<()> {
        while length > 0 {
            if self.buffer.len() == BUFFER {
                self.flush()?;
            }
            let room = (BUFFER - self.buffer.len()).min(usize::try_from(length).unwrap_or(BUFFER));
            let start = self.buffer.len();
            self.buffer.resize(start + room, 0);
            source.read_exact(&mut self.buffer[start..])?;
            length -= room as u64;
        }
        Ok(())
    }

    fn zeros(&mut self, length: u64) -> io::Result<()> {
        self.copy(&mut io::repeat(0), length)
    }

    /// Writes the buffer, which holds whole blocks whenever it is full or between two files.
    fn flush(&mut self) -> io::Result<()> {
        // Neighbouring blocks of one kind go together.
        let mut start = 0;
        while start < self.buffer.len() {
            let hole = is_zero(&self.buffer[start..start + BLOCK]);
            let mut end = start + BLOCK;
            while end < self.buffer.len() && is_zero(&self.buffer[end..end + BLOCK]) == hole {
                end += BLOCK;
            }
            if hole {
                self.out.seek(SeekFrom::Current((end - start) as i64))?;
            } else {
                self.out.write_all(&self.buffer[start..end])?;
            }
            start = end;
        }
        self.buffer.clear();
        Ok(())
    }
}

fn is_zero(block: &[u8]) -> bool {
    block == &[0; BLOCK][..]
}
