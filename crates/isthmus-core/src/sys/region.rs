//! Mappings of any file, for views: by descriptor, from any page, and with what one may want of pages.

use std::ptr::NonNull;

use crate::error::{Error, Result};

/// What a mapping allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading; a store is a SIGSEGV.
    Read,
    /// Reading and writing what everybody sees.
    Write,
    /// Reading and writing; what is written is this mapping's own and never gets into the file.
    Copy,
}

/// A part of a file, mapped; unmapped on drop. Keeps no descriptor.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: plain memory that other processes change anyway; whoever reads and writes it does so raw.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `len` bytes (not 0) from `offset` (whole pages) of the file behind a descriptor. Where the file is
    /// shorter, or becomes shorter, touching what is missing is a SIGBUS.
    pub fn map(fd: i32, offset: u64, len: usize, access: Access) -> Result<Region> {
        let (protection, sharing) = match access {
            Access::Read => (libc::PROT_READ, libc::MAP_SHARED),
            Access::Write => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED),
            Access::Copy => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE),
        };
        // SAFETY: a fresh mapping at an address of the kernel's choice disturbs nothing.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, sharing, fd, offset as i64) };
        if start == libc::MAP_FAILED {
            return Err(match Error::last_os("mmap", None) {
                Error::Os { errno: libc::ENOMEM, .. } => Error::NoSpace(format!(
                    "no address space to map {len} bytes (see `ulimit -v`, vm.max_map_count and \
                     vm.overcommit_memory)"
                )),
                Error::Os { errno: libc::ENODEV, .. } => Error::Invalid(
                    "this file cannot be mapped (a device, or a file system without it)".to_owned(),
                ),
                other => other,
            });
        }
        let start = NonNull::new(start.cast::<u8>())
            .ok_or_else(|| Error::Corrupt("mmap chose address zero".to_owned()))?;
        Ok(Region { start, len })
    }

    /// First byte.
    pub fn ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if nothing is mapped; never the case.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pages that `len` bytes from `at` touch: address and length, cut to the mapping.
    fn pages(&self, at: usize, len: usize) -> (*mut libc::c_void, usize) {
        let at = at.min(self.len);
        let len = len.min(self.len - at);
        let first = at & !(page() - 1);
        // SAFETY: `first` is inside the mapping, or its end.
        (unsafe { self.start.as_ptr().add(first) }.cast(), at - first + len)
    }

    /// Tells the kernel how a range will be used: `MADV_…`.
    pub fn advise(&self, at: usize, len: usize, advice: i32) -> Result<()> {
        let (start, len) = self.pages(at, len);
        // SAFETY: a range of our own mapping. Advice that drops private pages is the caller's wish.
        match unsafe { libc::madvise(start, len, advice) } {
            0 => Ok(()),
            _ => Err(Error::last_os("madvise", None)),
        }
    }

    /// Puts the transparent huge pages that fit under the mapping, now; an error where there are none to have.
    pub fn collapse(&self) -> Result<()> {
        const COLLAPSE: i32 = 25; // Linux 6.1
        self.advise(0, self.len, libc::MADV_HUGEPAGE)?;
        self.advise(0, self.len, COLLAPSE)
    }

    /// Writes a range to where the file is stored and waits for it.
    pub fn flush(&self, at: usize, len: usize) -> Result<()> {
        let (start, len) = self.pages(at, len);
        // SAFETY: a range of our own mapping.
        match unsafe { libc::msync(start, len, libc::MS_SYNC) } {
            0 => Ok(()),
            _ => Err(Error::last_os("msync", None)),
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped in `map`; whoever has a pointer into it keeps the region.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Bytes of a page.
fn page() -> usize {
    // SAFETY: sysconf takes no pointers.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}
