//! A VMM's monitor, as hyperd reads it.
#![no_main]

use std::sync::LazyLock;

use tokio::runtime::Runtime;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    RUNTIME.block_on(hypernetes_hypervisor::qemu::fuzzing::monitor(bytes));
});
