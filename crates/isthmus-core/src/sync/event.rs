//! A flag that many wait for.
//!
//! `word` is `generation << 1 | set` and the whole state. Setting raises the generation, so that a waiter who sleeps
//! through `set` and `clear` still knows that it was set. One compare-and-swap each; killed between setting and
//! waking: waiters look again after a slice, so an event is not lost with its setter.

use super::{POINT, WORD, Waitable, Want};
use crate::error::Result;
use crate::memory::{Memory, Peers};
use crate::owner::Owner;
use crate::wait::WaitPoint;

/// An event on some memory, among some peers.
pub struct Event<M, P> {
    memory: M,
    peers: P,
    at: usize,
}

impl<M: Memory, P: Peers> Event<M, P> {
    /// The event whose body begins at `at`.
    pub fn new(memory: M, peers: P, at: usize) -> Event<M, P> {
        Event { memory, peers, at }
    }

    const fn waiters(&self) -> WaitPoint {
        WaitPoint::new(self.at + POINT)
    }

    /// True while set.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.memory.load(self.at + WORD) & 1 != 0
    }

    /// How often it was set: what a wait begins with.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.memory.load(self.at + WORD) >> 1
    }

    /// True where it is set, or was since this generation.
    pub fn happened(&self, since: u64) -> bool {
        let word = self.memory.load(self.at + WORD);
        word & 1 != 0 || word >> 1 != since
    }

    /// Sets it and wakes everyone.
    pub fn set(&self) {
        let mut word = self.memory.load(self.at + WORD);
        while word & 1 == 0 {
            match self.memory.compare_exchange(self.at + WORD, word, ((word >> 1) + 1) << 1 | 1) {
                Ok(()) => break,
                Err(found) => word = found,
            }
        }
        // Where it was set already, its setter may have been killed before it woke anybody.
        self.waiters().notify_all(&self.memory);
    }

    /// Clears it.
    pub fn clear(&self) {
        let mut word = self.memory.load(self.at + WORD);
        while word & 1 != 0 {
            match self.memory.compare_exchange(self.at + WORD, word, word & !1) {
                Ok(()) => return,
                Err(found) => word = found,
            }
        }
    }
}

impl<M: Memory, P: Peers> Waitable for Event<M, P> {
    fn point(&self, _want: Want) -> WaitPoint {
        self.waiters()
    }

    fn ready(&self, _me: Owner, want: Want) -> bool {
        match want {
            Want::Set(since) => self.happened(since),
            _ => true,
        }
    }

    fn look(&self, _me: Owner, _want: Want) -> Result<()> {
        self.peers.relock()
    }
}
