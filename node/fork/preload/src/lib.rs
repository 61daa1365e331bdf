//! Loaded into QEMU in front of its libraries (`LD_PRELOAD`), so that it can be forked while it runs; see [`hypernetes_fork`].

use hypernetes_fork::serve;

/// Number of the descriptor that requests come from; without it nothing is done.
const SERVER_VARIABLE: &str = hypernetes_fork::SERVER_VARIABLE;

extern "C" fn begin() {
    let number = std::env::var(SERVER_VARIABLE).ok().and_then(|number| number.parse().ok());
    if let Some(server) = number
        && let Err(error) = serve(server)
    {
        eprintln!("this process cannot be forked: {error}");
        std::process::exit(1);
    }
}

#[allow(unsafe_code)]
// SAFETY: the dynamic linker calls what it finds in this section once, before `main`, with one thread.
#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

/// madvise(2), without two kinds of advice. QEMU wants the guest's memory left out of forks: it thinks of helpers. And it wants
/// large pages, of which each copy would have its own as soon as it writes one byte of them.
///
/// # Safety
/// As the system call.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn madvise(address: *mut libc::c_void, length: libc::size_t, advice: libc::c_int) -> libc::c_int {
    if matches!(advice, libc::MADV_DONTFORK | libc::MADV_HUGEPAGE) {
        return 0;
    }
    // SAFETY: the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_madvise, address, length, advice) };
    if result == 0 { 0 } else { -1 }
}
