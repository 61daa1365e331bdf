//! The merged file tree of an image's layers: whiteouts applied, paths checked, nothing on the host's file system.
//!
//! Rules: OCI image-spec, `layer.md`. A path never leaves the root: `..` is refused, and a parent that is a symbolic
//! link is followed inside the tree only.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::{ImageError, error::invalid};

pub(crate) type NodeId = usize;
pub(crate) const ROOT: NodeId = 0;

/// Linux's limits.
const MAX_NAME: usize = 255;
const MAX_PATH: usize = 4096;
const MAX_SYMLINKS: usize = 40;
const MAX_DEPTH: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// Sorted by name, as EROFS needs it.
    Directory(BTreeMap<Vec<u8>, NodeId>),
    /// Where the data lies in the image that is being written.
    File {
        first_block: u32,
        size: u64,
    },
    Symlink(Vec<u8>),
    CharacterDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attributes {
    /// Permission, setuid, setgid and sticky bits.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: u64,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub content: Content,
    pub attributes: Attributes,
    /// The layer that defined it; whiteouts remove only what lower layers defined.
    layer: usize,
}

pub(crate) struct Tree {
    pub nodes: Vec<Node>,
    layer: usize,
    max_entries: usize,
}

impl Tree {
    pub fn new(max_entries: usize) -> Self {
        let attributes = Attributes { mode: 0o755, ..Attributes::default() };
        let root = Node { content: Content::Directory(BTreeMap::new()), attributes, layer: 0 };
        Self { nodes: vec![root], layer: 0, max_entries }
    }

    /// What follows belongs to the next layer up.
    pub fn next_layer(&mut self) {
        self.layer += 1;
    }

