//! File locks: whole-file `flock`, classic byte locks, and byte locks of an open file description.
//!
//! | kind | belongs to | dropped by | shared with forked children |
//! |---|---|---|---|
//! | [`flock`] | open file description | its last close; a mapping made through it keeps it open | yes |
//! | [`lock_byte`] | process | exit, exec (close-on-exec), closing *any* descriptor of the file | no |
//! | [`lock_byte_of_description`] | open file description | its last close | yes |

use super::file::File;
use crate::error::{Error, Result};

/// What to do with a whole-file lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flock {
    /// Together with other sharers.
    Shared,
    /// Alone.
    Exclusive,
}

/// Takes or converts the `flock` of this open file description. False if others stand against it. A failed
/// conversion may have lost the lock held before.
pub fn flock(file: &File, kind: Flock) -> Result<bool> {
    let operation = match kind {
        Flock::Shared => libc::LOCK_SH,
        Flock::Exclusive => libc::LOCK_EX,
    };
    loop {
        // SAFETY: plain call on a descriptor.
        if unsafe { libc::flock(file.raw(), operation | libc::LOCK_NB) } == 0 {
            return Ok(true);
        }
        match Error::last_os("flock", None) {
            Error::Os { errno: libc::EWOULDBLOCK, .. } => return Ok(false),
            Error::Os { errno: libc::EINTR, .. } => {}
            other => return Err(other),
        }
    }
}

/// Drops the `flock` of this open file description, for all who share it.
pub fn unflock(file: &File) {
    // SAFETY: plain call on a descriptor. It cannot fail on one that carries a lock.
    unsafe { libc::flock(file.raw(), libc::LOCK_UN) };
}

fn byte(kind: i32, offset: u64) -> libc::flock {
    // SAFETY: all-zero is a valid `struct flock`.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as i16;
    lock.l_whence = libc::SEEK_SET as i16;
    lock.l_start = offset as i64;
    lock.l_len = 1;
    lock
}

fn set(file: &File, command: i32, kind: i32, offset: u64) -> Result<bool> {
    let lock = byte(kind, offset);
    loop {
        // SAFETY: `lock` is a valid `struct flock`.
        if unsafe { libc::fcntl(file.raw(), command, &raw const lock) } != -1 {
            return Ok(true);
        }
        match Error::last_os("fcntl(F_SETLK)", None) {
            Error::Os { errno: libc::EAGAIN | libc::EACCES, .. } => return Ok(false),
            Error::Os { errno: libc::EINTR, .. } => {}
            other => return Err(other),
        }
    }
}

/// Locks one byte for this process. False if another process holds it. True also where this process holds it
/// already: within a process these locks exclude nobody.
pub fn lock_byte(file: &File, offset: u64) -> Result<bool> {
    set(file, libc::F_SETLK, libc::F_WRLCK, offset)
}

/// Lets go of a byte locked for this process.
pub fn unlock_byte(file: &File, offset: u64) -> Result<()> {
    set(file, libc::F_SETLK, libc::F_UNLCK, offset).map(|_| ())
}

/// Who, other than this process, holds the byte: `None` for nobody; 0 for a process outside this PID
/// namespace (or a lock of another kind).
pub fn holder_of_byte(file: &File, offset: u64) -> Result<Option<u32>> {
    let mut lock = byte(libc::F_WRLCK, offset);
    loop {
        // SAFETY: `lock` is a valid `struct flock`, written by the kernel.
        if unsafe { libc::fcntl(file.raw(), libc::F_GETLK, &raw mut lock) } != -1 {
            let free = lock.l_type == libc::F_UNLCK as i16;
            return Ok(if free { None } else { Some(u32::try_from(lock.l_pid).unwrap_or(0)) });
        }
        match Error::last_os("fcntl(F_GETLK)", None) {
            Error::Os { errno: libc::EINTR, .. } => {}
            other => return Err(other),
        }
    }
}

/// Locks one byte for this open file description, against other descriptions. False if taken.
pub fn lock_byte_of_description(file: &File, offset: u64) -> Result<bool> {
    set(file, libc::F_OFD_SETLK, libc::F_WRLCK, offset)
}
