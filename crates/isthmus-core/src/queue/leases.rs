//! The table of leases: messages that a consumer has taken and not acknowledged, that were given back, and that
//! nobody could use.
//!
//! # Layout
//! One record of a cache line and one slot a lease. A small message stands in the slot, a large one stays in
//! its run; the reason for giving back stands behind the small message in the slot.
//!
//! ```text
//!  0 state   63..40 deliveries | 39..15 generation | 14..3 slot of the owner | 2..0 state, 0: free
//!  8 run     first unit << 32 | units; 0: the message is in the slot
//! 16 length  bytes of the message
//! 24 position    where it stood in the ring of its level
//! 32 number      which message of its level it is
//! 40 sender << 8 | level
//! 48 length of the reason
//! 56 process id of the holder: by the time its death is proven, its slot may be another's
//! ```
//!
//! # Who writes what
//! | change | who | how |
//! |---|---|---|
//! | free → leased | holder of the consumer lock | record and slot, **then** state, **then** the head of the ring: the commit |
//! | free → dead (a message that was got and is not valid) | holder of the consumer lock | record, slot, reason, **then** state |
//! | leased → free (acknowledged) | the owner, without a lock | one compare-and-swap; the run is freed after it |
//! | leased → returned or dead (given back) | the owner, without a lock | reason, **then** one compare-and-swap |
//! | leased by the dead → returned or dead | holder of the consumer lock, with proof | the same |
//! | returned → leased, returned → free (got) | holder of the consumer lock | the run's owner, **then** state |
//! | dead → returned (requeued), dead → free (taken) | holder of the consumer lock | the same |
//!
//! The state says who holds the message and how often it was handed out; nothing else counts leases. A run
//! that a record names is in use whatever owner its own word has.
//!
//! `returned` beside the head is a hint that some record is in that state: consumers look at it instead of
//! at the table. Who gives back raises it after the state; who looks for such a record, under the consumer lock,
//! lowers it *before* looking and raises it again when more are left than the one it takes. Who looked at the hint
//! meanwhile may have gone to sleep, so whoever raised it wakes one when it is done.
//!
//! # Killed in between
//! | killed | what is left | who repairs |
//! |---|---|---|
//! | leasing: before the state | nothing: the record is free | nobody needs to |
//! | leasing: after the state, before the head | a lease of a message that is still in the ring: its position is not behind the head | next holder of the consumer lock: [`Leases::clear_void`] |
//! | leased | a lease of a dead owner | whoever waits for messages: `Queue::redeliver` |
//! | acknowledging: before the run is freed | a run owned by the dead that nothing names | `Blocks::free_dead` |
//! | giving back: before the hint | a returned message without a hint | `Queue::redeliver` |
//! | looking for returned ones: hint lowered | the same | next holder of the consumer lock |
//! | taking a returned one: run adopted | a returned message whose run the dead owns | nobody needs to: the record names it |

use std::mem::MaybeUninit;

use super::Place;
use super::blocks::Blocks;
use super::layout::{Geometry, LEASE, REASON_MAX};
use super::ring::{Ring, Sender, corrupt};
use crate::error::Result;
use crate::memory::Memory;
use crate::owner::Owner;

const RUN: usize = 8;
const LENGTH: usize = 16;
const POSITION: usize = 24;
const NUMBER: usize = 32;
const ORIGIN: usize = 40;
const REASON: usize = 48;
const HOLDER: usize = 56;

const SLOT_SHIFT: u32 = 3;
const GENERATION_SHIFT: u32 = 15;
const DELIVERIES_SHIFT: u32 = 40;
const DELIVERIES_MAX: u32 = (1 << 24) - 1;

/// What a record stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Leased = 1,
    Returned = 2,
    Dead = 3,
}

/// The state of a record, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) state: State,
    pub(super) owner: Owner,
    pub(super) deliveries: u32,
}

impl Held {
    pub(super) fn word(self) -> u64 {
        let owner = u64::from(self.owner.generation()) << GENERATION_SHIFT
            | u64::from(self.owner.slot()) << SLOT_SHIFT;
        u64::from(self.deliveries.min(DELIVERIES_MAX)) << DELIVERIES_SHIFT | owner | self.state as u64
    }

