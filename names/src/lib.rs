//! Text of a tenant, parsed: the only makers of keys, paths and URLs.
//!
//! A name that came over a wire becomes one of these types at the border of the process that got it. What is put into a
//! store key, a path of the host, a URL or a rule takes such a type, so that text which is more than a name does not
//! compile there. The rules are Kubernetes' own (`k8s.io/apimachinery/pkg/api/validation/path`, `…/util/validation`).
//!
//! Every domain has this crate and it has none of theirs.
#![forbid(unsafe_code)]

use std::{borrow::Borrow, fmt, ops::Deref, path::Path, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// The text is no name of that type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}")]
pub struct InvalidName {
    /// The text, shortened.
    pub text: String,
    /// What it should have been, with the article.
    pub what: &'static str,
}

/// Defines one parsed name; `$valid` is a function from the text to whether it is one.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// # Errors
            /// When the text is not one.
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                if $valid(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidName { text: text.chars().take(80).collect(), what: $what })
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.to_string()
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        /// One component of a path: none of these types has a separator, or is `.` or `..`.
        impl AsRef<Path> for $name {
            fn as_ref(&self) -> &Path {
                Path::new(&*self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

name! {
    /// What an object may be called whose name becomes part of a URL as it is: one segment of its path, of 1 to 253 bytes.
    /// Kinds are stricter, all but RBAC's, which is wider ([`PathSegment`]).
    ///
    /// Invariant: not `.` or `..`; no `/`, `%`, `?`, `#`, space or control character.
    ObjectName, "an object's name: 1 to 253 bytes without '/', '%', '?', '#', spaces or control characters", is_object_name
}
name! {
    /// What any object may be called: RBAC's `read pods?`, too. For store keys, whose parts a `/` ends; in a URL it would have
    /// to be encoded, where only an [`ObjectName`] goes. Upstream's `IsValidPathSegmentName`, of 1 to 253 bytes.
    ///
    /// Invariant: not `.` or `..`; no `/` or `%`.
    PathSegment, "an object's name: 1 to 253 bytes without '/' and '%', not '.' or '..'", is_path_segment
}
name! {
    /// RFC 1123: lower-case letters, digits and dashes, 1 to 63, a letter or digit at both ends.
    DnsLabel, "a DNS label: 1 to 63 lower-case letters, digits and dashes", is_dns_label
}
name! {
    /// RFC 1123: DNS labels (of any length) joined by dots, 1 to 253 bytes.
    DnsSubdomain, "a DNS subdomain: 1 to 253 lower-case letters, digits, dashes and dots", is_dns_subdomain
}
name! {
    /// A key of a config map or secret, and so the name of a file: letters, digits, `-`, `_` and `.`, 1 to 253.
    ///
    /// Invariant: not `.`, and does not begin with `..`.
    ConfigKey, "a key of a config map or secret: 1 to 253 letters, digits, '-', '_' and '.', not beginning with '..'", is_config_key
}
name! {
    /// The uid of an object, as the API server gives: letters, digits and dashes, 1 to 63.
    Uid, "a uid: 1 to 63 letters, digits and dashes", is_uid
}
name! {
    /// Any file's name: 1 to 255 bytes without `/` or NUL, not `.` or `..`. For what is stricter there is another type.
    PathComponent, "a file's name: 1 to 255 bytes without '/', not '.' or '..'", is_path_component
}

fn is_object_name(text: &str) -> bool {
    is_path_segment(text) && !text.contains(|c: char| matches!(c, '?' | '#') || c.is_whitespace() || c.is_control())
}

fn is_path_segment(text: &str) -> bool {
    (1..=253).contains(&text.len()) && text != "." && text != ".." && !text.contains(['/', '%'])
}

fn is_label_of_any_length(text: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
}

fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && is_label_of_any_length(text)
}

fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label_of_any_length)
}

fn is_config_key(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=253).contains(&text.len()) && text.bytes().all(allowed) && text != "." && !text.starts_with("..")
}

fn is_uid(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn is_path_component(text: &str) -> bool {
    (1..=255).contains(&text.len()) && !text.contains(['/', '\0']) && text != "." && text != ".."
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_what_kubernetes_allows() {
        for good in ["a", "system:node:x", "A_b", "kube-root-ca.crt", "ä"] {
            assert!(ObjectName::new(good).is_ok(), "{good:?}");
        }
        for bad in ["", ".", "..", "a/b", "x?watch=true", "a%2fb", "a#b", "a b", "a\nb", "a\0", &"a".repeat(254)] {
            assert!(ObjectName::new(bad).is_err(), "{bad:?}");
        }
        for good in ["system:node:x", "read pods?", "a#b"] {
            assert!(PathSegment::new(good).is_ok(), "{good:?}");
        }
        for bad in ["", ".", "..", "a/b", "a%2fb", &"a".repeat(254)] {
            assert!(PathSegment::new(bad).is_err(), "{bad:?}");
        }
        assert!(DnsLabel::new("a-1").is_ok() && DnsSubdomain::new("a.b-1.c").is_ok());
        for bad in ["", "-a", "a-", "A", "a_b", "a..b", ".a", "a.", "/tmp/x", "../x"] {
            assert!(DnsLabel::new(bad).is_err() && DnsSubdomain::new(bad).is_err(), "{bad:?}");
        }
        assert!(DnsLabel::new("a.b").is_err() && DnsLabel::new(&"a".repeat(64)).is_err());
        assert!(ConfigKey::new(".hidden").is_ok() && ConfigKey::new("A_b-c.d").is_ok());
        for bad in ["", ".", "..", "..x", "a/b", "bad key"] {
            assert!(ConfigKey::new(bad).is_err(), "{bad:?}");
        }
        assert!(Uid::new("7bb2aa38-fc68-4848-85da-5eb2a5d45735").is_ok() && Uid::new("..").is_err());
    }

    proptest! {
        /// Whatever the text, a name joined to a directory is a file of that directory.
        #[test]
        fn no_name_leaves_its_directory(text in "\\PC{0,12}|[./a\\x00]{0,6}") {
            let base = Path::new("/base");
            let joined = [
                ObjectName::new(&text).map(|n| base.join(n)),
                PathSegment::new(&text).map(|n| base.join(n)),
                DnsLabel::new(&text).map(|n| base.join(n)),
                DnsSubdomain::new(&text).map(|n| base.join(n)),
                ConfigKey::new(&text).map(|n| base.join(n)),
                Uid::new(&text).map(|n| base.join(n)),
                PathComponent::new(&text).map(|n| base.join(n)),
            ];
            for path in joined.into_iter().flatten() {
                prop_assert_eq!(path.parent(), Some(base));
                prop_assert_eq!(path.components().count(), 3);
            }
        }

        /// What is a name in a URL's path is one segment of it.
        #[test]
        fn an_objects_name_stays_a_segment(text in "\\PC{1,12}") {
            if let Ok(name) = ObjectName::new(&text) {
                prop_assert!(!name.contains(['/', '?', '#', '%', ' ']));
            }
        }
    }
}
