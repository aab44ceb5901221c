//! Blocks: runs of equal units that hold the large messages.
//!
//! # Layout
//! One table word a unit. The word of a run's first unit describes the run, the others are zero:
//!
//! ```text
//!  63            37 36            12 11      0
//! +----------------+----------------+---------+
//! | length (units) | generation     | slot    |    slot 0: the run is free
//! +----------------+----------------+---------+
//! ```
//! Runs lie end to end from unit 0 to the last, so the table is walked from run to run, and a free run
//! merges with free runs behind it when somebody walks past. There is no free list: only a hint to
//! the run freed last (reused first, while it is still in the cache) and a rover where the last
//! search ended.
//!
//! # Who writes what
//! | change | who | how |
//! |---|---|---|
//! | split, merge, claim for writing | holder of the producer lock | see below |
//! | owner: writer → reader | holder of the consumer lock, before it takes the descriptor off the ring | one store |
//! | free | the owner, without a lock | one store |
//!
//! Who owns a run is all the state there is. A run that a descriptor in a ring or the record of a lease names
//! belongs to the queue, whatever owner its word names.
//!
//! # Killed in between
//! | killed | what is left | who repairs |
//! |---|---|---|
//! | splitting or shortening: rest written, run not yet claimed or shortened | a word inside a run | next holder of the producer lock: [`Blocks::clear_interiors`] |
//! | merging: grown, absorbed words not yet zero | the same | the same |
//! | writing, before its descriptor is committed | run owned by the dead, not in the ring | [`Blocks::free_dead`] |
//! | writing, after | run owned by the dead, in the ring | nobody needs to: a reader takes it |
//! | reading, before the head moved on | run owned by the dead, in the ring | the same |
//! | reading, after | run owned by the dead, not in the ring | [`Blocks::free_dead`] |
//! | leasing, giving back | run owned by the dead, named by a record | see `leases.rs` |
//!
//! `free_dead` runs when a producer finds no room, with both locks held, so that no
//! descriptor moves while it looks.

use super::layout::{Geometry, HINT, ROVER, UNIT};
use super::ring::corrupt;
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::owner::Owner;

const SLOT_BITS: u32 = 12;
const LENGTH_SHIFT: u32 = 37;
const OWNER_MASK: u64 = (1 << LENGTH_SHIFT) - 1;

/// A run of units that the caller owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its first unit.
    pub(super) first: usize,
    /// How many units.
    pub(super) length: usize,
}

fn word(length: usize, owner: Owner) -> u64 {
    (length as u64) << LENGTH_SHIFT | u64::from(owner.generation()) << SLOT_BITS | u64::from(owner.slot())
}

fn length_of(word: u64) -> usize {
    (word >> LENGTH_SHIFT) as usize
}

fn owner_of(word: u64) -> Owner {
    let (slot, generation) = (word & ((1 << SLOT_BITS) - 1), (word & OWNER_MASK) >> SLOT_BITS);
    Owner::process(slot as u32, generation as u32)
}

fn is_free(word: u64) -> bool {
    word != 0 && word & OWNER_MASK == 0
}

/// The block area of one queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    body: usize,
    table: usize,
    units_at: usize,
    units: usize,
}

impl Blocks {
    pub(super) fn new(body: usize, geometry: &Geometry) -> Blocks {
        Blocks {
            body,
            table: body + geometry.table_at(),
            units_at: body + geometry.units_at(),
            units: geometry.units,
        }
    }

    /// One free run over everything; for a body that nobody else sees yet.
    pub(super) fn format<M: Memory>(&self, memory: &M) {
        memory.store(self.table, word(self.units, Owner::NONE));
    }

    fn at(&self, unit: usize) -> usize {
        self.table + 8 * unit
    }

    /// Offset of a run's bytes.
    pub(super) fn offset(&self, run: Run) -> usize {
        self.units_at + run.first * UNIT
    }

    /// Units needed for a message.
    pub(super) fn units_for(length: usize) -> usize {
        length.div_ceil(UNIT).max(1)
    }

    /// Reads the word of the run that begins at `unit`; it must lie inside the area.
    fn run_at<M: Memory>(&self, memory: &M, unit: usize) -> Result<u64> {
        if unit < self.units {
            let found = memory.load(self.at(unit));
            let length = length_of(found);
            if length != 0 && length <= self.units - unit {
                return Ok(found);
            }
        }
        Err(corrupt("the table of blocks, at unit", unit as u64))
    }

    /// First unit and length of the run freed last, where it is still free and long enough. Hint and word are read
    /// once: whoever frees another run meanwhile moves the hint, and what is wrong in either is not believed twice.
    pub(super) fn hinted<M: Memory>(&self, memory: &M, need: usize) -> Option<(usize, usize)> {
        let hint = memory.load(self.body + HINT) as usize;
        let unit = hint.checked_sub(1).filter(|unit| *unit < self.units)?;
        let found = memory.load(self.at(unit));
        let length = length_of(found);
        (is_free(found) && (need..=self.units - unit).contains(&length)).then_some((unit, length))
    }

