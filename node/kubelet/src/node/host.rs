//! What this host says of itself.

/// A file of the host that says what the host is.
#[expect(clippy::disallowed_methods, reason = "these paths are no pod's")]
pub(super) fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
