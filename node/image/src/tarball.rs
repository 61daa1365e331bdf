//! Reads tar archives: ustar, GNU and pax, with sparse files of all their kinds. Every length is bounded before memory is
//! taken for it.

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use tar::{EntryType, GnuExtSparseHeader, Header, PaxExtensions};

const BLOCK: u64 = 512;
/// Largest extended header; Linux's largest path and attributes fit several times over.
const MAX_EXTENSION: u64 = 1 << 20;
const MAX_SEGMENTS: usize = 1 << 16;

/// What a tar is read from.
pub(crate) trait Source: Read {
    /// Goes forward by so many bytes.
    fn skip(&mut self, bytes: u64) -> io::Result<()>;
}

/// A [`Source`] that can only be read through.
pub(crate) struct Stream<R>(pub R);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read> Source for Stream<R> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        match io::copy(&mut self.0.by_ref().take(bytes), &mut io::sink())? {
            copied if copied == bytes => Ok(()),
            _ => Err(truncated()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    CharacterDevice,
    BlockDevice,
    Fifo,
    /// Nothing that a file system could hold.
    Other,
}

/// Where data lies in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub offset: u64,
    pub length: u64,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub path: Vec<u8>,
    /// Of a symbolic or hard link.
    pub target: Vec<u8>,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: u64,
    pub major: u32,
    pub minor: u32,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Bytes of the file; of a sparse one with its holes.
    pub size: u64,
    /// In order and inside `size`; `None`: all of it.
    pub segments: Option<Vec<Segment>>,
    /// Where its data starts in the archive.
    pub position: u64,
}

/// Members one by one; between two of them it reads as the first one's data.
pub(crate) struct Reader<S> {
    source: S,
    position: u64,
    /// Of the current member.
    data_left: u64,
    padding: u64,
    ended: bool,
}

/// What extended headers say of the next member.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<u64>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    /// Version 0.0 and 0.1.
    sparse_map: Option<Vec<Segment>>,
    sparse_offset: Option<u64>,
    /// Version 1.0: the map precedes the data.
    sparse_in_data: bool,
}

impl<S: Source> Reader<S> {
    pub fn new(source: S) -> Self {
        Self { source, position: 0, data_left: 0, padding: 0, ended: false }
    }

    pub fn into_inner(self) -> S {
        self.source
    }