    /// Takes in one tar entry that is not a hard link.
    pub fn insert(&mut self, path: &[u8], content: Content, attributes: Attributes) -> Result<(), ImageError> {
        let Some((parent, name)) = self.locate(path)? else {
            self.nodes[ROOT].attributes = attributes;
            return Ok(());
        };
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            return self.whiteout(parent, hidden);
        }
        if let (Content::Directory(_), Some(existing)) = (&content, self.child(parent, &name))
            && matches!(self.nodes[existing].content, Content::Directory(_))
        {
            // A directory that is there already gets new attributes and keeps what is in it.
            let layer = self.layer;
            let node = &mut self.nodes[existing];
            (node.attributes, node.layer) = (attributes, layer);
            return Ok(());
        }
        let id = self.add(Node { content, attributes, layer: self.layer })?;
        self.link(parent, name, id);
        Ok(())
    }

    /// Takes in a hard link to a path that has come before.
    pub fn insert_hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), ImageError> {
        let missing = || invalid(format!("the hard link {} goes to {}, which is not there", text(path), text(target)));
        let (target_parent, target_name) = self.locate(target)?.ok_or_else(missing)?;
        let id = self.child(target_parent, &target_name).ok_or_else(missing)?;
        if matches!(self.nodes[id].content, Content::Directory(_)) {
            return Err(invalid(format!("the hard link {} goes to a directory", text(path))));
        }
        let (parent, name) = self.locate(path)?.ok_or_else(|| invalid("a hard link cannot be the root"))?;
        self.link(parent, name, id);
        Ok(())
    }

    fn add(&mut self, node: Node) -> Result<NodeId, ImageError> {
        if self.nodes.len() >= self.max_entries {
            return Err(invalid(format!("more than {} files", self.max_entries)));
        }
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    fn link(&mut self, parent: NodeId, name: Vec<u8>, id: NodeId) {
        if let Content::Directory(children) = &mut self.nodes[parent].content {
            children.insert(name, id);
        }
    }

    fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        match &self.nodes[parent].content {
            Content::Directory(children) => children.get(name).copied(),
            _ => None,
        }
    }

    /// `.wh..wh..opq` hides everything of lower layers in the directory, `.wh.<name>` one name.
    fn whiteout(&mut self, parent: NodeId, hidden: &[u8]) -> Result<(), ImageError> {
        if hidden == b".wh..opq" {
            let names: Vec<Vec<u8>> = match &self.nodes[parent].content {
                Content::Directory(children) => children.keys().cloned().collect(),
                _ => Vec::new(),
            };
            names.iter().for_each(|name| self.hide(parent, name));
            return Ok(());
        }
        if hidden.starts_with(b".wh.") {
            return Ok(()); // aufs' own bookkeeping
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(invalid("a whiteout without a name"));
        }
        self.hide(parent, hidden);
        Ok(())
    }

    /// Removes what lower layers defined under a name; what this layer put there stays.
    fn hide(&mut self, parent: NodeId, name: &[u8]) {
        let mut pending = vec![(parent, name.to_vec())];
        while let Some((parent, name)) = pending.pop() {
            let Some(id) = self.child(parent, &name) else { continue };
            if self.nodes[id].layer < self.layer {
                if let Content::Directory(children) = &mut self.nodes[parent].content {
                    children.remove(&name);
                }
            } else if let Content::Directory(children) = &self.nodes[id].content {
                pending.extend(children.keys().map(|name| (id, name.clone())));
            }
        }
    }

    /// The directory that a path's last component is in, made where it is missing; `None` for the root itself.
    fn locate(&mut self, path: &[u8]) -> Result<Option<(NodeId, Vec<u8>)>, ImageError> {
        let mut components = components(path)?;
        let Some(name) = components.pop() else { return Ok(None) };
        let mut budget = MAX_SYMLINKS;
        let parent = self.walk(components, &mut budget)?;
        Ok(Some((parent, name)))
    }

    /// The directory at a path, made where it is missing, links followed within the tree.
    fn walk(&mut self, components: Vec<Vec<u8>>, budget: &mut usize) -> Result<NodeId, ImageError> {
        let mut rest: Vec<Vec<u8>> = components.into_iter().rev().collect();
        let mut trail = vec![ROOT];
        while let Some(name) = rest.pop() {
            let here = trail.last().copied().unwrap_or(ROOT);
            if name == b".." {
                // Only from a link's target; above the root is the root.
                if trail.len() > 1 {
                    trail.pop();
                }
                continue;
            }
            match self.child(here, &name) {
                Some(id) => match &self.nodes[id].content {
                    Content::Directory(_) => trail.push(id),
                    Content::Symlink(target) => {
                        *budget = budget
                            .checked_sub(1)
                            .ok_or_else(|| invalid(format!("too many symbolic links at {}", text(&name))))?;
                        if target.starts_with(b"/") {
                            trail.truncate(1);
                        }
                        let parts: Vec<Vec<u8>> = target
                            .split(|b| *b == b'/')
                            .filter(|p| !matches!(*p, b"" | b"."))
                            .map(<[u8]>::to_vec)
                            .collect();
                        rest.extend(parts.into_iter().rev());
                    }
                    _ => return Err(invalid(format!("{} is used as a directory and is none", text(&name)))),
                },
                None => {
                    let attributes = Attributes { mode: 0o755, ..Attributes::default() };
                    let content = Content::Directory(BTreeMap::new());
                    let id = self.add(Node { content, attributes, layer: self.layer })?;
                    self.link(here, name, id);
                    trail.push(id);
                }
            }
            if trail.len() > MAX_DEPTH {
                return Err(invalid(format!("directories more than {MAX_DEPTH} deep")));
            }
        }
        Ok(trail.last().copied().unwrap_or(ROOT))
    }

    /// Nodes that have a name, parents before what is in them, with the parent of each directory.
    pub fn reachable(&self) -> Vec<(NodeId, NodeId)> {
        let mut found = vec![(ROOT, ROOT)];
        let mut seen = HashSet::from([ROOT]);
        let mut next = 0;
        while next < found.len() {
            let (id, _) = found[next];
            next += 1;
            if let Content::Directory(children) = &self.nodes[id].content {
                found.extend(children.values().filter(|child| seen.insert(**child)).map(|child| (*child, id)));
            }
        }
        found
    }
}

fn components(path: &[u8]) -> Result<Vec<Vec<u8>>, ImageError> {
    if path.len() > MAX_PATH {
        return Err(invalid(format!("a path longer than {MAX_PATH} bytes")));
    }
    if path.contains(&0) {
        return Err(invalid(format!("the path {} contains a NUL", text(path))));
    }
    let parts: Vec<Vec<u8>> =
        path.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b".")).map(<[u8]>::to_vec).collect();
    for part in &parts {
        if part == b".." {
            return Err(invalid(format!("the path {} leaves the image", text(path))));
        }
        if part.len() > MAX_NAME {
            return Err(invalid(format!("a name longer than {MAX_NAME} bytes")));
        }
    }
    Ok(parts)
}

