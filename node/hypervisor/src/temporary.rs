//! VMs that end with what they are made for: nobody adopts them.

use std::sync::atomic::{AtomicU64, Ordering};

/// What their ids begin with.
pub const ID_PREFIX: &str = "template-";

/// One that no other has.
pub fn id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{ID_PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}
