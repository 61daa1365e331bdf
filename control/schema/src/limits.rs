//! Bounds on what is parsed.

/// Deepest nesting of objects and lists in a body; Kubernetes' own objects stay far below.
/// `serde_json` itself stops at 128.
pub const MAX_DEPTH: usize = 100;
/// Largest body of a create, update or patch, in bytes (upstream: 3 MiB).
pub const MAX_BODY: usize = 3 * 1024 * 1024;
/// Most operations in one JSON patch (upstream: 10,000).
pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;
/// Largest object that may be made by patching, in bytes; a `copy` of a JSON patch doubles what it copies.
pub const MAX_PATCHED: usize = 4 * 1024 * 1024;
