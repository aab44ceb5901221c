//! A lock whose word names its owner, so that a killed owner is found and replaced.
//!
//! # The word
//! See [`crate::owner`]: generation, context and slot of the owner, and the flag `W` (somebody may
//! be asleep here). Zero: free. The other two flags belong to the mutex that users see.
//!
//! | transition | who | how |
//! |---|---|---|
//! | free → owned | anyone | compare-and-swap |
//! | owned → owned + W | a waiter, before it sleeps | compare-and-swap |
//! | owned → free | the owner | compare-and-swap; with W: swap, then wake one |
//! | owned by the dead → owned by the taker + W | a waiter with proof of death | compare-and-swap |
//!
//! # Killed in between
//! Every transition is one instruction. A killed owner stays in the word until a waiter proves its
//! death ([`Lock::rest`], looked at after the first millisecond and then every 80 ms at most) and takes
//! the lock over; it must repair what the lock protects before it lets go, and if it is killed while
//! repairing, the next one starts again. An owner killed between freeing the lock and waking: the
//! sleeper's slice ends within 80 ms. W is re-set by whoever acquires after having slept, because
//! others may still sleep.

use std::time::{Duration, Instant};

use crate::memory::{Memory, Peers, Woken};
use crate::owner::{Owner, WAITERS};
use crate::wait::WATCH_SLICE;

/// A lock; one word in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    at: usize,
}

/// How a rest beside a lock ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// The lock may be free now: try again.
    Again,
    /// The owner in this word is dead: take it over, or mark it.
    Dead(u64),
    /// A signal handler ran.
    Interrupted,
}

/// How long a waiter of an owned lock sleeps before it looks whether the owner lives:
/// 1, 2, 4 … 80 ms.
#[derive(Debug)]
pub struct Slices {
    next: Duration,
    since: Option<Instant>,
    /// True once the caller has slept here: its next acquisition keeps W set.
    pub slept: bool,
}

impl Default for Slices {
    fn default() -> Slices {
        Slices { next: Duration::from_millis(1), since: None, slept: false }
    }
}

impl Slices {
    /// How long the wait has lasted; it begins with the first question.
    pub fn waited_since(&mut self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.since.get_or_insert(now))
    }
}

impl Lock {
    /// The lock in the word at `at`.
    pub const fn new(at: usize) -> Lock {
        Lock { at }
    }

    /// Takes the lock if it is free. `slept`: the caller has slept beside it since it last held it.
    #[inline]
    pub fn try_acquire<M: Memory>(self, memory: &M, me: Owner, slept: bool) -> bool {
        memory.compare_exchange(self.at, 0, me.word() | u64::from(slept)).is_ok()
    }

    /// Gives the lock back. Does nothing where the word is not the caller's (it was declared dead).
    #[inline]
    pub fn release<M: Memory>(self, memory: &M, me: Owner) {
        if let Err(found) = memory.compare_exchange(self.at, me.word(), 0) {
            self.release_contended(memory, me, found);
        }
    }

    #[cold]
    fn release_contended<M: Memory>(self, memory: &M, me: Owner, found: u64) {
        if Owner::from_word(found) == me && memory.compare_exchange(self.at, found, 0).is_ok() {
            memory.wake(self.at, 1);
        }
    }

    /// Who holds the lock.
    pub fn owner<M: Memory>(self, memory: &M) -> Owner {
        Owner::from_word(memory.load(self.at))
    }

    /// True where nobody holds it.
    #[inline]
    pub fn is_free<M: Memory>(self, memory: &M) -> bool {
        memory.load(self.at) == 0
    }

    /// Waits beside an owned lock for one slice, at most `limit`.
    pub fn rest<M: Memory, P: Peers>(
        self,
        memory: &M,
        peers: &P,
        slices: &mut Slices,
        limit: Duration,
    ) -> Rest {
        let word = memory.load(self.at);
        if word == 0 {
            return Rest::Again;
        }
        if slices.slept && is_abandoned(word, peers) {
            return Rest::Dead(word);
        }
        let marked = word | WAITERS;
        if word != marked && memory.compare_exchange(self.at, word, marked).is_err() {
            return Rest::Again;
        }
        slices.slept = true;
        let slice = slices.next.min(limit);
        match memory.sleep(self.at, marked as u32, slice) {
            Woken::Interrupted => Rest::Interrupted,
            Woken::TimedOut => {
                slices.next = (slices.next * 2).min(WATCH_SLICE);
                Rest::Again
            }
            Woken::Woken | Woken::Changed => Rest::Again,
        }
    }

    /// Takes the lock over from the dead owner in `word`; false where somebody else was faster.
    /// The new owner must repair what the lock protects.
    pub fn take_over<M: Memory>(self, memory: &M, word: u64, me: Owner) -> bool {
        memory.compare_exchange(self.at, word, me.word() | WAITERS).is_ok()
    }

    /// The word, if its owner is dead: for callers that do not wait.
    pub fn dead_word<M: Memory, P: Peers>(self, memory: &M, peers: &P) -> Option<u64> {
        let word = memory.load(self.at);
        (word != 0 && is_abandoned(word, peers)).then_some(word)
    }

    /// For one who has slept here and goes away without the lock: passes on a wake-up it may have
    /// swallowed, or leaves word that others may sleep.
    pub fn pass_on<M: Memory>(self, memory: &M) {
        loop {
            let word = memory.load(self.at);
            if word == 0 {
                memory.wake(self.at, 1);
                return;
            }
            if word & WAITERS != 0 || memory.compare_exchange(self.at, word, word | WAITERS).is_ok() {
                return;
            }
        }
    }
}

/// Whether a word that is not zero names nobody who could ever free the lock: its owner is dead, or it has
/// flags and no owner. No transition leads to the latter, but damaged memory may read like it, and whoever
/// took it for a lock about to be free would look again without end.
fn is_abandoned<P: Peers>(word: u64, peers: &P) -> bool {
    let owner = Owner::from_word(word);
    owner.is_none() || peers.is_dead(owner)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::memory::crash::{Crashing, Oracle};
    use crate::owner::FLAGS;

    #[test]
    fn flags_without_an_owner_are_taken_over_after_one_slice() {
        let me = Owner::process(1, 1);
        for word in 1..=FLAGS {
            let (memory, oracle, lock) = (Crashing::new(8), Oracle::default(), Lock::new(0));
            memory.store(0, word);
            let mut slices = Slices::default();
            assert!(!lock.try_acquire(&memory, me, false));
            assert_eq!(lock.dead_word(&memory, &oracle), Some(word));
            assert_eq!(lock.rest(&memory, &oracle, &mut slices, WATCH_SLICE), Rest::Again);
            let dead = Rest::Dead(word | WAITERS);
            assert_eq!(lock.rest(&memory, &oracle, &mut slices, WATCH_SLICE), dead);
            assert!(lock.take_over(&memory, word | WAITERS, me));
            lock.release(&memory, me);
            assert!(lock.is_free(&memory));
        }
    }
}
