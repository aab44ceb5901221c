//! Many readers or one writer.
//!
//! The first words are a mutex (`mutex/mod.rs`), held by the writer, with its poisoning: one who died writing leaves
//! the lock poisoned for readers and writers. Each read share is a cell behind the common words: 0, or the owner word
//! of its reader. Shares of the dead are freed by whoever waits and has proof.
//!
//! ```text
//!   48  used      cells that were ever in use: how far writers look     raised by readers, before the cell
//!   56  readers   wait point of readers
//!   64  writers   wait point of writers
//! ```
//!
//! # Why no two meet
//! SYNC(share): a reader writes its cell (full fence) and *then* looks at the writer's word; a writer takes the word
//! (full fence) and *then* looks at the cells. One of the two sees the other. A reader that sees a writer takes its
//! cell back; a writer that sees a reader gives the word back.
//!
//! # Killed in between
//! Reader: after raising `used`, nothing; with its cell written, a share of the dead. Writer: from taking the word to
//! giving it back it counts as writing, and its death poisons the lock, although it may not have begun.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{CELLS, CLAIM, EXTRA, GUARD, SECOND, Waitable, Want, dead_among};
use crate::claim::Claim;
use crate::error::{Death, Error, Result};
use crate::lock::Slices;
use crate::memory::{Memory, Peers};
use crate::mutex::{Found, Mutex};
use crate::owner::Owner;
use crate::wait::WaitPoint;

/// Most read shares at a time.
pub const READERS: usize = if cfg!(loom) { 3 } else { 1024 };
/// Bytes of the body.
pub const BODY_SIZE: usize = CELLS + READERS * 8;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// The caller is in.
    In,
    /// Others are.
    Blocked,
    /// A writer died.
    Poisoned(Death),
}

/// A read-write lock on some memory, among some peers.
pub struct RwLock<M, P> {
    memory: M,
    peers: P,
    at: usize,
    writer: Mutex<M, P>,
    near: AtomicUsize,
}

impl<M: Memory + Clone, P: Peers + Clone> RwLock<M, P> {
    /// The lock whose body begins at `at`.
    pub fn new(memory: M, peers: P, at: usize) -> RwLock<M, P> {
        assert!(at + BODY_SIZE <= memory.size(), "the body must lie inside the memory");
        let writer = Mutex::new(memory.clone(), peers.clone(), at);
        RwLock { memory, peers, at, writer, near: AtomicUsize::new(0) }
    }
}

impl<M: Memory, P: Peers> RwLock<M, P> {
    const fn cell(&self, index: usize) -> usize {
        self.at + CELLS + index * 8
    }

    const fn claim(&self) -> Claim {
        Claim::new(self.at + CLAIM)
    }

    const fn readers_point(&self) -> WaitPoint {
        WaitPoint::new(self.at + SECOND)
    }

    const fn writers_point(&self) -> WaitPoint {
        WaitPoint::new(self.at + GUARD)
    }

    fn used(&self) -> usize {
        (self.memory.load(self.at + EXTRA) as usize).min(READERS)
    }

    /// The writer's part.
    pub fn writer(&self) -> &Mutex<M, P> {
        &self.writer
    }

    /// What the writer's word says to one who wants in.
    #[inline]
    fn door(&self) -> Entry {
        match self.writer.poisoned_or_free() {
            None => Entry::In,
            Some(None) => Entry::Blocked,
            Some(Some(death)) => Entry::Poisoned(death),
        }
    }

    /// Takes a read share.
    #[inline]
    pub fn try_read(&self, me: Owner) -> Result<Entry> {
        match self.door() {
            Entry::In => {}
            other => return Ok(other),
        }
        // After the door: what a dead writer left is no matter of whose turn it is, and `ready` says so.
        if !self.claim().admits(&self.memory, me) {
            return Ok(Entry::Blocked);
        }
        let index = self.take_cell(me)?;
        // SYNC(share): the cell is written, now the word.
        match self.door() {
            Entry::In => Ok(Entry::In),
            other => {
                self.free(index, me);
                Ok(other)
            }
        }
    }

    #[inline]
    fn take_cell(&self, me: Owner) -> Result<usize> {
        if let Some(index) = self.take_free_cell(me) {
            return Ok(index);
        }
        // Once more after the shares of the dead were freed, and not as long as some come back.
        let again = if self.reclaim() { self.take_free_cell(me) } else { None };
        again.ok_or(Error::TooLarge {
            what: "read shares of one lock at the same time",
            size: READERS as u64 + 1,
            limit: READERS as u64,
        })
    }

    #[inline]
    fn take_free_cell(&self, me: Owner) -> Option<usize> {
        let near = self.near.load(Ordering::Relaxed);
        for index in (near..READERS).chain(0..near) {
            let cell = self.cell(index);
            if self.memory.load(cell) != 0 {
                continue;
            }
            let mut used = self.memory.load(self.at + EXTRA);
            while used <= index as u64 {
                match self.memory.compare_exchange(self.at + EXTRA, used, index as u64 + 1) {
                    Ok(()) => break,
                    Err(found) => used = found,
                }
            }
            if self.memory.compare_exchange(cell, 0, me.word()).is_ok() {
                self.near.store(index, Ordering::Relaxed);
                return Some(index);
            }
        }
        None
    }

