//! Every process that ends in this VM becomes PID 1's to reap; some of them somebody waits for.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use nix::{
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::Pid,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 128 and the signal when a signal ended it.
    pub code: i32,
    pub signal: u32,
    pub at: SystemTime,
}

#[derive(Default)]
pub struct Reaper {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    waiting: HashMap<i32, oneshot::Sender<Exit>>,
    /// Ended before anybody said that they wait. Most of these nobody ever asks for.
    unclaimed: HashMap<i32, Exit>,
}

/// Between a process's end and the call that waits for it lie milliseconds, not so many other processes' ends.
const MAX_UNCLAIMED: usize = 4096;

impl Reaper {
    /// Starts reaping. Nobody else in this process may wait for children.
    pub fn start() -> std::io::Result<std::sync::Arc<Self>> {
        let reaper = std::sync::Arc::new(Self::default());
        let mut children = signal(SignalKind::child())?;
        let shared = reaper.clone();
        tokio::spawn(async move {
            loop {
                shared.reap();
                if children.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(reaper)
    }

    /// The end of a process; whoever asks second waits for ever, so nobody does.
    pub fn wait(&self, pid: i32) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        match table.unclaimed.remove(&pid) {
            Some(exit) => drop(sender.send(exit)),
            None => drop(table.waiting.insert(pid, sender)),
        }
        receiver
    }

    fn reap(&self) {
        loop {
            let (pid, code, signal) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code, 0),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32, signal as u32),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            let exit = Exit { code, signal, at: SystemTime::now() };
            let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
            match table.waiting.remove(&pid.as_raw()) {
                Some(sender) => drop(sender.send(exit)),
                None => {
                    if table.unclaimed.len() >= MAX_UNCLAIMED {
                        table.unclaimed.clear();
                    }
                    table.unclaimed.insert(pid.as_raw(), exit);
                }
            }
        }
    }
}
