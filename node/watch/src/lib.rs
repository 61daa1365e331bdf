//! Changes of files, by one inotify(7) instance of the process: a host allows a user 128 of them, whoever they are for.
//!
//! A directory is watched, and not a file: one that is put in place of another is seen then, too.
#![forbid(unsafe_code)]

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{Arc, Weak},
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
};
use parking_lot::Mutex;
use tokio::sync::watch;

/// The process's; made when it is first wanted.
static SHARED: Mutex<Option<Arc<Watcher>>> = Mutex::new(None);

/// All directories that this process watches.
pub struct Watcher {
    inotify: Inotify,
    watches: Mutex<HashMap<WatchDescriptor, Weak<Inner>>>,
}

struct Inner {
    descriptor: WatchDescriptor,
    /// Counts changes.
    changed: watch::Sender<u64>,
    watcher: Arc<Watcher>,
}

/// Tells of changes of one directory's files.
pub struct Watch {
    changes: watch::Receiver<u64>,
    _inner: Arc<Inner>,
}

impl Watch {
    /// Returns when something has changed since the last time that it did, or since the watch was made.
    pub async fn changed(&mut self) {
        // The sender lives as long as `_inner`.
        let _ = self.changes.changed().await;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut watches = self.watcher.watches.lock();
        // Another watch of the directory may have come meanwhile.
        if watches.get(&self.descriptor).is_some_and(|watch| watch.strong_count() == 0) {
            watches.remove(&self.descriptor);
            let _ = self.watcher.inotify.rm_watch(self.descriptor);
        }
    }
}

impl Watcher {
    /// The process's one. A thread reads its events as long as the process lives.
    ///
    /// # Errors
    /// When the host has no instance left, or no thread.
    pub fn shared() -> io::Result<Arc<Self>> {
        let mut shared = SHARED.lock();
        if let Some(watcher) = &*shared {
            return Ok(watcher.clone());
        }
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        let watcher = Arc::new(Self { inotify, watches: Mutex::default() });
        let reading = watcher.clone();
        std::thread::Builder::new().name("files".into()).spawn(move || reading.read())?;
        Ok(shared.insert(watcher).clone())
    }

    fn read(&self) {
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "changes of files are not noticed any more");
                    return;
                }
            };
            // Collected first: dropping the last reference takes the lock, too.
            let find = |descriptor| self.watches.lock().get(descriptor)?.upgrade();
            let changed: Vec<Arc<Inner>> = events.iter().filter_map(|event| find(&event.wd)).collect();
            for watch in changed {
                watch.changed.send_modify(|count| *count += 1);
            }
        }
    }

    /// What is made, replaced, written or removed in a directory.
    ///
    /// # Errors
    /// When it is none, or the host lets its user watch no more.
    pub fn entries(self: &Arc<Self>, directory: &Path) -> io::Result<Watch> {
        self.watch(directory, AddWatchFlags::empty())
    }

    /// The same, and every piece that is added to a file.
    ///
    /// # Errors
    /// As [`Watcher::entries`].
    pub fn growth(self: &Arc<Self>, directory: &Path) -> io::Result<Watch> {
        self.watch(directory, AddWatchFlags::IN_MODIFY)
    }

    fn watch(self: &Arc<Self>, directory: &Path, more: AddWatchFlags) -> io::Result<Watch> {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR
            // Who else watches it goes on to see what they want.
            | AddWatchFlags::from_bits_retain(nix::libc::IN_MASK_ADD);
        let mut watches = self.watches.lock();
        let descriptor = self.inotify.add_watch(directory, flags | more)?;
        let known = watches.get(&descriptor).and_then(Weak::upgrade);
        let inner = known.unwrap_or_else(|| {
            let inner = Arc::new(Inner { descriptor, changed: watch::Sender::new(0), watcher: self.clone() });
            watches.insert(descriptor, Arc::downgrade(&inner));
            inner
        });
        Ok(Watch { changes: inner.changed.subscribe(), _inner: inner })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, OpenOptions},
        io::Write,
        time::Duration,
    };

    use super::*;

    fn instances() -> usize {
        let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let is_one =
            |entry: &fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|to| to.ends_with("anon_inode:inotify"));
        descriptors.filter(is_one).count()
    }

    async fn told(watch: &mut Watch) {
        tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.expect("a change is told");
    }

    #[tokio::test]
    async fn all_watch_by_one_instance() {
        let place = tempfile::tempdir().unwrap();
        let mut watches: Vec<Watch> = Vec::new();
        for number in 0..300 {
            let directory = place.path().join((number / 2).to_string());
            let _ = fs::create_dir(&directory);
            watches.push(Watcher::shared().unwrap().growth(&directory).unwrap());
        }
        assert_eq!(instances(), 1);
        for number in 0..150 {
            fs::write(place.path().join(number.to_string()).join("log"), "x").unwrap();
        }
        for watch in &mut watches {
            told(watch).await;
        }
    }

    #[tokio::test]
    async fn what_is_added_and_what_is_put_in_its_place_are_told() {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("log");
        let mut file = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let watcher = Watcher::shared().unwrap();
        let mut growth = watcher.growth(place.path()).unwrap();
        // One that comes later and wants less takes nothing from the first.
        let later = watcher.entries(place.path()).unwrap();
        file.write_all(b"x").unwrap();
        told(&mut growth).await;
        fs::rename(&log, place.path().join("log.1")).unwrap();
        told(&mut growth).await;
        drop(later);
        fs::write(&log, "y").unwrap();
        told(&mut growth).await;
        let descriptor = growth._inner.descriptor;
        drop(growth);
        // What an event is being passed on to is dropped a moment later.
        while watcher.watches.lock().contains_key(&descriptor) {
            tokio::task::yield_now().await;
        }
        assert!(watcher.entries(&log).is_err(), "it is no directory");
    }
}
