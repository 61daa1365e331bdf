//! Descriptors of what the guest has open: a cache, except for files that have no name any more.

use std::{
    collections::HashMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustix::process::{Resource, getrlimit};

/// Descriptors of one shared path. The one that was not used for longest gives way, and is opened again when it is.
const MAX_HANDLES: usize = 128;
/// Those of all shared paths: half of what the process may have. Beyond it each has to make do with one.
static MAX_OPEN: LazyLock<usize> = LazyLock::new(|| {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / 2;
    usize::try_from(limit).unwrap_or(usize::MAX)
});
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// An open file, counted.
#[derive(Debug)]
pub(crate) struct File(OwnedFd);

impl File {
    pub(crate) fn new(file: OwnedFd) -> Self {
        OPEN.fetch_add(1, Ordering::Relaxed);
        Self(file)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub file: Arc<File>,
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
        self.by_number.remove(&number);
        while self.by_number.len() >= MAX_HANDLES || OPEN.load(Ordering::Relaxed) > *MAX_OPEN {
            let oldest = self.by_number.iter().min_by_key(|(_, (_, used))| *used).map(|(number, _)| *number);
            let Some(oldest) = oldest else { break };
            self.by_number.remove(&oldest);
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
        let file = Arc::new(File::new(std::fs::File::open("/dev/null").unwrap().into()));
        let opened = || Opened { file: file.clone(), write: false };
        let mut handles = Handles::default();
        for number in 0..MAX_HANDLES as u64 {
            handles.insert(number, opened());
        }
        assert!(handles.get(0).is_some());
        handles.insert(1000, opened());
        assert!(handles.get(0).is_some() && handles.get(1).is_none() && handles.get(1000).is_some());
        handles.insert(1000, opened());
        assert_eq!(Arc::strong_count(&file), MAX_HANDLES + 1);
    }
}
