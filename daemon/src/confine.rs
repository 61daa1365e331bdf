//! What a role that has to be root gives up all the same: the host's files that it does not touch, capabilities that it does
//! not keep, new privileges, and the system calls that no role ever makes (docs/decisions/0030).
//!
//! Before any thread is started, so that no thread keeps what the others gave up. Programs that the role executes have
//! what it has left, and no more.

pub mod mounts;
mod refused;

use std::{
    collections::BTreeMap,
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    fs::Mode,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    },
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use self::mounts::Touched;
pub use self::refused::{REFUSED, Refused};

/// One capability (capabilities(7)), and what it is needed for.
pub type Kept = (CapabilitySet, &'static str);

/// Numbers of capabilities are below this (linux/capability.h: two words of 32 bits).
const CAPABILITIES: u32 = 64;
/// `__X32_SYSCALL_BIT`: the same calls by other numbers, where a kernel has them.
const X32: i64 = 0x4000_0000;

/// Mounts of its own would have been of no use to others, so that it has none.
static HAS_HOSTS_MOUNTS: AtomicBool = AtomicBool::new(false);

/// Why a role cannot give up what it has to.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    #[error(
        "this process was started without {name}, which {role} needs ({reason}): start it as the host's root, with that \
         capability in its bounding set (a container's manager or a unit's CapabilityBoundingSet= may have taken it)"
    )]
    Missing { role: &'static str, name: String, reason: &'static str },
    #[error("giving up what is not touched of the host's files: {0}")]
    Mounts(#[source] io::Error),
    #[error("giving up capabilities: {0}")]
    Capabilities(#[source] io::Error),
    #[error(
        "the system calls that {role} never makes cannot be forbidden ({source}): the host's kernel has to have \
         CONFIG_SECCOMP_FILTER"
    )]
    Filter { role: &'static str, source: seccompiler::Error },
    #[error("the filter of system calls cannot be made: {0}")]
    Program(#[from] seccompiler::BackendError),
}

/// Keeps these capabilities of root's and these files, and gives up the rest, for the calling thread and all that it starts
/// from now on. Also sets umask 077, for the process. Who is not root has nothing to keep: the filter and the umask are set.
///
/// # Errors
/// When the host does not give a capability that is to be kept, or its kernel cannot do this.
pub fn apply(role: &'static str, kept: &[Kept], touched: &Touched) -> Result<(), ConfineError> {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    if rustix::process::geteuid().is_root() {
        let own = mounts::own(touched).map_err(ConfineError::Mounts)?;
        HAS_HOSTS_MOUNTS.store(!own, Ordering::Relaxed);
        let had = capabilities(None).map_err(|error| ConfineError::Capabilities(error.into()))?.permitted;
        if let Some((capability, reason)) = kept.iter().find(|(capability, _)| !had.contains(*capability)) {
            return Err(ConfineError::Missing { role, name: name(*capability), reason });
        }
        keep_only(set(kept)).map_err(|error| ConfineError::Capabilities(error.into()))?;
    }
    set_no_new_privs(true).map_err(|error| ConfineError::Capabilities(error.into()))?;
    seccompiler::apply_filter(&program()?).map_err(|source| ConfineError::Filter { role, source })
}

/// Says in the log what could not be given up, once it can be written.
pub(crate) fn tell() {
    if HAS_HOSTS_MOUNTS.load(Ordering::Relaxed) {
        tracing::warn!(
            "this process sees all of the host's files, since the host does not share its mounts: `hypernetes up` does what is \
             needed for less, and so does a unit with ReadOnlyPaths= and ProtectHome=, or `mount --make-rshared /` before it starts"
        );
    }
}

/// All of a role's capabilities.
pub fn set(kept: &[Kept]) -> CapabilitySet {
    kept.iter().fold(CapabilitySet::empty(), |set, (capability, _)| set.union(*capability))
}

fn name(capability: CapabilitySet) -> String {
    capability.iter_names().map(|(name, _)| format!("CAP_{name}")).collect::<Vec<_>>().join(", ")
}

fn keep_only(kept: CapabilitySet) -> rustix::io::Result<()> {
    // By number: the kernel may have some that this program has no name for.
    for capability in (0..CAPABILITIES).map(|number| CapabilitySet::from_bits_retain(1 << number)) {
        match capability_is_in_bounding_set(capability) {
            Ok(true) if !kept.contains(capability) => remove_capability_from_bounding_set(capability)?,
            Ok(_) => {}
            // The kernel's last was the one before.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    clear_ambient_capability_set()?;
    // Last: taking from the bounding set needs a capability.
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() })
}

