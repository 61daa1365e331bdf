//! Processes that outlive the one that started them: found again by pid and start time.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::poll::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use tokio::io::unix::AsyncFd;

/// For the end of a process that has been killed, where everything else has to wait.
const END_PATIENCE_MILLIS: u16 = 2000;
/// nice(1)'s: whoever else waits for a processor goes first.
const LOWEST_PRIORITY: i32 = 19;

/// A running process, held by a pidfd: signals never reach another one that got the same pid.
pub struct Process {
    pub pid: i32,
    handle: AsyncFd<OwnedFd>,
    /// Removed when the process has ended; empty: there is none.
    record: PathBuf,
    /// Whether it is this process's child and nobody else waits for it.
    reap: bool,
}

impl Process {
    /// Holds a process just started, and remembers it in the file `record`.
    ///
    /// # Errors
    /// When it has ended already, or the record cannot be written.
    pub fn remember(pid: u32, record: PathBuf) -> io::Result<Self> {
        let pid = i32::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
        let handle = open(pid)?;
        let start = start_time(pid).ok_or(io::ErrorKind::NotFound)?;
        fs::write(&record, format!("{pid} {start}\n"))?;
        Ok(Self { pid, handle, record, reap: false })
    }

    /// Holds and remembers a child just started. One that cannot be remembered is ended: nobody would find it again.
    ///
    /// # Errors
    /// As [`Self::remember`].
    pub async fn keep(pid: u32, record: PathBuf) -> io::Result<Self> {
        let remembered = Self::remember(pid, record);
        if remembered.is_err()
            && let Some(process) = i32::try_from(pid).ok().and_then(Self::hold)
        {
            process.reaped_here().kill().await;
        }
        remembered
    }

    /// For a child that nobody else waits for.
    pub fn reaped_here(self) -> Self {
        Self { reap: true, ..self }
    }

    /// A process that runs now and was not remembered.
    pub fn hold(pid: i32) -> Option<Self> {
        let handle = open(pid).ok()?;
        start_time(pid)?;
        Some(Self { pid, handle, record: PathBuf::new(), reap: false })
    }

    /// The process that a record names, if it is still that one.
    pub fn recall(record: &Path) -> Option<Self> {
        let text = fs::read_to_string(record).ok()?;
        let (pid, start) = text.trim().split_once(' ')?;
        let (pid, start): (i32, u64) = (pid.parse().ok()?, start.parse().ok()?);
        // The handle first: once it is open, what the start time says is said of the process it holds.
        let handle = open(pid).ok()?;
        (start_time(pid)? == start).then(|| Self { pid, handle, record: record.to_owned(), reap: false })
    }

    /// By which the process is never mistaken for another.
    pub(crate) fn pidfd(&self) -> io::Result<OwnedFd> {
        self.handle.get_ref().try_clone()
    }

    /// Returns when the process has ended.
    pub async fn ended(&self) {
        // A pidfd becomes readable when its process ends, and stays so.
        let _ = self.handle.readable().await;
        if self.reap {
            let this = WaitId::PidFd(self.handle.get_ref().as_fd());
            // Another who waits for its end may have been first.
            let _ = rustix::process::waitid(this, WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
        let _ = fs::remove_file(&self.record);
    }

    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(rustix::process::pidfd_send_signal(self.handle.get_ref(), signal)?)
    }

    /// Puts every thread behind those of other processes, or beside them again.
    pub fn set_background(&self, background: bool) {
        let nice = if background { LOWEST_PRIORITY } else { 0 };
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten() {
            let id = thread.file_name().to_str().and_then(|id| id.parse().ok()).and_then(Pid::from_raw);
            if let Some(id) = id {
                // It may have ended; otherwise it only takes its turn with the others.
                let _ = rustix::process::setpriority_process(Some(id), nice);
            }
        }
    }

    /// SIGKILL, and its end.
    pub async fn kill(&self) {
        let _ = self.signal(Signal::KILL);
        self.ended().await;
    }

    /// SIGKILL, and its end, for destructors: blocks for the milliseconds that the kernel takes.
    pub fn kill_now(&self) {
        let _ = self.signal(Signal::KILL);
        let mut end = [PollFd::new(self.handle.get_ref().as_fd(), PollFlags::POLLIN)];
        // One that the kernel cannot end is not waited for.
        let _ = poll(&mut end, END_PATIENCE_MILLIS);
    }

    /// SIGTERM, and SIGKILL when that has not helped within `patience`.
    pub async fn stop(&self, patience: std::time::Duration) {
        let _ = self.signal(Signal::TERM);
        if tokio::time::timeout(patience, self.ended()).await.is_err() {
            self.kill().await;
        }
    }
}

fn open(pid: i32) -> io::Result<AsyncFd<OwnedFd>> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    // The replacement is an unsafe function; an `OwnedFd` keeps its descriptor, as that wants.
    #[allow(deprecated)]
    AsyncFd::with_interest(rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?, tokio::io::Interest::READABLE)
}

/// Field 22 of `/proc/<pid>/stat` (proc(5)), in clock ticks after boot; none for a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name, field 2, may contain anything but is the only thing in parentheses.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Field 22 of a running process's `/proc/<pid>/stat`, by which it is told from a later one with its pid.
pub(crate) fn started(pid: i32) -> Option<u64> {
    start_time(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_cannot_be_remembered_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let mut child = tokio::process::Command::new("sleep").arg("600").spawn().unwrap();
        let kept = Process::keep(child.id().unwrap(), directory.path().join("none/pid")).await;
        assert_eq!(kept.map(drop).unwrap_err().kind(), io::ErrorKind::NotFound);
        let ended = tokio::time::timeout(std::time::Duration::from_secs(10), child.wait()).await;
        assert!(ended.is_ok(), "it runs on");
    }

    #[tokio::test]
    async fn a_process_is_found_again_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let record = directory.path().join("sleep.pid");
        let mut child = tokio::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::remember(child.id().unwrap(), record.clone()).unwrap();
        let again = Process::recall(&record).unwrap();
        assert_eq!(again.pid, process.pid);
        fs::write(&record, format!("{} 1\n", process.pid)).unwrap();
        assert!(Process::recall(&record).is_none(), "another start time is another process");
        let reaper = tokio::spawn(async move { child.wait().await });
        again.stop(std::time::Duration::from_secs(5)).await;
        reaper.await.unwrap().unwrap();
        assert!(Process::recall(&record).is_none());
    }
}
