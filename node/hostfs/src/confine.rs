//! What the threads that work for a guest may do, whatever they are made to try.

use std::io;

use nix::sched::{CloneFlags, unshare};
use rustix::{
    fs::Mode,
    thread::{CapabilitySet, capabilities, set_capabilities},
};

/// What it takes to work as root on files of any owner. Not among them: making devices, mounting, looking into
/// processes, file capabilities, keeping setuid bits, the file systems' reserved blocks and going over quotas.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER);

/// Gives up, for the calling thread alone, every other capability, and makes its file mode creation mask its own and empty:
/// the guest has applied its processes' masks.
pub(crate) fn this_thread() -> io::Result<()> {
    unshare(CloneFlags::CLONE_FS)?;
    rustix::process::umask(Mode::empty());
    let mut sets = capabilities(None)?;
    sets.permitted &= KEPT;
    sets.effective = sets.permitted;
    sets.inheritable = CapabilitySet::empty();
    Ok(set_capabilities(None, sets)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gives_up_for_itself_only() {
        let before = capabilities(None).unwrap();
        let inside = std::thread::spawn(|| {
            this_thread().unwrap();
            assert_eq!(rustix::process::umask(Mode::empty()), Mode::empty());
            capabilities(None).unwrap()
        });
        let inside = inside.join().unwrap();
        assert!(KEPT.contains(inside.permitted) && KEPT.contains(inside.effective));
        assert_eq!(capabilities(None).unwrap(), before);
    }
}
