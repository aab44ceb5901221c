//! Numbers about a queue, for people and for producers that slow down in time.

use super::layout::LARGEST;
use super::leases::State;
use super::{Queue, UNIT};
use crate::memory::{Memory, Peers};

/// Numbers about a queue; exact when nobody is in the middle of an operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Messages in the queue, without those that are leased.
    pub depth: u64,
    /// Messages ever put.
    pub put: u64,
    /// Messages ever taken.
    pub got: u64,
    /// Bytes in use: entries of the ring and runs that are not free.
    pub bytes_in_use: u64,
    /// Largest message so far.
    pub largest: u64,
    /// Messages that consumers hold and have not acknowledged.
    pub leased: u64,
    /// Messages that nobody could use.
    pub dead: u64,
}

/// The sum; of damaged words the largest there is.
fn total(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, u64::saturating_add)
}

impl<M: Memory, P: Peers> Queue<M, P> {
    /// Messages in the queue, without those that are leased.
    pub fn depth(&self) -> u64 {
        let inside = total(self.rings.iter().map(|ring| ring.depth(&self.memory)));
        let returned = if self.has_returned() { self.count_leases(State::Returned) } else { 0 };
        inside.saturating_add(returned)
    }

    /// How much of the capacity is taken, 0 to 1: of the fullest ring, or of the blocks.
    pub fn fill(&self) -> f64 {
        let ring = self.rings.iter().map(|ring| ring.used(&self.memory)).max().unwrap_or(0);
        let ring = ring as f64 / (self.geometry.ring_size - 8) as f64;
        ring.max(self.units_in_use() as f64 / self.geometry.units.max(1) as f64)
    }

    fn units_in_use(&self) -> usize {
        let mut units = 0;
        // Without the lock: a split or merge under way ends the walk early, never wrongly.
        let _ = self.blocks.owned(&self.memory, |run, _| units += run.length);
        units
    }

    /// Numbers for people.
    pub fn numbers(&self) -> Numbers {
        let put = total(self.rings.iter().map(|ring| ring.count_put(&self.memory)));
        let waiting = total(self.rings.iter().map(|ring| ring.depth(&self.memory)));
        let used = total(self.rings.iter().map(|ring| ring.used(&self.memory)));
        Numbers {
            depth: waiting.saturating_add(self.count_leases(State::Returned)),
            put,
            got: put.saturating_sub(waiting),
            bytes_in_use: used + (self.units_in_use() * UNIT) as u64,
            largest: self.memory.load(self.body + LARGEST),
            leased: self.count_leases(State::Leased),
            dead: self.count_leases(State::Dead),
        }
    }
}
