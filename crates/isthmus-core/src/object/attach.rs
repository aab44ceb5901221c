//! The attachment table: which processes use an object, derived from their cells and counted nowhere.

use std::sync::atomic::Ordering;

use super::Object;
use super::header::{BELL, CELLS, cell};

use crate::error::{Error, Result};
use crate::memory::BELL_BITS as BITS;
use crate::owner::Owner;

impl Object {
    /// Takes a cell for this process and gives its index. Prefers free cells; where there is none, takes
    /// over a dead process's.
    pub fn attach(&self) -> Result<usize> {
        if self.is_closed() {
            return Err(Error::Closed);
        }
        let me = self.registry().me()?;
        let dead = |owner: Owner| self.registry().is_dead(owner);
        for take_over in [false, true] {
            for index in 0..CELLS {
                let place = self.map().word(cell(index, 0));
                let seen = place.load(Ordering::Acquire);
                if seen != 0 && !(take_over && dead(Owner::from_word(seen))) {
                    continue;
                }
                if place.compare_exchange(seen, me.word(), Ordering::AcqRel, Ordering::Acquire).is_ok() {
                    self.clear(index);
                    return Ok(index);
                }
            }
        }
        Err(Error::TooLarge {
            what: "handles of one object open at the same time",
            size: CELLS as u64 + 1,
            limit: CELLS as u64,
        })
    }

    /// Takes a cell for an event loop; it says which FIFO to ring, and what to write into it.
    pub(crate) fn attach_bell(&self, id: u64, token: u32) -> Result<usize> {
        let index = self.attach()?;

        self.map().word(cell(index, 2)).store(u64::from(token), Ordering::Release);
        self.map().word(cell(index, 3)).store(id, Ordering::Release);
        // SYNC(bell): whoever sees the role sees the two before it.
        self.map().word(cell(index, 1)).store(BELL, Ordering::Release);
        Ok(index)
    }

    /// Whether the bit of a bell's cell in wait points stands for other bells as well.
    pub(crate) fn shares_bit(&self, index: usize) -> bool {
        let others = (index % BITS..CELLS).step_by(BITS).filter(|other| *other != index);
        others.into_iter().any(|other| self.map().word(cell(other, 1)).load(Ordering::Acquire) == BELL)
    }

    /// Gives a cell back. Does nothing if the cell is not this process's: in a forked child it is the
    /// parent's.
    pub fn detach(&self, index: usize) {
        if index >= CELLS {
            return;
        }
        let place = self.map().word(cell(index, 0));
        let seen = place.load(Ordering::Acquire);
        if seen != 0 && self.registry().is_me(Owner::from_word(seen)) {
            self.clear(index);
            // SYNC(cell): the other words are zero before the cell is free.
            place.store(0, Ordering::Release);
        }
    }

    /// Frees the cell of a dead process after its roles have been dealt with. False if the cell has another
    /// owner by now or the owner is not dead.
    pub fn evict(&self, index: usize, owner: Owner) -> bool {
        if index >= CELLS || owner.is_none() || !self.registry().is_dead(owner) {
            return false;
        }
        let place = self.map().word(cell(index, 0));
        place.compare_exchange(owner.word(), 0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Says what the owner of a cell does; bits of the kind. For the owner of the cell.
    pub fn set_roles(&self, index: usize, roles: u64) {
        if index < CELLS {
            self.map().word(cell(index, 1)).store(roles, Ordering::Release);
        }
    }

    /// All cells in use by handles, dead owners included: (index, owner, roles).
    pub fn attachments(&self) -> Vec<(usize, Owner, u64)> {
        let read = |index: usize, word: usize| self.map().word(cell(index, word)).load(Ordering::Acquire);
        let cells = (0..CELLS).map(|index| (index, Owner::from_word(read(index, 0)), read(index, 1)));
        cells.filter(|(_, owner, roles)| !owner.is_none() && *roles != BELL).collect()
    }

    /// Counts a thread of this process that begins (1) or ends (-1) to wait, on the side of producers or
    /// of consumers. By the owner of the cell.
    pub fn count_waiting(&self, index: usize, consuming: bool, begins: bool) {
        if index >= CELLS {
            return;
        }
        let place = self.map().word(cell(index, 2));
        let shift = if consuming { 32 } else { 0 };
        let change = |word: u64| {
            let count = (word >> shift) as u32;
            let count = if begins { count.saturating_add(1) } else { count.saturating_sub(1) };
            Some((word & !(0xffff_ffff << shift)) | u64::from(count) << shift)
        };
        let _ = place.fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
    }

    /// How many threads of living processes wait as producers and as consumers.
    pub fn waiting(&self) -> (u64, u64) {
        let counts = self.attachments().into_iter().filter_map(|(index, owner, _)| {
            let word = self.map().word(cell(index, 2)).load(Ordering::Acquire);
            (word != 0 && !self.registry().is_dead(owner)).then_some((word & 0xffff_ffff, word >> 32))
        });
        counts.fold((0, 0), |(producers, consumers), (p, c)| (producers + p, consumers + c))
    }

    fn clear(&self, index: usize) {
        for word in 1..4 {
            self.map().word(cell(index, word)).store(0, Ordering::Release);
        }
    }
}
