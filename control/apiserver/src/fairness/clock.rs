//! The processor time that a piece of work takes: cheap where it is short, exact where it is long.
//!
//! To ask the kernel for a thread's processor time is a system call, and pieces of work are many and last microseconds. What
//! lasts that short was hardly interrupted, and the time that went by is taken for it. What lasts longer has perhaps stood still
//! meanwhile: then the kernel is asked.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use hypernetes_background::processor_time;

/// Less than a slice of the processor that others get when they have it.
const SHORT: Duration = Duration::from_micros(200);
/// Work that comes so soon after other work follows on it; what comes later may have something between that nobody measured.
const FOLLOWS: Duration = Duration::from_micros(50);
/// The kernel is asked that often in any case: there is something between all work.
const ASK_EVERY: Duration = Duration::from_millis(5);

thread_local! {
    /// This thread's processor time, as far as it is known.
    static KNOWN: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// When that was known.
    static MEASURED: Cell<Option<Instant>> = const { Cell::new(None) };
    /// When the kernel was asked for it.
    static ASKED: Cell<Option<Instant>> = const { Cell::new(None) };
}

fn ask(now: Instant) -> Duration {
    let time = processor_time();
    KNOWN.set(time);
    ASKED.set(Some(now));
    time
}

fn is_within(time: Duration, of: Option<Instant>, now: Instant) -> bool {
    of.is_some_and(|of| now - of < time)
}

/// Does something; and the processor time of this thread that it took, no more than went by. Work inside of other work is in both.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let known = if is_within(FOLLOWS, MEASURED.get(), began) { KNOWN.get() } else { ask(began) };
    let result = work();
    let ended = Instant::now();
    let passed = ended - began;
    let cost = if passed < SHORT && is_within(ASK_EVERY, ASKED.get(), ended) {
        KNOWN.set(known + passed);
        passed
    } else {
        ask(ended).saturating_sub(known).min(passed)
    };
    MEASURED.set(Some(ended));
    (result, cost)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn works(time: Duration) {
        let until = processor_time() + time;
        while processor_time() < until {}
    }

    #[test]
    fn work_costs_what_it_takes_and_standing_still_nothing() {
        let millis = Duration::from_millis;
        let ((), cost) = timed(|| std::thread::sleep(millis(20)));
        assert!(cost < millis(10), "{cost:?}");
        let ((), cost) = timed(|| works(millis(10)));
        assert!(cost >= millis(10), "{cost:?}");
        // What was done before in short pieces is not paid for by who stands still.
        let mut pieces = Duration::ZERO;
        while pieces < millis(10) {
            pieces += timed(|| works(Duration::from_micros(50))).1;
        }
        let ((), cost) = timed(|| std::thread::sleep(millis(50)));
        assert!(cost < millis(5), "{cost:?}");
        // Nor is what nobody measured.
        works(millis(10));
        let ((), cost) = timed(|| std::thread::sleep(millis(50)));
        assert!(cost < millis(5), "{cost:?}");
    }

    #[test]
    fn work_inside_of_work_is_in_both() {
        let millis = Duration::from_millis;
        let (inner, outer) = timed(|| timed(|| works(millis(5))).1);
        assert!(inner >= millis(5), "{inner:?}");
        assert!(outer >= inner, "{outer:?} and {inner:?}");
    }
}
