//! POSIX semaphores with a name, sem_overview(7), as the C library has them.
//!
//! They are the library's and not the kernel's: a counter in a file of /dev/shm that every process maps. So all
//! calls go through the library, whose layout of the counter is its own affair.

use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::mq::{Create, Outcome};
use crate::error::{Error, Result};

/// The largest value (`SEM_VALUE_MAX`).
pub const VALUE_MAX: u32 = i32::MAX as u32;
/// Bytes of a name after the slash: a file name less `sem.`.
pub const NAME_MAX: usize = 251;
/// Where the C library keeps the files.
pub const DIRECTORY: &str = "/dev/shm";

/// An open semaphore; closed when dropped.
#[derive(Debug)]
pub struct Semaphore {
    address: *mut libc::sem_t,
}

// SAFETY: a semaphore is made to be used by several threads and processes at once.
unsafe impl Send for Semaphore {}
// SAFETY: as above; sem_close is called by nobody but the last owner.
unsafe impl Sync for Semaphore {}

fn file_of(name: &CStr) -> PathBuf {
    Path::new(DIRECTORY).join(format!("sem.{}", name.to_string_lossy().trim_start_matches('/')))
}

impl Semaphore {
    /// Opens the semaphore `name`, or makes it with the value `initial`.
    pub fn open(name: &CStr, create: Create, permissions: u32, initial: u32) -> Result<Semaphore> {
        let flags = match create {
            Create::Never => 0,
            Create::Missing => libc::O_CREAT,
            Create::New => libc::O_CREAT | libc::O_EXCL,
        };
        let file = file_of(name);
        // The library maps what it finds and does not look at its length: reading past the end would kill us.
        if let Ok(found) = std::fs::metadata(&file)
            && found.len() < size_of::<libc::sem_t>() as u64
        {
            return Err(Error::Incompatible(format!(
                "{} has {} bytes, and a semaphore of this C library has {}: another library's, or cut short",
                file.display(),
                found.len(),
                size_of::<libc::sem_t>()
            )));
        }
        loop {
            // SAFETY: the name is a C string that outlives the call; the rest are numbers.
            let address = unsafe { libc::sem_open(name.as_ptr(), flags, permissions, initial) };
            if address != libc::SEM_FAILED {
                return Ok(Semaphore { address });
            }
            match Error::last_os("sem_open", Some(file.clone())) {
                Error::Os { errno: libc::EINTR, .. } => {}
                Error::Os { errno: libc::ENOENT, .. } => return Err(Error::NotFound(file)),
                Error::Os { errno: libc::EEXIST, .. } => return Err(Error::Exists(file)),
                Error::Os { errno: libc::EACCES, .. } => {
                    return Err(Error::Permission(format!(
                        "{} may not be read and written by this user (see its owner and mode)",
                        file.display()
                    )));
                }
                Error::Os { errno: libc::ENOSPC | libc::EDQUOT, .. } => {
                    return Err(Error::NoSpace(format!("no room for one more file in {DIRECTORY}")));
                }
                other => return Err(other),
            }
        }
    }

    /// Takes one, where there is one.
    #[inline]
    pub fn try_acquire(&self) -> bool {
        // SAFETY: the semaphore is open as long as this lives. It fails only because there is none (EAGAIN) or,
        // in old libraries, for a signal.
        unsafe { libc::sem_trywait(self.address) == 0 }
    }

    /// Takes one, waiting at most `wait`, by the clock of the calendar; see [`super::mq::send`].
    pub fn acquire(&self, wait: Duration) -> Result<Outcome<()>> {
        let until = super::clock::wall_ns() + wait.as_nanos() as u64;
        let until = libc::timespec {
            tv_sec: (until / 1_000_000_000) as libc::time_t,
            tv_nsec: (until % 1_000_000_000) as libc::c_long,
        };
        // SAFETY: the semaphore is open as long as this lives, `until` is a valid timespec.
        if unsafe { libc::sem_timedwait(self.address, &raw const until) } == 0 {
            return Ok(Outcome::Done(()));
        }
        match Error::last_os("sem_timedwait", None) {
            Error::Os { errno: libc::ETIMEDOUT, .. } => Ok(Outcome::TimedOut),
            Error::Os { errno: libc::EINTR, .. } => Ok(Outcome::Interrupted),
            other => Err(other),
        }
    }

    /// Gives one. False where the value is the largest already.
    #[inline]
    pub fn release(&self) -> bool {
        // SAFETY: the semaphore is open as long as this lives. It fails only by EOVERFLOW.
        unsafe { libc::sem_post(self.address) == 0 }
    }

    /// How many there are; 0 while others wait.
    pub fn value(&self) -> i32 {
        let mut value = 0;
        // SAFETY: the semaphore is open as long as this lives; it cannot fail.
        unsafe { libc::sem_getvalue(self.address, &raw mut value) };
        value
    }
}

impl Drop for Semaphore {
    fn drop(&mut self) {
        // SAFETY: opened by sem_open, which counts how often this process has it open, and closed once.
        unsafe { libc::sem_close(self.address) };
    }
}

/// Removes the name; those who have the semaphore open go on using it.
pub fn unlink(name: &CStr) -> Result<()> {
    // SAFETY: the name is a C string that outlives the call.
    if unsafe { libc::sem_unlink(name.as_ptr()) } == 0 {
        return Ok(());
    }
    let file = file_of(name);
    Err(match Error::last_os("sem_unlink", Some(file.clone())) {
        Error::Os { errno: libc::ENOENT, .. } => Error::NotFound(file),
        Error::Os { errno: libc::EACCES | libc::EPERM, .. } => {
            Error::Permission(format!("{} is not this user's to remove", file.display()))
        }
        other => other,
    })
}
