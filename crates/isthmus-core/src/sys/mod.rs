//! The only place with raw system calls.

#[cfg(not(loom))]
pub mod clock;
#[cfg(not(loom))]
pub mod fifo;
#[cfg(not(loom))]
pub mod file;
pub mod futex;
#[cfg(not(loom))]
pub mod limits;
#[cfg(not(loom))]
pub mod lock;
#[cfg(not(loom))]
pub mod map;
#[cfg(not(loom))]
pub mod mq;
#[cfg(not(loom))]
pub mod pipe;
#[cfg(not(loom))]
pub mod proc;
#[cfg(not(loom))]
pub mod region;
#[cfg(not(loom))]
pub mod semaphore;
#[cfg(not(loom))]
pub mod signal;
#[cfg(not(loom))]
pub mod socket;
#[cfg(not(loom))]
pub mod sysv;

/// CPUs that are online on this machine (1 where the kernel does not say).
pub fn online_cpus() -> usize {
    // SAFETY: sysconf takes no pointers.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    usize::try_from(online).unwrap_or(1).max(1)
}
