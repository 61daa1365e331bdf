//! The file below redb: what a failed write has done, and room that is kept for deletions.
//!
//! redb does not say what a failed commit left behind. It is known here: the header, without which nothing of a commit
//! counts, is held back until everything else is written, so that a disk that was full before has refused the commit
//! as a whole. Any other failure leaves it open whether the commit will be found after a loss of power, and nothing
//! may be built on it (see [`Outcome::Doubtful`]).

use std::{
    fs::{File, OpenOptions},
    io,
    ops::Bound,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::{
    errno::Errno,
    fcntl::{PosixFadviseAdvice, posix_fadvise, posix_fallocate},
};
use parking_lot::Mutex;
use redb::{BackendError, StorageBackend, backends::FileBackend};

/// How the file's last operations ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Fine,
    /// There was no room, and nothing of the commit is in the file.
    Refused,
    /// It may or may not be in the file, or come back later.
    Doubtful,
}

/// Opens the file itself; tests put disks that fail in its place.
pub(super) type OpenFile = Box<dyn Fn(&Path) -> io::Result<Box<dyn StorageBackend>> + Send>;

/// The file as it is on the disk, and not as a kernel whose write failed remembers it.
pub(super) fn open_file(path: &Path) -> io::Result<Box<dyn StorageBackend>> {
    // redb would make the file with the process's umask; it holds secrets.
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
    file.sync_data()?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
}

/// Room on the disk that is given up when there is no other: a file beside the store's.
pub(super) struct Reserve {
    path: PathBuf,
    file: Option<File>,
    wanted: u64,
    /// What it holds now.
    have: u64,
}

/// Given up at a time.
const SLICE: u64 = 256 << 10;

impl Reserve {
    fn new(store: &Path, wanted: u64) -> Self {
        let mut path = store.as_os_str().to_owned();
        path.push(".reserve");
        let path = PathBuf::from(path);
        let have = std::fs::metadata(&path).map_or(0, |m| m.len());
        let mut reserve = Self { path, file: None, wanted, have };
        reserve.fill();
        reserve
    }

    /// Takes back what is missing, if there is room. True: it is whole.
    fn fill(&mut self) -> bool {
        if self.have == self.wanted {
            return true;
        }
        if self.file.is_none() {
            let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&self.path);
            self.file = opened.ok();
        }
        let Some(file) = &self.file else { return false };
        let filled = match (i64::try_from(self.have), i64::try_from(self.wanted)) {
            (Ok(have), Ok(wanted)) if have < wanted => posix_fallocate(file, have, wanted - have).is_ok(),
            _ => file.set_len(self.wanted).is_ok(),
        };
        if filled {
            self.have = self.wanted;
        } else {
            // What it got of a part counts for nothing.
            let _ = file.set_len(self.have);
        }
        filled
    }

    /// Gives up a slice, down to `floor`. False: there is none to give.
    fn release(&mut self, floor: u64) -> bool {
        let left = self.have.saturating_sub(SLICE).max(floor);
        if left >= self.have {
            return false;
        }
        let released = match &self.file {
            Some(file) => file.set_len(left),
            None => OpenOptions::new().write(true).open(&self.path).and_then(|file| {
                file.set_len(left)?;
                self.file = Some(file);
                Ok(())
            }),
        };
        self.have = left;
        released.is_ok()
    }
}

/// What outlives one opening of the file.
pub(super) struct Medium {
    reserve: Mutex<Reserve>,
    /// How much of the reserve has to be left.
    floor: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    outcome: Outcome,
    header_written: bool,
}

const CLEAN: State = State { outcome: Outcome::Fine, header_written: false };

impl std::fmt::Debug for Medium {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Medium").field("state", &*self.state.lock()).finish_non_exhaustive()
    }
}

impl Medium {
    pub fn new(store: &Path, reserve: u64) -> Arc<Self> {
        Arc::new(Self {
            reserve: Mutex::new(Reserve::new(store, reserve)),
            floor: AtomicU64::new(0),
            state: Mutex::new(CLEAN),
        })
    }

    /// Begins something whose outcome will be asked for, which may take from the reserve what is above `floor` bytes.
    pub fn begin(&self, floor: u64) {
        self.floor.store(floor, Ordering::Relaxed);
        *self.state.lock() = CLEAN;
    }

    pub fn outcome(&self) -> Outcome {
        self.state.lock().outcome
    }

    /// See [`Reserve::fill`].
    pub fn fill_reserve(&self) -> bool {
        self.reserve.lock().fill()
    }

    /// Does what needs room, giving up the reserve for it as far as it may.
    fn with_room(&self, mut work: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        loop {
            match work() {
                Err(error) if is_full(&error) => {
                    if !self.reserve.lock().release(self.floor.load(Ordering::Relaxed)) {
                        return Err(error);
                    }
                }
                other => return other,
            }
        }
    }

    fn note(&self, result: io::Result<()>) -> io::Result<()> {
        if let Err(error) = &result {
            let mut state = self.state.lock();
            let refused = is_full(error) && !state.header_written && state.outcome != Outcome::Doubtful;
            state.outcome = if refused { Outcome::Refused } else { Outcome::Doubtful };
        }
        result
    }
}

fn is_full(error: &io::Error) -> bool {
    error
        .raw_os_error()
        .is_some_and(|code| matches!(Errno::from_raw(code), Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG))
}

/// One opening of the file.
#[derive(Debug)]
pub(super) struct Backend {
    inner: Box<dyn StorageBackend>,
    medium: Arc<Medium>,
    /// The header, which is written last.
    header: Mutex<Option<Vec<u8>>>,
}

impl Backend {
    pub fn new(inner: Box<dyn StorageBackend>, medium: Arc<Medium>) -> Self {
        Self { inner, medium, header: Mutex::new(None) }
    }

    fn write_header(&self) -> io::Result<()> {
        let mut header = self.header.lock();
        let Some(bytes) = header.take() else { return Ok(()) };
        self.medium.state.lock().header_written = true;
        self.inner.write(0, &bytes)
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.header.lock().as_ref().is_some_and(|header| offset < header.len() as u64) {
            self.medium.note(self.write_header())?;
        }
        self.medium.note(self.inner.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.medium.note(self.medium.with_room(|| self.inner.set_len(len)))
    }

    fn sync_data(&self) -> io::Result<()> {
        let synced = self.write_header().and_then(|()| self.inner.sync_data());
        self.medium.note(synced.inspect_err(|_| {
            // What a failed sync has written is unknown, whatever its reason.
            self.medium.state.lock().outcome = Outcome::Doubtful;
        }))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset == 0 {
            *self.header.lock() = Some(data.to_owned());
            return Ok(());
        }
        self.medium.note(self.medium.with_room(|| self.inner.write(offset, data)))
    }

    fn close(&self) -> io::Result<()> {
        // After a failure nothing more is written.
        if self.medium.outcome() == Outcome::Fine {
            self.write_header()?;
        }
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
