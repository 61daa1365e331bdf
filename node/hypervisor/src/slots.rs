//! Which placeholder disk a source goes to.

use std::path::Path;

use crate::{DiskSlot, DiskSource};

/// Length of every image (see `hypernetes_image::DISK_BYTES`), and of an empty slot where it has one: a disk whose length does
/// not change needs no word to the guest.
pub const DISK_BYTES: u64 = 64 << 30;

/// Slots from here on can be written to: a virtio disk is read-only for its life or not at all.
pub fn first_writable(slots: u32) -> u32 {
    slots - slots / 3
}

/// The first free slot for something that is written to or not, among what the slots hold.
pub fn free(disks: &[Option<DiskSource>], read_only: bool) -> Option<DiskSlot> {
    let slots = u32::try_from(disks.len()).ok()?;
    let range = if read_only { 0..first_writable(slots) } else { first_writable(slots)..slots };
    range.into_iter().find(|slot| disks.get(*slot as usize).is_some_and(Option::is_none)).map(DiskSlot)
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
        assert_eq!((free(&disks, true), free(&disks, false)), (Some(DiskSlot(0)), Some(DiskSlot(4))));
        disks[0] = source(true);
        disks[4] = source(false);
        disks[5] = source(false);
        assert_eq!((free(&disks, true), free(&disks, false)), (Some(DiskSlot(1)), None));
        assert_eq!(free(&[], true), None);
    }

    #[test]
    fn only_images_are_in_pieces() {
        let source = |path: &str, read_only| DiskSource { path: path.into(), read_only };
        assert!(is_in_pieces(&source("/images/a.vmdk", true)));
        assert!(!is_in_pieces(&source("/images/a.vmdk", false)) && !is_in_pieces(&source("/images/a.erofs", true)));
    }
}
