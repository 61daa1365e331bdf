//! Parking all other threads of this process, and making them anew in a copy of it.
//!
//! A signal brings each thread into [`on_signal`], with everything that it was at on its own stack. There it waits. In this
//! process it just returns. In a copy, whose memory has these stacks but which has no such threads, a new thread is given the
//! old one's stack, thread pointer and id's address, and returns from the same function.

use std::{
    arch::naked_asm,
    cell::UnsafeCell,
    ffi::{c_int, c_void},
    ptr,
    sync::atomic::{AtomicI32, AtomicU32, Ordering},
};

use super::{
    clone::{CloneArguments, PR_GET_TID_ADDRESS},
    system::{self, Errno, Result, syscall},
};

/// QEMU has a handful, and one more for each request to a disk that is under way.
const MAX_THREADS: usize = 64;
/// A signal that QEMU's threads do not block: they leave out those that a fault raises.
const SIGNAL: c_int = libc::SIGFPE;
/// How often it is looked whether all have come, and whether there are others by now.
const LOOKS: u32 = 200;
const LOOK_NANOS: i64 = 10_000_000;
/// Of a new thread, until it has the old one's.
const STACK_BYTES: usize = 8192;
/// Length of the C library's list of robust mutexes' head: what set_robust_list(2) wants to hear.
const ROBUST_HEAD_BYTES: usize = 24;

/// One parked thread.
#[repr(C)]
struct Slot {
    /// 0: free. Written before the signal is sent.
    id: AtomicI32,
    /// The generation that it is to park in.
    called: AtomicU32,
    /// The generation that it is parked in.
    parked: AtomicU32,
    state: UnsafeCell<State>,
    stack: UnsafeCell<[u128; STACK_BYTES / 16]>,
}

/// What a new thread needs to be the old one.
#[repr(C)]
#[derive(Clone, Copy)]
struct State {
    stack_pointer: usize,
    /// Base of the `fs` segment: the C library's thread descriptor.
    thread_pointer: usize,
    id_address: usize,
    robust_list: usize,
    first: Option<(First, *const c_void)>,
}

// SAFETY: a slot's state is written by the thread that it is of, before `parked` says so, and read after; its stack is used by
// one thread, in a copy.
unsafe impl Sync for Slot {}

impl Slot {
    const fn free() -> Self {
        Self {
            id: AtomicI32::new(0),
            called: AtomicU32::new(0),
            parked: AtomicU32::new(0),
            state: UnsafeCell::new(State {
                stack_pointer: 0,
                thread_pointer: 0,
                id_address: 0,
                robust_list: 0,
                first: None,
            }),
            stack: UnsafeCell::new([0; STACK_BYTES / 16]),
        }
    }
}

static SLOTS: [Slot; MAX_THREADS] = [const { Slot::free() }; MAX_THREADS];
/// The one that threads park in now; one that is over lets them go on.
static GENERATION: AtomicU32 = AtomicU32::new(1);
/// In a copy: [`OPEN`] when its threads may go on.
static GATE: AtomicU32 = AtomicU32::new(0);
const OPEN: u32 = 1;
/// Changes with each thread that parks.
static ARRIVALS: AtomicU32 = AtomicU32::new(0);

/// Has the signal served from now on.
pub fn prepare() -> Result<()> {
    // SAFETY: an action of zeros is one without flags; the handler has the signature that SA_SIGINFO asks for.
    let installed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_SIGINFO;
        libc::sigfillset(&raw mut action.sa_mask);
        libc::sigaction(SIGNAL, &raw const action, ptr::null_mut())
    };
    if installed == 0 { Ok(()) } else { Err(Errno(libc::EINVAL)) }
}

extern "C" fn on_signal(_signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel hands over a siginfo that lives as long as this call.
    let code = unsafe { (*info).si_code };
    if code != libc::SI_TKILL {
        // A fault of the program's. It happens again when this returns, and ends it.
        // SAFETY: the default action is one for every signal.
        unsafe { libc::signal(SIGNAL, libc::SIG_DFL) };
        return;
    }
    let id = system::thread_id();
    // Without one it is not wanted any more.
    if let Some(slot) = SLOTS.iter().find(|slot| slot.id.load(Ordering::Acquire) == id) {
        park(slot);
    }
}

