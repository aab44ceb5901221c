//! Pipes, as far as the standard library of Python does not have the calls.

use std::os::fd::RawFd;

use super::file::errno;
use crate::error::{Error, Result};

/// What became of a call that does not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// So many bytes; 0 at the end of what can be read.
    Bytes(usize),
    /// Nothing is there, or no room is.
    WouldBlock,
}

/// Copies what is in one pipe into another without taking it, and without waiting.
pub fn tee(source: RawFd, target: RawFd, size: usize) -> Result<Moved> {
    // SAFETY: no pointers; whatever the descriptors are, the kernel checks them.
    let count = unsafe { libc::tee(source, target, size, libc::SPLICE_F_NONBLOCK) };
    match usize::try_from(count) {
        Ok(count) => Ok(Moved::Bytes(count)),
        Err(_) if errno() == libc::EAGAIN => Ok(Moved::WouldBlock),
        Err(_) => Err(Error::last_os("tee", None)),
    }
}

/// In a forked child, before it becomes another program: it is killed when the thread that forked it ends.
/// Says false where `parent` is gone already. Takes no lock and no memory.
pub fn die_with_parent(parent: u32) -> Result<bool> {
    // SAFETY: no pointers; the setting is this process's own.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) != 0 {
            return Err(Error::last_os("prctl", None));
        }
        Ok(u32::try_from(libc::getppid()) == Ok(parent))
    }
}
