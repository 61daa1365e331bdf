//! Placeholder disks: a VM has them from its start, and what they hold changes while it runs.
//!
//! Every slot is a virtio disk upon a `raw` node, `slot<N>`, upon a `file` node. Attaching adds a file node for the new
//! file, which QEMU is handed open (it can open nothing itself), and points the raw node at it. An image in a slot that can
//! be written to has an overlay between the two.

use std::{fs::OpenOptions, os::fd::OwnedFd};

use serde_json::{Value, json};

use super::{
    overlay,
    qmp::{Qmp, QmpError},
};
use crate::{
    DiskSource,
    pieces::{self, Pieces},
    slots::{self, DISK_BYTES, Slot},
};

/// Most files of one slot's disk: its pieces, and an overlay.
const FDS: usize = pieces::MAX_FILES + 1;

/// The driver of what is in an empty slot: in the names that QEMU gives to what is upon it.
const EMPTY: &str = "null-co";

/// As many as a VM can have: this machine has 24 virtio transports, two are the serial port's and the network's, and the
/// guest hears no interrupt of the last.
pub const MAX_SLOTS: u32 = 21;

/// Node names say slot and use: a slot that is used again has another file node, while the old one may still close.
fn file_node(slot: u32, generation: u64) -> String {
    format!("file{slot}-{generation}")
}

fn overlay_node(slot: u32, generation: u64) -> String {
    format!("overlay{slot}-{generation}")
}

/// Where a slot points when it holds nothing.
pub fn empty_node(slot: u32) -> String {
    format!("empty{slot}")
}

pub fn slot_node(slot: u32) -> String {
    format!("slot{slot}")
}

/// Points a slot at a file.
pub async fn attach(qmp: &mut Qmp, slot: Slot, generation: u64, source: &DiskSource) -> Result<(), QmpError> {
    let mut node = file_node(slot.index, generation);
    let added = if slots::is_in_pieces(source) {
        add_pieces(qmp, slot.index, generation, source, &node).await.map(|()| DISK_BYTES)
    } else {
        add_file(qmp, slot.index, generation, source, &node).await
    };
    let length = match added {
        Ok(length) => length,
        Err(error) => {
            let _ = remove_fds(qmp, slot.index, generation).await;
            return Err(error);
        }
    };
    let fill = async {
        if slot.writable && source.read_only {
            node = add_overlay(qmp, slot.index, generation, length).await?;
        }
        point(qmp, slot, &node).await
    };
    if let Err(error) = fill.await {
        let _ = release(qmp, slot, generation).await;
        return Err(error);
    }
    if slot.writable {
        // A volume has a length of its own, which the guest is told so; and an image after it has another.
        qmp.execute("block_resize", json!({"node-name": slot_node(slot.index), "size": length})).await?;
    }
    Ok(())
}

/// Adds a node over that of a file that may only be read. Returns its name.
async fn add_overlay(qmp: &mut Qmp, slot: u32, generation: u64, length: u64) -> Result<String, QmpError> {
    let set = fd_set(slot, generation, pieces::MAX_FILES);
    let file = OwnedFd::from(overlay::create(length)?);
    qmp.execute_with_fd("add-fd", json!({"fdset-id": set}), file).await?;
    let node = overlay_node(slot, generation);
    let options = json!({
        "driver": "qcow2",
        "node-name": node,
        "file": file_options(set, false),
        "backing": file_node(slot, generation),
    });
    qmp.execute("blockdev-add", options).await?;
    Ok(node)
}

/// Adds a node for a plain file. Returns the file's length.
async fn add_file(qmp: &mut Qmp, slot: u32, generation: u64, source: &DiskSource, node: &str) -> Result<u64, QmpError> {
    let file = OpenOptions::new().read(true).write(!source.read_only).open(&source.path)?;
    let length = file.metadata()?.len();
    let set = fd_set(slot, generation, 0);
    qmp.execute_with_fd("add-fd", json!({"fdset-id": set}), OwnedFd::from(file)).await?;
    let mut options = file_options(set, source.read_only);
    options["node-name"] = json!(node);
    qmp.execute("blockdev-add", options).await?;
    Ok(length)
}

