//! Descriptors of what the guest has open: a cache, except for files that have no name any more.

use std::{collections::HashMap, os::fd::OwnedFd, sync::Arc};

/// Descriptors of one shared path. The one that was not used for longest gives way, and is opened again when it is.
const MAX_HANDLES: usize = 256;

#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub file: Arc<OwnedFd>,
    pub write: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Handles {
    by_number: HashMap<u64, (Opened, u64)>,
    uses: u64,
}

impl Handles {
    pub(crate) fn get(&mut self, number: u64) -> Option<Opened> {
        self.uses += 1;
        let (opened, used) = self.by_number.get_mut(&number)?;
        *used = self.uses;
        Some(opened.clone())
    }

    pub(crate) fn insert(&mut self, number: u64, opened: Opened) {
        self.uses += 1;
        if self.by_number.len() >= MAX_HANDLES && !self.by_number.contains_key(&number) {
            let oldest = self.by_number.iter().min_by_key(|(_, (_, used))| *used).map(|(number, _)| *number);
            oldest.and_then(|oldest| self.by_number.remove(&oldest));
        }
        self.by_number.insert(number, (opened, self.uses));
    }

    pub(crate) fn remove(&mut self, number: u64) {
        self.by_number.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_not_used_for_longest_gives_way() {
        let file = Arc::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let mut handles = Handles::default();
        for number in 0..MAX_HANDLES as u64 {
            handles.insert(number, Opened { file: file.clone(), write: false });
        }
        assert!(handles.get(0).is_some());
        handles.insert(1000, Opened { file: file.clone(), write: false });
        assert!(handles.get(0).is_some() && handles.get(1).is_none() && handles.get(1000).is_some());
        assert_eq!(Arc::strong_count(&file), MAX_HANDLES + 1);
    }
}
