//! Signals that are read from a descriptor have to be blocked in *every* thread: the kernel hands a signal to
//! any thread that takes it. Masks are inherited, but threads that were there before (of libraries, mostly)
//! have none of it, and nobody can set the mask of another thread. What can be done is done here.
//!
//! A captured signal has a handler of ours. Run in some thread, it writes the signal down in a *journal* (a
//! file in memory, so that no number of signals is too much), rings a *bell* (eventfd), and blocks what is
//! captured in the mask that its thread returns to. So a signal that hits such a thread is not lost, and the
//! thread is never hit again. [`settle`] does it ahead of time: it sends each such thread a signal that only
//! says "block".
//!
//! One thread at a time may be in the *window*: it has the signals unblocked on purpose, because a child that
//! it starts inherits its mask. The handler leaves the mask of that thread alone.
//!
//! The handler uses nothing but atomics, `gettid` and `write`: it may run anywhere.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Info, LAST, Set, bit, libc_set, numbers};
use crate::error::{Error, Result};
use crate::sys::proc;

/// `si_code` of a signal that only says "block": negative, as from processes, and nobody else's.
const SETTLE: i32 = -0x4953;

/// How long [`settle`] waits for threads that do not run, because they are stopped by a debugger, say.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a thread may take to start. Some block everything for ever (those of io_uring).
const STARTS: Duration = Duration::from_millis(20);

/// What only the C library itself can block: its two internal signals.
const STARTING: Set = 0b11 << 31;

const SIGNALS: usize = LAST as usize + 1;

static CAPTURED: AtomicU64 = AtomicU64::new(0);
static WINDOW: AtomicI32 = AtomicI32::new(0);
static JOURNALS: [AtomicI32; SIGNALS] = [const { AtomicI32::new(-1) }; SIGNALS];
static BELLS: [AtomicI32; SIGNALS] = [const { AtomicI32::new(-1) }; SIGNALS];
static BEFORE: Mutex<[Option<libc::sigaction>; SIGNALS]> = Mutex::new([None; SIGNALS]);

extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: errno is the thread's own; the kernel hands over a whole siginfo_t and the ucontext_t that
    // is restored when this returns.
    unsafe {
        let errno = *libc::__errno_location();
        let info = info.cast::<Info>().read();
        if info.code != SETTLE {
            note(signal, &info);
        }
        if libc::gettid() != WINDOW.load(Ordering::SeqCst) {
            // The kernel's mask is the first word of libc's.
            let mask = (&raw mut (*context.cast::<libc::ucontext_t>()).uc_sigmask).cast::<Set>();
            mask.write(mask.read() | CAPTURED.load(Ordering::SeqCst));
        }
        *libc::__errno_location() = errno;
    }
}

/// Writes a signal down in the form in which signalfd(2) gives it.
fn note(signal: i32, info: &Info) {
    let Ok(at) = usize::try_from(signal) else { return };
    let (Some(journal), Some(bell)) = (JOURNALS.get(at), BELLS.get(at)) else { return };
    // SAFETY: plain numbers, for which zero is a value.
    let mut record: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
    record.ssi_signo = signal as u32;
    record.ssi_errno = info.errno;
    record.ssi_code = info.code;
    if info.code == libc::SI_TIMER {
        (record.ssi_tid, record.ssi_overrun) = (info.pid as u32, info.uid);
    } else {
        (record.ssi_pid, record.ssi_uid) = (info.pid as u32, info.uid);
    }
    record.ssi_status = info.value as i32;
    record.ssi_int = info.value as i32;
    record.ssi_ptr = info.value;
    let one = 1u64;
    // SAFETY: both buffers live; the descriptors are the receiver's, or -1, which fails. The journal is
    // opened to append, so records of several threads lie one after the other.
    unsafe {
        let length = size_of_val(&record);
        libc::write(journal.load(Ordering::SeqCst), (&raw const record).cast(), length);
        libc::write(bell.load(Ordering::SeqCst), (&raw const one).cast(), size_of_val(&one));
    }
}

fn action(signal: i32) -> Option<libc::sigaction> {
    let mut found = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: the call fills `found` or fails.
    unsafe {
        let code = libc::sigaction(signal, std::ptr::null(), found.as_mut_ptr());
        (code == 0).then(|| found.assume_init())
    }
}

fn is_ours(found: &libc::sigaction) -> bool {
    found.sa_sigaction == handler as *const () as usize
}

/// Installs the handler for `set`. `journal` is a file opened to append, `bell` an eventfd; they stay open
/// after [`release`], because a handler may be at work. Without `block` signals are only written down.
pub fn install(set: Set, journal: i32, bell: i32, block: bool) -> Result<()> {
    let mut before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
    // The whole mask: one handler at a time in a thread, so the journal keeps the kernel's order.
    let ours = libc::sigaction {
        sa_sigaction: handler as *const () as usize,
        sa_mask: libc_set(!0),
        sa_flags: libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK,
        sa_restorer: None,
    };
    for signal in numbers(set) {
        let at = signal as usize;
        JOURNALS[at].store(journal, Ordering::SeqCst);
        BELLS[at].store(bell, Ordering::SeqCst);
        // Another capture of ours may be there already, which this one takes over.
        before[at] = before[at].or_else(|| action(signal));
        // SAFETY: `ours` is whole, and the handler is fit to run anywhere.
        if unsafe { libc::sigaction(signal, &raw const ours, std::ptr::null_mut()) } != 0 {
            return Err(Error::last_os("sigaction", None));
        }
    }
    if block {
        CAPTURED.fetch_or(set, Ordering::SeqCst);
    }
    Ok(())
}

