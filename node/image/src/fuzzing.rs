//! What the fuzz targets and the property tests feed with bytes from anywhere. None of these may panic, use memory
//! without bound, or take for ever.

use std::io::Cursor;

use crate::{
    Digest, Limits, Reference,
    assemble::insert,
    erofs,
    layer::{Expected, unpack},
    manifest::{Document, choose},
    tree::Tree,
};

fn limits() -> Limits {
    Limits { unpacked_bytes: 1 << 20, entries: 2000, names_bytes: 1 << 20, ..Limits::default() }
}

/// A layer as it comes, compressed or not: unpacked, merged and made into a file system.
pub fn layer(bytes: &[u8]) {
    let expected = Expected { diff_id: Digest::of(bytes), stored: None };
    let mut data = Cursor::new(Vec::new());
    let Ok(unpacked) = unpack(bytes, expected, &mut data, &limits()) else { return };
    assert!(data.get_ref().len() as u64 <= u64::from(unpacked.blocks) * erofs::BLOCK as u64);
    file_system(unpacked.entries.into_iter(), unpacked.blocks);
}

/// A tar twice, the second time as an upper layer of the first.
pub fn layers(lower: &[u8], upper: &[u8]) {
    let entries = |bytes: &[u8]| {
        let expected = Expected { diff_id: Digest::of(bytes), stored: None };
        unpack(bytes, expected, Cursor::new(Vec::new()), &limits()).map(|unpacked| unpacked.entries)
    };
    let (Ok(lower), Ok(upper)) = (entries(lower), entries(upper)) else { return };
    let mut tree = Tree::new(limits().entries);
    for entries in [lower, upper] {
        tree.next_layer();
        for entry in entries {
            if insert(&mut tree, entry, 1).is_err() {
                return;
            }
        }
    }
    let _ = erofs::write_metadata(&tree, 1, &mut Vec::new());
}

fn file_system(entries: impl Iterator<Item = crate::layer::Entry>, blocks: u32) {
    let mut tree = Tree::new(limits().entries);
    tree.next_layer();
    for entry in entries {
        if insert(&mut tree, entry, 1).is_err() {
            return;
        }
    }
    let mut out = Vec::new();
    if let Ok((_, total)) = erofs::write_metadata(&tree, blocks + 1, &mut out) {
        assert_eq!(u64::from(total - blocks - 1) * erofs::BLOCK as u64, out.len() as u64);
    }
}

/// What JSON a registry or archive may give: configurations, manifests, indexes.
pub fn documents(bytes: &[u8]) {
    let _ = serde_json::from_slice::<crate::config::ConfigDocument>(bytes);
    if let Ok(document) = Document::parse(bytes, "a document") {
        if let Some(manifests) = &document.manifests {
            let _ = choose(manifests);
        }
        let _ = document.into_manifest(8);
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(reference) = Reference::parse(text)
    {
        // What is shown can be read again.
        assert_eq!(Reference::parse(&reference.to_string()).as_ref(), Ok(&reference));
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use tar::{Builder, EntryType, Header};

    use super::*;

    const NAMES: [&[u8]; 12] = [
        b"a",
        b"a/b",
        b"a/b/c",
        b"./a/",
        b"l",
        b"l/x",
        b".wh.a",
        b"a/.wh..wh..opq",
        b"a/.wh.b",
        b"../x",
        b"/",
        b"\xff/\x01",
    ];

    /// An archive of members that meet each other, with damage here and there.
    fn archive() -> impl Strategy<Value = Vec<u8>> {
        let kinds = prop::sample::select(b"0123456750SgxLK".to_vec());
        let names = || prop::sample::select(NAMES.to_vec());
        let member = (names(), names(), kinds, 0..2000u64, any::<u32>(), vec(any::<u8>(), 0..40));
        let damage = vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
        (vec(member, 0..12), damage).prop_map(|(members, damage)| {
            let mut builder = Builder::new(Vec::new());
            for (name, target, kind, size, number, text) in members {
                let mut header = Header::new_gnu();
                header.as_old_mut().name[..name.len()].copy_from_slice(name);
                header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
                header.set_entry_type(EntryType::new(kind));
                header.set_mode(number);
                header.set_mtime(u64::from(number));
                let data = [text.as_slice(), &vec![7; size as usize]].concat();
                header.set_size(data.len() as u64);
                header.set_cksum();
                builder.append(&header, &*data).unwrap();
            }
            let mut bytes = builder.into_inner().unwrap();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        })
    }

    #[test]
    fn what_fuzzing_has_found() {
        // A repository with a capital letter, which could not be read again.
        documents(b"jJ/h");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn layers_of_any_kind_are_taken_or_refused(lower in archive(), upper in archive()) {
            layer(&lower);
            layers(&lower, &upper);
        }

        #[test]
        fn bytes_of_any_kind_are_taken_or_refused(bytes in vec(any::<u8>(), 0..3000)) {
            layer(&bytes);
            layer(&[b"\x1f\x8b\x08".as_slice(), &bytes].concat());
            layer(&[b"\x28\xb5\x2f\xfd".as_slice(), &bytes].concat());
            documents(&bytes);
        }

        #[test]
        fn documents_of_any_kind_are_taken_or_refused(text in "[\\[\\]{}:,\"a-z0-9@/ -]{0,200}") {
            documents(text.as_bytes());
        }
    }
}
