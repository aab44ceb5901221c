//! Memory that processes share by name, with its content behind a page that says how much there is.
//!
//! # Layout of the file
//! ```text
//! offset 0       header and attachments, as of every object
//! offset 12288   the page that says what there is
//!   +0x00 size     bytes of content               compare-and-swap to a larger number, by whoever made the file so long
//!   +0x08 length   bytes of the description       before the file has a name; never changed
//!   +0x10 description, up to 4080 bytes           before the file has a name; never changed
//! offset 16384   content, `size` bytes; the file may be longer
//! ```
//! The header's `total` is 16384: what is mapped with the handle. Its first attribute is the size at birth. The
//! content is mapped apart from that, as often as somebody wants to look at a new size of it. Mappings of one file
//! show the same memory, so whoever looks through an older, shorter one misses only what was added. Nothing
//! is ever moved, and the file never becomes shorter: no view of anybody loses its ground.
//!
//! # Growing, and killed in between
//! 1. Reserve the content up to the new size (`fallocate`): the file becomes longer, by zeros. Killed in it or
//!    behind it, the file is longer than `size` says. Nobody looks there; who grows next finds it reserved already;
//!    it goes with the file.
//! 2. Compare-and-swap `size` to the new size, if that is larger than what stands there: the commit. Killed
//!    behind it, nothing was left to do.
//!
//! `size` is at most what was reserved before, by whoever wrote it: at every moment 16384 + `size` <= length of
//! the file. Two that grow at once each reserve for themselves, and the larger size stays; nobody waits for
//! anybody, and nobody owns anything that could be left behind. A growth that fails because memory has run
//! out half way keeps what it had reserved: giving it back would need a lock against those who just grow.
//!
//! A reader takes `size` and then asks how long the file is. A file shorter than `size` was cut by somebody, and is
//! refused; so is a size that nobody can have written.

#[cfg(not(loom))]
pub mod handle;
#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, not(loom)))]
mod sweep;

use crate::error::Result;
use crate::memory::Memory;

const SIZE: usize = 0x00;
#[cfg(not(loom))]
const LENGTH: usize = 0x08;
#[cfg(not(loom))]
const DESCRIPTION: usize = 0x10;
/// Bytes of the page that says what there is.
pub const PAGE: usize = 4096;
/// Longest description.
pub const DESCRIPTION_MAX: usize = PAGE - 0x10;

/// How much content there is.
#[derive(Clone, Copy)]
pub struct Extent<M> {
    memory: M,
    at: usize,
}

impl<M: Memory> Extent<M> {
    /// The extent whose page begins at `at`.
    pub fn new(memory: M, at: usize) -> Extent<M> {
        assert!(at + SIZE + 8 <= memory.size(), "the page must lie inside the memory");
        Extent { memory, at }
    }

    /// Bytes of content: a number that was read from shared memory.
    #[inline]
    pub fn size(&self) -> u64 {
        // SYNC(grown): who sees a size sees the file as long as it was made for it.
        self.memory.load(self.at + SIZE)
    }

    /// Makes it `size` bytes, if it is smaller; says how many they are then. `reserve` makes the file long enough,
    /// from the first number of bytes of content to the second.
    pub fn grow(&self, size: u64, reserve: impl FnOnce(u64, u64) -> Result<()>) -> Result<u64> {
        let mut found = self.size();
        if size <= found {
            return Ok(found);
        }
        reserve(found, size)?;
        while found < size {
            // SYNC(grown): the file has the length before anybody reads the size.
            match self.memory.compare_exchange(self.at + SIZE, found, size) {
                Ok(()) => return Ok(size),
                Err(other) => found = other,
            }
        }
        Ok(found)
    }
}
