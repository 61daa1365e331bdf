//! The threads that serve one shared path.

use std::{io, sync::Arc};

use hypernetes_guest_protocol::v1;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::{confine, server::Server, tree::Tree};

/// A file system that hangs holds up this many threads, and the guest that wanted it.
const THREADS: usize = 2;
const STACK_BYTES: usize = 256 << 10;
/// Requests that wait for a thread; more wait in the guest.
const WAITING: usize = 2;

struct Job {
    request: v1::HostPathRequest,
    answer: mpsc::Sender<v1::HostPathReply>,
}

/// A path that is being shared; dropped, its threads end.
#[derive(Debug)]
pub struct Share {
    directory: bool,
    jobs: mpsc::Sender<Job>,
}

impl Share {
    /// # Errors
    /// When there is no thread to be had, or it cannot be confined.
    pub fn start(tree: Tree) -> io::Result<Self> {
        let directory = tree.is_directory();
        let server = Arc::new(Server::new(tree)?);
        let (jobs, waiting) = mpsc::channel::<Job>(WAITING);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..THREADS {
            let (server, waiting) = (server.clone(), waiting.clone());
            let (ready, is_ready) = std::sync::mpsc::channel();
            std::thread::Builder::new().name("hostfs".into()).stack_size(STACK_BYTES).spawn(move || {
                let confined = confine::this_thread();
                let failed = confined.is_err();
                if ready.send(confined).is_err() || failed {
                    return;
                }
                loop {
                    let next = waiting.lock().blocking_recv();
                    let Some(job) = next else { return };
                    if let Some(reply) = server.answer(&job.request) {
                        // Nobody waits for it any more: it will be asked again.
                        let _ = job.answer.blocking_send(reply);
                    }
                }
            })?;
            is_ready.recv().map_err(io::Error::other)??;
        }
        Ok(Self { directory, jobs })
    }

    pub fn is_directory(&self) -> bool {
        self.directory
    }

    /// Hands a request to the threads; waits while they are busy.
    pub async fn submit(&self, request: v1::HostPathRequest, answer: &mpsc::Sender<v1::HostPathReply>) {
        // The threads live as long as this.
        let _ = self.jobs.send(Job { request, answer: answer.clone() }).await;
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
