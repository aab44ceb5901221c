//! Waiting for something to change under a lock.
//!
//! The first words are a recursive mutex (`mutex/mod.rs`), the condition's own lock; users may bring another. Each
//! waiter has a cell:
//! ```text
//! +0x00 waiter   Owner word | 1 waiting | 2 notified; 0 free
//! +0x08 ticket   who came first; unique
//! +0x10 point    wait point of this waiter alone (`wait.rs`)
//! +0x18 passed   ticket of the dead whose notification this is; 0 its own
//! ```
//! and beside them, at 80, the last ticket given, and at 88 how many cells were ever in use, which is raised before the
//! cell is written and bounds every search. Everything is changed under the guard, and each call commits by
//! one store to the first word of a cell.
//!
//! # Notifications are exact
//! `notify(n)` marks the n longest waiting cells. A marked cell whose waiter died is a notification that nobody has
//! used: whoever waits and proves the death passes it on: 1 write the dead one's ticket to `passed` of the next
//! waiting cell; 2 mark that cell; 3 free the dead one's. Killed after 2: the next one to pass it on finds its ticket
//! in a marked cell, and only frees. Who uses a notification that was passed on frees the dead one's cell first,
//! then its own. So at every store the number of marked cells, those counted once that are about the same ticket,
//! is the number of notifications not used.
//!
//! Killed in the middle of anything else: entering, a cell of the dead that waits; it is freed by whoever looks for
//! a free one. Killed under the guard: it is taken over like any short lock, and there is nothing to repair.

use super::{CELLS, GUARD, LIMIT, Waitable, Want, dead_among};
use crate::error::{Error, Result};
use crate::lock::Lock;
use crate::memory::{Memory, Peers};
use crate::owner::{FLAGS, Owner};
use crate::wait::WaitPoint;

/// Most waiters at a time.
pub const WAITERS: usize = if cfg!(loom) { 3 } else { 2048 };
const SIZE: usize = 32;
/// Bytes of the body.
pub const BODY_SIZE: usize = CELLS + WAITERS * SIZE;

const LAST_TICKET: usize = LIMIT + 8;
const USED: usize = LIMIT + 16;
const TICKET: usize = 8;
const CELL_POINT: usize = 16;
const PASSED: usize = 24;

const WAITING: u64 = 1;
const NOTIFIED: u64 = 2;

/// A condition on some memory, among some peers.
pub struct Condition<M, P> {
    memory: M,
    peers: P,
    at: usize,
}

/// The guard, held.
pub(super) struct Held<'a, M: Memory> {
    pub(super) lock: Lock,
    pub(super) memory: &'a M,
    pub(super) me: Owner,
}

impl<M: Memory> Drop for Held<'_, M> {
    fn drop(&mut self) {
        self.lock.release(self.memory, self.me);
    }
}

/// Takes a short lock, from the dead as well; `None` where a living process is in.
pub(super) fn guard<'a, M: Memory, P: Peers>(
    lock: Lock,
    memory: &'a M,
    peers: &P,
    me: Owner,
) -> Option<Held<'a, M>> {
    for _ in 0..100 {
        if lock.try_acquire(memory, me, false) {
            return Some(Held { lock, memory, me });
        }
        crate::memory::pause();
    }
    let word = lock.dead_word(memory, peers)?;
    lock.take_over(memory, word, me).then(|| Held { lock, memory, me })
}

impl<M: Memory, P: Peers> Condition<M, P> {
    /// The condition whose body begins at `at`.
    pub fn new(memory: M, peers: P, at: usize) -> Condition<M, P> {
        assert!(at + BODY_SIZE <= memory.size(), "the body must lie inside the memory");
        Condition { memory, peers, at }
    }

    const fn cell(&self, index: usize) -> usize {
        self.at + CELLS + index * SIZE
    }

    fn word(&self, index: usize) -> u64 {
        self.memory.load(self.cell(index))
    }

    fn ticket(&self, index: usize) -> u64 {
        self.memory.load(self.cell(index) + TICKET)
    }