    /// The next member, past what is left of the one before.
    pub fn next_member(&mut self) -> io::Result<Option<Member>> {
        if self.ended {
            return Ok(None);
        }
        let mut extensions = Extensions::default();
        loop {
            let rest = self.data_left + self.padding;
            self.source.skip(rest)?;
            self.position += rest;
            (self.data_left, self.padding) = (0, 0);
            let Some(header) = self.header()? else {
                self.ended = true;
                return Ok(None);
            };
            let declared = header.entry_size()?;
            let kind = header.entry_type();
            match kind {
                EntryType::XHeader => {
                    self.start_data(declared)?;
                    let bytes = self.extension()?;
                    extensions.read_pax(&bytes)?;
                }
                EntryType::GNULongName | EntryType::GNULongLink => {
                    self.start_data(declared)?;
                    let mut bytes = self.extension()?;
                    bytes.truncate(bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len()));
                    match kind {
                        EntryType::GNULongName => extensions.path = Some(bytes),
                        _ => extensions.target = Some(bytes),
                    }
                }
                EntryType::XGlobalHeader => self.start_data(declared)?,
                _ => return self.member(&header, declared, extensions).map(Some),
            }
        }
    }

    /// `None` at the end: a block of zeros, or no more bytes.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < block.len() {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(truncated()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.position += BLOCK;
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        // The checksum's own bytes count as spaces.
        let counted = |(at, byte): (usize, &u8)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) };
        let checksum: u32 = block.iter().enumerate().map(counted).sum();
        if header.cksum().ok() != Some(checksum) {
            return Err(corrupt("a header's checksum is wrong: it is no tar, or a damaged one"));
        }
        Ok(Some(header))
    }

    fn start_data(&mut self, size: u64) -> io::Result<()> {
        // Also keeps every sum of positions far from overflow.
        if size > 1 << 56 {
            return Err(corrupt("a member is larger than any disk"));
        }
        self.data_left = size;
        self.padding = size.next_multiple_of(BLOCK) - size;
        Ok(())
    }

    fn extension(&mut self) -> io::Result<Vec<u8>> {
        if self.data_left > MAX_EXTENSION {
            return Err(corrupt(format!("an extended header of {} bytes", self.data_left)));
        }
        let mut bytes = vec![0; self.data_left as usize];
        self.read_exact(&mut bytes).map_err(|_| truncated())?;
        Ok(bytes)
    }

    fn member(&mut self, header: &Header, declared: u64, extensions: Extensions) -> io::Result<Member> {
        let number = |value: io::Result<u64>| value.ok().and_then(|v| u32::try_from(v).ok()).unwrap_or(0);
        let device = |value: io::Result<Option<u32>>| value.ok().flatten().unwrap_or(0);
        let stored = extensions.size.unwrap_or(declared);
        let path = extensions.sparse_name.or(extensions.path).unwrap_or_else(|| header.path_bytes().into_owned());
        let target = extensions.target.or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
        let kind = match header.entry_type() {
            // Old archives mark directories by a slash.
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::HardLink,
            EntryType::Char => Kind::CharacterDevice,
            EntryType::Block => Kind::BlockDevice,
            EntryType::Fifo => Kind::Fifo,
            _ => Kind::Other,
        };
        let old_sparse = header.entry_type() == EntryType::GNUSparse;
        // Links may repeat their target's size; only files and what is unknown have data.
        let has_data = matches!(kind, Kind::File | Kind::Other | Kind::Directory);
        let mut sparse = extensions.sparse_map;
        let mut size = stored;
        if old_sparse {
            let (segments, real_size) = self.old_sparse_map(header)?;
            (sparse, size) = (Some(segments), real_size);
        }
        self.start_data(if has_data { stored } else { 0 })?;
        if kind == Kind::File && !old_sparse {
            if extensions.sparse_in_data {
                sparse = Some(self.sparse_map_in_data()?);
            }
            if sparse.is_some() {
                size = extensions.sparse_size.ok_or_else(|| corrupt("a sparse file without its size"))?;
            }
        }
        if let Some(segments) = &sparse {
            check_segments(segments, size, self.data_left)?;
        }
        Ok(Member {
            path,
            target: target.unwrap_or_default(),
            kind,
            mode: header.mode().unwrap_or(0) & 0o7777,
            uid: extensions.uid.unwrap_or_else(|| number(header.uid())),
            gid: extensions.gid.unwrap_or_else(|| number(header.gid())),
            mtime: extensions.mtime.or_else(|| header.mtime().ok()).unwrap_or(0),
            major: device(header.device_major()),
            minor: device(header.device_minor()),
            xattrs: extensions.xattrs,
            size: if kind == Kind::File { size } else { 0 },
            segments: sparse.filter(|_| kind == Kind::File),
            position: self.position,
        })
    }

    fn old_sparse_map(&mut self, header: &Header) -> io::Result<(Vec<Segment>, u64)> {
        let gnu = header.as_gnu().ok_or_else(|| corrupt("a sparse file with a header that is not GNU's"))?;
        let mut segments = Vec::new();
        let mut add = |list: &[tar::GnuSparseHeader]| -> io::Result<()> {
            for sparse in list.iter().filter(|sparse| !sparse.is_empty()) {
                segments.push(Segment { offset: sparse.offset()?, length: sparse.length()? });
            }
            if segments.len() > MAX_SEGMENTS { Err(corrupt("a sparse file of too many pieces")) } else { Ok(()) }
        };
        add(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            self.source.read_exact(block.as_mut_bytes()).map_err(|_| truncated())?;
            self.position += BLOCK;
            add(&block.sparse)?;
            more = block.is_extended();
        }
        Ok((segments, gnu.real_size()?))
    }

    /// Lines of decimal numbers, padded to a block: how many pieces, then an offset and a length for each.
    fn sparse_map_in_data(&mut self) -> io::Result<Vec<Segment>> {
        let damaged = || corrupt("a sparse file's map is damaged");
        let mut block = [0; BLOCK as usize];
        let mut at = block.len();
        let mut number = || -> io::Result<u64> {
            let mut value: u64 = 0;
            for _ in 0..21 {
                if at == block.len() {
                    self.read_exact(&mut block).map_err(|_| damaged())?;
                    at = 0;
                }
                let byte = block[at];
                at += 1;
                match byte {
                    b'\n' => return Ok(value),
                    b'0'..=b'9' => {
                        let longer = value.checked_mul(10).and_then(|v| v.checked_add(u64::from(byte - b'0')));
                        value = longer.ok_or_else(damaged)?;
                    }
                    _ => break,
                }
            }
            Err(damaged())
        };
        let count = number()?;
        if count > MAX_SEGMENTS as u64 {
            return Err(corrupt("a sparse file of too many pieces"));
        }
        (0..count).map(|_| Ok(Segment { offset: number()?, length: number()? })).collect()
    }
}

