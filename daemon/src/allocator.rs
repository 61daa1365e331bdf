//! Where memory comes from (docs/decisions/0008).

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of version 2, which the bindings have no name for.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// What a burst of work took goes back to the system when it is free. Otherwise that waits for a later allocation of the same
/// thread, and a thread that waits for the next burst makes none.
pub(crate) fn give_back_at_once() {
    give_back_after(0);
}

fn give_back_after(milliseconds: i64) {
    #[allow(unsafe_code)]
    // SAFETY: two numbers, the first of which is an option's.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, milliseconds);
    }
}

/// Of work that takes, frees and takes again, and is awaited by the thread that does it: what it frees goes back behind it, and not
/// meanwhile, when it would be cleared before it comes again.
pub async fn give_back_behind<T>(work: impl Future<Output = T>) -> T {
    give_back_after(10);
    let result = work.await;
    give_back_at_once();
    #[allow(unsafe_code)]
    // SAFETY: it is this thread's own heap.
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of this process's own memory, in bytes.
    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
    }

    #[test]
    fn a_burst_leaves_nothing() {
        give_back_at_once();
        let before = resident();
        let blocks: Vec<Vec<u8>> = (0..2000).map(|_| vec![1; 16 << 10]).collect();
        assert!(resident() > before + (30 << 20));
        drop(blocks);
        assert!(resident() < before + (3 << 20), "{} MiB are kept", (resident() - before) >> 20);
    }
}
