//! A barrier: all wait until so many have come.
//!
//! ```text
//!    0  word      generation << 1 | broken
//!   48  reset     generation + 1 that a reset ends, or has ended; 0 none
//!   72  parties   how many open it, written at creation
//!    …  cells     16 bytes an arrival: Owner word, (generation + 1) << 1 | reset
//! ```
//! An arrival is a cell of the present generation; how many have come is counted from the cells. The last one raises
//! the generation by one store, which opens the barrier for all of that generation, and makes their cells free.
//! Everything is changed under the guard.
//!
//! **Death.** A waiter that finds an arrival of the present generation whose process is dead breaks the barrier for
//! all, as `abort` does; so does the last one before it opens. Killed in the middle of arriving: the owner word stands
//! in a cell of an earlier generation, which counts for nothing. `reset` writes
//! the generation it ends to `reset`, raises the generation, which is its one commit, and then marks the cells of those
//! who waited, so that they learn that theirs was broken. Killed before the commit: what opens the barrier normally
//! takes the word back first. Killed before marking: the word says the same as the marks, and the next reset makes
//! them up.

use super::condition::{Held, guard};
use super::{CELLS, EXTRA, GUARD, POINT, WORD, Waitable, Want, dead_among};
use crate::error::Result;
use crate::lock::Lock;
use crate::memory::{Memory, Peers};
use crate::owner::Owner;
use crate::wait::WaitPoint;

/// Most parties.
pub const MAX: u64 = 4096;
const SIZE: usize = 16;
const BROKEN: u64 = 1;
const RESET: u64 = 1;

/// A barrier on some memory, among some peers.
pub struct Barrier<M, P> {
    memory: M,
    peers: P,
    at: usize,
    parties: usize,
}

/// One who has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// How many came before.
    pub index: usize,
    /// The generation it waits for to end.
    pub generation: u64,
    /// Its cell.
    pub cell: usize,
}

/// What became of an arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All have come.
    Open,
    /// Somebody died, gave up, or has reset the barrier.
    Broken,
    /// Not yet known.
    Waiting,
}

/// Bytes of the body.
pub const fn body_size(parties: usize) -> usize {
    CELLS + parties * SIZE
}

impl<M: Memory, P: Peers> Barrier<M, P> {
    /// The barrier whose body begins at `at`.
    pub fn new(memory: M, peers: P, at: usize, parties: usize) -> Barrier<M, P> {
        assert!(at + body_size(parties) <= memory.size(), "the body must lie inside the memory");
        Barrier { memory, peers, at, parties }
    }

    /// How many open it.
    pub fn parties(&self) -> usize {
        self.parties
    }

    const fn cell(&self, index: usize) -> usize {
        self.at + CELLS + index * SIZE
    }

    fn word(&self) -> u64 {
        self.memory.load(self.at + WORD)
    }

    const fn waiters(&self) -> WaitPoint {
        WaitPoint::new(self.at + POINT)
    }