    /// Claims a run for writing, or `None` where no free run is long enough. Producer lock held.
    pub(super) fn claim<M: Memory>(&self, memory: &M, me: Owner, need: usize) -> Result<Option<Run>> {
        if let Some((unit, length)) = self.hinted(memory, need) {
            // Free runs change under the producer lock only, which is held: it is as it was just seen.
            return Ok(Some(self.take(memory, me, unit, length, need)));
        }
        let rover = memory.load(self.body + ROVER) as usize;
        let start = if rover < self.units && memory.load(self.at(rover)) != 0 { rover } else { 0 };
        for (from, to) in [(start, self.units), (0, start)] {
            let mut unit = from;
            while unit < to {
                let found = self.run_at(memory, unit)?;
                let mut length = length_of(found);
                if is_free(found) {
                    length = self.merge(memory, unit, length, need)?;
                    if length >= need {
                        return Ok(Some(self.take(memory, me, unit, length, need)));
                    }
                }
                unit += length;
            }
        }
        Ok(None)
    }

    /// Grows a free run over the free runs behind it until it is long enough.
    fn merge<M: Memory>(&self, memory: &M, unit: usize, length: usize, need: usize) -> Result<usize> {
        let mut grown = length;
        while grown < need && unit + grown < self.units {
            let next = self.run_at(memory, unit + grown)?;
            if !is_free(next) {
                break;
            }
            let absorbed = unit + grown;
            grown += length_of(next);
            memory.store(self.at(unit), word(grown, Owner::NONE));
            memory.store(self.at(absorbed), 0);
        }
        Ok(grown)
    }

    /// Cuts `need` units off a free run for `me`.
    fn take<M: Memory>(&self, memory: &M, me: Owner, first: usize, length: usize, need: usize) -> Run {
        if length > need {
            memory.store(self.at(first + need), word(length - need, Owner::NONE));
        }
        memory.store(self.at(first), word(need, me));
        memory.store(self.body + ROVER, (first + need) as u64);
        Run { first, length: need }
    }

    /// Makes `me` the owner of the run a descriptor names. Consumer lock held.
    pub(super) fn adopt<M: Memory>(&self, memory: &M, me: Owner, first: u64, bytes: u64) -> Result<Run> {
        let run = self.named(memory, first, bytes)?;
        memory.store(self.at(run.first), word(run.length, me));
        Ok(run)
    }

    /// The run a descriptor names: it must be there, as long as its message needs, and not free.
    pub(super) fn named<M: Memory>(&self, memory: &M, first: u64, bytes: u64) -> Result<Run> {
        let length = Blocks::units_for(bytes as usize);
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        let found = self.run_at(memory, first)?;
        if bytes > (self.units * UNIT) as u64 || length_of(found) != length || is_free(found) {
            return Err(corrupt("the descriptor of a large message", bytes));
        }
        Ok(Run { first, length })
    }

    /// Gives a run of `owner` back: one store, no lock. The next claim tries it first.
    ///
    /// It is a compare-and-swap, so that one who was declared dead and comes back harms nobody, and
    /// because a full fence must follow anyway before the caller looks for waiting producers.
    pub(super) fn free<M: Memory>(&self, memory: &M, owner: Owner, run: Run) -> bool {
        let owned = word(run.length, owner);
        let freed = memory.compare_exchange(self.at(run.first), owned, word(run.length, Owner::NONE)).is_ok();
        if freed {
            memory.store(self.body + HINT, run.first as u64 + 1);
        }
        freed
    }

    /// Refuses a run that is not `me`'s (any more). Either lock held: the dead lose theirs under both.
    pub(super) fn check_owner<M: Memory>(&self, memory: &M, me: Owner, run: Run) -> Result<()> {
        if self.run_at(memory, run.first)? == word(run.length, me) {
            return Ok(());
        }
        Err(Error::NotOwner(
            "the memory of this message is not this process's: it was forked in the middle of a put, or its \
             peers have declared it dead"
                .to_owned(),
        ))
    }

    /// Gives back what `me` does not need of a run; says whether there was any. Producer lock held.
    pub(super) fn shorten<M: Memory>(&self, memory: &M, me: Owner, run: Run, need: usize) -> bool {
        if need >= run.length {
            return false;
        }
        memory.store(self.at(run.first + need), word(run.length - need, Owner::NONE));
        memory.store(self.at(run.first), word(need, me));
        true
    }

    /// After a producer died: only first units may have a word. Producer lock held.
    pub(super) fn clear_interiors<M: Memory>(&self, memory: &M) -> Result<()> {
        let mut unit = 0;
        while unit < self.units {
            let length = length_of(self.run_at(memory, unit)?);
            for inner in unit + 1..unit + length {
                if memory.load(self.at(inner)) != 0 {
                    memory.store(self.at(inner), 0);
                }
            }
            unit += length;
        }
        Ok(())
    }

    /// Calls `visit` with each run that has an owner. Producer lock held.
    pub(super) fn owned<M: Memory>(&self, memory: &M, mut visit: impl FnMut(Run, Owner)) -> Result<()> {
        let mut unit = 0;
        while unit < self.units {
            let found = self.run_at(memory, unit)?;
            let length = length_of(found);
            if !is_free(found) {
                visit(Run { first: unit, length }, owner_of(found));
            }
            unit += length;
        }
        Ok(())
    }

    /// Frees the runs of the dead that no descriptor in a ring and no lease names; says how many.
    /// Both locks held; `named` is sorted.
    pub(super) fn free_dead<M: Memory>(
        &self,
        memory: &M,
        named: &[u64],
        mut is_dead: impl FnMut(Owner) -> bool,
    ) -> Result<usize> {
        let mut lost = Vec::new();
        self.owned(memory, |run, owner| {
            if named.binary_search(&(run.first as u64)).is_err() && is_dead(owner) {
                lost.push((run, owner));
            }
        })?;
        for (run, owner) in &lost {
            self.free(memory, *owner, *run);
        }
        Ok(lost.len())
    }
}
