//! The kernel's numbers of files, and their paths on the host.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
};

/// The number of what is mounted itself.
pub const ROOT: u64 = 1;
/// Longer paths than this are a circle.
const MAX_PATH: usize = 4096;

/// A file's number is the host's inode. One with several names is known by the one that was looked up last.
#[derive(Default)]
pub struct Nodes {
    nodes: HashMap<u64, Node>,
    names: HashMap<(u64, OsString), u64>,
}

struct Node {
    parent: u64,
    name: OsString,
    /// How often the kernel was told of it.
    lookups: u64,
}

/// The number that the kernel has for a file. The root has its own.
pub fn number(inode: u64) -> u64 {
    if inode == ROOT { 1 << 63 | ROOT } else { inode }
}

impl Nodes {
    /// The path of a file; none: it has none any more.
    pub fn path(&self, mut number: u64) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let mut length = 0;
        while number != ROOT {
            let node = self.nodes.get(&number)?;
            if self.names.get(&(node.parent, node.name.clone())) != Some(&number) {
                return None;
            }
            length += node.name.len() + 1;
            if length > MAX_PATH {
                return None;
            }
            names.push(node.name.as_bytes());
            number = node.parent;
        }
        names.reverse();
        Some(names.join(&b'/'))
    }

    pub fn child(&self, parent: u64, name: &OsStr) -> Option<Vec<u8>> {
        let mut path = self.path(parent)?;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(name.as_bytes());
        Some(path)
    }

    /// The kernel is told of a file.
    pub fn found(&mut self, parent: u64, name: &OsStr, number: u64) {
        let node = self.nodes.entry(number).or_insert(Node { parent, name: name.into(), lookups: 0 });
        node.lookups += 1;
        self.name(parent, name, number);
    }

    fn name(&mut self, parent: u64, name: &OsStr, number: u64) {
        if let Some(node) = self.nodes.get_mut(&number) {
            let earlier = (node.parent, std::mem::replace(&mut node.name, name.into()));
            node.parent = parent;
            if self.names.get(&earlier) == Some(&number) {
                self.names.remove(&earlier);
            }
            self.names.insert((parent, name.into()), number);
        }
    }

    pub fn forget(&mut self, number: u64, lookups: u64) {
        if let Some(node) = self.nodes.get_mut(&number) {
            node.lookups = node.lookups.saturating_sub(lookups);
            if node.lookups == 0 {
                let key = (node.parent, std::mem::take(&mut node.name));
                if self.names.get(&key) == Some(&number) {
                    self.names.remove(&key);
                }
                self.nodes.remove(&number);
            }
        }
    }

    pub fn removed(&mut self, parent: u64, name: &OsStr) {
        self.names.remove(&(parent, name.into()));
    }

    pub fn moved(&mut self, from: (u64, &OsStr), to: (u64, &OsStr), exchange: bool) {
        let moved = self.names.remove(&(from.0, from.1.into()));
        let replaced = self.names.remove(&(to.0, to.1.into()));
        if let Some(number) = moved {
            self.name(to.0, to.1, number);
        }
        if let (Some(number), true) = (replaced, exchange) {
            self.name(from.0, from.1, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_follow_what_is_done_to_names() {
        let mut nodes = Nodes::default();
        let name = |text: &'static str| OsStr::new(text);
        let path = |nodes: &Nodes, number| nodes.path(number).map(|p| String::from_utf8(p).unwrap());
        nodes.found(ROOT, name("a"), 10);
        nodes.found(10, name("b"), 11);
        nodes.found(10, name("b"), 11);
        nodes.found(ROOT, name("c"), 12);
        assert_eq!(path(&nodes, ROOT).unwrap(), "");
        assert_eq!(path(&nodes, 11).unwrap(), "a/b");
        assert_eq!(nodes.child(ROOT, name("x")).unwrap(), b"x");
        nodes.moved((ROOT, name("a")), (ROOT, name("z")), false);
        assert_eq!(path(&nodes, 11).unwrap(), "z/b");
        nodes.moved((10, name("b")), (ROOT, name("c")), true);
        assert_eq!((path(&nodes, 11).unwrap(), path(&nodes, 12).unwrap()), ("c".into(), "z/b".into()));
        nodes.moved((10, name("b")), (ROOT, name("c")), false);
        assert_eq!((path(&nodes, 11), path(&nodes, 12).unwrap()), (None, "c".into()));
        // A second name of a file takes the first one's place; a name that is another file's now is no path of the old one.
        nodes.found(ROOT, name("d"), 12);
        assert_eq!(path(&nodes, 12).unwrap(), "d");
        nodes.found(ROOT, name("d"), 13);
        assert_eq!((path(&nodes, 12), path(&nodes, 13).unwrap()), (None, "d".into()));
        nodes.removed(ROOT, name("d"));
        assert_eq!(path(&nodes, 13), None);
        nodes.forget(11, 1);
        assert!(nodes.nodes.contains_key(&11));
        for (number, lookups) in [(11, 1), (12, 2), (13, 1), (10, 5), (77, 1)] {
            nodes.forget(number, lookups);
        }
        assert!(nodes.nodes.is_empty() && nodes.names.is_empty());
    }

    #[test]
    fn circles_have_no_path() {
        let mut nodes = Nodes::default();
        nodes.found(11, OsStr::new("a"), 10);
        nodes.found(10, OsStr::new("b"), 11);
        assert_eq!(nodes.path(11), None);
        assert_ne!(number(ROOT), ROOT);
    }
}
