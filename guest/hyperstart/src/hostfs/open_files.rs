//! What processes have open, as the host is told of it.

use std::collections::{BTreeSet, HashMap};

use hypernetes_guest_protocol::v1::HostPathHandle;

#[derive(Default)]
pub struct OpenFiles {
    by_number: HashMap<u64, (u64, HostPathHandle)>,
    by_node: HashMap<u64, BTreeSet<u64>>,
}

impl OpenFiles {
    /// The kernel's number of a file, and what it was opened as.
    pub fn insert(&mut self, node: u64, handle: HostPathHandle) {
        self.by_number.insert(handle.number, (node, handle));
        self.by_node.entry(node).or_default().insert(handle.number);
    }

    pub fn remove(&mut self, number: u64) {
        let Some((node, _)) = self.by_number.remove(&number) else { return };
        if let Some(numbers) = self.by_node.get_mut(&node) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_node.remove(&node);
            }
        }
    }

    pub fn get(&self, number: u64) -> Option<HostPathHandle> {
        self.by_number.get(&number).map(|(_, handle)| *handle)
    }

    /// Anything that a file is open as: through it the file is found when its name is gone.
    pub fn of(&self, node: u64) -> Option<HostPathHandle> {
        self.get(*self.by_node.get(&node)?.first()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_while_it_is_open() {
        let mut files = OpenFiles::default();
        let handle = |number| HostPathHandle { number, write: false, inode: 5 };
        files.insert(10, handle(1));
        files.insert(10, handle(2));
        assert_eq!((files.of(10), files.get(2), files.of(11)), (Some(handle(1)), Some(handle(2)), None));
        files.remove(1);
        files.remove(1);
        assert_eq!(files.of(10), Some(handle(2)));
        files.remove(2);
        assert!(files.of(10).is_none() && files.by_node.is_empty() && files.by_number.is_empty());
    }
}