fn park(slot: &Slot) {
    let (mut thread_pointer, mut id_address, mut robust_list, mut length) = (0usize, 0usize, 0usize, 0usize);
    // SAFETY: the descriptor that `fs` points to begins with a pointer to itself (System V ABI, thread-local storage); the
    // kernel writes one word each to variables that live longer.
    unsafe {
        std::arch::asm!("mov {}, fs:0", out(reg) thread_pointer, options(nostack, readonly, preserves_flags));
        let _ = syscall!(libc::SYS_prctl, PR_GET_TID_ADDRESS, &raw mut id_address);
        let _ = syscall!(libc::SYS_get_robust_list, 0, &raw mut robust_list, &raw mut length);
        let state = slot.state.get();
        *state = State { stack_pointer: 0, thread_pointer, id_address, robust_list, first: None };
        // SAFETY: what waits returns in this thread when the generation is over, or never, and the new thread instead.
        save_and_wait(&raw mut (*state).stack_pointer, wait, ptr::from_ref(slot).cast());
    }
}

/// Says that this thread is parked, and waits until it may go on.
extern "C" fn wait(slot: *const c_void) {
    // SAFETY: it is what `park` was given: one of the slots.
    let slot = unsafe { &*slot.cast::<Slot>() };
    let generation = slot.called.load(Ordering::Acquire);
    slot.parked.store(generation, Ordering::Release);
    ARRIVALS.fetch_add(1, Ordering::AcqRel);
    wake_all(&ARRIVALS);
    while GENERATION.load(Ordering::Acquire) == generation {
        sleep_while(&GENERATION, generation, None);
    }
}

/// Writes the stack pointer to the first, below the registers that a function keeps (System V ABI), and calls the second with
/// the third.
///
/// # Safety
/// The first is valid for a write. Somebody may [`go_on`] with what was written as long as the stack is what it was then.
#[unsafe(naked)]
unsafe extern "C" fn save_and_wait(to: *mut usize, wait: extern "C" fn(*const c_void), argument: *const c_void) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rdi, rdx",
        // A call wants the stack at a multiple of 16.
        "sub rsp, 8",
        "call rsi",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// Returns from the [`save_and_wait`] that wrote the stack pointer.
///
/// # Safety
/// That call has not returned in this process, and does not otherwise.
#[unsafe(naked)]
unsafe extern "C" fn go_on(stack_pointer: usize) -> ! {
    naked_asm!("mov rsp, rdi", "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx", "ret",)
}

/// All other threads, parked; they go on when it is dropped.
pub struct Parked {
    count: usize,
}

impl Drop for Parked {
    fn drop(&mut self) {
        GENERATION.fetch_add(1, Ordering::AcqRel);
        wake_all(&GENERATION);
        SLOTS.iter().for_each(|slot| slot.id.store(0, Ordering::Release));
    }
}

impl Parked {
    /// Parks all threads but the calling one. `process` is a descriptor of `/proc/self`.
    ///
    /// # Errors
    /// `EAGAIN`: threads come and go, or do not take signals; `E2BIG`: there are too many. All go on then.
    pub fn all(process: c_int) -> Result<Self> {
        let generation = GENERATION.load(Ordering::Acquire);
        let mut parked = Self { count: 0 };
        for _ in 0..LOOKS {
            let arrivals = ARRIVALS.load(Ordering::Acquire);
            parked.call_others(process, generation)?;
            // Threads make threads: all that there are have to be parked when it is looked which there are.
            let there = SLOTS[..parked.count].iter().filter(|slot| slot.id.load(Ordering::Acquire) != 0);
            if there.clone().all(|slot| slot.parked.load(Ordering::Acquire) == generation) {
                return Ok(parked);
            }
            sleep_while(&ARRIVALS, arrivals, Some(LOOK_NANOS));
        }
        Err(Errno(libc::EAGAIN))
    }

    /// Sends the signal to those that have none yet, and forgets those that are no more.
    fn call_others(&mut self, process: c_int, generation: u32) -> Result<()> {
        let (own, group) = (system::thread_id(), system::process_id());
        let mut there = [0i32; MAX_THREADS];
        let mut count = 0;
        list(process, |id| {
            if id != own && count < MAX_THREADS {
                there[count] = id;
            }
            count += usize::from(id != own);
        })?;
        let there = there.get(..count).ok_or(Errno(libc::E2BIG))?;
        for slot in &SLOTS[..self.count] {
            if !there.contains(&slot.id.load(Ordering::Acquire)) {
                slot.id.store(0, Ordering::Release);
            }
        }
        for id in there {
            if SLOTS[..self.count].iter().any(|slot| slot.id.load(Ordering::Acquire) == *id) {
                continue;
            }
            let slot = SLOTS.get(self.count).ok_or(Errno(libc::E2BIG))?;
            slot.called.store(generation, Ordering::Release);
            slot.parked.store(0, Ordering::Release);
            slot.id.store(*id, Ordering::Release);
            self.count += 1;
            // One that has ended meanwhile is not there the next time.
            // SAFETY: the handler is installed.
            let _ = unsafe { syscall!(libc::SYS_tgkill, group, *id, SIGNAL) };
        }
        Ok(())
    }

