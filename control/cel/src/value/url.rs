//! URLs, as Go's `net/url` reads them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A URL's parts: `host` with its port, `path` escaped. What is not there is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    pub scheme: String,
    opaque: String,
    pub user: Option<String>,
    pub host: String,
    pub path: String,
    pub query: String,
    pub fragment: String,
}

impl Url {
    /// An absolute URL or an absolute path; the error is Go's.
    pub(crate) fn parse(text: &str) -> std::result::Result<Self, String> {
        Self::parts(text, true).map_err(|why| format!("parse {}: {why}", quoted(text)))
    }

    /// As [`Self::parse`], or a reference, which may be empty.
    ///
    /// # Errors
    /// Go's.
    pub fn parse_reference(text: &str) -> std::result::Result<Self, String> {
        Self::parts(text, false).map_err(|why| format!("parse {}: {why}", quoted(text)))
    }

    fn parts(text: &str, of_request: bool) -> std::result::Result<Self, String> {
        if text.bytes().any(|b| b < b' ' || b == 0x7f) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        if text.is_empty() && of_request {
            return Err("empty url".to_owned());
        }
        let (scheme, rest) = scheme(text)?;
        // A request has no fragment; the URL that is made of the same text has.
        if of_request && !rest.starts_with('/') && scheme.is_empty() && text != "*" {
            return Err("invalid URI for request".to_owned());
        }
        let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut url = Self {
            scheme,
            opaque: String::new(),
            user: None,
            host: String::new(),
            path: String::new(),
            query: query.to_owned(),
            fragment: unescaped(fragment, false)?,
        };
        if !rest.starts_with('/') && !url.scheme.is_empty() {
            url.opaque = rest.to_owned();
            return Ok(url);
        }
        let mut rest = rest;
        if let Some(after) = rest.strip_prefix("//").filter(|_| !url.scheme.is_empty() || !rest.starts_with("///")) {
            let end = after.find('/').unwrap_or(after.len());
            let (authority, path) = after.split_at(end);
            let (user, host) = match authority.rsplit_once('@') {
                Some((user, host)) => (Some(user), host),
                None => (None, authority),
            };
            url.host = host_of(host)?;
            if let Some(user) = user {
                let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b);
                if !user.bytes().all(allowed) {
                    return Err("net/url: invalid userinfo".to_owned());
                }
                url.user = Some(unescaped(user, false)?);
            }
            rest = path;
        }
        let path = unescaped(rest, false)?;
        url.path = if is_escaped_path(rest) { rest.to_owned() } else { escaped_path(&path) };
        Ok(url)
    }

    pub(crate) fn hostname_and_port(&self) -> (&str, &str) {
        let (hostname, port) = match self.host.rfind(':') {
            Some(at) if self.host[at + 1..].bytes().all(|b| b.is_ascii_digit()) => {
                (&self.host[..at], &self.host[at + 1..])
            }
            _ => (self.host.as_str(), ""),
        };
        (hostname.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(hostname), port)
    }

    pub(crate) fn query_values(&self) -> BTreeMap<String, Vec<String>> {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in self.query.split('&') {
            if pair.is_empty() || pair.contains(';') {
                continue;
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let (Ok(name), Ok(value)) = (unescaped(name, true), unescaped(value, true)) {
                values.entry(name).or_default().push(value);
            }
        }
        values
    }
}

fn scheme(text: &str) -> std::result::Result<(String, &str), String> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' => return Ok((String::new(), text)),
            b':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            b':' => return Ok((text[..at].to_ascii_lowercase(), &text[at + 1..])),
            _ => return Ok((String::new(), text)),
        }
    }
    Ok((String::new(), text))
}

fn host_of(host: &str) -> std::result::Result<String, String> {
    let port = if host.starts_with('[') {
        let Some(end) = host.rfind(']') else { return Err("missing ']' in host".to_owned()) };
        &host[end + 1..]
    } else {
        host.rfind(':').map_or("", |at| &host[at..])
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    if !(port.is_empty() || port.starts_with(':')) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("invalid port {} after host", quoted(port)));
    }
    if let Some(bad) =
        host.chars().find(|c| c.is_ascii() && !c.is_ascii_alphanumeric() && !"-._~!$&'()*+,;=:[]<>\"%".contains(*c))
    {
        return Err(format!("invalid character {} in host name", quoted(&bad.to_string())));
    }
    unescaped(host, false)
}

/// `%41` as `A`; in queries `+` as a space.
fn unescaped(text: &str, query: bool) -> std::result::Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'%' => {
                let digits = rest.get(..2).and_then(|d| std::str::from_utf8(d).ok());
                let byte = digits
                    .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))
                    .and_then(|d| u8::from_str_radix(d, 16).ok());
                let Some(byte) = byte else {
                    let shown: String = format!("%{}", String::from_utf8_lossy(&rest[..rest.len().min(2)]));
                    return Err(format!("invalid URL escape {}", quoted(&shown)));
                };
                bytes.push(byte);
                rest = &rest[2..];
            }
            b'+' if query => bytes.push(b' '),
            other => bytes.push(*other),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether a path is written as one that is escaped may be.
fn is_escaped_path(path: &str) -> bool {
    path.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*[]%".contains(&b))
}

fn escaped_path(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// A text as Go's `%q` prints it.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\u{b}' => quoted.push_str("\\v"),
            other if (other as u32) < 0x20 || other as u32 == 0x7f => {
                let _ = write!(quoted, "\\x{:02x}", other as u32);
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.scheme.is_empty() {
            write!(f, "{}:", self.scheme)?;
        }
        if !self.opaque.is_empty() {
            f.write_str(&self.opaque)?;
        } else {
            if !self.host.is_empty() || self.user.is_some() {
                f.write_str("//")?;
                if let Some(user) = &self.user {
                    write!(f, "{user}@")?;
                }
                f.write_str(&self.host)?;
            }
            f.write_str(&self.path)?;
        }
        if !self.query.is_empty() {
            write!(f, "?{}", self.query)?;
        }
        if !self.fragment.is_empty() {
            write!(f, "#{}", self.fragment)?;
        }
        Ok(())
    }
}