    fn free(&self, index: usize, me: Owner) -> bool {
        let freed = self.memory.compare_exchange(self.cell(index), me.word(), 0).is_ok();
        if freed {
            self.notify_writers();
        }
        freed
    }

    fn notify_writers(&self) {
        if self.claim().holder(&self.memory).is_none() {
            self.writers_point().notify(&self.memory);
        } else {
            self.writers_point().notify_all(&self.memory);
        }
    }

    /// Gives the read share of this thread or task back.
    #[inline]
    pub fn release_read(&self, me: Owner) -> Result<()> {
        let near = self.near.load(Ordering::Relaxed);
        let cells = std::iter::once(near).chain(0..self.used());
        for index in cells {
            if self.memory.load(self.cell(index)) == me.word() && self.free(index, me) {
                self.near.store(index, Ordering::Relaxed);
                return Ok(());
            }
        }
        Err(Error::NotOwner("release of a read share that is not held by this thread or task".to_owned()))
    }

    fn has_readers(&self) -> bool {
        (0..self.used()).any(|index| self.memory.load(self.cell(index)) != 0)
    }

    /// Takes the lock for writing.
    pub fn try_write(&self, me: Owner) -> Entry {
        if !self.claim().admits(&self.memory, me) || self.has_readers() {
            return match self.door() {
                Entry::In => Entry::Blocked,
                other => other,
            };
        }
        match self.writer.try_acquire(me, &Slices::default()) {
            Found::Acquired => {}
            Found::Held(_) => return Entry::Blocked,
            Found::Poisoned(death) => return Entry::Poisoned(death),
        }
        // SYNC(share): the word is taken, now the cells.
        if self.has_readers() {
            let _ = self.release_write(me);
            return Entry::Blocked;
        }
        Entry::In
    }

    /// Gives the lock back after writing; after a recovery this declares what it protects consistent.
    pub fn release_write(&self, me: Owner) -> Result<()> {
        self.writer.release(me)?;
        self.wake_all();
        Ok(())
    }

    /// Takes a poisoned lock for repair, or a free one; `None` where somebody living is in.
    pub fn try_recover(&self, me: Owner) -> Option<Option<Death>> {
        match self.door() {
            Entry::Poisoned(_) => self.writer.try_recover(me, &Slices::default()).ok(),
            _ => match self.try_write(me) {
                Entry::In => Some(None),
                _ => None,
            },
        }
    }

    /// Ends a repair that failed: poisoned as before.
    pub fn release_poisoned(&self, me: Owner) -> Result<()> {
        self.writer.release_poisoned(me)?;
        self.wake_all();
        Ok(())
    }

    fn wake_all(&self) {
        self.readers_point().notify_all(&self.memory);
        self.notify_writers();
    }

    /// Who reads, each once for each share.
    pub fn readers(&self) -> Vec<Owner> {
        let words = (0..self.used()).map(|index| self.memory.load(self.cell(index)));
        words.filter(|word| *word != 0).map(Owner::from_word).collect()
    }

    /// Frees the shares of the dead; says whether any was.
    pub fn reclaim(&self) -> bool {
        let words = (0..self.used()).map(|index| self.memory.load(self.cell(index)));
        let readers = words.filter(|word| *word != 0).map(|word| Owner::from_word(word).as_process());
        let dead = dead_among(&self.peers, readers);
        let mut freed = false;
        for index in 0..self.used() {
            let word = self.memory.load(self.cell(index));
            freed |= word != 0
                && dead.contains(&Owner::from_word(word).as_process())
                && self.memory.compare_exchange(self.cell(index), word, 0).is_ok();
        }
        if freed {
            self.writers_point().notify_all(&self.memory);
        }
        freed
    }

    /// The caller has what it wanted, or gives up: the next one's turn.
    pub fn leave(&self, me: Owner, slept: bool) {
        if self.claim().give_up(&self.memory, me) || slept {
            self.wake_all();
        }
    }
}

impl<M: Memory, P: Peers> Waitable for RwLock<M, P> {
    fn point(&self, want: Want) -> WaitPoint {
        if want == Want::Read { self.readers_point() } else { self.writers_point() }
    }

    fn ready(&self, me: Owner, want: Want) -> bool {
        match self.door() {
            Entry::Poisoned(_) => !self.writer.is_recovering(),
            Entry::Blocked => false,
            Entry::In => self.claim().admits(&self.memory, me) && (want == Want::Read || !self.has_readers()),
        }
    }

    fn look(&self, me: Owner, _want: Want) -> Result<()> {
        self.peers.relock()?;
        if self.writer.check_owner() {
            self.readers_point().notify_all(&self.memory);
            self.writers_point().notify_all(&self.memory);
        }
        self.reclaim();
        let idle = self.door() == Entry::In && !self.has_readers();
        if self.claim().revoke(&self.memory, &self.peers, me, idle) {
            self.wake_all();
        }
        Ok(())
    }

    fn claim(&self, me: Owner, _want: Want) {
        RwLock::claim(self).take(&self.memory, me);
    }
}
