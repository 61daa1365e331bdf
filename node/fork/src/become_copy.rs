//! What a copy does before its threads go on.

use std::{
    convert::Infallible,
    ffi::{c_int, c_void},
    ptr,
};

use super::{
    descriptors::{Descriptors, move_to},
    request::{Place, Request},
    system::{self, Decimal, Errno, Result, syscall},
    threads::{self, Parked},
};

/// Of the first thread, which is this one: what a process is called.
const NAME: &std::ffi::CStr = c"hypernetes-vm";

/// The step that failed.
type Step = (&'static str, Errno);

fn step<T>(name: &'static str, result: Result<T>) -> std::result::Result<T, Step> {
    result.map_err(|error| (name, error))
}

/// Makes this process a VM's. Ends it if that cannot be.
///
/// # Safety
/// To be called in a new copy, by its only thread.
pub unsafe fn become_copy(
    request: &Request<'_>,
    received: &[c_int],
    own: &[c_int],
    descriptors: &Descriptors,
    parked: Parked,
) -> ! {
    // SAFETY: the caller's promise.
    let Err(failed) = unsafe { attempt(request, received, own, descriptors, parked) };
    give_up(failed)
}

fn give_up((name, error): Step) -> ! {
    for text in [b"the copy failed at ", name.as_bytes(), b": error "] {
        let _ = system::write(libc::STDERR_FILENO, text);
    }
    let _ = system::write(libc::STDERR_FILENO, Decimal::new(b"", error.0.unsigned_abs()).as_bytes());
    let _ = system::write(libc::STDERR_FILENO, b"\n");
    system::exit(1)
}

/// # Safety
/// As [`become_copy`].
unsafe fn attempt(
    request: &Request<'_>,
    received: &[c_int],
    own: &[c_int],
    descriptors: &Descriptors,
    parked: Parked,
) -> std::result::Result<Infallible, Step> {
    let places = request.places.as_slice();
    for (place, descriptor) in places.iter().zip(received) {
        match place {
            Place::Number(number) => step("its descriptors", move_to(*number, *descriptor))?,
            Place::Join => {
                // 0: the writer.
                step("joining its control groups", system::write(*descriptor, b"0"))?;
                system::close(*descriptor);
            }
            // It is in there since it was made.
            Place::Group => system::close(*descriptor),
        }
    }
    own.iter().copied().for_each(system::close);
    let brought = |number| own.contains(&number) || places.contains(&Place::Number(number));
    step("its own descriptors", descriptors.renew(brought))?;
    step("its namespaces", leave_namespaces())?;
    // Of the original's process group it would get SIGHUP when the original ends while it is stopped (setpgid(2)).
    // SAFETY: no arguments.
    step("its session", unsafe { syscall!(libc::SYS_setsid) })?;
    // SAFETY: a name that ends with a zero.
    let _ = unsafe { syscall!(libc::SYS_prctl, libc::PR_SET_NAME, NAME.as_ptr()) };
    // Threads can be given ids by the privileged only; user and filter are each thread's own.
    // SAFETY: the caller's promise; the request is on the stack of this thread, which never returns.
    step("its threads", unsafe { parked.make_here(lock_in_thread, ptr::from_ref(request).cast()) })?;
    lock_in(request)?;
    threads::let_go_on();
    // The first thread of a process must not end before it.
    system::pause()
}

/// Takes from the calling thread what an original may do.
fn lock_in(request: &Request<'_>) -> std::result::Result<(), Step> {
    step("its user", become_user(request.uid, request.gid))?;
    step("its filter", filter(request.filter))
}

/// # Safety
/// To be given a request.
unsafe extern "C" fn lock_in_thread(request: *const c_void) {
    // SAFETY: the caller's promise.
    if let Err(failed) = lock_in(unsafe { &*request.cast::<Request<'_>>() }) {
        give_up(failed);
    }
}

/// The process's namespace is its own since it was made. The root is empty in the original already.
fn leave_namespaces() -> Result<()> {
    let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    // SAFETY: numbers only; the process has one thread.
    unsafe { syscall!(libc::SYS_unshare, namespaces) }.map(drop)
}

fn become_user(uid: u32, gid: u32) -> Result<()> {
    // SAFETY: no list, and numbers. The calls concern this thread, which is the only one.
    unsafe {
        syscall!(libc::SYS_setgroups, 0, ptr::null::<u32>())?;
        syscall!(libc::SYS_setresgid, gid, gid, gid)?;
        // With it go all capabilities.
        syscall!(libc::SYS_setresuid, uid, uid, uid)?;
        syscall!(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)?;
    }
    Ok(())
}

/// Threads that this one makes later have it, too.
fn filter(program: &[u8]) -> Result<()> {
    if program.is_empty() {
        return Ok(());
    }
    let instructions = u16::try_from(program.len() / size_of::<libc::sock_filter>()).map_err(|_| Errno(libc::E2BIG))?;
    let program = libc::sock_fprog { len: instructions, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel reads as many instructions as there are, and checks each.
    unsafe { syscall!(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) }.map(drop)
}
