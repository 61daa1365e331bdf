//! Writes an uncompressed EROFS image (Linux `Documentation/filesystems/erofs.rst`, `fs/erofs/erofs_fs.h` for the facts).
//!
//! Order on disk, so that file data can be streamed before the tree is known: superblock, file data (which others write),
//! metadata (inodes with extended attributes and inlined small contents), directory blocks.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
};

use crate::{
    ImageError,
    error::{invalid, store_error},
    tree::{Attributes, Content, Node, NodeId, ROOT, Tree},
};

pub(crate) const BLOCK: usize = 4096;
const MAGIC: u32 = 0xE0F5_E1E2;
const SUPERBLOCK_OFFSET: usize = 1024;
/// Unit of a node number: inodes lie on multiples of it.
const SLOT: usize = 32;
const INODE: usize = 64;
const DIRENT: usize = 12;
const XATTR_HEADER: usize = 12;
/// The root's node number; not 0, which readers of directories take for "no entry".
const ROOT_NID: u16 = 2;
/// `i_format`: the extended inode, and where its data is.
const EXTENDED: u16 = 1;
const FLAT_PLAIN: u16 = 0 << 1;
const FLAT_INLINE: u16 = 2 << 1;

/// Writes the metadata of a tree whose files' data lies before the block `meta_block`. Returns the superblock, which is
/// the image's first block, and the number of blocks of the whole image.
pub(crate) fn write_metadata(
    tree: &Tree,
    meta_block: u32,
    out: &mut impl Write,
) -> Result<([u8; BLOCK], u32), ImageError> {
    let layout = Layout::of(tree, meta_block)?;
    let mut write = || -> io::Result<()> {
        let mut position = 0;
        for placed in &layout.inodes {
            let gap = placed.offset - position;
            io::copy(&mut io::repeat(0).take(gap as u64), out)?;
            let bytes = layout.inode(tree, placed);
            out.write_all(&bytes)?;
            position = placed.offset + bytes.len();
        }
        pad(out, position)?;
        for placed in &layout.inodes {
            if let Data::Blocks(bytes) = &placed.data {
                out.write_all(bytes)?;
                pad(out, bytes.len())?;
            }
        }
        Ok(())
    };
    write().map_err(store_error("the image being written"))?;
    Ok((layout.superblock(), layout.blocks))
}

fn pad(out: &mut impl Write, written: usize) -> io::Result<()> {
    out.write_all(&[0; BLOCK][..written.next_multiple_of(BLOCK) - written])
}

/// Data that is not a file's.
enum Data {
    None,
    /// Right behind the inode, in the same block.
    Inline(Vec<u8>),
    /// In blocks of its own behind the metadata.
    Blocks(Vec<u8>),
}

struct Placed {
    id: NodeId,
    /// In the metadata area; a multiple of [`SLOT`].
    offset: usize,
    xattrs: Vec<u8>,
    data: Data,
    /// First block of `Data::Blocks`.
    data_block: u32,
}

struct Layout {
    meta_block: u32,
    blocks: u32,
    inodes: Vec<Placed>,
    /// How many directory entries name each node.
    names: HashMap<NodeId, u32>,
}

impl Layout {
    fn of(tree: &Tree, meta_block: u32) -> Result<Self, ImageError> {
        let too_large = || invalid("the image is larger than its file system can be");
        let reachable = tree.reachable();
        // Node numbers depend on the sizes of directories, not on their contents: sizes first, contents after.
        let mut inodes = Vec::with_capacity(reachable.len());
        let mut offset = usize::from(ROOT_NID) * SLOT;
        for (id, _) in &reachable {
            let node = &tree.nodes[*id];
            let xattrs = encode_xattrs(&node.attributes)?;
            let head = INODE + xattrs.len();
            let data = match &node.content {
                Content::Directory(children) => Some(directory_size(children.keys().map(Vec::len))),
                Content::Symlink(target) => Some(target.len()),
                _ => None,
            };
            let inline = data.filter(|size| head + size <= BLOCK);
            let length = head + inline.unwrap_or(0);
            // An inode with what is inlined stays within one block; longer ones start one.
            if offset % BLOCK + length > BLOCK {
                offset = offset.next_multiple_of(BLOCK);
            }
            let data = match (data, inline) {
                (None, _) => Data::None,
                (Some(_), Some(_)) => Data::Inline(Vec::new()),
                (Some(_), None) => Data::Blocks(Vec::new()),
            };
            inodes.push(Placed { id: *id, offset, xattrs, data, data_block: 0 });
            offset = (offset + length).next_multiple_of(SLOT);
        }
        let nids: HashMap<NodeId, u64> = inodes.iter().map(|p| (p.id, (p.offset / SLOT) as u64)).collect();
        let mut names = HashMap::new();
        for placed in &inodes {
            if let Content::Directory(children) = &tree.nodes[placed.id].content {
                children.values().for_each(|child| *names.entry(*child).or_insert(0) += 1);
            }
        }
        let mut next =
            u32::try_from(offset.div_ceil(BLOCK)).ok().and_then(|b| meta_block.checked_add(b)).ok_or_else(too_large)?;
        for (placed, (_, parent)) in inodes.iter_mut().zip(&reachable) {
            let bytes = match &tree.nodes[placed.id].content {
                Content::Directory(children) => encode_directory(tree, children, &nids, placed.id, *parent),
                Content::Symlink(target) => target.clone(),
                _ => continue,
            };
            placed.data = match placed.data {
                Data::Blocks(_) => {
                    placed.data_block = next;
                    let blocks = u32::try_from(bytes.len().div_ceil(BLOCK)).map_err(|_| too_large())?;
                    next = next.checked_add(blocks).ok_or_else(too_large)?;
                    Data::Blocks(bytes)
                }
                _ => Data::Inline(bytes),
            };
        }
        Ok(Self { meta_block, blocks: next, inodes, names })
    }

