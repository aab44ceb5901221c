//! Where everything of a queue stands in shared memory, and how capacity is divided.
//!
//! Offsets count from the start of the body (the common header comes before it):
//!
//! ```text
//!    0  PRODUCER  lock | tail | tail_seq | head_seen | rover | flags     written under the producer lock
//!  128  CONSUMER  lock | head | head_seq                          written under the consumer lock
//!  256  MESSAGES     wait point of consumers                  waiters and wakers
//!  320  RING_SPACE   wait point of producers of small messages     waiters and wakers
//!  352  BLOCK_SPACE  wait point of producers of large messages     waiters and wakers
//!  384  HINT      block freed last (index + 1)             whoever frees a block
//!  448  LARGEST   largest message so far                   under the producer lock
//!  512  ring      ring_size bytes, a power of two          producers; consumers only read
//!    …  table     one word a unit                          see `blocks.rs`
//!    …  units     units × 4096 bytes, page aligned         the owner of the run
//! ```
//! 128 bytes apart, because processors fetch cache lines in pairs.
//!
//! A message of up to [`Geometry::inline_max`] bytes stands in the ring (see `ring.rs`); a larger one
//! in a run of units (see `blocks.rs`) with a descriptor of 16 bytes in the ring.

use crate::error::{Error, Result};

pub(super) const PRODUCER_LOCK: usize = 0;
pub(super) const TAIL: usize = 8;
pub(super) const TAIL_SEQ: usize = 16;
pub(super) const HEAD_SEEN: usize = 24;
pub(super) const ROVER: usize = 32;
pub(super) const FLAGS: usize = 40;
pub(super) const CONSUMER_LOCK: usize = 128;
pub(super) const HEAD: usize = 136;
pub(super) const HEAD_SEQ: usize = 144;
pub(super) const MESSAGES: usize = 256;
pub(super) const RING_SPACE: usize = 320;
pub(super) const BLOCK_SPACE: usize = 352;
pub(super) const HINT: usize = 384;
pub(super) const LARGEST: usize = 448;
pub(super) const RING: usize = 512;

/// Bit of `FLAGS`: no message is accepted any more.
pub(super) const SHUT: u64 = 1;
/// Bit of `FLAGS`: some process has been a producer.
pub(super) const HAD_PRODUCER: u64 = 2;

/// Bytes of a unit of the block area.
pub const UNIT: usize = 4096;
/// Largest message that can stand in the ring.
pub const INLINE_MAX: usize = 4096;
/// Smallest capacity; a smaller request is rounded up to it.
pub const MIN_CAPACITY: u64 = 64 << 10;
/// Largest capacity: 2^27 units of large messages (a run word has 27 bits for its length).
pub const MAX_CAPACITY: u64 = 1 << 38;
/// Capacity where none is given.
pub const DEFAULT_CAPACITY: u64 = 8 << 20;

/// How the memory of one queue is divided; derived from its capacity and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes for messages, as accepted.
    pub capacity: u64,
    /// Bytes of the ring.
    pub ring_size: usize,
    /// Units of the block area.
    pub units: usize,
}

impl Geometry {
    /// Divides `capacity` bytes, rounded up to whole units: half of them (rounded down to a power of
    /// two) is the ring, the rest holds large messages.
    pub fn new(capacity: u64) -> Result<Geometry> {
        if capacity > MAX_CAPACITY {
            return Err(Error::TooLarge { what: "capacity in bytes", size: capacity, limit: MAX_CAPACITY });
        }
        let capacity = capacity.max(MIN_CAPACITY).next_multiple_of(UNIT as u64);
        let ring_size = 1 << (capacity / 2).ilog2();
        Ok(Geometry { capacity, ring_size, units: (capacity as usize - ring_size) / UNIT })
    }

    /// Largest message that goes through the ring.
    pub fn inline_max(&self) -> usize {
        INLINE_MAX.min(self.ring_size / 4)
    }

    /// Largest message the queue can ever hold.
    pub fn message_max(&self) -> usize {
        self.units * UNIT
    }

    /// Offset of the table of runs.
    pub fn table_at(&self) -> usize {
        RING + self.ring_size
    }

    /// Offset of the units, aligned so that they start on a page of the file.
    pub fn units_at(&self) -> usize {
        (self.table_at() + 8 * self.units).next_multiple_of(UNIT)
    }

    /// Bytes of the whole body.
    pub fn body_size(&self) -> usize {
        self.units_at() + self.units * UNIT
    }
}

// The lines of different writers must not share a pair of cache lines.
const _: () = assert!(FLAGS < CONSUMER_LOCK && HEAD_SEQ < MESSAGES && CONSUMER_LOCK.is_multiple_of(128));
const _: () = assert!(RING.is_multiple_of(128) && LARGEST + 8 <= RING);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_divided_evenly() {
        let geometry = Geometry::new(DEFAULT_CAPACITY).unwrap();
        assert_eq!((geometry.ring_size, geometry.message_max()), (4 << 20, 4 << 20));
    }

    #[test]
    fn capacity_is_divided_without_rest_and_never_shrinks() {
        for capacity in [0, 1, 65_535, 65_536, 65_537, 1_000_000, 100 << 20, MAX_CAPACITY] {
            let geometry = Geometry::new(capacity).unwrap();
            assert!(geometry.capacity >= capacity);
            assert_eq!(geometry.capacity as usize, geometry.ring_size + geometry.message_max());
            assert!(geometry.inline_max() * 4 <= geometry.ring_size);
            assert_eq!(Geometry::new(geometry.capacity).unwrap(), geometry);
        }
        assert!(Geometry::new(MAX_CAPACITY + 1).is_err());
    }
}
