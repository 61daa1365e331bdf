//! Where memory comes from (docs/decisions/0008).

use std::{
    cell::Cell,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use tokio::runtime::Handle;

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

/// How often it is looked how busy the process is.
const LOOK: Duration = Duration::from_secs(1);
/// The part of a processor from which on it is busy.
const BUSY: f64 = 0.1;
/// Milliseconds: what is freed while much is being done is taken again in less.
const WHILE_BUSY: i64 = 10;
/// How often the threads of a runtime are asked, after a busy time, to give back what is left: some may sleep through it.
const ROUNDS: u32 = 10;

static IS_BUSY: AtomicBool = AtomicBool::new(false);
/// How often it was no longer.
static EBBS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// After how many of them this thread has given back what it had freed.
    static GIVEN_BACK: Cell<u64> = const { Cell::new(0) };
}

/// While the process is busy memory that is free stays for a moment: it would be cleared only to be taken again, which is a fifth of
/// what writes cost a server. Afterwards the threads of these runtimes give back what is left. Never ends.
pub async fn follow_the_load(runtimes: Vec<Handle>) {
    let mut ticks = tokio::time::interval(LOOK);
    let (mut used, mut rounds) = (processor_time(), 0);
    loop {
        ticks.tick().await;
        let now = processor_time();
        if set_busy(now.saturating_sub(used) > LOOK.mul_f64(BUSY)) {
            rounds = ROUNDS;
        }
        used = now;
        if rounds > 0 {
            rounds -= 1;
            for runtime in &runtimes {
                for _ in 0..2 * runtime.metrics().num_workers() {
                    runtime.spawn(async { give_back_after_ebb() });
                }
            }
        }
    }
}

/// Whether a busy time has ended.
fn set_busy(is_busy: bool) -> bool {
    let was_busy = IS_BUSY.swap(is_busy, Ordering::Relaxed);
    if !was_busy && is_busy {
        give_back_after(WHILE_BUSY);
    }
    let ended = was_busy && !is_busy;
    if ended {
        give_back_at_once();
        EBBS.fetch_add(1, Ordering::Relaxed);
    }
    ended
}

/// Of all threads.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

/// What is left of a busy time, on this thread.
fn give_back_after_ebb() {
    let ebbs = EBBS.load(Ordering::Relaxed);
    if GIVEN_BACK.replace(ebbs) != ebbs {
        collect();
    }
}

/// Gives back what this thread has freed, and what has been freed as a whole. Where all goes back at once mimalloc takes it that nothing of
/// the latter waits.
fn collect() {
    give_back_after(WHILE_BUSY);
    #[allow(unsafe_code)]
    // SAFETY: it is this thread's own heap.
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
    if !IS_BUSY.load(Ordering::Relaxed) {
        give_back_at_once();
    }
}

/// Of work that takes, frees and takes again, and is awaited by the thread that does it: what it frees goes back behind it, and not
/// meanwhile, when it would be cleared before it comes again.
pub async fn give_back_behind<T>(work: impl Future<Output = T>) -> T {
    give_back_after(WHILE_BUSY);
    let result = work.await;
    collect();
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

    #[test]
    fn what_is_kept_while_much_is_done_goes_afterwards() {
        give_back_at_once();
        let before = resident();
        assert!(!set_busy(true));
        let blocks: Vec<Vec<u8>> = (0..2000).map(|_| vec![1; 16 << 10]).collect();
        drop(blocks);
        assert!(resident() > before + (20 << 20), "all has gone at once");
        give_back_after_ebb();
        assert!(resident() > before + (20 << 20), "all has gone while it is busy");
        assert!(set_busy(false) && !set_busy(false));
        give_back_after_ebb();
        assert!(resident() < before + (3 << 20), "{} MiB are kept", (resident() - before) >> 20);
    }
}