    /// In a copy: makes a thread for each that is parked in the original. Each calls the function first, and waits until
    /// [`let_go_on`].
    ///
    /// # Safety
    /// To be called once, in a process that has the memory of the one whose threads are parked, and no thread but this. The
    /// argument has to live as long as the process.
    pub unsafe fn make_here(self, first: First, argument: *const c_void) -> Result<()> {
        let result =
            SLOTS[..self.count].iter().filter(|slot| slot.id.load(Ordering::Acquire) != 0).try_for_each(|slot| {
                // SAFETY: the thread that the state is of is not in this process; the caller's promise.
                unsafe {
                    (*slot.state.get()).first = Some((first, argument));
                    make(slot)
                }
            });
        // The generation is over for who has been left behind; here nobody waits for it.
        std::mem::forget(self);
        result
    }
}

/// What a new thread does before it is the old one.
pub type First = unsafe extern "C" fn(*const c_void);

/// Has the new threads go on.
pub fn let_go_on() {
    GATE.store(OPEN, Ordering::Release);
    wake_all(&GATE);
}

/// Makes a thread that is to go on where the slot's was parked. It has that one's id, by which the C library knows who holds a
/// lock.
///
/// # Safety
/// As [`Parked::make_here`].
unsafe fn make(slot: &Slot) -> Result<()> {
    const FLAGS: c_int = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_SETTLS
        | libc::CLONE_CHILD_CLEARTID;
    let id = slot.id.load(Ordering::Acquire);
    // SAFETY: the slot's state was complete when its thread was parked.
    let state = unsafe { *slot.state.get() };
    let arguments = CloneArguments {
        child_tid: state.id_address as u64,
        stack: slot.stack.get() as u64,
        stack_size: STACK_BYTES as u64,
        tls: state.thread_pointer as u64,
        set_tid: &raw const id as u64,
        set_tid_size: 1,
        ..CloneArguments::new(FLAGS, None)
    };
    let result: isize;
    // SAFETY: the new thread begins on a stack that nobody else has, with a copy of these registers, calls a function that never
    // returns, and touches nothing of this frame.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") &raw const arguments,
            in("rsi") size_of::<CloneArguments>(),
            in("r12") slot.state.get(),
            in("r13") begin as extern "C" fn(*const State) -> !,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    if result < 0 { Err(Errno(-(result as i32))) } else { Ok(()) }
}

extern "C" fn begin(state: *const State) -> ! {
    // SAFETY: it is a slot's, which nobody changes any more; its thread was parked and is not in this process.
    unsafe {
        let state = *state;
        if let Some((first, argument)) = state.first {
            first(argument);
        }
        let _ = syscall!(libc::SYS_set_robust_list, state.robust_list, ROBUST_HEAD_BYTES);
        while GATE.load(Ordering::Acquire) != OPEN {
            sleep_while(&GATE, OPEN - 1, None);
        }
        go_on(state.stack_pointer)
    }
}

/// Calls with each thread's id.
fn list(process: c_int, mut found: impl FnMut(i32)) -> Result<()> {
    let directory = system::open_at(process, c"task")?;
    let result = system::entries(directory, |name| {
        let digits = std::str::from_utf8(name).ok();
        if let Some(id) = digits.and_then(|digits| digits.parse().ok()) {
            found(id);
        }
    });
    system::close(directory);
    result
}

fn wake_all(word: &AtomicU32) {
    // SAFETY: the word is static; nothing is written.
    let _ =
        unsafe { syscall!(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, c_int::MAX) };
}

/// Sleeps while the word has that value, no longer than so many nanoseconds, or until it feels like it.
fn sleep_while(word: &AtomicU32, value: u32, nanos: Option<i64>) {
    let limit = nanos.map(|tv_nsec| libc::timespec { tv_sec: 0, tv_nsec });
    let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the word is static, the limit lives until the call returns.
    let _ =
        unsafe { syscall!(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, value, limit) };
}
