//! Signals as far as Python's own modules do not go: sending with a number through a descriptor of the
//! process, receiving through a descriptor, and timers that send signals with a number.

pub mod capture;
pub mod timer;

use crate::error::{Error, Result};

/// Signals as a set of bits: number n is bit n - 1, as in the kernel and in `/proc/<pid>/status`.
pub type Set = u64;

/// Highest signal number of Linux.
pub const LAST: i32 = 64;

/// The bit of one signal; 0 for what is no signal.
pub fn bit(signal: i32) -> Set {
    if (1..=LAST).contains(&signal) { 1 << (signal - 1) } else { 0 }
}

/// The numbers in a set.
pub fn numbers(set: Set) -> impl Iterator<Item = i32> {
    (1..=LAST).filter(move |&number| set & bit(number) != 0)
}

/// The siginfo_t of a signal with a number, sigaction(2), on 64-bit machines.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Info {
    pub(super) signal: i32,
    pub(super) errno: i32,
    pub(super) code: i32,
    _hole: i32,
    /// For timers: the timer.
    pub(super) pid: i32,
    /// For timers: how often it ran out besides.
    pub(super) uid: u32,
    /// For SIGCHLD: the status, in the lower half.
    pub(super) value: u64,
    _rest: [u64; 12],
}

const _: () = assert!(size_of::<Info>() == size_of::<libc::siginfo_t>());

impl Info {
    /// From this process.
    pub(super) fn new(signal: i32, code: i32, value: u64) -> Info {
        let pid = super::proc::id() as i32;
        // SAFETY: takes nothing and cannot fail.
        let uid = unsafe { libc::getuid() };
        Info { signal, errno: 0, code, _hole: 0, pid, uid, value, _rest: [0; 12] }
    }
}

/// `PIDFD_SIGNAL_PROCESS_GROUP` of pidfd_send_signal(2), Linux 6.9.
const TO_GROUP: u32 = 1 << 2;

/// Sends a signal with a number, as sigqueue(3) does, to the process behind a pidfd, or to the process group
/// it leads: whatever becomes of the process number, it reaches that process or none.
///
/// The kernel takes `SI_QUEUE` from anybody who may signal the process; only codes that say "from the kernel"
/// or "from kill" cannot be claimed, rt_sigqueueinfo(2).
pub fn queue(pidfd: i32, signal: i32, value: i32, group: bool) -> Result<()> {
    // As sigqueue(3) of 64-bit little endian programs reads it: `sival_int` is the lower half.
    let info = Info::new(signal, libc::SI_QUEUE, u64::from(value as u32));
    let flags = if group { TO_GROUP } else { 0 };
    // SAFETY: `info` is a whole siginfo_t, which the kernel reads.
    let code = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, std::ptr::from_ref(&info), flags)
    };
    if code == 0 { Ok(()) } else { Err(Error::last_os("pidfd_send_signal", None)) }
}

/// A set as libc takes it.
pub(super) fn libc_set(set: Set) -> libc::sigset_t {
    let mut made = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset fills the whole set, sigaddset changes it.
    unsafe {
        libc::sigemptyset(made.as_mut_ptr());
        for number in numbers(set) {
            libc::sigaddset(made.as_mut_ptr(), number);
        }
        made.assume_init()
    }
}

/// A descriptor that gives what is pending of `set`, signalfd(2): close-on-exec, and it does not block.
pub fn descriptor(set: Set) -> Result<i32> {
    let set = libc_set(set);
    // SAFETY: `set` is a whole sigset_t, which the kernel reads.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd >= 0 { Ok(fd) } else { Err(Error::last_os("signalfd", None)) }
}

/// Lets the calling thread get `set` again.
pub fn unblock(set: Set) {
    let set = libc_set(set);
    // SAFETY: `set` is a whole sigset_t; the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) };
}
