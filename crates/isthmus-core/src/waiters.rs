//! Who waits for what: a record per waiting thread or task, for people and for finding deadlocks.
//!
//! ```text
//! +0x00 owner   Owner word with context, 0 free             compare-and-swap by whoever takes it
//! +0x08 since   ns since 1970                               the owner
//! +0x10 what    mode (low byte), flags; 0 while incomplete  the owner, last
//! +0x18 aux     of the kind                                 the owner
//! ```
//! Nothing depends on these records but reports and the search for deadlocks: where all are in use, a waiter waits
//! without one. Killed at any store: a record of a dead owner, complete or not, which whoever looks for a free
//! one takes.

use crate::memory::{Memory, Peers};
use crate::owner::Owner;

/// Records of an object.
pub const COUNT: usize = if cfg!(loom) { 1 } else { 120 };
/// Bytes of a record.
pub const SIZE: usize = 32;

const SINCE: usize = 8;
const WHAT: usize = 16;

/// What a waiter waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// The object for itself alone.
    Exclusive = 1,
    /// A read share.
    Shared = 2,
    /// A permit.
    Permit = 3,
    /// Something that anyone may bring about: an event, a notification, others at a barrier.
    Signal = 4,
}

impl Mode {
    fn of(byte: u8) -> Option<Mode> {
        [Mode::Exclusive, Mode::Shared, Mode::Permit, Mode::Signal]
            .into_iter()
            .find(|mode| *mode as u8 == byte)
    }
}

/// Bit of `what`: the wait ends by itself.
const TIMED: u64 = 1 << 8;

/// A record as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Who waits.
    pub owner: Owner,
    /// Since when, ns since 1970.
    pub since_ns: u64,
    /// What for.
    pub mode: Mode,
    /// Whether the wait ends by itself.
    pub timed: bool,
}

/// The records of one object.
#[derive(Debug, Clone, Copy)]
pub struct Waiters {
    at: usize,
}

impl Waiters {
    /// The table at `at`.
    pub const fn new(at: usize) -> Waiters {
        Waiters { at }
    }

    fn record(self, index: usize) -> usize {
        self.at + index * SIZE
    }

    /// Says that `me` waits; `None` where every record is in use.
    pub fn enter<M: Memory, P: Peers>(
        self,
        memory: &M,
        peers: &P,
        me: Owner,
        (mode, timed): (Mode, bool),
        now_ns: u64,
    ) -> Option<usize> {
        let start = me.word() as usize >> 3;
        let places = || (0..COUNT).map(|step| (start + step * 7) % COUNT);
        let take =
            |index: usize, old: u64| memory.compare_exchange(self.record(index), old, me.word()).is_ok();
        let free = places().find(|&index| memory.load(self.record(index)) == 0 && take(index, 0));
        let index = free.or_else(|| {
            places().find(|&index| {
                let old = memory.load(self.record(index));
                old != 0 && peers.is_dead(Owner::from_word(old)) && {
                    memory.store(self.record(index) + WHAT, 0);
                    take(index, old)
                }
            })
        })?;
        memory.store(self.record(index) + SINCE, now_ns);
        memory.store(self.record(index) + WHAT, mode as u64 | if timed { TIMED } else { 0 });
        Some(index)
    }

    /// The wait of `me` is over.
    pub fn leave<M: Memory>(self, memory: &M, index: usize) {
        if index < COUNT {
            memory.store(self.record(index) + WHAT, 0);
            memory.store(self.record(index), 0);
        }
    }

    /// Everyone who waits, the dead included.
    pub fn list<M: Memory>(self, memory: &M) -> Vec<Record> {
        let read = |index: usize| {
            let owner = Owner::from_word(memory.load(self.record(index)));
            let (since_ns, what) =
                (memory.load(self.record(index) + SINCE), memory.load(self.record(index) + WHAT));
            // Read twice: a record that changed hands in between is left out.
            let same = Owner::from_word(memory.load(self.record(index))) == owner;
            let mode = Mode::of(what as u8).filter(|_| same && !owner.is_none())?;
            Some(Record { owner, since_ns, mode, timed: what & TIMED != 0 })
        };
        (0..COUNT).filter_map(read).collect()
    }
}
