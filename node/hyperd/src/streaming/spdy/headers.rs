//! Header blocks: what they say, and the one compressed stream per direction that carries all of a session
//! (SPDY/3.1 draft, 2.6.10).

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::dictionary::DICTIONARY;

/// Longest block after decompression; what kubectl sends has some hundred bytes.
pub(super) const MAX_BLOCK: usize = 16 << 10;
/// Most headers of one stream.
const MAX_HEADERS: usize = 64;

/// A block that cannot be decompressed. All later ones depend on it, so that the session is over.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CompressionError {
    #[error("a header block is not compressed as SPDY/3 has it")]
    Corrupt,
    #[error("a header block has more than {MAX_BLOCK} bytes")]
    TooLong,
}

/// A block with content that is against the rules: its stream's own problem.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("a header block ends too early or too late")]
    Length,
    #[error("a header block has more than {MAX_HEADERS} headers")]
    TooMany,
    #[error("a header has an empty name, one in upper case, or one that comes twice")]
    Name,
    #[error("a header is not text")]
    NotText,
}

/// Names, which are in lower case and come once each, and values.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(in crate::streaming) struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first value of a header: the draft joins more of them with NUL.
    pub(in crate::streaming) fn get(&self, name: &str) -> Option<&str> {
        let (_, values) = self.0.iter().find(|(n, _)| n == name)?;
        values.split('\0').next()
    }

    pub(super) fn parse(mut block: &[u8]) -> Result<Self, HeaderError> {
        let count = usize::try_from(number(&mut block)?).map_err(|_| HeaderError::TooMany)?;
        if count > MAX_HEADERS {
            return Err(HeaderError::TooMany);
        }
        let mut headers = Self(Vec::with_capacity(count));
        for _ in 0..count {
            let (name, value) = (text(&mut block)?, text(&mut block)?);
            let upper = name.bytes().any(|byte| byte.is_ascii_uppercase());
            if name.is_empty() || upper || headers.0.iter().any(|(n, _)| *n == name) {
                return Err(HeaderError::Name);
            }
            headers.0.push((name, value));
        }
        if block.is_empty() { Ok(headers) } else { Err(HeaderError::Length) }
    }

    fn to_block(&self) -> Vec<u8> {
        let mut block = Vec::new();
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
        block.extend_from_slice(&number(self.0.len()));
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&number(text.len()));
            block.extend_from_slice(text.as_bytes());
        }
        block
    }
}

#[cfg(test)]
impl<'a> FromIterator<(&'a str, &'a str)> for Headers {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(headers: T) -> Self {
        Self(headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

fn number(block: &mut &[u8]) -> Result<u32, HeaderError> {
    let (number, rest) = block.split_first_chunk().ok_or(HeaderError::Length)?;
    *block = rest;
    Ok(u32::from_be_bytes(*number))
}

fn text(block: &mut &[u8]) -> Result<String, HeaderError> {
    let length = usize::try_from(number(block)?).map_err(|_| HeaderError::Length)?;
    let (text, rest) = block.split_at_checked(length).ok_or(HeaderError::Length)?;
    *block = rest;
    String::from_utf8(text.to_vec()).map_err(|_| HeaderError::NotText)
}

/// The client's compressed headers.
pub(super) struct Inflater(Decompress);

impl Inflater {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// One block's content, of at most [`MAX_BLOCK`] bytes however little it came in.
    pub(super) fn block(&mut self, mut compressed: &[u8]) -> Result<Vec<u8>, CompressionError> {
        // One byte more than is allowed tells a block that is too long from one that just fits.
        let mut block = vec![0; MAX_BLOCK + 1];
        let mut filled = 0;
        loop {
            let (consumed, produced) = (self.0.total_in(), self.0.total_out());
            let outcome = self.0.decompress(compressed, &mut block[filled..], FlushDecompress::Sync);
            let since = |before: u64, now: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
            let (took, gave) = (since(consumed, self.0.total_in()), since(produced, self.0.total_out()));
            compressed = compressed.get(took..).ok_or(CompressionError::Corrupt)?;
            filled += gave;
            match outcome {
                Ok(flate2::Status::StreamEnd) => return Err(CompressionError::Corrupt),
                Ok(_) if filled > MAX_BLOCK => return Err(CompressionError::TooLong),
                Ok(_) if compressed.is_empty() => break,
                Ok(_) if took == 0 && gave == 0 => return Err(CompressionError::Corrupt),
                Ok(_) => {}
                // Another dictionary than this one is refused by its checksum.
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&DICTIONARY).map_err(|_| CompressionError::Corrupt)?;
                }
                Err(_) => return Err(CompressionError::Corrupt),
            }
        }
        block.truncate(filled);
        Ok(block)
    }
}

/// Our compressed headers.
pub(super) struct Deflater(Compress);

impl Deflater {
    pub(super) fn new() -> Result<Self, CompressionError> {
        let mut compress = Compress::new(Compression::fast(), true);
        compress.set_dictionary(&DICTIONARY).map_err(|_| CompressionError::Corrupt)?;
        Ok(Self(compress))
    }

