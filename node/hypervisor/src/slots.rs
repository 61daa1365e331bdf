//! Which placeholder disk a source goes to.

use std::path::Path;

use crate::{DiskSlot, DiskSource, HypervisorError};

/// Length of every image (see `hypernetes_image::DISK_BYTES`), and of an empty slot where it has one: a disk whose length does
/// not change needs no word to the guest.
pub const DISK_BYTES: u64 = 64 << 30;

/// Slots from here on can be written to: a virtio disk is read-only for its life or not at all. What a VM that runs was
/// made with must not change: its number of slots is all that is known of it.
pub fn first_writable(slots: u32) -> u32 {
    slots - slots / 3
}

/// One of a VM's placeholder disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    pub index: u32,
    /// Whether the guest's disk is; what it holds need not be.
    pub writable: bool,
}

impl Slot {
    /// Of a VM with so many.
    pub fn new(slots: u32, index: u32) -> Self {
        Self { index, writable: index >= first_writable(slots) }
    }
}

/// The first free slot for something that is written to or not, among what the slots hold; `anywhere`: what is only read may
/// go where it could be written to, when the others are taken.
pub fn free(disks: &[Option<DiskSource>], read_only: bool, anywhere: bool) -> Option<DiskSlot> {
    let slots = u32::try_from(disks.len()).ok()?;
    let range = match (read_only, anywhere) {
        (true, true) => 0..slots,
        (true, false) => 0..first_writable(slots),
        (false, _) => first_writable(slots)..slots,
    };
    range.into_iter().find(|slot| disks.get(*slot as usize).is_some_and(Option::is_none)).map(DiskSlot)
}

/// The error when none is.
pub fn none_left(id: &str, slots: u32) -> HypervisorError {
    HypervisorError::NoFreeSlot { id: id.to_owned(), slots, writable: slots - first_writable(slots) }
}

/// Whether it is a disk in pieces: only the image store gives one such a name, and only for reading.
pub fn is_in_pieces(source: &DiskSource) -> bool {
    source.read_only && Path::new(&source.path).extension().is_some_and(|extension| extension == "vmdk")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_and_volumes_have_slots_of_their_own() {
        let source = |read_only| Some(DiskSource { path: "/x".into(), read_only });
        let mut disks = vec![None; 6];
        let free = |disks: &[Option<DiskSource>], read_only| super::free(disks, read_only, false);
        assert_eq!((free(&disks, true), free(&disks, false)), (Some(DiskSlot(0)), Some(DiskSlot(4))));
        disks[0] = source(true);
        disks[4] = source(false);
        disks[5] = source(false);
        assert_eq!((free(&disks, true), free(&disks, false)), (Some(DiskSlot(1)), None));
        disks[..4].fill(source(true));
        disks[5] = None;
        assert_eq!((free(&disks, true), super::free(&disks, true, true)), (None, Some(DiskSlot(5))));
        assert_eq!(free(&[], true), None);
    }

    #[test]
    fn only_images_are_in_pieces() {
        let source = |path: &str, read_only| DiskSource { path: path.into(), read_only };
        assert!(is_in_pieces(&source("/images/a.vmdk", true)));
        assert!(!is_in_pieces(&source("/images/a.vmdk", false)) && !is_in_pieces(&source("/images/a.erofs", true)));
    }
}