/// Puts back what was there before, where nobody has changed it since.
pub fn release(set: Set) {
    let mut before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
    CAPTURED.fetch_and(!set, Ordering::SeqCst);
    for signal in numbers(set) {
        let at = signal as usize;
        if let Some(old) = before[at].take()
            && action(signal).is_some_and(|found| is_ours(&found))
        {
            // SAFETY: `old` is what sigaction gave.
            unsafe { libc::sigaction(signal, &raw const old, std::ptr::null_mut()) };
        }
        JOURNALS[at].store(-1, Ordering::SeqCst);
        BELLS[at].store(-1, Ordering::SeqCst);
    }
}

/// What a thread of this process blocks; `None` when it is gone.
fn blocked(tid: i32) -> Option<Set> {
    let status = std::fs::read_to_string(format!("/proc/self/task/{tid}/status")).ok()?;
    let field = |name: &str| Some(status.lines().find_map(|line| line.strip_prefix(name))?.trim().to_owned());
    if field("State:")?.starts_with(['Z', 'X']) {
        return None;
    }
    Set::from_str_radix(&field("SigBlk:")?, 16).ok()
}

/// Other threads that take a signal of `set`, and one such signal; and whether any is just being started.
fn unsettled(set: Set) -> (Vec<(i32, i32)>, bool) {
    let own = proc::thread_id() as i32;
    let Ok(entries) = std::fs::read_dir("/proc/self/task") else { return (Vec::new(), false) };
    let tids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let (mut left, mut starting) = (Vec::new(), false);
    for tid in tids.filter(|&tid: &i32| tid != own) {
        let Some(blocked) = blocked(tid) else { continue };
        // The C library starts threads with everything blocked, its own two signals included, and then
        // gives them the mask that their creator had.
        starting |= blocked & STARTING == STARTING;
        left.extend(numbers(set & !blocked).next().map(|signal| (tid, signal)));
    }
    (left, starting)
}

/// Makes every other thread block the captured signals `set`; returns how many do not yet, after a second.
/// Those do at the first signal that hits them.
pub fn settle(set: Set) -> usize {
    let (soon, end) = (Instant::now() + STARTS, Instant::now() + PATIENCE);
    let pid = proc::id() as i32;
    loop {
        // Again and again: a thread that was not settled may have started another meanwhile.
        let (left, starting) = unsettled(set);
        let now = Instant::now();
        if (left.is_empty() && !(starting && now < soon)) || now >= end {
            return left.len();
        }
        for (tid, signal) in left {
            let info = Info::new(signal, SETTLE, 0);
            // SAFETY: a whole siginfo_t, which the kernel reads. Failures (the thread ended; the limit of
            // queued signals) are looked at in the next round.
            unsafe {
                libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, tid, signal, std::ptr::from_ref(&info));
            }
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// The calling thread enters (or leaves) the window, in which the handler does not touch its mask.
pub fn window(open: bool) {
    WINDOW.store(if open { proc::thread_id() as i32 } else { 0 }, Ordering::SeqCst);
}

/// Sends this process a signal again that was written down, with all it said.
pub fn again(record: &libc::signalfd_siginfo) -> Result<()> {
    let signal = record.ssi_signo as i32;
    if bit(signal) == 0 {
        return Err(Error::Invalid(format!("{signal} is no signal")));
    }
    let mut info = Info::new(signal, record.ssi_code, record.ssi_ptr);
    info.errno = record.ssi_errno;
    (info.pid, info.uid) = (record.ssi_pid as i32, record.ssi_uid);
    if record.ssi_code == libc::SI_TIMER {
        (info.pid, info.uid) = (record.ssi_tid as i32, record.ssi_overrun);
    }
    let pid = proc::id() as i32;
    // SAFETY: a whole siginfo_t, which the kernel reads. To itself a process may say anything.
    let code = unsafe { libc::syscall(libc::SYS_rt_sigqueueinfo, pid, signal, std::ptr::from_ref(&info)) };
    if code == 0 { Ok(()) } else { Err(Error::last_os("rt_sigqueueinfo", None)) }
}

/// As [`again`], of bytes as they stand in the journal.
pub fn again_from(bytes: &[u8]) -> Result<()> {
    if bytes.len() != size_of::<libc::signalfd_siginfo>() {
        return Err(Error::Invalid(format!("a record has 128 bytes, this has {}", bytes.len())));
    }
    // SAFETY: as many bytes as the plain numbers have, at any alignment.
    again(&unsafe { bytes.as_ptr().cast::<libc::signalfd_siginfo>().read_unaligned() })
}

/// Gives the memory of the first `length` bytes of a journal back; what follows stays where it is.
pub fn forget(journal: i32, length: u64) {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: plain call on a descriptor. Failing costs memory and nothing else.
    unsafe { libc::fallocate(journal, mode, 0, length as i64) };
}
