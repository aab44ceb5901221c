//! Named pipes in the namespace: the bells of event loops.

use std::path::PathBuf;

use super::file::{File, c_string, errno};
use crate::error::{Error, Result};

/// Makes a FIFO; false where the name is taken.
pub fn make(directory: &File, name: &str, mode: u32) -> Result<bool> {
    let path = PathBuf::from(name);
    let c_name = c_string(&path)?;
    // SAFETY: `c_name` is a C string that outlives the call.
    if unsafe { libc::mkfifoat(directory.raw(), c_name.as_ptr(), mode) } == 0 {
        // SAFETY: as above. Whatever the umask has made of the mode.
        unsafe { libc::fchmodat(directory.raw(), c_name.as_ptr(), mode, 0) };
        return Ok(true);
    }
    match errno() {
        libc::EEXIST => Ok(false),
        _ => Err(Error::last_os("mkfifoat", Some(path))),
    }
}

/// What became of a byte for the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is in the pipe, or so much is that the reader has to look anyway.
    Yes,
    /// Nobody has the FIFO open for reading, or it is gone.
    NoReader,
    /// It could not be tried: no descriptor is left.
    Failed,
}

/// Writes a few bytes into a FIFO without waiting, whatever becomes of the reader meanwhile.
pub fn send(directory: &File, name: &str, bytes: &[u8]) -> Sent {
    let Ok(c_name) = c_string(&PathBuf::from(name)) else { return Sent::NoReader };
    let flags = libc::O_WRONLY | libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NOCTTY;
    // SAFETY: `c_name` is a C string that outlives the call.
    let fd = unsafe { libc::openat(directory.raw(), c_name.as_ptr(), flags) };
    if fd < 0 {
        return match errno() {
            libc::ENXIO | libc::ENOENT | libc::ELOOP => Sent::NoReader,
            _ => Sent::Failed,
        };
    }
    // SAFETY: the slice is readable for its length; the descriptor was just opened.
    let sent = match without_sigpipe(|| unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) }) {
        Ok(_) | Err(libc::EAGAIN) => Sent::Yes,
        Err(libc::EPIPE) => Sent::NoReader,
        Err(_) => Sent::Failed,
    };
    // SAFETY: the descriptor is ours and nobody else knows it.
    unsafe { libc::close(fd) };
    sent
}

/// True where nobody has the FIFO open for reading (pipe(7), O_NONBLOCK); false where that cannot be told.
pub fn has_no_reader(directory: &File, name: &str) -> bool {
    let Ok(c_name) = c_string(&PathBuf::from(name)) else { return false };
    let flags = libc::O_WRONLY | libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NOCTTY;
    // SAFETY: `c_name` is a C string that outlives the call.
    let fd = unsafe { libc::openat(directory.raw(), c_name.as_ptr(), flags) };
    if fd < 0 {
        return errno() == libc::ENXIO;
    }
    // SAFETY: the descriptor is ours and nobody else knows it.
    unsafe { libc::close(fd) };
    false
}

/// Reads what is in a pipe that does not block; 0 where nothing is.
pub fn read(file: &File, buffer: &mut [u8]) -> usize {
    // SAFETY: the slice is writable for its length.
    let got = unsafe { libc::read(file.raw(), buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(got).unwrap_or(0)
}

/// Runs a write that may raise SIGPIPE without anybody noticing: the reader may go between `open` and `write`,
/// and in a program with the default action the signal kills.
fn without_sigpipe(write: impl FnOnce() -> isize) -> std::result::Result<usize, i32> {
    // SAFETY: the sets are made by the calls before they are used; only this thread's mask is changed, and
    // changed back. SIGPIPE of a write goes to the writing thread, so no other's is swallowed.
    unsafe {
        let mut pipe: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut pipe);
        libc::sigaddset(&raw mut pipe, libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const pipe, &raw mut before);
        let wrote = write();
        let failure = errno();
        if wrote < 0 && failure == libc::EPIPE && libc::sigismember(&raw const before, libc::SIGPIPE) == 0 {
            let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            libc::sigtimedwait(&raw const pipe, std::ptr::null_mut(), &raw const at_once);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        usize::try_from(wrote).map_err(|_| failure)
    }
}
