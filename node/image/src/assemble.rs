//! Makes one disk of an image's layers: a superblock, the layers' data, the metadata of the merged tree.
//!
//! The data of a layer of some size is not copied: the disk is then a VMDK descriptor that puts the image's own file and
//! the layers' files one behind another (docs/decisions/0010). An image of small layers only is one plain file.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{self, BufWriter, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::{
    DISK_BYTES, Digest, ImageError, Limits, durable,
    erofs::{self, BLOCK},
    error::{invalid, store_error},
    layer::{Entry, What},
    layers::Layers,
    tree::{Content, Tree},
};

/// From how many blocks on a layer's data is shared between images: below, a file more per VM is not worth it.
const SHARED_BLOCKS: u32 = 256;
const SECTOR: u64 = 512;

/// Where the data of each layer starts.
struct Plan {
    bases: HashMap<Digest, u32>,
    shared: Vec<(Digest, u32)>,
    copied: Vec<(Digest, u32)>,
    /// Behind all data.
    meta_block: u32,
}

impl Plan {
    fn of(layers: &Layers, diff_ids: &[Digest], limits: &Limits) -> Result<Self, ImageError> {
        let mut plan = Self { bases: HashMap::new(), shared: Vec::new(), copied: Vec::new(), meta_block: 1 };
        let mut bytes = 0u64;
        let mut seen = std::collections::HashSet::new();
        for diff_id in diff_ids {
            let layer = layers.get(diff_id).ok_or_else(|| invalid(format!("the layer {diff_id} is missing")))?;
            bytes = bytes.saturating_add(layer.bytes);
            if seen.insert(*diff_id) && layer.blocks > 0 {
                let list = if layer.blocks >= SHARED_BLOCKS { &mut plan.shared } else { &mut plan.copied };
                list.push((*diff_id, layer.blocks));
            }
        }
        if bytes > limits.unpacked_bytes {
            return Err(invalid(format!("its files take {bytes} bytes; {} is the limit", limits.unpacked_bytes)));
        }
        for (diff_id, blocks) in plan.shared.iter().chain(&plan.copied) {
            plan.bases.insert(*diff_id, plan.meta_block);
            let next = plan.meta_block.checked_add(*blocks);
            plan.meta_block = next.ok_or_else(|| invalid("the image is larger than its file system can be"))?;
        }
        Ok(plan)
    }

    fn shared_blocks(&self) -> u32 {
        self.shared.iter().map(|(_, blocks)| blocks).sum()
    }
}

/// Makes the disk in `directory` and returns its path. `work` is on the same file system.
pub(crate) fn assemble(
    layers: &Layers,
    diff_ids: &[Digest],
    id: &Digest,
    directory: &Path,
    work: &Path,
    limits: &Limits,
) -> Result<PathBuf, ImageError> {
    let plan = Plan::of(layers, diff_ids, limits)?;
    let mut tree = Tree::new(limits.entries);
    for diff_id in diff_ids {
        tree.next_layer();
        let base = plan.bases.get(diff_id).copied().unwrap_or(0);
        for entry in layers.entries(diff_id)? {
            insert(&mut tree, entry, base)?;
        }
    }
    let own = directory.join(format!("{}.erofs", id.hex()));
    let temporary = work.join("own.erofs");
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&temporary);
    let mut out = BufWriter::with_capacity(1 << 20, file.map_err(store_error(&temporary))?);
    let data = || -> io::Result<BufWriter<File>> {
        out.write_all(&[0; BLOCK])?;
        for (diff_id, _) in &plan.copied {
            io::copy(&mut File::open(layers.data(diff_id))?, &mut out)?;
        }
        Ok(out)
    };
    let mut out = data().map_err(store_error(&temporary))?;
    let (superblock, blocks) = erofs::write_metadata(&tree, plan.meta_block, &mut out)?;
    let shared_bytes = u64::from(plan.shared_blocks()) * BLOCK as u64;
    if u64::from(blocks) * BLOCK as u64 > DISK_BYTES {
        return Err(invalid(format!("its file system takes {blocks} blocks; a disk has {DISK_BYTES} bytes")));
    }
    let finish = || -> io::Result<PathBuf> {
        let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&superblock)?;
        file.set_len(DISK_BYTES - shared_bytes)?;
        file.sync_all()?;
        durable::place(&temporary, &own)?;
        if plan.shared.is_empty() {
            return Ok(own);
        }
        let disk = own.with_extension("vmdk");
        let own_name = format!("{}.erofs", id.hex());
        durable::write(&disk, &work.join("disk.vmdk"), descriptor(&plan, &own_name, layers).as_bytes())?;
        Ok(disk)
    };
    finish().map_err(store_error(directory))
}

/// VMware's text format, in which each line after the head is a piece of the disk: its sectors, its file, where in it.
fn descriptor(plan: &Plan, own: &str, layers: &Layers) -> String {
    let mut text = String::from(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n",
    );
    let mut extent = |bytes: u64, file: &str, offset: u64| {
        let _ = writeln!(text, "RW {} FLAT \"{file}\" {}", bytes / SECTOR, offset / SECTOR);
    };
    let block = BLOCK as u64;
    extent(block, own, 0);
    for (diff_id, blocks) in &plan.shared {
        let data = layers.data(diff_id);
        let name = data.file_name().unwrap_or_default().to_string_lossy();
        extent(u64::from(*blocks) * block, &format!("../layers/{name}"), 0);
    }
    extent(DISK_BYTES - (u64::from(plan.shared_blocks()) + 1) * block, own, block);
    text
}

/// Takes an entry of the layer whose data starts at `base` into the tree.
pub(crate) fn insert(tree: &mut Tree, entry: Entry, base: u32) -> Result<(), ImageError> {
    let content = match entry.what {
        What::HardLink(target) => return tree.insert_hard_link(&entry.path, &target),
        What::Directory => Content::Directory(Default::default()),
        What::File { first_block, size } => Content::File { first_block: base.saturating_add(first_block), size },
        What::Symlink(target) => Content::Symlink(target),
        What::CharacterDevice { major, minor } => Content::CharacterDevice { major, minor },
        What::BlockDevice { major, minor } => Content::BlockDevice { major, minor },
        What::Fifo => Content::Fifo,
    };
    tree.insert(&entry.path, content, entry.attributes)
}
