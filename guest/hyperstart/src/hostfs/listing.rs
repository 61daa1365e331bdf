//! A directory's entries, of which the host sends more at a time than the kernel takes.

use fuser::{INodeNo, ReplyDirectory};
use hypernetes_guest_protocol::v1::HostPathEntry;

use super::attributes::kind;

#[derive(Default)]
pub struct Listing {
    entries: Vec<HostPathEntry>,
}

impl Listing {
    pub fn new(entries: Vec<HostPathEntry>) -> Self {
        Self { entries }
    }

    /// What follows an entry, if that is known. From the start on it is not: the directory may be another by now.
    pub fn after(&self, cookie: u64) -> Option<&[HostPathEntry]> {
        let at = self.entries.iter().position(|entry| entry.cookie == cookie && cookie != 0)?;
        Some(&self.entries[at + 1..]).filter(|rest| !rest.is_empty())
    }

    pub fn all(&self) -> &[HostPathEntry] {
        &self.entries
    }
}

/// Answers with as many entries as there is room for.
pub fn fill(mut reply: ReplyDirectory, entries: &[HostPathEntry]) {
    use std::os::unix::ffi::OsStrExt;
    for entry in entries {
        let name = std::ffi::OsStr::from_bytes(&entry.name);
        if reply.add(INodeNo(entry.inode), entry.cookie, kind(entry.r#type), name) {
            break;
        }
    }
    reply.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_goes_on_where_the_kernel_stopped() {
        let entry = |cookie| HostPathEntry { cookie, ..Default::default() };
        let listing = Listing::new(vec![entry(7), entry(9), entry(12)]);
        assert_eq!(listing.after(7).unwrap().len(), 2);
        assert!(listing.after(12).is_none() && listing.after(0).is_none() && listing.after(8).is_none());
    }
}
