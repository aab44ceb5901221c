//! Where everything of a queue stands in shared memory, and how capacity is divided.
//!
//! Offsets count from the start of the body (the common header comes before it):
//!
//! ```text
//!    0  PRODUCER  lock | tail | tail_seq | head_seen | rover | flags     written under the producer lock
//!  128  CONSUMER  lock | head | head_seq | returned           under the consumer lock; returned: see `leases.rs`
//!  256  MESSAGES     wait point of consumers                  waiters and wakers
//!  320  RING_SPACE   wait point of producers of small messages     waiters and wakers
//!  352  BLOCK_SPACE  wait point of producers of large messages     waiters and wakers
//!  368  PROGRESS     wait point of whoever waits for messages to be taken or acknowledged
//!  384  HINT      block freed last (index + 1)             whoever frees a block
//!  448  LARGEST   largest message so far                   under the producer lock
//!  512  levels    256 bytes for each level above 0: tail | tail_seq | head_seen, at 128: head | head_seq
//!    …  rings     ring_size bytes a level, a power of two  producers; consumers only read
//!    …  leases    64 bytes a lease                         see `leases.rs`
//!    …  slots     inline_max + REASON_MAX bytes a lease    whoever writes the lease
//!    …  table     one word a unit                          see `blocks.rs`
//!    …  units     units × 4096 bytes, page aligned         the owner of the run
//! ```
//! 128 bytes apart, because processors fetch cache lines in pairs.
//!
//! A message of up to [`Geometry::inline_max`] bytes stands in the ring of its level (see `ring.rs`); a larger
//! one in a run of units (see `blocks.rs`) with a descriptor of 16 bytes in the ring. Level 0 is the least
//! urgent and the only one of a queue without priorities.

use crate::error::{Error, Result};

pub(super) const PRODUCER_LOCK: usize = 0;
pub(super) const TAIL: usize = 8;
pub(super) const ROVER: usize = 32;
pub(super) const FLAGS: usize = 40;
pub(super) const CONSUMER_LOCK: usize = 128;
pub(super) const HEAD: usize = 136;
pub(super) const RETURNED: usize = 152;
pub(super) const MESSAGES: usize = 256;
pub(super) const RING_SPACE: usize = 320;
pub(super) const BLOCK_SPACE: usize = 352;
pub(super) const PROGRESS: usize = 368;
pub(super) const HINT: usize = 384;
pub(super) const LARGEST: usize = 448;
pub(super) const LEVELS: usize = 512;

const LEVEL_SIZE: usize = 256;

/// Bytes of the record of a lease.
pub(super) const LEASE: usize = 64;
/// Most bytes of the reason that is kept with a message.
pub const REASON_MAX: usize = 256;

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
/// Most levels of priority.
pub const MAX_LEVELS: usize = 16;

/// How the memory of one queue is divided; derived from its capacity and its levels and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes for messages, as accepted.
    pub capacity: u64,
    /// Levels of priority, 1 or more.
    pub levels: usize,
    /// Bytes of the ring of each level.
    pub ring_size: usize,
    /// How many leases can be out, and letters of the dead kept, at the same time.
    pub leases: usize,
    /// Units of the block area.
    pub units: usize,
}

impl Geometry {
    /// Divides `capacity` bytes, rounded up to whole units: half of them (rounded down to a power of
    /// two) are the rings of all levels, the rest holds large messages.
    pub fn new(capacity: u64, levels: usize) -> Result<Geometry> {
        if capacity > MAX_CAPACITY {
            return Err(Error::TooLarge { what: "capacity in bytes", size: capacity, limit: MAX_CAPACITY });
        }
        if !(1..=MAX_LEVELS).contains(&levels) {
            return Err(Error::Invalid(format!(
                "priorities is {levels}: a queue has 1 to {MAX_LEVELS} levels of priority"
            )));
        }
        let capacity = capacity.max(MIN_CAPACITY).next_multiple_of(UNIT as u64);
        let ring_size = 1 << (capacity / 2 / levels as u64).ilog2();
        Ok(Geometry {
            capacity,
            levels,
            ring_size,
            leases: ((capacity >> 16) as usize).clamp(16, 1024),
            units: (capacity as usize - ring_size * levels) / UNIT,
        })
    }

