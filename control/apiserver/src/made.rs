//! How often forms of objects are made, in this process: what is shared is made once, however many read it.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is made of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// Its bytes, with the event that it came with: when it is committed or loaded.
    Shown,
    /// What it can be selected by.
    Selection,
    /// A line of a watch that is not the event that it came with.
    Line,
    /// The object in a version that is not the stored one, or without what is the operator's alone.
    Converted,
    /// The whole object, parsed.
    Parsed,
    /// As components in this process have it.
    Typed,
    /// The cells of its row.
    Cells,
    /// Its message, of Kubernetes' protobuf.
    Message,
}

static COUNTS: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];

pub(crate) fn count(what: Made) {
    COUNTS[what as usize].fetch_add(1, Ordering::Relaxed);
}

/// How many this process has made.
pub fn made(what: Made) -> u64 {
    COUNTS[what as usize].load(Ordering::Relaxed)
}
