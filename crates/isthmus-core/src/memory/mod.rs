//! Shared memory as the algorithms see it: words, bytes, and a place to sleep.
//!
//! Every structure is generic over [`Memory`], so that the same code runs on three implementations:
//! the mapping (real shared memory), `loom` (every interleaving of a small model), and `crash`
//! (stops at the n-th store, so that a test can look at what a kill leaves behind).
//!
//! Offsets are bytes from the start of the object; words are 64 bits wide and aligned to 8.
//! Loads acquire and stores release; the three read-modify-write operations are full fences, which
//! on x86 costs nothing beyond the locked instruction they are anyway. That is the whole memory
//! model: no structure needs anything weaker, and measured on x86 nothing weaker is faster.

#[cfg(not(loom))]
pub mod crash;
#[cfg(loom)]
pub mod loom;
#[cfg(not(loom))]
pub mod mapping;

use std::mem::MaybeUninit;
use std::time::Duration;

use crate::error::Death;
use crate::owner::Owner;
pub use crate::sys::futex::Woken;

/// Event loops that share a wait point are told apart by this many bits.
pub const BELL_BITS: usize = 32;

/// Words and bytes shared with other processes.
pub trait Memory {
    /// Length in bytes.
    fn size(&self) -> usize;
    /// Reads a word (acquire).
    fn load(&self, at: usize) -> u64;
    /// Writes a word (release).
    fn store(&self, at: usize, value: u64);
    /// Replaces `old` by `new` (full fence); on failure says what stands there instead.
    fn compare_exchange(&self, at: usize, old: u64, new: u64) -> Result<(), u64>;
    /// Replaces a word (full fence); returns the old value.
    fn swap(&self, at: usize, value: u64) -> u64;
    /// Sets bits (full fence); returns the old value.
    fn fetch_or(&self, at: usize, bits: u64) -> u64;
    /// Copies bytes in. Not atomic: whoever reads them must have seen a later store.
    fn write(&self, at: usize, bytes: &[u8]);
    /// Copies bytes out; fills `into` whole.
    fn read(&self, at: usize, into: &mut [MaybeUninit<u8>]);
    /// Sleeps while the low half of the word is `expected`, at most `limit`.
    fn sleep(&self, at: usize, expected: u32, limit: Duration) -> Woken;
    /// Wakes up to `count` sleepers; returns how many woke.
    fn wake(&self, at: usize, count: u32) -> u32;
    /// Rings the event loops behind these bits of a wait point (see `bell.rs`); false where none is there.
    fn ring(&self, bits: u32) -> bool;
}

/// What a structure must know about the processes that share it.
pub trait Peers {
    /// True only with proof (see the registry); a living, stopped or slow process is never dead.
    fn is_dead(&self, owner: Owner) -> bool;
    /// What is known about a dead process.
    fn death(&self, owner: Owner) -> Death;
    /// Process id of the caller, for people; the slot where processes are made up.
    fn pid(&self, me: Owner) -> u32 {
        me.slot()
    }
    /// Called on slow paths: takes the proof of life again where it was lost.
    ///
    /// # Errors
    /// `Buried` where the peers have already given this process up.
    fn relock(&self) -> crate::error::Result<()>;
}

/// Tells the processor that this is a spin loop.
#[inline]
pub fn pause() {
    #[cfg(loom)]
    ::loom::thread::yield_now();
    #[cfg(not(loom))]
    std::hint::spin_loop();
}
