//! Memory that is a mapping shared with other processes: what users run on.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Memory, Woken};
use crate::sys::file::File;
use crate::sys::futex;

/// A view of a shared mapping. Holds no lifetime of its own: whoever makes one keeps the mapping.
#[derive(Clone, Copy)]
pub struct Mapping {
    base: *mut u8,
    size: usize,
    bells: Option<Bells>,
}

/// How to ring event loops: the directory where their FIFOs are, and who knows how.
#[derive(Clone, Copy)]
pub struct Bells {
    /// The directory of the namespace.
    pub directory: *const File,
    /// Rings the bells behind these bits of a wait point of this memory; false where none is there.
    pub ring: fn(&Mapping, &File, u32) -> bool,
}

// SAFETY: every access goes through atomics or raw copies of bytes; other processes write to the
// same memory anyway, so threads of this one add nothing new.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// # Safety
    /// `base` must be aligned to 8 and point to `size` bytes of readable, writable, shared memory
    /// that stays mapped as long as this value or any copy of it is used.
    pub const unsafe fn new(base: *mut u8, size: usize) -> Mapping {
        Mapping { base, size, bells: None }
    }

    /// The same memory as one who can ring the bells of a namespace.
    ///
    /// # Safety
    /// The directory must live as long as this value or any copy of it is used.
    #[must_use]
    pub const unsafe fn with_bells(self, bells: Bells) -> Mapping {
        Mapping { bells: Some(bells), ..self }
    }

    /// Address of a byte range, for views; checked against the mapping.
    ///
    /// # Panics
    /// Where the range is not inside the mapping: a bug in this crate, never input.
    #[inline]
    pub fn address(&self, at: usize, length: usize) -> *mut u8 {
        assert!(at <= self.size && length <= self.size - at, "range outside of the mapping");
        // SAFETY: just checked to stay inside the mapping.
        unsafe { self.base.add(at) }
    }

    #[inline]
    fn word(&self, at: usize) -> &AtomicU64 {
        debug_assert_eq!(at % 8, 0);
        let address = self.address(at & !7, 8);
        // SAFETY: inside the mapping, aligned to 8, and words are only touched atomically.
        unsafe { AtomicU64::from_ptr(address.cast()) }
    }
}

impl Memory for Mapping {
    #[inline]
    fn size(&self) -> usize {
        self.size
    }

    #[inline]
    fn load(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::Acquire)
    }

    #[inline]
    fn store(&self, at: usize, value: u64) {
        self.word(at).store(value, Ordering::Release);
    }

    #[inline]
    fn compare_exchange(&self, at: usize, old: u64, new: u64) -> Result<(), u64> {
        full_fence();
        let done = self.word(at).compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).map(drop);
        full_fence();
        done
    }

    #[inline]
    fn swap(&self, at: usize, value: u64) -> u64 {
        full_fence();
        let old = self.word(at).swap(value, Ordering::SeqCst);
        full_fence();
        old
    }

    #[inline]
    fn fetch_or(&self, at: usize, bits: u64) -> u64 {
        full_fence();
        let old = self.word(at).fetch_or(bits, Ordering::SeqCst);
        full_fence();
        old
    }

    #[inline]
    fn write(&self, at: usize, bytes: &[u8]) {
        let to = self.address(at, bytes.len());
        // SAFETY: the range was checked; a private slice cannot overlap the shared mapping, and
        // where a peer misbehaves and writes here too, bytes have no invalid values.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    #[inline]
    fn read(&self, at: usize, into: &mut [MaybeUninit<u8>]) {
        let from = self.address(at, into.len());
        // SAFETY: as in `write`, the other direction.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr().cast(), into.len()) };
    }

    fn sleep(&self, at: usize, expected: u32, limit: Duration) -> Woken {
        futex::wait(self.word(at), expected, limit)
    }

    fn wake(&self, at: usize, count: u32) -> u32 {
        futex::wake(self.word(at), count)
    }

    fn ring(&self, bits: u32) -> bool {
        self.bells.is_some_and(|bells| {
            // SAFETY: alive, as `with_bells` asks.
            let directory = unsafe { &*bells.directory };
            (bells.ring)(self, directory, bits)
        })
    }
}

/// A locked instruction is a full fence on x86 already; elsewhere one is added on either side.
#[inline]
fn full_fence() {
    #[cfg(not(target_arch = "x86_64"))]
    std::sync::atomic::fence(Ordering::SeqCst);
}
