//! A counter that anyone may raise and that nobody can take below zero.
//!
//! `word` is the counter and the whole state: taking a permit and giving one are one compare-and-swap each. Nothing
//! belongs to anybody, so nothing comes back from the dead; that is what makes producers and consumers of it
//! possible. Killed between giving and waking: waiters look again after a slice.

use super::{CLAIM, POINT, WORD, Waitable, Want};
use crate::claim::Claim;
use crate::error::{Error, Result};
use crate::memory::{Memory, Peers};
use crate::owner::Owner;
use crate::wait::WaitPoint;

/// Most permits, that of POSIX semaphores.
pub const MAX: u64 = (1 << 31) - 1;

/// A semaphore on some memory, among some peers.
pub struct Semaphore<M, P> {
    memory: M,
    peers: P,
    at: usize,
}

impl<M: Memory, P: Peers> Semaphore<M, P> {
    /// The semaphore whose body begins at `at`.
    pub fn new(memory: M, peers: P, at: usize) -> Semaphore<M, P> {
        Semaphore { memory, peers, at }
    }

    const fn claim(&self) -> Claim {
        Claim::new(self.at + CLAIM)
    }

    const fn waiters(&self) -> WaitPoint {
        WaitPoint::new(self.at + POINT)
    }

    /// Permits there are.
    pub fn value(&self) -> u64 {
        self.memory.load(self.at + WORD)
    }

    /// Takes a permit; false where there is none for `me`.
    #[inline]
    pub fn try_acquire(&self, me: Owner) -> bool {
        let mut value = self.memory.load(self.at + WORD);
        loop {
            // What is claimed is left for the claimant; if there is more than one, there is enough.
            if value == 0 || value == 1 && !self.claim().admits(&self.memory, me) {
                return false;
            }
            match self.memory.compare_exchange(self.at + WORD, value, value - 1) {
                Ok(()) => return true,
                Err(found) => value = found,
            }
        }
    }

    /// Gives `count` permits.
    #[inline]
    pub fn release(&self, count: u64) -> Result<()> {
        let mut value = self.memory.load(self.at + WORD);
        loop {
            let Some(more) = value.checked_add(count).filter(|more| *more <= MAX) else {
                return Err(Error::TooLarge {
                    what: "permits of a semaphore",
                    size: value.saturating_add(count),
                    limit: MAX,
                });
            };
            match self.memory.compare_exchange(self.at + WORD, value, more) {
                Ok(()) => break,
                Err(found) => value = found,
            }
        }
        self.notify(count);
        Ok(())
    }

    fn notify(&self, count: u64) {
        // SYNC(wait): the exchange was a full fence. With a claim only the claimant may go on: all look.
        if count == 1 && self.claim().holder(&self.memory).is_none() {
            self.waiters().notify(&self.memory);
        } else {
            self.waiters().notify_all(&self.memory);
        }
    }

    /// The caller has what it wanted, or gives up: the next one's turn.
    pub fn leave(&self, me: Owner, slept: bool) {
        let claimed = self.claim().give_up(&self.memory, me);
        if (claimed || slept) && self.value() > 0 {
            self.notify(1);
        }
    }
}

impl<M: Memory, P: Peers> Waitable for Semaphore<M, P> {
    fn point(&self, _want: Want) -> WaitPoint {
        self.waiters()
    }

    fn ready(&self, me: Owner, _want: Want) -> bool {
        let value = self.value();
        value > 1 || value == 1 && self.claim().admits(&self.memory, me)
    }

    fn look(&self, me: Owner, _want: Want) -> Result<()> {
        self.peers.relock()?;
        let idle = self.value() > 0;
        if self.claim().revoke(&self.memory, &self.peers, me, idle) {
            self.notify(1);
        }
        Ok(())
    }

    fn claim(&self, me: Owner, _want: Want) {
        Semaphore::claim(self).take(&self.memory, me);
    }
}
