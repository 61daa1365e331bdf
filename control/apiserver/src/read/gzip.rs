//! Answers that are compressed, once, while they are made.

use std::io::{self, Write};

use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, header};

/// What is shorter is sent as it is: upstream's threshold.
pub const THRESHOLD: usize = 128 << 10;

pub struct Gzip(GzEncoder<Vec<u8>>);

impl Gzip {
    /// For an answer of about so many bytes; none where it is short, or the client does not say that it takes it. As upstream
    /// reads the header, which takes no weights.
    pub fn of(headers: &HeaderMap, bytes: usize) -> Option<Self> {
        let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let taken = bytes > THRESHOLD && accepted.split(',').any(|one| one.trim() == "gzip");
        // As fast as it can, as upstream does.
        taken.then(|| Self(GzEncoder::new(Vec::new(), Compression::fast())))
    }

    /// Says so in the head of the answer.
    pub fn mark(headers: &mut HeaderMap) {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }

    /// What of it can be sent after these bytes.
    pub fn piece(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        self.0.write_all(bytes)?;
        Ok(std::mem::take(self.0.get_mut()))
    }

    pub fn end(self) -> io::Result<Vec<u8>> {
        self.0.finish()
    }
}
