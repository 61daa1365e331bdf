//! Threads for what can wait, in processes that also have what cannot; and what a thread has done.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Of nice(2), for what can wait as long as it takes. Not `SCHED_IDLE`: on a host whose VMs keep every processor busy that one would
/// hardly ever run, and others would wait for what it has locked.
pub const LEAST: i32 = 19;
/// For what somebody waits for: where all others are busy, it has a third as much as one of them.
pub const LESS: i32 = 5;
/// How long this thread may run on when another wants to, in nanoseconds: the least that Linux takes. By its own default (from
/// 6.6 on) that is three milliseconds, of a thread of whatever niceness.
const SLICE: u64 = 100_000;

/// Has this thread run when no other wants to, and otherwise as seldom as [`LEAST`] or [`LESS`] says. Of this thread alone, and for good.
pub fn give_way(niceness: i32) {
    // Linux before 6.12 takes no slice, and before 6.6 it needs none: its wakeups ask for niceness.
    if let Err(error) = set(niceness, SLICE) {
        tracing::debug!(%error, "working in the background at everyone's priority");
    }
}

/// sched_setattr(2), which libc has no function for.
fn set(niceness: i32, slice: u64) -> std::io::Result<()> {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        sched_nice: niceness,
        sched_priority: 0,
        sched_runtime: slice,
        sched_deadline: 0,
        sched_period: 0,
    };
    #[allow(unsafe_code)]
    // SAFETY: 0 is this thread, and the kernel reads one structure of the size that is in it, which lives until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Processor time that this thread has had. Time for which the machine did something else is not in it.
#[must_use]
pub fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_gives_way_and_no_other_does() {
        let niceness = || rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap();
        let before = niceness();
        let given = std::thread::spawn(move || {
            give_way(LEAST);
            niceness()
        });
        assert_eq!(given.join().unwrap(), LEAST);
        assert_eq!(niceness(), before);
        assert_eq!(set(LEAST, SLICE).err().map(|error| error.to_string()), None);
    }
}