/// Adds a node for a disk that a descriptor puts together from several files.
async fn add_pieces(
    qmp: &mut Qmp,
    slot: u32,
    generation: u64,
    source: &DiskSource,
    node: &str,
) -> Result<(), QmpError> {
    let pieces = Pieces::open(&source.path)?;
    let descriptor = pieces.descriptor(|file| fd_path(fd_set(slot, generation, file + 1)))?;
    for (piece, file) in std::iter::once(descriptor).chain(pieces.files).enumerate() {
        let set = fd_set(slot, generation, piece);
        qmp.execute_with_fd("add-fd", json!({"fdset-id": set}), OwnedFd::from(file)).await?;
    }
    let options = json!({
        "driver": "vmdk",
        "node-name": node,
        "read-only": true,
        "file": file_options(fd_set(slot, generation, 0), true),
    });
    qmp.execute("blockdev-add", options).await.map(drop)
}

fn file_options(set: usize, read_only: bool) -> Value {
    json!({
        "driver": "file",
        "filename": fd_path(set),
        "read-only": read_only,
        // Images are read by many VMs; a volume's one user is seen to elsewhere.
        "locking": "off",
        "discard": "unmap",
    })
}

fn fd_path(set: usize) -> String {
    format!("/dev/fdset/{set}")
}

/// Points a slot at nothing and closes its file.
pub async fn detach(qmp: &mut Qmp, slot: Slot, generation: u64) -> Result<(), QmpError> {
    point(qmp, slot, &empty_node(slot.index)).await?;
    release(qmp, slot, generation).await
}

/// Empties the slots that hold something though they should not (`held` says for each), or that a detaching was begun
/// of. Gives all that are empty.
pub async fn settle(qmp: &mut Qmp, held: &[bool]) -> Result<Vec<u32>, QmpError> {
    let nodes = Node::all(&qmp.execute("query-named-block-nodes", json!({"flat": true})).await?);
    let slots = u32::try_from(held.len()).unwrap_or(0);
    let mut empty = Vec::new();
    for (index, held) in (0..slots).zip(held) {
        let slot = Slot::new(slots, index);
        let points_at_file = nodes.iter().any(|node| node.name == slot_node(index) && !node.file.contains(EMPTY));
        if *held && points_at_file {
            continue;
        }
        let prefix = file_node(index, 0);
        let prefix = prefix.trim_end_matches('0');
        let generations: Vec<u64> =
            nodes.iter().filter_map(|node| node.name.strip_prefix(prefix)?.parse().ok()).collect();
        if points_at_file {
            point(qmp, slot, &empty_node(index)).await?;
        }
        for generation in generations {
            release(qmp, slot, generation).await?;
        }
        empty.push(index);
    }
    Ok(empty)
}

/// One of QEMU's block nodes.
struct Node {
    name: String,
    file: String,
}

impl Node {
    fn all(answer: &serde_json::Value) -> Vec<Self> {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let nodes = answer.as_array().map(Vec::as_slice).unwrap_or_default();
        nodes.iter().map(|node| Self { name: text(&node["node-name"]), file: text(&node["file"]) }).collect()
    }
}

async fn point(qmp: &mut Qmp, slot: Slot, node: &str) -> Result<(), QmpError> {
    let options = json!({"options": [{
        "driver": "raw",
        "node-name": slot_node(slot.index),
        "read-only": !slot.writable,
        "file": node,
    }]});
    qmp.execute("blockdev-reopen", options).await.map(drop)
}

async fn release(qmp: &mut Qmp, slot: Slot, generation: u64) -> Result<(), QmpError> {
    let overlay = overlay_node(slot.index, generation);
    if slot.writable {
        let nodes = Node::all(&qmp.execute("query-named-block-nodes", json!({"flat": true})).await?);
        if nodes.iter().any(|node| node.name == overlay) {
            qmp.execute("blockdev-del", json!({"node-name": overlay})).await?;
        }
    }
    qmp.execute("blockdev-del", json!({"node-name": file_node(slot.index, generation)})).await?;
    remove_fds(qmp, slot.index, generation).await
}

/// Closes what a slot's disk was handed.
async fn remove_fds(qmp: &mut Qmp, slot: u32, generation: u64) -> Result<(), QmpError> {
    let first = fd_set(slot, generation, 0) as u64;
    let mine = first..first + FDS as u64;
    let sets = qmp.execute("query-fdsets", json!({})).await?;
    let ids = sets.as_array().into_iter().flatten().filter_map(|set| set["fdset-id"].as_u64());
    for id in ids.filter(|id| mine.contains(id)) {
        qmp.execute("remove-fd", json!({"fdset-id": id})).await?;
    }
    Ok(())
}

/// Of one file of a slot's disk. QEMU wants a number below 2^31.
fn fd_set(slot: u32, generation: u64, piece: usize) -> usize {
    let use_of_slot = slot as usize + 32 * (generation % 100_000) as usize;
    use_of_slot * FDS + piece
}