    pub(super) fn from_word(word: u64) -> Option<Held> {
        let state = match word & 7 {
            1 => State::Leased,
            2 => State::Returned,
            3 => State::Dead,
            _ => return None,
        };
        let slot = (word >> SLOT_SHIFT) as u32 & 0xfff;
        let generation = (word >> GENERATION_SHIFT) as u32 & 0x1ff_ffff;
        Some(Held {
            state,
            owner: Owner::process(slot, generation),
            deliveries: (word >> DELIVERIES_SHIFT) as u32,
        })
    }
}

/// Where a message comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Level of priority.
    pub level: u8,
    /// Which message of its level it is, from 0.
    pub number: u64,
    /// Where it stood in the ring.
    pub position: u64,
    /// Who put it.
    pub sender: Sender,
}

/// A message that a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) place: Place,
    pub(super) length: usize,
    pub(super) origin: Origin,
}

/// Why a message was given back, as it stands in the slot.
#[derive(Clone, Copy)]
pub(super) struct Reason {
    bytes: [u8; REASON_MAX],
    length: usize,
}

impl Reason {
    /// For people.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes[..self.length]).into_owned()
    }
}

/// A message that was given back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Returned {
    pub(super) index: usize,
    pub(super) held: Held,
    pub(super) level: u8,
    /// Whether there are others.
    pub(super) more: bool,
}

/// The leases of one queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leases {
    records: usize,
    slots: usize,
    slot_size: usize,
    inline_max: usize,
    count: usize,
    levels: usize,
    units: usize,
}

impl Leases {
    pub(super) fn new(body: usize, geometry: &Geometry) -> Leases {
        Leases {
            records: body + geometry.leases_at(),
            slots: body + geometry.slots_at(),
            slot_size: geometry.slot_size(),
            inline_max: geometry.inline_max(),
            count: geometry.leases,
            levels: geometry.levels,
            units: geometry.units,
        }
    }

    fn at(&self, index: usize) -> usize {
        self.records + LEASE * index
    }

    /// Offset of a small message.
    pub(super) fn slot(&self, index: usize) -> usize {
        self.slots + self.slot_size * index
    }

    pub(super) fn word<M: Memory>(&self, memory: &M, index: usize) -> u64 {
        memory.load(self.at(index))
    }

    /// What a record stands for; `None` where it is free.
    pub(super) fn held<M: Memory>(&self, memory: &M, index: usize) -> Option<Held> {
        Held::from_word(self.word(memory, index))
    }

    /// All records that are not free. Anyone; what it sees may change under it unless the consumer lock is held.
    pub(super) fn all<'a, M: Memory>(&'a self, memory: &'a M) -> impl Iterator<Item = (usize, Held)> + 'a {
        (0..self.count).filter_map(|index| Some((index, self.held(memory, index)?)))
    }

    /// A free record, `near` if that is one. Consumer lock held.
    pub(super) fn find_free<M: Memory>(&self, memory: &M, near: usize) -> Option<usize> {
        let start = if near < self.count { near } else { 0 };
        (start..self.count).chain(0..start).find(|index| self.word(memory, *index) == 0)
    }

    /// Puts a message into a free record, which stays free until [`Leases::set`]. Consumer lock held.
    pub(super) fn fill<M: Memory>(&self, memory: &M, index: usize, record: &Record) {
        let at = self.at(index);
        let run = match record.place {
            Place::Inline => 0,
            Place::Block(run) => (run.first as u64) << 32 | run.length as u64,
        };
        memory.store(at + RUN, run);
        memory.store(at + LENGTH, record.length as u64);
        memory.store(at + POSITION, record.origin.position);
        memory.store(at + NUMBER, record.origin.number);
        memory.store(at + ORIGIN, record.origin.sender.bits() << 8 | u64::from(record.origin.level));
        memory.store(at + REASON, 0);
    }

    /// Writes a small message into the slot of a record that is free or the caller's.
    pub(super) fn write<M: Memory>(&self, memory: &M, index: usize, message: &[u8]) {
        memory.write(self.slot(index), message);
    }

    /// Reads what a record holds; checked, for use with the consumer lock or by the owner of the lease.
    pub(super) fn read<M: Memory>(&self, memory: &M, index: usize) -> Result<Record> {
        let at = self.at(index);
        let run = memory.load(at + RUN);
        let length = memory.load(at + LENGTH);
        let place = if run == 0 {
            if length > self.inline_max as u64 {
                return Err(corrupt("the length of a leased message", length));
            }
            Place::Inline
        } else {
            let (first, units) = ((run >> 32) as usize, run as u32 as usize);
            let fits = first < self.units && units <= self.units - first;
            if !fits
                || length > (self.units * super::UNIT) as u64
                || Blocks::units_for(length as usize) != units
            {
                return Err(corrupt("the run of a leased message", run));
            }
            Place::Block(super::Run { first, length: units })
        };
        Ok(Record { place, length: length as usize, origin: self.origin(memory, index)? })
    }