/// For messages: bounded and printable.
pub(crate) fn text(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(120)];
    format!("{:?}", String::from_utf8_lossy(shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Content {
        Content::File { first_block: 0, size: 0 }
    }

    fn directory() -> Content {
        Content::Directory(BTreeMap::new())
    }

    fn names(tree: &Tree) -> Vec<String> {
        fn visit(tree: &Tree, id: NodeId, path: &str, out: &mut Vec<String>) {
            if let Content::Directory(children) = &tree.nodes[id].content {
                for (name, child) in children {
                    let path = format!("{path}/{}", String::from_utf8_lossy(name));
                    out.push(path.clone());
                    visit(tree, *child, &path, out);
                }
            }
        }
        let mut out = Vec::new();
        visit(tree, ROOT, "", &mut out);
        out
    }

    fn with(lower: &[&str]) -> Tree {
        let mut tree = Tree::new(1000);
        for path in lower {
            tree.insert(path.as_bytes(), file(), Attributes::default()).unwrap();
        }
        tree.next_layer();
        tree
    }

    #[test]
    fn whiteouts_hide_lower_layers_only() {
        let mut tree = with(&["d/a", "d/b", "e/x"]);
        tree.insert(b"d/.wh.a", file(), Attributes::default()).unwrap();
        tree.insert(b"e/new", file(), Attributes::default()).unwrap();
        tree.insert(b"e/.wh..wh..opq", file(), Attributes::default()).unwrap();
        assert_eq!(names(&tree), ["/d", "/d/b", "/e", "/e/new"]);
    }

    #[test]
    fn a_directory_whited_out_and_made_again_is_empty_below() {
        let mut tree = with(&["d/a"]);
        tree.insert(b"d", directory(), Attributes::default()).unwrap();
        tree.insert(b"d/c", file(), Attributes::default()).unwrap();
        tree.insert(b".wh.d", file(), Attributes::default()).unwrap();
        assert_eq!(names(&tree), ["/d", "/d/c"]);
    }

    #[test]
    fn paths_stay_inside() {
        let mut tree = Tree::new(1000);
        for bad in ["../x", "a/../../x", "..", "a/.."] {
            assert!(tree.insert(bad.as_bytes(), file(), Attributes::default()).is_err(), "{bad}");
        }
        tree.insert(b"/abs/./file", file(), Attributes::default()).unwrap();
        tree.insert(b"link", Content::Symlink(b"../../../etc".to_vec()), Attributes::default()).unwrap();
        tree.insert(b"link/passwd", file(), Attributes::default()).unwrap();
        assert_eq!(names(&tree), ["/abs", "/abs/file", "/etc", "/etc/passwd", "/link"]);
        tree.insert(b"loop", Content::Symlink(b"loop".to_vec()), Attributes::default()).unwrap();
        assert!(tree.insert(b"loop/x", file(), Attributes::default()).is_err());
        assert!(tree.insert(b"abs/file/x", file(), Attributes::default()).is_err());
        let deep = "d/".repeat(MAX_DEPTH + 1) + "f";
        assert!(tree.insert(deep.as_bytes(), file(), Attributes::default()).is_err());
    }

    #[test]
    fn hard_links_share_a_node() {
        let mut tree = with(&["a"]);
        tree.insert_hard_link(b"b", b"a").unwrap();
        tree.insert_hard_link(b"b", b"a").unwrap();
        assert_eq!(tree.child(ROOT, b"a"), tree.child(ROOT, b"b"));
        assert!(tree.insert_hard_link(b"c", b"missing").is_err());
        tree.insert(b"a", file(), Attributes::default()).unwrap();
        assert_ne!(tree.child(ROOT, b"a"), tree.child(ROOT, b"b"));
    }

    #[test]
    fn entries_are_counted() {
        let mut tree = Tree::new(3);
        assert!(tree.insert(b"a/b", file(), Attributes::default()).is_ok());
        assert!(tree.insert(b"c", file(), Attributes::default()).is_err());
    }
}
