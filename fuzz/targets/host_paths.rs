//! A guest's requests about a path of the host, each behind its length.
#![no_main]

use std::sync::LazyLock;

use hypernetes_guest_protocol::v1::HostPathRequest;
use nix::sys::{
    resource::{Resource, setrlimit},
    signal::{SigHandler, Signal, signal},
};
use prost::Message;

/// Most requests of one input.
const REQUESTS: usize = 32;

/// In memory where there is some, and with an end to what is written.
static DIRECTORY: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    // SAFETY: to ignore a signal runs no code.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, 64 << 20, 64 << 20).unwrap();
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    let requests = std::iter::from_fn(|| HostPathRequest::decode_length_delimited(&mut rest).ok()).take(REQUESTS);
    hypernetes_hostfs::fuzzing::requests(DIRECTORY.path(), requests).unwrap();
});
