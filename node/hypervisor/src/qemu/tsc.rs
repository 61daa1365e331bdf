//! The frequency of the time stamp counter.
//!
//! A guest under emulation cannot calibrate it: the microvm machine has no timer to compare with that is steady then, and
//! a boot that tries hangs at random. So it is told.

use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_millis(50);
const ROUNDS: usize = 3;

/// Kilohertz; the median of three measurements against the monotonic clock.
pub fn measure_khz() -> u64 {
    let mut rounds: Vec<u64> = (0..ROUNDS).map(|_| measure_once()).collect();
    rounds.sort_unstable();
    rounds[ROUNDS / 2]
}

fn measure_once() -> u64 {
    let (time, ticks) = (Instant::now(), read());
    std::thread::sleep(WINDOW);
    let (elapsed, ticks) = (time.elapsed(), read().wrapping_sub(ticks));
    u64::try_from(u128::from(ticks) * 1_000_000 / elapsed.as_nanos().max(1)).unwrap_or(0)
}

fn read() -> u64 {
    #[allow(unsafe_code)]
    // SAFETY: every x86-64 processor has the instruction, and it only reads a counter.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
}
