//! Forks a process while it runs, with all its threads: fork(2) copies the one that calls it only.
//!
//! ```text
//! who has the template      the template (one thread serves)           the copy
//!        │──Request, fds───▶│ parks all other threads
//!        │                  │ clone3 ──────────────────────────────────▶│ its own descriptors, jail, user, filter
//!        │◀──────pid────────│ lets its threads go on                     │ makes a thread for each parked one,
//!        │                                                              │ which goes on where that one was
//! ```
//!
//! A VMM that emulates a processor has translated most of what its guest will run once it is booted. A copy of its *memory*
//! (a snapshot) starts without all that; a copy of the *process* has it, and shares it, page by page, until one of them writes
//! (docs/decisions/0022). The process is stock QEMU: this code is loaded in front of its libraries.
//!
//! What is asked of the process: nothing that the kernel keeps for it may matter beyond what is made anew here. That is the
//! case of a QEMU that is stopped (QMP `stop`): threads that wait, in futexes and polls; event counters, made anew; connections,
//! which are lost to the copy; listening sockets, a tap and a log, which the request brings. Timers of the kernel, io_uring,
//! and children would be lost.
//!
//! Nothing here may allocate, or take any lock of the C library, once threads are parked: one of them may hold it.
// Threads, their stacks and registers are the subject; each block says why it holds.
#![allow(unsafe_code)]

mod become_copy;
mod clone;
mod descriptors;
mod request;
mod server;
mod system;
mod threads;

pub use self::{
    clone::CloneArguments,
    request::{DecodeError, MAX_BYTES, MAX_DESCRIPTORS, Place, Places, Request},
    server::{ServeError, serve},
};

/// Environment variable that says by which descriptor the requests come.
pub const SERVER_VARIABLE: &str = "HYPERNETES_FORK_SERVER";
