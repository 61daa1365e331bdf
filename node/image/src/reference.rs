//! Image references: the grammar of the distribution project's `reference` package, normalised as Docker does: `busybox` is
//! `docker.io/library/busybox:latest`.
//!
//! ```text
//! reference := name [":" tag] ["@" digest]        name := [host [":" port] "/"] component ("/" component)*
//! component := alphanumeric (separator alphanumeric)*     separator := "." | "_" | "__" | "-"+
//! ```
//!
//! Written out: as a regular expression the grammar takes 12 MiB (docs/decisions/0024).

use std::fmt;

use crate::Digest;

const DEFAULT_REGISTRY: &str = "docker.io";
/// Another name of the default one.
const LEGACY_REGISTRY: &str = "index.docker.io";
/// Where the default registry has repositories whose names have one component.
const OFFICIAL: &str = "library";
const DEFAULT_TAG: &str = "latest";

const MAX_TEXT: usize = 4096;
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

/// A registry, repository, and a tag or digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name {text:?}: {reason}")]
pub struct InvalidReference {
    pub text: String,
    pub reason: &'static str,
}

impl Reference {
    /// # Errors
    /// When the text is not a reference, has a digest that is not SHA-256, or is longer than 4 KiB.
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        parse(text).map_err(|reason| {
            // What everybody writes wrong once.
            let lower = text.len() <= MAX_TEXT && parse(&text.to_ascii_lowercase()).is_ok();
            let reason = if lower { "repository name must be lowercase" } else { reason };
            InvalidReference { text: text.chars().take(256).collect(), reason }
        })
    }

    /// `registry/repository`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `registry/repository:tag`, when it has a tag.
    pub fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.repository()))
    }

    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// `host[:port]`; `docker.io` where none is given.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository without the registry.
    pub(crate) fn repository_path(&self) -> &str {
        &self.repository
    }

    /// The registry is on this host: plain HTTP is accepted, as Docker does.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = host_and_port(&self.registry).0;
        host == "localhost" || host == "[::1]" || host.parse::<std::net::Ipv4Addr>().is_ok_and(|a| a.is_loopback())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    const FORMAT: &str = "invalid reference format";
    if text.len() > MAX_TEXT {
        return Err("too long");
    }
    let (text, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| "only sha256 digests are known")?)),
        None => (text, None),
    };
    let last_component = text.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match text[last_component..].find(':') {
        Some(colon) => {
            let (name, tag) = text.split_at(last_component + colon);
            (name, Some(&tag[1..]))
        }
        None => (text, None),
    };
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    if !is_host_and_port(registry) || !path.split('/').all(is_component) || !tag.is_none_or(is_tag) {
        return Err(FORMAT);
    }
    let registry = if registry == LEGACY_REGISTRY { DEFAULT_REGISTRY } else { registry };
    let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
        format!("{OFFICIAL}/{path}")
    } else {
        path.to_owned()
    };
    if repository.len() > MAX_REPOSITORY {
        return Err("repository name must not be more than 255 characters");
    }
    let default_tag = digest.is_none().then_some(DEFAULT_TAG);
    Ok(Reference { registry: registry.into(), repository, tag: tag.or(default_tag).map(str::to_owned), digest })
}

/// Whether the first of several components names a registry, as Docker sees it: a repository's name has no capitals.
fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.contains(|c: char| c.is_ascii_uppercase())
}

/// The port without its colon.
fn host_and_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        // The last colon of an IPv6 address is no port's.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    }
}

fn is_host_and_port(text: &str) -> bool {
    let (host, port) = host_and_port(text);
    let is_host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
        None => host.split('.').all(is_label),
    };
    is_host && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit()))
}

/// A part of a domain's name, or of an IPv4 address.
fn is_label(text: &str) -> bool {
    let inside = text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    inside && !text.is_empty() && !text.starts_with('-') && !text.ends_with('-')
}

fn is_component(text: &str) -> bool {
    let is_alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut runs = text.as_bytes().chunk_by(|a, b| is_alphanumeric(*a) == is_alphanumeric(*b));
    let is_separator = |run: &[u8]| matches!(run, b"." | b"_" | b"__") || run.iter().all(|c| *c == b'-');
    let ends =
        text.bytes().next().is_some_and(is_alphanumeric) && text.bytes().next_back().is_some_and(is_alphanumeric);
    ends && runs.all(|run| is_alphanumeric(run[0]) || is_separator(run))
}

fn is_tag(text: &str) -> bool {
    let is_word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let rest = text.bytes().skip(1).all(|c| is_word(c) || matches!(c, b'.' | b'-'));
    text.len() <= MAX_TAG && text.bytes().next().is_some_and(is_word) && rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHA: &str = "sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

    #[test]
    fn names_are_normalised() {
        for (text, whole) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
            ("demo/web:1", "docker.io/demo/web:1"),
            ("test.com:5000", "docker.io/library/test.com:5000"),
            ("a__b/c--d.e_f:G.h-1", "docker.io/a__b/c--d.e_f:G.h-1"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a/b:x", "localhost:5000/a/b:x"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("[fd00::7]/a:b", "[fd00::7]/a:b"),
            ("jJ/h", "jJ/h:latest"),
            (&format!("q.io/a@{SHA}"), &format!("q.io/a@{SHA}")),
            (&format!("q.io/a:t@{SHA}"), &format!("q.io/a:t@{SHA}")),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.to_string(), whole);
            assert_eq!(Reference::parse(whole), Ok(reference));
        }
        assert!(Reference::parse("127.0.0.1:5000/a").unwrap().is_loopback());
        assert!(Reference::parse("[::1]/a").unwrap().is_loopback());
        assert!(!Reference::parse("registry.example.com/a").unwrap().is_loopback());
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in [
            "",
            "a b",
            "a:b:c",
            "../x",
            "a/",
            "/a",
            "a//b",
            "a:",
            "a:-b",
            "a@",
            "a@sha256:ff",
            "a.b-/c",
            "-a.b/c",
            "a..b",
            "a___b",
            "a.-b",
            "a_",
            "x.y:z/a",
            "[::1/a",
            "[::g]/a",
            "é",
            "a:é",
            &format!("a:{}", "t".repeat(129)),
            &"a".repeat(256),
            &"a".repeat(5000),
            &format!("{SHA}@{SHA}@{SHA}"),
        ] {
            assert_eq!(Reference::parse(bad).map(|r| r.to_string()).unwrap_err().text, bad[..bad.len().min(256)]);
        }
        assert_eq!(Reference::parse("UPPER").unwrap_err().reason, "repository name must be lowercase");
        assert_eq!(Reference::parse("a b").unwrap_err().reason, "invalid reference format");
    }

    proptest! {
        /// It is what the regular expression of another implementation is, but for the names of registries: that one takes
        /// what no host can be called, and capitals for a repository's.
        #[test]
        fn the_grammar_is_the_common_one(text in "([a-cA]{0,2}[-._:/@]{0,2}){0,5}[a-z0-9:]{0,3}") {
            let theirs = text.parse::<oci_spec::distribution::Reference>().ok();
            let theirs = theirs.filter(|theirs| is_host_and_port(theirs.registry()));
            match (Reference::parse(&text), theirs) {
                (Ok(ours), _) if ours.registry().contains(char::is_uppercase) => {}
                (ours, theirs) => prop_assert_eq!(ours.map(|r| r.to_string()).ok(), theirs.map(|r| r.whole())),
            }
        }

        #[test]
        fn what_was_read_is_read_again(text in "[a-cA.:/@_-]{1,12}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&reference.to_string()), Ok(reference));
            }
        }
    }
}