/// Refuses with `EPERM`, as the kernel does without a capability.
fn program() -> Result<BpfProgram, seccompiler::BackendError> {
    let own = REFUSED.iter().flat_map(|refused| refused.calls).map(|call| i64::from(call.id()));
    let numbers = own.flat_map(|number| [number, number | X32]).chain(refused::X32_ONLY.map(|number| number | X32));
    let rules: BTreeMap<i64, Vec<seccompiler::SeccompRule>> = numbers.map(|number| (number, Vec::new())).collect();
    let refuse = SeccompAction::Errno(rustix::io::Errno::PERM.raw_os_error().unsigned_abs());
    let architecture: TargetArch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture)?.try_into()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, process::Command};

    use nix::{errno::Errno, sched::CloneFlags};

    use super::*;

    const SOME: &[Kept] = &[
        (CapabilitySet::SYS_ADMIN, "for a call that only the filter refuses then"),
        (CapabilitySet::CHOWN, "for something"),
    ];

    /// The host's mounts stay those of the test.
    fn nothing_shared() -> Touched {
        Touched { shares: vec!["/".into()], ..Touched::default() }
    }

    /// On a thread of its own: what it gives up, the other tests keep.
    fn confined<T: Send>(then: impl FnOnce(Result<(), ConfineError>) -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // The umask is the process's, until a thread has its own.
                nix::sched::unshare(CloneFlags::CLONE_FS).unwrap();
                then(apply("a test", SOME, &nothing_shared()))
            });
            thread.join().unwrap()
        })
    }

    fn field<'a>(status: &'a str, name: &str) -> &'a str {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("{name} in {status}")).trim()
    }

    #[test]
    fn what_is_left_is_what_is_kept_and_programs_have_no_more() {
        confined(|applied| {
            applied.unwrap();
            let own = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let child = Command::new("cat").arg("/proc/self/status").output().unwrap().stdout;
            let expected = format!("{:016x}", set(SOME).bits());
            for status in [own.as_str(), std::str::from_utf8(&child).unwrap()] {
                for sets in ["CapBnd", "CapPrm", "CapEff"] {
                    assert_eq!(field(status, sets), expected, "{sets}");
                }
                for empty in ["CapInh", "CapAmb"] {
                    assert_eq!(field(status, empty), format!("{:016x}", 0), "{empty}");
                }
                assert_eq!((field(status, "NoNewPrivs"), field(status, "Seccomp")), ("1", "2"));
                assert_eq!(field(status, "Umask"), "0077");
            }
        });
    }

    #[test]
    fn what_is_refused_is_refused_whatever_is_kept() {
        confined(|applied| {
            applied.unwrap();
            let host = nix::unistd::gethostname().unwrap();
            assert_eq!(nix::unistd::sethostname(host), Err(Errno::EPERM), "CAP_SYS_ADMIN is kept");
            assert_eq!(nix::sys::ptrace::traceme(), Err(Errno::EPERM), "which anybody may");
            apply("a test", SOME, &nothing_shared()).expect("there is nothing left to give up");
        });
        let host = nix::unistd::gethostname().unwrap();
        nix::unistd::sethostname(host).expect("the other threads have lost nothing");
    }

    #[test]
    fn what_the_host_does_not_give_is_named() {
        let error = confined(|applied| {
            applied.unwrap();
            apply("another", &[(CapabilitySet::NET_ADMIN, "to make taps")], &nothing_shared()).unwrap_err().to_string()
        });
        for part in ["CAP_NET_ADMIN", "another needs (to make taps)", "start it as the host's root"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn each_call_is_refused_once_and_for_a_reason() {
        let calls: Vec<i32> = REFUSED.iter().flat_map(|refused| refused.calls).map(|call| call.id()).collect();
        assert_eq!(calls.iter().collect::<BTreeSet<_>>().len(), calls.len());
        assert!(REFUSED.iter().all(|refused| !refused.calls.is_empty() && !refused.why.is_empty()));
        assert!(program().unwrap().len() < 4096, "the kernel takes no longer program");
    }
}
