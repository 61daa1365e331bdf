//! Image references, normalised as Docker does: `busybox` is `docker.io/library/busybox:latest`.

use std::fmt;

use crate::Digest;

/// A registry, repository, and a tag or digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference(oci_spec::distribution::Reference);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name {text:?}: {reason}")]
pub struct InvalidReference {
    pub text: String,
    pub reason: String,
}

impl Reference {
    /// # Errors
    /// When the text is not a reference (distribution's grammar) or longer than 4 KiB.
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        let invalid = |reason: String| InvalidReference { text: text.chars().take(256).collect(), reason };
        if text.len() > 4096 {
            return Err(invalid("too long".into()));
        }
        let parsed: oci_spec::distribution::Reference =
            text.parse().map_err(|error: oci_spec::distribution::ParseError| invalid(error.to_string()))?;
        // Of `jJ/h` the first part is no registry to the parser, and no repository to itself when it reads what it has written.
        if !parsed.to_string().parse::<oci_spec::distribution::Reference>().is_ok_and(|again| again == parsed) {
            return Err(invalid("invalid reference format".into()));
        }
        match parsed.digest() {
            Some(digest) if digest.parse::<Digest>().is_err() => Err(invalid("only sha256 digests are known".into())),
            _ => Ok(Self(parsed)),
        }
    }

    /// `registry/repository`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.0.registry(), self.0.repository())
    }

    /// `registry/repository:tag`, when it has a tag.
    pub fn tagged(&self) -> Option<String> {
        self.0.tag().map(|tag| format!("{}:{tag}", self.repository()))
    }

    pub fn digest(&self) -> Option<Digest> {
        self.0.digest()?.parse().ok()
    }

    pub fn tag(&self) -> Option<&str> {
        self.0.tag()
    }

    /// `host[:port]`; `docker.io` where none is given.
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    /// The repository without the registry.
    pub(crate) fn repository_path(&self) -> &str {
        self.0.repository()
    }

    /// The registry is on this host: plain HTTP is accepted, as Docker does.
    pub(crate) fn is_loopback(&self) -> bool {
        let registry = self.0.registry();
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        host == "localhost" || host == "[::1]" || host.parse::<std::net::Ipv4Addr>().is_ok_and(|a| a.is_loopback())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised() {
        for (text, tagged) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("demo/web:1", "docker.io/demo/web:1"),
            ("localhost:5000/a/b:x", "localhost:5000/a/b:x"),
        ] {
            assert_eq!(Reference::parse(text).unwrap().tagged().unwrap(), tagged);
        }
        for bad in ["", "UPPER", "a b", "a:b:c", "../x", &"a".repeat(5000)] {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
        assert!(Reference::parse("127.0.0.1:5000/a").unwrap().is_loopback());
        assert!(!Reference::parse("registry.example.com/a").unwrap().is_loopback());
    }
}
