//! Sleeping on the low half of a shared 64-bit word, futex(2).
//!
//! Shared futexes (no `FUTEX_PRIVATE_FLAG`): the kernel keys them by inode and offset, so each
//! process may map the object at another address.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// How a sleep on a word ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// Somebody called wake.
    Woken,
    /// The word had already changed.
    Changed,
    /// The slice of time is over.
    TimedOut,
    /// A signal handler ran.
    Interrupted,
}

#[cfg(target_endian = "big")]
compile_error!("the slept-on half of a word is its low half, at the word's own address: little endian only");

/// Sleeps while the low 32 bits of `word` are `expected`, at most `limit` (CLOCK_MONOTONIC).
pub fn wait(word: &AtomicU64, expected: u32, limit: Duration) -> Woken {
    let limit = libc::timespec {
        tv_sec: limit.as_secs().min(i32::MAX as u64) as libc::time_t,
        tv_nsec: libc::c_long::from(limit.subsec_nanos()),
    };
    // SAFETY: the address is a live, aligned word; the kernel only reads it and `limit`.
    let result = unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, std::ptr::from_ref(&limit))
    };
    if result == 0 {
        return Woken::Woken;
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN) => Woken::Changed,
        Some(libc::ETIMEDOUT) => Woken::TimedOut,
        Some(libc::EINTR) => Woken::Interrupted,
        // EFAULT, EINVAL, ENOSYS: the word is aligned and mapped and the call is as old as futexes,
        // so these mean a sandbox refuses futex(2). Saying "changed" would spin for ever.
        errno => panic!("futex(FUTEX_WAIT) failed with errno {errno:?}: is futex(2) blocked here?"),
    }
}

/// Wakes up to `count` sleepers; returns how many there were.
pub fn wake(word: &AtomicU64, count: u32) -> u32 {
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    // SAFETY: as above; FUTEX_WAKE does not touch the memory.
    let woken = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count) };
    // A failure (only EFAULT and EINVAL exist) wakes nobody; sleepers look again by themselves.
    u32::try_from(woken).unwrap_or(0)
}
