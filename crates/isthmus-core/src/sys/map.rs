//! Memory mappings.

use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use super::file::File;
use crate::error::{Error, Result};

/// A shared mapping of the beginning of a file, unmapped on drop.
#[derive(Debug)]
pub struct Map {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain memory that other processes change anyway; all access is atomic or raw.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Maps `len` bytes of `file`, readable and writable. The file must be at least as long.
    pub fn shared(file: &File, len: usize) -> Result<Map> {
        Map::new(file, len, libc::PROT_READ | libc::PROT_WRITE)
    }

    /// Maps `len` bytes of `file` for reading only; a store through [`Map::word`] would be a SIGSEGV.
    pub fn read_only(file: &File, len: usize) -> Result<Map> {
        Map::new(file, len, libc::PROT_READ)
    }

    fn new(file: &File, len: usize, protection: i32) -> Result<Map> {
        // SAFETY: a fresh mapping at an address of the kernel's choice disturbs nothing.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, file.raw(), 0) };
        if start == libc::MAP_FAILED {
            return Err(match Error::last_os("mmap", None) {
                Error::Os { errno: libc::ENOMEM, .. } => Error::NoSpace(format!(
                    "no address space to map {len} bytes (see `ulimit -v` and vm.max_map_count)"
                )),
                other => other,
            });
        }
        let start = NonNull::new(start.cast::<u8>())
            .ok_or_else(|| Error::Corrupt("mmap chose address zero".to_owned()))?;
        Ok(Map { start, len })
    }

    /// First byte.
    #[inline]
    pub fn ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Gives the memory back while keeping the addresses: whoever touches them from now on is killed by a
    /// SIGSEGV instead of reading something else that was mapped there.
    pub fn release(&self) {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
        // SAFETY: exactly our own range is replaced; callers promise that nobody uses it any more. A
        // failure leaves everything as it was, until drop.
        unsafe { libc::mmap(self.start.as_ptr().cast(), self.len, libc::PROT_NONE, flags, -1, 0) };
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if nothing is mapped; never the case.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The 64-bit word at `offset`, for offsets fixed by a layout.
    ///
    /// # Panics
    /// Outside the mapping, or if not aligned: a mistake of the caller, never of a file.
    #[inline]
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len, "word outside the mapping");
        // SAFETY: in bounds and aligned (a mapping starts on a page); shared words are only used atomically.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(offset).cast()) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: exactly the region mapped in `new`; nobody can hold a pointer longer than the map.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A private zeroed page that the kernel zeroes again in every forked child. Never unmapped.
pub(crate) fn wiped_on_fork() -> *mut AtomicU64 {
    // SAFETY: a fresh private mapping; the pointer is checked before use.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    // Without one page of memory, and without knowing of forks, nothing in this crate may go on.
    assert!(page != libc::MAP_FAILED, "no memory for the fork detection page");
    // SAFETY: the page was mapped above and is ours alone.
    let code = unsafe { libc::madvise(page, 4096, libc::MADV_WIPEONFORK) };
    assert!(code == 0, "MADV_WIPEONFORK is missing: Linux 4.14 or later is needed");
    page.cast()
}