    fn guard(&self, me: Owner) -> Option<Held<'_, M>> {
        guard(Lock::new(self.at + GUARD), &self.memory, &self.peers, me)
    }

    const fn point_of(&self, index: usize) -> WaitPoint {
        WaitPoint::new(self.cell(index) + CELL_POINT)
    }

    fn used(&self) -> usize {
        (self.memory.load(self.at + USED) as usize).min(WAITERS)
    }

    /// Begins to wait; `None` where the guard is busy. The caller holds the lock it waits under, and lets go of it
    /// afterwards.
    pub fn enter(&self, me: Owner) -> Result<Option<usize>> {
        let Some(_held) = self.guard(me) else { return Ok(None) };
        let ticket = self.memory.load(self.at + LAST_TICKET).wrapping_add(1);
        let used = self.used();
        let free = (0..WAITERS.min(used + 1)).find(|&index| self.word(index) == 0).or_else(|| {
            (0..self.used()).find(|&index| {
                let word = self.word(index);
                word & FLAGS == WAITING && self.peers.is_dead(Owner::from_word(word))
            })
        });
        let Some(index) = free else {
            return Err(Error::TooLarge {
                what: "waiters of one condition at the same time",
                size: WAITERS as u64 + 1,
                limit: WAITERS as u64,
            });
        };
        if index >= used {
            self.memory.store(self.at + USED, index as u64 + 1);
        }
        let cell = self.cell(index);
        self.memory.store(self.at + LAST_TICKET, ticket);
        self.memory.store(cell + TICKET, ticket);
        self.memory.store(cell + PASSED, 0);
        self.memory.store(cell + CELL_POINT, 0);
        self.memory.store(cell, me.word() | WAITING);
        Ok(Some(index))
    }

    /// Waiting cells, the longest waiting first. Under the guard.
    fn waiting(&self) -> Vec<usize> {
        let waiting = (0..self.used()).filter(|&index| self.word(index) & FLAGS == WAITING);
        // Each ticket is read once: what changes while it is sorted by is no order, which sorting may panic at.
        let mut found: Vec<(u64, usize)> = waiting.map(|index| (self.ticket(index), index)).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, index)| index).collect()
    }

    fn mark(&self, index: usize) {
        self.memory.swap(self.cell(index), (self.word(index) & !FLAGS) | NOTIFIED);
        // SYNC(wait): the swap was a full fence.
        self.point_of(index).notify_all(&self.memory);
    }

    /// Notifies up to `count` waiters, the longest waiting first; says how many, `None` where the guard is busy.
    pub fn notify(&self, me: Owner, count: usize) -> Option<usize> {
        let _held = self.guard(me)?;
        let chosen: Vec<usize> = self.waiting().into_iter().take(count).collect();
        for &index in &chosen {
            self.mark(index);
        }
        Some(chosen.len())
    }

    /// Ends the wait of `me`: true where it was notified, `None` where the guard is busy.
    pub fn leave(&self, me: Owner, index: usize) -> Option<bool> {
        let _held = self.guard(me)?;
        let word = self.word(index);
        if Owner::from_word(word) != me {
            return Some(false);
        }
        let passed = self.memory.load(self.cell(index) + PASSED);
        if word & FLAGS == NOTIFIED && passed != 0 {
            self.free_of_ticket(passed, index);
        }
        self.memory.store(self.cell(index), 0);
        Some(word & FLAGS == NOTIFIED)
    }

    /// Frees the cell whose notification was passed on to `to`.
    fn free_of_ticket(&self, ticket: u64, to: usize) {
        let from = (0..self.used()).find(|&index| {
            index != to && self.word(index) & FLAGS == NOTIFIED && self.ticket(index) == ticket
        });
        if let Some(from) = from {
            self.memory.store(self.cell(from), 0);
        }
    }

    /// Passes on what the dead were notified of. `None` where the guard is busy.
    pub fn pass_on(&self, me: Owner) -> Option<()> {
        // Proving a death takes system calls: not under the guard.
        let notified = (0..self.used()).map(|index| self.word(index)).filter(|word| word & FLAGS == NOTIFIED);
        let notified = notified.map(Owner::from_word).filter(|owner| *owner != me);
        let dead = dead_among(&self.peers, notified);
        if dead.is_empty() {
            return Some(());
        }
        let _held = self.guard(me)?;
        for from in 0..self.used() {
            let word = self.word(from);
            if word & FLAGS != NOTIFIED || !dead.contains(&Owner::from_word(word)) {
                continue;
            }
            let ticket = self.ticket(from);
            let passed_already = (0..self.used()).any(|index| {
                index != from
                    && self.word(index) & FLAGS == NOTIFIED
                    && self.memory.load(self.cell(index) + PASSED) == ticket
            });
            if !passed_already {
                let earlier = self.memory.load(self.cell(from) + PASSED);
                if earlier != 0 {
                    self.free_of_ticket(earlier, from);
                }
                let next = self.waiting().into_iter().find(|&index| {
                    let owner = Owner::from_word(self.word(index));
                    owner == me || !self.peers.is_dead(owner)
                });
                if let Some(next) = next {
                    self.memory.store(self.cell(next) + PASSED, ticket);
                    self.mark(next);
                }
            }
            self.memory.store(self.cell(from), 0);
        }
        Some(())
    }

    /// Frees the cells of the dead that wait, so that no notification goes to them. `None` where the guard is busy.
    fn free_waiting_dead(&self, me: Owner) -> Option<()> {
        let words = (0..self.used()).map(|index| self.word(index));
        let waiting =
            words.filter(|word| word & FLAGS == WAITING).map(|word| Owner::from_word(word).as_process());
        let dead = dead_among(&self.peers, waiting.filter(|owner| *owner != me.as_process()));
        if dead.is_empty() {
            return Some(());
        }
        let _held = self.guard(me)?;
        for index in 0..self.used() {
            let word = self.word(index);
            if word & FLAGS == WAITING && dead.contains(&Owner::from_word(word).as_process()) {
                self.memory.store(self.cell(index), 0);
            }
        }
        Some(())
    }

    /// Who waits and is not notified.
    pub fn list(&self) -> Vec<Owner> {
        let words = (0..self.used()).map(|index| self.word(index));
        words.filter(|word| word & FLAGS == WAITING).map(Owner::from_word).collect()
    }
}

impl<M: Memory, P: Peers> Waitable for Condition<M, P> {
    fn point(&self, want: Want) -> WaitPoint {
        match want {
            Want::Notified(index) if index < WAITERS => self.point_of(index),
            _ => self.point_of(0),
        }
    }

    fn ready(&self, me: Owner, want: Want) -> bool {
        match want {
            Want::Notified(index) if index < WAITERS => self.word(index) != me.word() | WAITING,
            _ => true,
        }
    }

    fn look(&self, me: Owner, _want: Want) -> Result<()> {
        self.peers.relock()?;
        // Where the guard is busy, whoever is in, or the next look, does it.
        let _ = self.free_waiting_dead(me);
        let _ = self.pass_on(me);
        Ok(())
    }
}
