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
    moved(unsafe { libc::tee(source, target, size, libc::SPLICE_F_NONBLOCK) }, "tee")
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

/// How a descriptor is read and written without waiting; `_descriptors.py` says which is for which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// With RWF_NOWAIT: the flag of one call.
    Nowait,
    /// O_NONBLOCK is set.
    Nonblocking,
    /// Polled before.
    Careful,
}

fn moved(count: isize, call: &'static str) -> Result<Moved> {
    match usize::try_from(count) {
        Ok(count) => Ok(Moved::Bytes(count)),
        Err(_) if errno() == libc::EAGAIN => Ok(Moved::WouldBlock),
        Err(_) => Err(Error::last_os(call, None)),
    }
}

/// Reads what is there.
pub fn read_now(fd: RawFd, way: Way, buffer: &mut [u8]) -> Result<Moved> {
    if way == Way::Careful && !ready(fd, libc::POLLIN, 0)? {
        return Ok(Moved::WouldBlock);
    }
    let flags = if way == Way::Nowait { libc::RWF_NOWAIT } else { 0 };
    let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: `part` names a slice that is writable for its length and outlives the call.
    moved(unsafe { libc::preadv2(fd, &raw const part, 1, -1, flags) }, "preadv2")
}

/// Writes at most PIPE_BUF bytes into a pipe: all of them, or none.
pub fn write_now(fd: RawFd, way: Way, bytes: &[u8]) -> Result<Moved> {
    debug_assert!(bytes.len() <= libc::PIPE_BUF);
    if way == Way::Careful && !ready(fd, libc::POLLOUT, 0)? {
        return Ok(Moved::WouldBlock);
    }
    if way != Way::Nowait {
        // SAFETY: the slice is readable for its length. This call is by a quarter faster than the other one.
        return moved(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) }, "write");
    }
    // One piece: the kernel takes two far more slowly.
    let part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: `part` names a slice that is readable for its length and outlives the call, which only reads it.
    moved(unsafe { libc::pwritev2(fd, &raw const part, 1, -1, libc::RWF_NOWAIT) }, "pwritev2")
}

/// Waits up to so many milliseconds for events of poll(2); what hangs up is ready too. A signal ends it early.
pub fn ready(fd: RawFd, events: i16, milliseconds: i32) -> Result<bool> {
    let mut asked = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one entry, which outlives the call.
    match unsafe { libc::poll(&raw mut asked, 1, milliseconds) } {
        count if count >= 0 => Ok(count > 0),
        _ if errno() == libc::EINTR => Ok(false),
        _ => Err(Error::last_os("poll", None)),
    }
}

/// Readable, for [`ready`].
pub const READABLE: i16 = libc::POLLIN;
/// Writable, for [`ready`].
pub const WRITABLE: i16 = libc::POLLOUT;
