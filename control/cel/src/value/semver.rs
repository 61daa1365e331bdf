//! Semantic versions.

use std::cmp::Ordering;
use std::fmt;

use super::url::quoted;

/// A version. Builds are kept, but say nothing about order.
#[derive(Debug, Clone)]
pub struct Semver {
    pub(crate) numbers: [u64; 3],
    prerelease: Vec<Part>,
    build: Vec<String>,
}

/// A part of what is before a release: numbers are less than words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    Word(String),
}

pub(crate) type Parsed<T> = std::result::Result<T, String>;

pub(crate) fn parse(text: &str, normalizes: bool) -> Parsed<Semver> {
    if !normalizes {
        return Semver::parse(text);
    }
    let mut parts: Vec<String> = text.strip_prefix('v').unwrap_or(text).splitn(3, '.').map(str::to_owned).collect();
    for part in &mut parts {
        if part.len() > 1 {
            let bare = part.trim_start_matches('0');
            *part = if bare.starts_with(|c: char| c.is_ascii_digit()) { bare.to_owned() } else { format!("0{bare}") };
        }
    }
    if parts.len() < 3 {
        if parts.last().is_some_and(|last| last.contains(['+', '-'])) {
            return Err("short version cannot contain PreRelease/Build meta data".to_owned());
        }
        parts.resize(3, "0".to_owned());
    }
    Semver::parse(&parts.join("."))
}

impl Semver {
    pub(crate) fn parse(text: &str) -> Parsed<Self> {
        if text.is_empty() {
            return Err("Version string empty".to_owned());
        }
        let parts: Vec<&str> = text.splitn(3, '.').collect();
        let [major, minor, rest] = parts.as_slice() else {
            return Err("No Major.Minor.Patch elements found".to_owned());
        };
        let (rest, build) = match rest.split_once('+') {
            Some((rest, build)) => (rest, Some(build)),
            None => (*rest, None),
        };
        let (patch, prerelease) = match rest.split_once('-') {
            Some((patch, prerelease)) => (patch, Some(prerelease)),
            None => (rest, None),
        };
        let numbers = [number("major", major)?, number("minor", minor)?, number("patch", patch)?];
        let prerelease =
            prerelease.map(|parts| parts.split('.').map(part).collect::<Parsed<_>>()).transpose()?.unwrap_or_default();
        let build = build
            .map(|parts| parts.split('.').map(|part| word("Build meta data", part)).collect::<Parsed<_>>())
            .transpose()?
            .unwrap_or_default();
        Ok(Self { numbers, prerelease, build })
    }

    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.prerelease.is_empty(), other.prerelease.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => self.prerelease.cmp(&other.prerelease),
        })
    }
}

impl PartialEq for Semver {
    fn eq(&self, other: &Self) -> bool {
        self.compare(other).is_eq()
    }
}

fn number(name: &str, text: &str) -> Parsed<u64> {
    let titled = || format!("{}{}", name[..1].to_uppercase(), &name[1..]);
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("Invalid character(s) found in {name} number {}", quoted(text)));
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err(format!("{} number must not contain leading zeroes {}", titled(), quoted(text)));
    }
    text.parse().map_err(|_| format!("strconv.ParseUint: parsing {}: value out of range", quoted(text)))
}

fn part(text: &str) -> Parsed<Part> {
    if text.is_empty() {
        return Err("Prerelease is empty".to_owned());
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        if text.len() > 1 && text.starts_with('0') {
            return Err(format!("Numeric PreRelease version must not contain leading zeroes {}", quoted(text)));
        }
        return text
            .parse()
            .map(Part::Number)
            .map_err(|_| format!("strconv.ParseUint: parsing {}: value out of range", quoted(text)));
    }
    word("prerelease", text).map(Part::Word)
}

fn word(what: &str, text: &str) -> Parsed<String> {
    if text.is_empty() {
        return Err(format!("{what} is empty"));
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(format!("Invalid character(s) found in {what} {}", quoted(text)));
    }
    Ok(text.to_owned())
}

impl fmt::Display for Semver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        for (index, part) in self.prerelease.iter().enumerate() {
            f.write_str(if index == 0 { "-" } else { "." })?;
            match part {
                Part::Number(number) => write!(f, "{number}")?,
                Part::Word(word) => f.write_str(word)?,
            }
        }
        if !self.build.is_empty() {
            write!(f, "+{}", self.build.join("."))?;
        }
        Ok(())
    }
}
