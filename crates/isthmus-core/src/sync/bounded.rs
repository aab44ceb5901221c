//! A semaphore whose permits belong to those who took them, and come back from the dead.
//!
//! Behind the common words there is a cell a permit: 0, or the owner word (process and context) of its holder. How
//! many are free is counted from the cells. Taking and giving back are one compare-and-swap each; a permit of a
//! dead process is freed by whoever waits and has proof of the death, by the same exchange. Killed between
//! giving back and waking: waiters look again after a slice.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{CELLS, CLAIM, POINT, Waitable, Want, dead_among};
use crate::claim::Claim;
use crate::error::{Error, Result};
use crate::memory::{Memory, Peers};
use crate::owner::Owner;
use crate::wait::WaitPoint;

/// Most permits.
pub const MAX: u64 = 1 << 16;

/// A bounded semaphore on some memory, among some peers.
pub struct BoundedSemaphore<M, P> {
    memory: M,
    peers: P,
    at: usize,
    permits: usize,
    /// The cell that this handle used last: free again, mostly, and still in this processor's cache.
    near: AtomicUsize,
}

impl<M: Memory, P: Peers> BoundedSemaphore<M, P> {
    /// The semaphore of so many permits whose body begins at `at`.
    pub fn new(memory: M, peers: P, at: usize, permits: usize) -> BoundedSemaphore<M, P> {
        assert!(at + body_size(permits) <= memory.size(), "the body must lie inside the memory");
        BoundedSemaphore { memory, peers, at, permits, near: AtomicUsize::new(0) }
    }

    const fn cell(&self, index: usize) -> usize {
        self.at + CELLS + index * 8
    }

    const fn claim(&self) -> Claim {
        Claim::new(self.at + CLAIM)
    }

    const fn waiters(&self) -> WaitPoint {
        WaitPoint::new(self.at + POINT)
    }

    fn indices(&self) -> impl Iterator<Item = usize> + use<M, P> {
        let (near, permits) = (self.near.load(Ordering::Relaxed) % self.permits, self.permits);
        (near..permits).chain(0..near)
    }

    fn count_free(&self, enough: usize) -> usize {
        self.indices().filter(|&index| self.memory.load(self.cell(index)) == 0).take(enough).count()
    }

    /// Permits nobody holds.
    pub fn value(&self) -> usize {
        self.count_free(usize::MAX)
    }

    /// Permits there are.
    pub fn permits(&self) -> usize {
        self.permits
    }

    /// Who holds permits, each once for each.
    pub fn holders(&self) -> Vec<Owner> {
        let words = (0..self.permits).map(|index| self.memory.load(self.cell(index)));
        words.filter(|word| *word != 0).map(Owner::from_word).collect()
    }

    /// Takes a permit; false where there is none for `me`.
    #[inline]
    pub fn try_acquire(&self, me: Owner) -> bool {
        if !self.claim().admits(&self.memory, me) && self.count_free(2) < 2 {
            return false;
        }
        for index in self.indices() {
            let cell = self.cell(index);
            if self.memory.load(cell) == 0 && self.memory.compare_exchange(cell, 0, me.word()).is_ok() {
                self.near.store(index, Ordering::Relaxed);
                return true;
            }
        }
        false
    }

    /// Gives a permit back: one that this thread or task took, or another one of its process.
    #[inline]
    pub fn release(&self, me: Owner) -> Result<()> {
        let mine = |index: &usize| self.memory.load(self.cell(*index)) == me.word();
        let same = |index: &usize| {
            Owner::from_word(self.memory.load(self.cell(*index))).as_process() == me.as_process()
        };
        loop {
            let Some(index) = self.indices().find(mine).or_else(|| self.indices().find(same)) else {
                return Err(self.not_held());
            };
            let word = self.memory.load(self.cell(index));
            if Owner::from_word(word).as_process() == me.as_process()
                && self.memory.compare_exchange(self.cell(index), word, 0).is_ok()
            {
                self.near.store(index, Ordering::Relaxed);
                self.notify();
                return Ok(());
            }
        }
    }

    #[cold]
    fn not_held(&self) -> Error {
        Error::NotOwner(if self.value() == self.permits {
            format!("release of a semaphore of which all {} permits are free", self.permits)
        } else {
            "release of a semaphore of which this process holds no permit".to_owned()
        })
    }

    fn notify(&self) {
        if self.claim().holder(&self.memory).is_none() {
            self.waiters().notify(&self.memory);
        } else {
            self.waiters().notify_all(&self.memory);
        }
    }

    /// Takes back what the dead hold; says whether anything came back.
    pub fn reclaim(&self) -> bool {
        let words = (0..self.permits).map(|index| self.memory.load(self.cell(index)));
        let holders = words.filter(|word| *word != 0).map(|word| Owner::from_word(word).as_process());
        let dead = dead_among(&self.peers, holders);
        let mut freed = false;
        for index in 0..self.permits {
            let word = self.memory.load(self.cell(index));
            freed |= word != 0
                && dead.contains(&Owner::from_word(word).as_process())
                && self.memory.compare_exchange(self.cell(index), word, 0).is_ok();
        }
        if freed {
            self.waiters().notify_all(&self.memory);
        }
        freed
    }

    /// The caller has what it wanted, or gives up: the next one's turn.
    pub fn leave(&self, me: Owner, slept: bool) {
        let claimed = self.claim().give_up(&self.memory, me);
        if (claimed || slept) && self.count_free(1) > 0 {
            self.notify();
        }
    }
}

impl<M: Memory, P: Peers> Waitable for BoundedSemaphore<M, P> {
    fn point(&self, _want: Want) -> WaitPoint {
        self.waiters()
    }

    fn ready(&self, me: Owner, _want: Want) -> bool {
        // Where another has claimed the next one, there have to be two.
        let enough = if self.claim().admits(&self.memory, me) { 1 } else { 2 };
        self.count_free(enough) >= enough
    }

    fn look(&self, me: Owner, _want: Want) -> Result<()> {
        self.peers.relock()?;
        self.reclaim();
        let idle = self.count_free(1) > 0;
        if self.claim().revoke(&self.memory, &self.peers, me, idle) {
            self.notify();
        }
        Ok(())
    }

    fn claim(&self, me: Owner, _want: Want) {
        BoundedSemaphore::claim(self).take(&self.memory, me);
    }
}

/// Bytes of the body.
pub const fn body_size(permits: usize) -> usize {
    CELLS + permits * 8
}