    fn inode(&self, tree: &Tree, placed: &Placed) -> Vec<u8> {
        let node = &tree.nodes[placed.id];
        let (size, address, inline) = match (&node.content, &placed.data) {
            (Content::File { first_block, size }, _) => (*size, *first_block, None),
            (Content::CharacterDevice { major, minor } | Content::BlockDevice { major, minor }, _) => {
                (0, encode_device(*major, *minor), None)
            }
            (_, Data::Inline(bytes)) => (bytes.len() as u64, 0, Some(bytes)),
            (_, Data::Blocks(bytes)) => (bytes.len() as u64, placed.data_block, None),
            (_, Data::None) => (0, 0, None),
        };
        let layout = if inline.is_some() { FLAT_INLINE } else { FLAT_PLAIN };
        let xattr_count = match placed.xattrs.len() {
            0 => 0,
            length => (length - XATTR_HEADER) / 4 + 1,
        };
        let attributes = &node.attributes;
        let mut out = Vec::with_capacity(INODE + placed.xattrs.len());
        out.extend((EXTENDED | layout).to_le_bytes());
        out.extend((xattr_count as u16).to_le_bytes());
        out.extend((file_type(node).mode_bits | attributes.mode & 0o7777).to_le_bytes());
        out.extend([0; 2]);
        out.extend(size.to_le_bytes());
        out.extend(address.to_le_bytes());
        out.extend((placed.id as u32 + 1).to_le_bytes());
        out.extend(attributes.uid.to_le_bytes());
        out.extend(attributes.gid.to_le_bytes());
        out.extend(attributes.mtime.to_le_bytes());
        out.extend([0; 4]);
        out.extend(self.links(tree, placed.id).to_le_bytes());
        out.extend([0; 16]);
        out.extend(&placed.xattrs);
        out.extend(inline.into_iter().flatten());
        out
    }

    /// For a directory its own name, its `.`, and the `..` of each directory in it.
    fn links(&self, tree: &Tree, id: NodeId) -> u32 {
        match &tree.nodes[id].content {
            Content::Directory(children) => {
                let inner = children.values().filter(|id| matches!(tree.nodes[**id].content, Content::Directory(_)));
                2 + inner.count() as u32
            }
            _ => self.names.get(&id).copied().unwrap_or(1),
        }
    }

    fn superblock(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |offset: usize, bytes: &[u8]| {
            block[SUPERBLOCK_OFFSET + offset..][..bytes.len()].copy_from_slice(bytes);
        };
        put(0, &MAGIC.to_le_bytes());
        put(12, &[BLOCK.trailing_zeros() as u8]);
        put(14, &ROOT_NID.to_le_bytes());
        put(16, &(self.inodes.len() as u64).to_le_bytes());
        put(36, &self.blocks.to_le_bytes());
        put(40, &self.meta_block.to_le_bytes());
        block
    }
}

struct FileType {
    mode_bits: u16,
    dirent: u8,
}

fn file_type(node: &Node) -> FileType {
    let (mode_bits, dirent) = match node.content {
        Content::File { .. } => (0o100_000, 1),
        Content::Directory(_) => (0o040_000, 2),
        Content::CharacterDevice { .. } => (0o020_000, 3),
        Content::BlockDevice { .. } => (0o060_000, 4),
        Content::Fifo => (0o010_000, 5),
        Content::Symlink(_) => (0o120_000, 7),
    };
    FileType { mode_bits, dirent }
}

/// Linux's `new_encode_dev`.
fn encode_device(major: u32, minor: u32) -> u32 {
    minor & 0xff | (major & 0xfff) << 8 | (minor & !0xff) << 12
}