    /// Largest message that goes through the ring.
    pub fn inline_max(&self) -> usize {
        INLINE_MAX.min(self.ring_size / 4)
    }

    /// Largest message the queue can ever hold.
    pub fn message_max(&self) -> usize {
        self.units * UNIT
    }

    /// Offsets of a level's words for producers and for consumers, and of its ring.
    pub(super) fn level_at(&self, level: usize) -> (usize, usize, usize) {
        let ring = LEVELS + (self.levels - 1) * LEVEL_SIZE + level * self.ring_size;
        match level.checked_sub(1) {
            None => (TAIL, HEAD, ring),
            Some(above) => {
                let at = LEVELS + above * LEVEL_SIZE;
                (at, at + LEVEL_SIZE / 2, ring)
            }
        }
    }

    /// Offset of the records of leases.
    pub fn leases_at(&self) -> usize {
        LEVELS + (self.levels - 1) * LEVEL_SIZE + self.levels * self.ring_size
    }

    /// Bytes of a slot.
    pub(super) fn slot_size(&self) -> usize {
        (self.inline_max() + REASON_MAX).next_multiple_of(64)
    }

    /// Offset of the slots of leases.
    pub fn slots_at(&self) -> usize {
        self.leases_at() + self.leases * LEASE
    }

    /// Offset of the table of runs.
    pub fn table_at(&self) -> usize {
        self.slots_at() + self.leases * self.slot_size()
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
const _: () = assert!(FLAGS < CONSUMER_LOCK && RETURNED < MESSAGES && CONSUMER_LOCK.is_multiple_of(128));
const _: () = assert!(LEVELS.is_multiple_of(128) && LARGEST + 8 <= LEVELS);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_divided_evenly() {
        let geometry = Geometry::new(DEFAULT_CAPACITY, 1).unwrap();
        assert_eq!((geometry.ring_size, geometry.message_max()), (4 << 20, 4 << 20));
        assert_eq!(geometry.leases, 128);
    }

    #[test]
    fn capacity_is_divided_and_never_shrinks() {
        for capacity in [0, 1, 65_535, 65_536, 65_537, 1_000_000, 100 << 20, MAX_CAPACITY] {
            for levels in 1..=MAX_LEVELS {
                let geometry = Geometry::new(capacity, levels).unwrap();
                assert!(geometry.capacity >= capacity);
                let rest = geometry.capacity as usize - levels * geometry.ring_size - geometry.message_max();
                assert!(rest < UNIT && (levels > 1 || rest == 0));
                assert!(geometry.inline_max() * 4 <= geometry.ring_size);
                assert_eq!(Geometry::new(geometry.capacity, levels).unwrap(), geometry);
            }
        }
        assert!(Geometry::new(MAX_CAPACITY + 1, 1).is_err());
        assert!(Geometry::new(0, 0).is_err() && Geometry::new(0, MAX_LEVELS + 1).is_err());
    }

    #[test]
    fn no_two_parts_overlap() {
        for levels in [1, 2, 3, 16] {
            let geometry = Geometry::new(1 << 20, levels).unwrap();
            let mut parts = vec![(0, LEVELS)];
            for level in 0..levels {
                let (producer, consumer, ring) = geometry.level_at(level);
                if level > 0 {
                    parts.extend([(producer, 24), (consumer, 16)]);
                }
                parts.push((ring, geometry.ring_size));
            }
            parts.push((geometry.leases_at(), geometry.leases * LEASE));
            parts.push((geometry.slots_at(), geometry.leases * geometry.slot_size()));
            parts.push((geometry.table_at(), geometry.units * 8));
            parts.push((geometry.units_at(), geometry.units * UNIT));
            parts.sort_unstable();
            assert!(parts.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{parts:?}");
            assert_eq!(parts.last().map(|(at, size)| at + size), Some(geometry.body_size()));
        }
    }
}