    fn guard(&self, me: Owner) -> Option<Held<'_, M>> {
        guard(Lock::new(self.at + GUARD), &self.memory, &self.peers, me)
    }

    const fn tag(generation: u64) -> u64 {
        (generation + 1) << 1
    }

    /// Those who have come in this generation.
    fn arrivals(&self, generation: u64) -> impl Iterator<Item = usize> {
        (0..self.parties).filter(move |&index| {
            self.memory.load(self.cell(index)) != 0
                && self.memory.load(self.cell(index) + 8) == Self::tag(generation)
        })
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        let word = self.word();
        if word & BROKEN != 0 { 0 } else { self.arrivals(word >> 1).count() }
    }

    /// Who waits.
    pub fn list(&self) -> Vec<Owner> {
        let owner = |index: usize| Owner::from_word(self.memory.load(self.cell(index)));
        self.arrivals(self.word() >> 1).map(owner).collect()
    }

    /// True until `reset`.
    pub fn is_broken(&self) -> bool {
        self.word() & BROKEN != 0
    }

    /// Arrives; `Some(None)` where the barrier is broken, `None` where the guard is busy. The last of all calls
    /// [`Barrier::open`] next.
    pub fn arrive(&self, me: Owner) -> Option<Option<Arrival>> {
        let _held = self.guard(me)?;
        let word = self.word();
        let generation = word >> 1;
        if word & BROKEN != 0 {
            return Some(None);
        }
        let index = self.arrivals(generation).count();
        let free = (0..self.parties).find(|&index| {
            let (owner, tag) = (self.memory.load(self.cell(index)), self.memory.load(self.cell(index) + 8));
            // Marked by a reset: its waiter has still to read it.
            let marked = tag & RESET != 0 || tag == self.reset_tag();
            owner == 0
                || !marked && tag != Self::tag(generation)
                || marked && self.peers.is_dead(Owner::from_word(owner))
        });
        // None is free where many have still to read that a reset broke theirs: tried again like a busy guard.
        let cell = free?;
        self.memory.store(self.cell(cell) + 8, 0);
        self.memory.store(self.cell(cell), me.word());
        self.memory.store(self.cell(cell) + 8, Self::tag(generation));
        Some(Some(Arrival { index, generation, cell }))
    }

    /// Whether this arrival was the last of all.
    pub fn is_last(&self, arrival: &Arrival) -> bool {
        arrival.index + 1 == self.parties
    }

    /// Opens the barrier for the generation of the last arrival, unless one of them is dead; `None` where the
    /// guard is busy.
    pub fn open(&self, me: Owner, arrival: &Arrival) -> Option<Outcome> {
        let _ = self.look_for_dead(me);
        let _held = self.guard(me)?;
        let word = self.word();
        if word == arrival.generation << 1 {
            if self.memory.load(self.at + EXTRA) == arrival.generation + 1 {
                self.memory.store(self.at + EXTRA, 0);
            }
            self.memory.swap(self.at + WORD, (arrival.generation + 1) << 1);
            self.waiters().notify_all(&self.memory);
            return Some(Outcome::Open);
        }
        Some(if word >> 1 == arrival.generation { Outcome::Broken } else { self.outcome(me, arrival) })
    }

    /// What has become of an arrival.
    pub fn outcome(&self, me: Owner, arrival: &Arrival) -> Outcome {
        let word = self.word();
        if word >> 1 == arrival.generation {
            return if word & BROKEN != 0 { Outcome::Broken } else { Outcome::Waiting };
        }
        let cell = self.cell(arrival.cell);
        let tag = Self::tag(arrival.generation);
        let marked = self.memory.load(cell) == me.word() && self.memory.load(cell + 8) == tag | RESET;
        if marked || self.reset_tag() == tag { Outcome::Broken } else { Outcome::Open }
    }

    /// The wait of `me` is over, however; before that the outcome is read. `None` where the guard is busy.
    pub fn leave(&self, me: Owner, arrival: &Arrival) -> Option<()> {
        let _held = self.guard(me)?;
        let (cell, tag) = (self.cell(arrival.cell), Self::tag(arrival.generation));
        if self.memory.load(cell) == me.word() && self.memory.load(cell + 8) & !RESET == tag {
            self.memory.store(cell + 8, 0);
            self.memory.store(cell, 0);
        }
        Some(())
    }

    /// Breaks the barrier for all who wait and come, until `reset`.
    pub fn abort(&self) {
        self.memory.fetch_or(self.at + WORD, BROKEN);
        self.waiters().notify_all(&self.memory);
    }

    /// Makes it whole again; it breaks for those who wait now. `None` where the guard is busy.
    pub fn reset(&self, me: Owner) -> Option<()> {
        let _held = self.guard(me)?;
        let generation = self.word() >> 1;
        let earlier = self.memory.load(self.at + EXTRA);
        if earlier != 0 && earlier != generation + 1 {
            self.mark(earlier - 1);
        }
        self.memory.store(self.at + EXTRA, generation + 1);
        self.memory.swap(self.at + WORD, (generation + 1) << 1);
        self.mark(generation);
        self.waiters().notify_all(&self.memory);
        Some(())
    }

    /// Tells those who waited in this generation that it was reset.
    fn mark(&self, generation: u64) {
        let waiting: Vec<usize> = self.arrivals(generation).collect();
        for index in waiting {
            self.memory.store(self.cell(index) + 8, Self::tag(generation) | RESET);
        }
    }

    /// What stands in cells of a generation that was reset.
    fn reset_tag(&self) -> u64 {
        let ended = self.memory.load(self.at + EXTRA);
        if ended == 0 || ended > self.word() >> 1 { u64::MAX } else { Self::tag(ended - 1) }
    }

    /// Breaks the barrier where one who has come is dead; says whether it did.
    fn look_for_dead(&self, me: Owner) -> bool {
        let word = self.word();
        let arrived = self.arrivals(word >> 1).map(|index| self.memory.load(self.cell(index)));
        let arrived = arrived.map(|word| Owner::from_word(word).as_process());
        let dead = word & BROKEN == 0
            && !dead_among(&self.peers, arrived.filter(|owner| *owner != me.as_process())).is_empty();
        // Only the generation that was looked at.
        let broke = dead && self.memory.compare_exchange(self.at + WORD, word, word | BROKEN).is_ok();
        if broke {
            self.waiters().notify_all(&self.memory);
        }
        broke
    }
}

impl<M: Memory, P: Peers> Waitable for Barrier<M, P> {
    fn point(&self, _want: Want) -> WaitPoint {
        self.waiters()
    }

    fn ready(&self, _me: Owner, want: Want) -> bool {
        match want {
            Want::Open(generation) => self.word() != generation << 1,
            _ => true,
        }
    }

    fn look(&self, me: Owner, _want: Want) -> Result<()> {
        self.peers.relock()?;
        self.look_for_dead(me);
        Ok(())
    }
}