    /// Where the message of a record comes from.
    pub(super) fn origin<M: Memory>(&self, memory: &M, index: usize) -> Result<Origin> {
        let at = self.at(index);
        let origin = memory.load(at + ORIGIN);
        if (origin & 0xff) as usize >= self.levels {
            return Err(corrupt("the level of a leased message", origin));
        }
        Ok(Origin {
            level: origin as u8,
            number: memory.load(at + NUMBER),
            position: memory.load(at + POSITION),
            sender: Sender::from_bits(origin >> 8),
        })
    }

    /// Notes who is about to hold the message. Consumer lock held.
    pub(super) fn set_holder<M: Memory>(&self, memory: &M, index: usize, pid: u32) {
        memory.store(self.at(index) + HOLDER, u64::from(pid));
    }

    /// Process id of who holds the message, or held it last.
    pub(super) fn holder<M: Memory>(&self, memory: &M, index: usize) -> u32 {
        memory.load(self.at(index) + HOLDER) as u32
    }

    /// Notes why a message is given back. By the owner of the lease, or with the consumer lock.
    pub(super) fn set_reason<M: Memory>(&self, memory: &M, index: usize, reason: &str) {
        let mut end = reason.len().min(REASON_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        // Nobody reads it before the state changes.
        memory.write(self.slot(index) + self.inline_max, &reason.as_bytes()[..end]);
        memory.store(self.at(index) + REASON, end as u64);
    }

    /// Why the message was given back.
    pub(super) fn reason<M: Memory>(&self, memory: &M, index: usize) -> Reason {
        let length = (memory.load(self.at(index) + REASON) as usize).min(REASON_MAX);
        let mut bytes = [MaybeUninit::new(0); REASON_MAX];
        memory.read(self.slot(index) + self.inline_max, &mut bytes[..length]);
        // SAFETY: initialised with zeroes above.
        Reason { bytes: bytes.map(|byte| unsafe { byte.assume_init() }), length }
    }

    /// Sets the state of a record. Consumer lock held; not for leases of others.
    pub(super) fn set<M: Memory>(&self, memory: &M, index: usize, held: Held) {
        // SYNC(lease): record and slot are visible to whoever sees this state.
        memory.store(self.at(index), held.word());
    }

    /// Frees a record. Consumer lock held; not for leases.
    pub(super) fn clear<M: Memory>(&self, memory: &M, index: usize) {
        memory.store(self.at(index), 0);
    }

    /// Ends a lease: `None` frees the record. False where it is not (or no longer) as it was.
    pub(super) fn end<M: Memory>(&self, memory: &M, index: usize, from: Held, to: Option<Held>) -> bool {
        memory.compare_exchange(self.at(index), from.word(), to.map_or(0, Held::word)).is_ok()
    }

    /// The returned message that goes first: of the highest level, and of that the oldest. Consumer lock held.
    pub(super) fn first_returned<M: Memory>(&self, memory: &M) -> Result<Option<Returned>> {
        let mut best: Option<(u64, Returned)> = None;
        for (index, held) in self.all(memory).filter(|(_, held)| held.state == State::Returned) {
            let Origin { level, position, .. } = self.origin(memory, index)?;
            let more = best.is_some();
            best = match best {
                Some((oldest, first)) if (first.level, position) > (level, oldest) => {
                    Some((oldest, Returned { more, ..first }))
                }
                _ => Some((position, Returned { index, held, level, more })),
            };
        }
        Ok(best.map(|(_, first)| first))
    }

    /// After a consumer died: frees the records of messages that are still in their ring. Consumer lock held.
    /// Says whether any message waits as returned.
    pub(super) fn clear_void<M: Memory>(&self, memory: &M, rings: &[Ring]) -> Result<bool> {
        let mut returned = false;
        for (index, held) in self.all(memory) {
            match held.state {
                State::Leased => {
                    let origin = self.origin(memory, index)?;
                    let ring = &rings[usize::from(origin.level)];
                    if !ring.is_taken(memory, origin.position) {
                        self.clear(memory, index);
                    }
                }
                State::Returned => returned = true,
                State::Dead => {}
            }
        }
        Ok(returned)
    }
}