    /// The headers as a block, up to a byte boundary so that the other side can read all of it.
    pub(super) fn block(&mut self, headers: &Headers) -> Result<Vec<u8>, CompressionError> {
        let plain = headers.to_block();
        let mut compressed = Vec::with_capacity(plain.len() + 64);
        let start = self.0.total_in();
        loop {
            let took = usize::try_from(self.0.total_in() - start).unwrap_or(usize::MAX);
            let rest = plain.get(took..).ok_or(CompressionError::Corrupt)?;
            self.0.compress_vec(rest, &mut compressed, FlushCompress::Sync).map_err(|_| CompressionError::Corrupt)?;
            // Room that is left means that everything has been written.
            if compressed.len() < compressed.capacity() {
                return Ok(compressed);
            }
            compressed.reserve(256);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn blocks_share_one_stream_and_come_back() {
        let (mut to, mut from) = (Deflater::new().unwrap(), Inflater::new());
        let long = "x".repeat(5000);
        let all: [Headers; 4] = [
            [("streamtype", "error"), ("port", "8080"), ("requestid", "0")].into_iter().collect(),
            Headers::default(),
            [("streamtype", "data"), ("port", "8080"), ("requestid", "0")].into_iter().collect(),
            [("long", long.as_str()), ("many", "a\0b")].into_iter().collect(),
        ];
        for headers in &all {
            let block = to.block(headers).unwrap();
            assert_eq!(Headers::parse(&from.block(&block).unwrap()).unwrap(), *headers);
        }
        assert_eq!(all[3].get("many"), Some("a"));
        assert_eq!(all[3].get("port"), None);
        // RFC 1950: the stream names its dictionary after the first two bytes.
        let first = Deflater::new().unwrap().block(&all[0]).unwrap();
        assert_eq!(first[2..6], 0xe3c6_a7c2u32.to_be_bytes());
    }

    #[test]
    fn bombs_and_rubbish_are_errors() {
        let zeros = Headers(vec![("a".into(), "0".repeat(1 << 20))]);
        let bomb = Deflater::new().unwrap().block(&zeros).unwrap();
        assert!(bomb.len() < MAX_BLOCK);
        assert_eq!(Inflater::new().block(&bomb), Err(CompressionError::TooLong));
        assert_eq!(Inflater::new().block(b"plain text"), Err(CompressionError::Corrupt));
        // A stream that names another dictionary, and one that ends.
        assert_eq!(Inflater::new().block(b"\x78\xbb\0\0\0\x01\x62\0"), Err(CompressionError::Corrupt));
        let mut ended = Vec::with_capacity(64);
        let mut compress = Compress::new(Compression::fast(), true);
        compress.set_dictionary(&DICTIONARY).unwrap();
        compress.compress_vec(&[0; 4], &mut ended, FlushCompress::Finish).unwrap();
        assert_eq!(Inflater::new().block(&ended), Err(CompressionError::Corrupt));
    }

    #[test]
    fn the_longest_block_just_fits() {
        let headers = |n: usize| Headers(vec![("a".into(), "0".repeat(n))]);
        let fits = MAX_BLOCK - headers(0).to_block().len();
        let through = |h: &Headers| Inflater::new().block(&Deflater::new().unwrap().block(h).unwrap());
        assert_eq!(through(&headers(fits)).unwrap().len(), MAX_BLOCK);
        assert_eq!(through(&headers(fits + 1)), Err(CompressionError::TooLong));
    }

    #[test]
    fn malformed_blocks_are_told_apart() {
        let parse = Headers::parse;
        assert_eq!(parse(&[0, 0, 0]), Err(HeaderError::Length));
        assert_eq!(parse(&[0xff; 4]), Err(HeaderError::TooMany));
        assert_eq!(parse(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]), Err(HeaderError::Length));
        assert_eq!(parse(&[0, 0, 0, 0, 1]), Err(HeaderError::Length));
        let block = |headers: &[(&str, &str)]| headers.iter().copied().collect::<Headers>().to_block();
        assert_eq!(parse(&block(&[("Port", "1")])), Err(HeaderError::Name));
        assert_eq!(parse(&block(&[("", "1")])), Err(HeaderError::Name));
        assert_eq!(parse(&block(&[("a", "1"), ("a", "2")])), Err(HeaderError::Name));
        let mut binary = block(&[("a", "1")]);
        *binary.last_mut().unwrap() = 0xff;
        assert_eq!(parse(&binary), Err(HeaderError::NotText));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let _ = Headers::parse(&bytes);
            let _ = Inflater::new().block(&bytes);
            // Behind a proper beginning, more of it is looked at.
            let mut block = Deflater::new().unwrap().block(&Headers::default()).unwrap();
            block.extend_from_slice(&bytes);
            let _ = Inflater::new().block(&block);
        }

        #[test]
        fn headers_round_trip(map in prop::collection::btree_map("[a-z-]{1,20}", ".{0,60}", 0..20)) {
            let headers: Headers = map.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let block = Deflater::new().unwrap().block(&headers).unwrap();
            prop_assert_eq!(Headers::parse(&Inflater::new().block(&block).unwrap()).unwrap(), headers);
        }
    }
}
