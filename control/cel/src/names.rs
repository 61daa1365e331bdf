//! How expressions write the names of properties: `namespace` as `__namespace__`, `a-b` as `a__dash__b`.

use std::borrow::Cow;

/// Words that an identifier must not be.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The name as an expression writes it, or `None` if it cannot.
pub fn escape(name: &str) -> Option<Cow<'_, str>> {
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if RESERVED.contains(&name) {
        return Some(Cow::Owned(format!("__{name}__")));
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./".contains(&b)) {
        return None;
    }
    if !name.contains("__") && !name.contains(['-', '.', '/']) {
        return Some(Cow::Borrowed(name));
    }
    let mut escaped = String::with_capacity(name.len() + 16);
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        let (taken, written) = match first {
            '_' if rest.starts_with("__") => (2, "__underscores__"),
            '.' => (1, "__dot__"),
            '-' => (1, "__dash__"),
            '/' => (1, "__slash__"),
            _ => (1, &rest[..1]),
        };
        escaped.push_str(written);
        rest = &rest[taken..];
    }
    Some(Cow::Owned(escaped))
}

/// The name that an expression means: the other way round. `None` if none is written so.
pub fn unescape(written: &str) -> Option<Cow<'_, str>> {
    if !written.contains("__") {
        return Some(Cow::Borrowed(written));
    }
    if let Some(word) = written.strip_prefix("__").and_then(|w| w.strip_suffix("__"))
        && RESERVED.contains(&word)
    {
        return Some(Cow::Borrowed(word));
    }
    let mut name = String::with_capacity(written.len());
    let mut rest = written;
    while !rest.is_empty() {
        let Some(at) = rest.find("__") else {
            name.push_str(rest);
            break;
        };
        name.push_str(&rest[..at]);
        rest = &rest[at..];
        let (taken, meant) = [("__underscores__", "__"), ("__dot__", "."), ("__dash__", "-"), ("__slash__", "/")]
            .into_iter()
            .find(|(written, _)| rest.starts_with(written))?;
        name.push_str(meant);
        rest = &rest[taken.len()..];
    }
    Some(Cow::Owned(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_and_read() {
        for (name, written) in [
            ("foo", Some("foo")),
            ("namespace", Some("__namespace__")),
            ("a-b", Some("a__dash__b")),
            ("a.b/c", Some("a__dot__b__slash__c")),
            ("a__b", Some("a__underscores__b")),
            ("a___b", Some("a__underscores___b")),
            ("1a", None),
            ("a b", None),
            ("", None),
        ] {
            assert_eq!(escape(name).as_deref(), written, "{name}");
            if let Some(written) = written {
                assert_eq!(unescape(written).as_deref(), Some(name), "{written}");
            }
        }
        assert_eq!(unescape("a__b"), None);
    }
}
