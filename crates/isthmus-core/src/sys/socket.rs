//! Sockets, as far as the standard library of Python does not have the calls.

use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use super::file::errno;
use super::pipe::Moved;
use crate::error::{Error, Result};

/// Receives what is there, without waiting; 0 bytes at the end.
pub fn receive_now(fd: RawFd, buffer: &mut [MaybeUninit<u8>]) -> Result<Moved> {
    loop {
        // SAFETY: the slice is writable for its length, and what the kernel writes are bytes.
        let count = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
        match usize::try_from(count) {
            Ok(count) => return Ok(Moved::Bytes(count)),
            Err(_) if errno() == libc::EAGAIN => return Ok(Moved::WouldBlock),
            Err(_) if errno() == libc::EINTR => {}
            Err(_) => return Err(Error::last_os("recv", None)),
        }
    }
}