impl<S: Source> Read for Reader<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.data_left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let length = buffer.len().min(usize::try_from(self.data_left).unwrap_or(usize::MAX));
        let read = self.source.read(&mut buffer[..length])?;
        if read == 0 {
            return Err(truncated());
        }
        self.data_left -= read as u64;
        self.position += read as u64;
        Ok(read)
    }
}

fn check_segments(segments: &[Segment], size: u64, stored: u64) -> io::Result<()> {
    let (mut end, mut total) = (0u64, 0u64);
    for segment in segments {
        if segment.offset < end {
            return Err(corrupt("a sparse file's pieces are out of order"));
        }
        end = segment.offset.checked_add(segment.length).ok_or_else(|| corrupt("a sparse file without end"))?;
        total = total.saturating_add(segment.length);
    }
    if end > size || total > stored {
        return Err(corrupt("a sparse file's pieces are larger than it"));
    }
    Ok(())
}

impl Extensions {
    fn read_pax(&mut self, bytes: &[u8]) -> io::Result<()> {
        for extension in PaxExtensions::new(bytes) {
            let extension = extension?;
            let value = extension.value_bytes();
            let decimal = || std::str::from_utf8(value).ok().and_then(|v| v.split('.').next()?.parse::<u64>().ok());
            let id = || decimal().and_then(|v| u32::try_from(v).ok());
            match extension.key_bytes() {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.target = Some(value.to_vec()),
                b"size" => self.size = Some(decimal().ok_or_else(|| corrupt("a size that is no number"))?),
                b"uid" => self.uid = id(),
                b"gid" => self.gid = id(),
                b"mtime" => self.mtime = decimal(),
                b"GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
                b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse_size = decimal(),
                b"GNU.sparse.major" => self.sparse_in_data = value == b"1",
                b"GNU.sparse.map" => self.sparse_map = Some(map(value)?),
                b"GNU.sparse.offset" => self.sparse_offset = decimal(),
                b"GNU.sparse.numbytes" => {
                    let piece = self.sparse_offset.take().zip(decimal());
                    let (offset, length) = piece.ok_or_else(|| corrupt("a sparse file's map is damaged"))?;
                    self.sparse_map.get_or_insert_default().push(Segment { offset, length });
                }
                key => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        self.xattrs.insert(name.to_vec(), value.to_vec());
                    }
                }
            }
        }
        Ok(())
    }
}

/// `offset,length,offset,length…`
fn map(value: &[u8]) -> io::Result<Vec<Segment>> {
    let damaged = || corrupt("a sparse file's map is damaged");
    let text = std::str::from_utf8(value).map_err(|_| damaged())?;
    let numbers: Vec<u64> =
        text.split(',').map(str::parse).collect::<Result<_, _>>().map_err(|_: std::num::ParseIntError| damaged())?;
    if !numbers.len().is_multiple_of(2) || numbers.len() / 2 > MAX_SEGMENTS {
        return Err(damaged());
    }
    Ok(numbers.chunks(2).map(|pair| Segment { offset: pair[0], length: pair[1] }).collect())
}

fn corrupt(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the tar ends too early")
}
