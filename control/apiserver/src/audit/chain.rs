//! Lines that each carry the hash of all before them.
//!
//! ```text
//! {…,"sequence":<n>,"hash":"<SHA-256 of the hash before and of all to the left of this field>"}
//! ```

use std::fmt::Write;

use ring::digest;

/// SHA-256.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; 32]);

impl Hash {
    /// What the first line follows.
    pub const NONE: Self = Self([0; 32]);

    fn of(before: Self, content: &[u8]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&before.0);
        context.update(content);
        let mut hash = Self::NONE;
        hash.0.copy_from_slice(context.finish().as_ref());
        hash
    }

    pub fn parse(text: &str) -> Option<Self> {
        let mut hash = Self::NONE;
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (byte, digits) in hash.0.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(hash)
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// How far a chain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Of the next line.
    pub next: u64,
    /// Of the last one.
    pub hash: Hash,
}

impl Head {
    pub const START: Self = Self { next: 0, hash: Hash::NONE };

    /// Appends a line with this content, a JSON object that is not empty, and the line's end.
    pub fn seal(&mut self, out: &mut String, object: &str) {
        let begin = out.len();
        out.push_str(object.strip_suffix('}').unwrap_or(object));
        let _ = write!(out, ",\"sequence\":{}", self.next);
        self.hash = Hash::of(self.hash, &out.as_bytes()[begin..]);
        self.next += 1;
        let _ = writeln!(out, ",\"hash\":\"{}\"}}", self.hash);
    }
}

/// A line, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    content: &'a str,
    pub sequence: u64,
    pub hash: Hash,
}

impl<'a> Line<'a> {
    /// None: it is none of a chain.
    pub fn parse(line: &'a str) -> Option<Self> {
        let (content, hash) = line.strip_suffix("\"}")?.rsplit_once(",\"hash\":\"")?;
        let (_, sequence) = content.rsplit_once(",\"sequence\":")?;
        Some(Self { content, sequence: sequence.parse().ok()?, hash: Hash::parse(hash)? })
    }

    pub fn follows(&self, before: Hash) -> bool {
        Hash::of(before, self.content.as_bytes()) == self.hash
    }

    pub fn head(&self) -> Head {
        Head { next: self.sequence.saturating_add(1), hash: self.hash }
    }
}