/// Fills blocks with entries: `visit(count so far, name length)` tells where each name goes.
fn directory_size(names: impl Iterator<Item = usize>) -> usize {
    let (mut full, mut used) = (0, 0);
    for length in [1, 2].into_iter().chain(names) {
        if used + DIRENT + length > BLOCK {
            full += BLOCK;
            used = 0;
        }
        used += DIRENT + length;
    }
    full + used
}

/// Entries sorted by name in each block: fixed-size heads first, names behind them.
fn encode_directory(
    tree: &Tree,
    children: &std::collections::BTreeMap<Vec<u8>, NodeId>,
    nids: &HashMap<NodeId, u64>,
    id: NodeId,
    parent: NodeId,
) -> Vec<u8> {
    let parent = if id == ROOT { ROOT } else { parent };
    let mut entries: Vec<(&[u8], NodeId)> = vec![(b".", id), (b"..", parent)];
    entries.extend(children.iter().map(|(name, id)| (name.as_slice(), *id)));
    // "." and ".." are not always first: names such as "!" and "-" sort before them.
    entries.sort();
    let mut out = Vec::new();
    let mut rest = entries.as_slice();
    while !rest.is_empty() {
        let mut used = 0;
        let count = rest
            .iter()
            .take_while(|(name, _)| {
                used += DIRENT + name.len();
                used <= BLOCK
            })
            .count();
        let (block, later) = rest.split_at(count);
        rest = later;
        let mut name_offset = count * DIRENT;
        for (name, child) in block {
            out.extend(nids.get(child).copied().unwrap_or_default().to_le_bytes());
            out.extend((name_offset as u16).to_le_bytes());
            out.extend([file_type(&tree.nodes[*child]).dirent, 0]);
            name_offset += name.len();
        }
        block.iter().for_each(|(name, _)| out.extend(*name));
        if !rest.is_empty() {
            out.resize(out.len().next_multiple_of(BLOCK), 0);
        }
    }
    out
}

/// Prefixes that have a number; everything else is refused.
const XATTR_PREFIXES: [(&[u8], u8); 3] = [(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];
const XATTR_WHOLE: [(&[u8], u8); 2] = [(b"system.posix_acl_access", 2), (b"system.posix_acl_default", 3)];

fn encode_xattrs(attributes: &Attributes) -> Result<Vec<u8>, ImageError> {
    if attributes.xattrs.is_empty() {
        return Ok(Vec::new());
    }
    let mut out = vec![0; XATTR_HEADER];
    for (name, value) in &attributes.xattrs {
        let whole = XATTR_WHOLE.iter().find(|(whole, _)| whole == name).map(|(_, index)| (*index, &[][..]));
        let prefixed = || XATTR_PREFIXES.iter().find_map(|(prefix, index)| Some((*index, name.strip_prefix(*prefix)?)));
        // Attributes of other file systems (`system.nfs4_acl`, overlay's own in `trusted.`) mean nothing here.
        let Some((index, suffix)) = whole.or_else(prefixed) else { continue };
        let (Ok(name_length), Ok(value_length)) = (u8::try_from(suffix.len()), u16::try_from(value.len())) else {
            return Err(invalid("an extended attribute is too long"));
        };
        out.extend([name_length, index]);
        out.extend(value_length.to_le_bytes());
        out.extend(suffix);
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    if INODE + out.len() > BLOCK {
        return Err(invalid("a file's extended attributes take more than a block"));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_takes_the_bytes_that_were_reserved_for_it() {
        for count in [0, 1, 30, 300, 3000] {
            let mut tree = Tree::new(10_000);
            for i in 0..count {
                let name = format!("{}{i}", "n".repeat(i % 200));
                tree.insert(name.as_bytes(), Content::Fifo, Attributes::default()).unwrap();
            }
            let Content::Directory(children) = &tree.nodes[ROOT].content else { panic!() };
            let nids = HashMap::new();
            let encoded = encode_directory(&tree, children, &nids, ROOT, ROOT).len();
            // Sorting puts "." and ".." elsewhere than the estimate does, which moves block ends by a few bytes.
            let estimated = directory_size(children.keys().map(Vec::len));
            assert!(encoded.abs_diff(estimated) <= BLOCK, "{count}: {encoded} and {estimated}");
            if estimated <= BLOCK - INODE {
                assert_eq!(encoded, estimated, "what is inlined must be exact");
            }
        }
    }

    #[test]
    fn devices_are_encoded_as_linux_does() {
        assert_eq!(encode_device(1, 3), 0x103);
        assert_eq!(encode_device(259, 0x12345), 0x45 | 259 << 8 | 0x12300 << 12);
    }
}
