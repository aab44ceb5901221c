//! The mutex users see: a [`Lock`] that is *poisoned* when its owner is killed.
//!
//! # Layout of the body
//! ```text
//!    0  word        see `owner.rs`; all three flags
//!    8  dead        owner that the record is about         whoever proves a death
//!   16  pid         its process id                         the same
//!   24  since       when it was noticed, ns since 1970     the same
//!   32  bells       wait point of event loops (`bell.rs`); threads sleep on the word itself
//!   40  claim       who is to be next (`claim.rs`)
//!   48  depth       how often its owner has taken a recursive one again     the owner
//!  128  waiters     who waits (`waiters.rs`); kept by the handle
//! ```
//! An event loop sets its bit in `bells` first and W in the word next; whoever finds W wakes a thread and rings
//! a loop, so both compete for the mutex as two threads would.
//!
//! # States of the word
//! | word | meaning | acquire |
//! |---|---|---|
//! | 0 | free | takes it |
//! | owner, perhaps W | held | waits |
//! | owner P | poisoned: that owner died holding it | raises `OwnerDied` |
//! | owner P R, perhaps W | that owner lives and is recovering | raises `OwnerDied` |
//!
//! free → held → free by the owner. held → poisoned (and recovering → poisoned) by anyone with proof
//! of death: the record first, then one compare-and-swap. poisoned → recovering by a recoverer;
//! recovering → free when it leaves normally, → poisoned (by the owner in the record) when it fails.
//!
//! # Killed in between
//! Every transition is one instruction. Killed while writing the record: the word still says held by
//! the dead, and the next one writes it again. Several may write the record of the same death at once:
//! they write the same owner and pid. One who was delayed between may overwrite the record of a later
//! death: the record names its owner, and where that is not the owner in the word, the pid comes from
//! the registry instead, or is unknown; nothing but the text of the error depends on it.
//! Killed between freeing and waking: sleepers look again within 80 ms.

#[cfg(not(loom))]
pub mod handle;
#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, not(loom)))]
mod sweep;

use std::time::{Duration, Instant};

use crate::claim::{Claim, PATIENCE};
use crate::error::{Death, Error, Result};
use crate::lock::{Lock, Rest, Slices};
use crate::memory::{Memory, Peers, Woken};
use crate::owner::{FLAGS, Owner, POISONED, RECOVERING, WAITERS};
use crate::wait::{Spin, WaitPoint, Waited};

const DEAD: usize = 8;
const PID: usize = 16;
const SINCE: usize = 24;
const BELLS: usize = 32;
const CLAIM: usize = 40;
const DEPTH: usize = 48;
/// Bytes of the body.
pub const BODY_SIZE: usize = 64;

/// What an attempt found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The caller holds the mutex now.
    Acquired,
    /// It is held, by this owner.
    Held(Owner),
    /// Its owner died; the mutex is not held by the caller.
    Poisoned(Death),
}

/// A mutex on some memory, among some peers.
pub struct Mutex<M, P> {
    memory: M,
    peers: P,
    at: usize,
    lock: Lock,
    bells: WaitPoint,
    claim: Claim,
}

impl<M: Memory, P: Peers> Mutex<M, P> {
    /// The mutex whose body begins at `at`.
    pub fn new(memory: M, peers: P, at: usize) -> Mutex<M, P> {
        assert!(at + BODY_SIZE <= memory.size(), "the body must lie inside the memory");
        Mutex {
            memory,
            peers,
            at,
            lock: Lock::new(at),
            bells: WaitPoint::new(at + BELLS),
            claim: Claim::new(at + CLAIM),
        }
    }

    fn word(&self) -> u64 {
        self.memory.load(self.at)
    }

    /// Takes the mutex if it is free.
    #[inline]
    pub fn try_acquire(&self, me: Owner, slices: &Slices) -> Found {
        if self.claim.admits(&self.memory, me) && self.lock.try_acquire(&self.memory, me, slices.slept) {
            if slices.slept {
                self.claim.give_up(&self.memory, me);
            }
            return Found::Acquired;
        }
        self.look()
    }

    /// Says how often its owner, `me`, has it beside the first time.
    pub fn depth(&self) -> u64 {
        self.memory.load(self.at + DEPTH)
    }

    /// Its owner takes it again, gives it back once, or has just taken it for the first time.
    pub fn set_depth(&self, depth: u64) {
        self.memory.store(self.at + DEPTH, depth);
    }

    /// `None` where it is free; else the death, if it is poisoned.
    #[inline]
    pub fn poisoned_or_free(&self) -> Option<Option<Death>> {
        let word = self.word();
        if word == 0 { None } else { Some((word & POISONED != 0).then(|| self.death(word))) }
    }

    /// True while somebody repairs what it protects.
    pub fn is_recovering(&self) -> bool {
        self.word() & RECOVERING != 0
    }

    /// What the word says, for one who could not take it.
    #[cold]
    fn look(&self) -> Found {
        let word = self.word();
        if word & POISONED != 0 {
            Found::Poisoned(self.death(word))
        } else {
            // Nobody where it has become free since: waiting then returns at once, unless somebody is to be next.
            Found::Held(if word == 0 { self.claim.holder(&self.memory) } else { Owner::from_word(word) })
        }
    }

    /// What is known of the death in this poisoned word: of the owner in the word, or, while
    /// somebody recovers, of the one in the record.
    fn death(&self, word: u64) -> Death {
        let recorded = Owner::from_word(self.memory.load(self.at + DEAD));
        // No owner in the record: it is being written, because the recoverer died as well.
        let told = word & RECOVERING != 0 && !recorded.is_none();
        let owner = if told { recorded } else { Owner::from_word(word) };
        if recorded == owner {
            let (pid, since_ns) = (self.memory.load(self.at + PID), self.memory.load(self.at + SINCE));
            Death { owner, pid: pid as u32, since_ns }
        } else {
            self.peers.death(owner)
        }
    }

    /// True where trying again may end otherwise: the mutex is free, or poisoned with nobody recovering.
    #[inline]
    pub fn may_go_on(&self, me: Owner) -> bool {
        let word = self.word();
        word == 0 && self.claim.admits(&self.memory, me) || word & (POISONED | RECOVERING) == POISONED
    }

    /// Waits, at most until `deadline`, for a mutex found held; may return early.
    pub fn wait(
        &self,
        me: Owner,
        slices: &mut Slices,
        deadline: Option<Instant>,
        spin: &Spin,
    ) -> Result<Waited> {
        let start = Instant::now();
        if spin.until(deadline, || self.may_go_on(me)) {
            spin.learn(start.elapsed());
            return Ok(Waited::Ready);
        }
        self.peers.relock()?;
        let left = deadline.map_or(Duration::MAX, |d| d.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return Ok(Waited::TimedOut);
        }
        if slices.waited_since(start) >= PATIENCE {
            self.claim.take(&self.memory, me);
        }
        if self.word() == 0 && !self.claim.admits(&self.memory, me) {
            // Others may have seen it free as well: with the flag in the word they are woken afterwards.
            slices.slept = true;
            return Ok(self.wait_for_claimant(me, left));
        }
        let rest = self.lock.rest(&self.memory, &self.peers, slices, left);
        spin.learn(start.elapsed());
        Ok(match rest {
            Rest::Again => Waited::Ready,
            Rest::Interrupted => Waited::Interrupted,
            Rest::Dead(word) => {
                self.poison(word);
                Waited::Ready
            }
        })
    }

    /// The mutex is free, and another is to be next: waits for that one to take it, for a few milliseconds and no more.
    fn wait_for_claimant(&self, me: Owner, limit: Duration) -> Waited {
        let holder = self.claim.holder(&self.memory);
        if holder.is_none() {
            return Waited::Ready;
        }
        let woken = self.memory.sleep(self.at + CLAIM, holder.word() as u32, PATIENCE.min(limit));
        if woken == Woken::TimedOut && self.claim.holder(&self.memory) == holder {
            self.claim.revoke(&self.memory, &self.peers, me, self.word() == 0);
        }
        if woken == Woken::Interrupted { Waited::Interrupted } else { Waited::Ready }
    }

    /// The caller gives up: a wake-up it may have swallowed goes to the next one.
    pub fn leave(&self, me: Owner, slices: &Slices) {
        if slices.slept {
            self.claim.give_up(&self.memory, me);
            self.pass_on();
        }
    }

    /// Claims the mutex for one that has waited long.
    pub fn claim(&self, me: Owner) {
        self.claim.take(&self.memory, me);
    }

    /// The handle is closed under whoever of this process claims the mutex.
    pub fn give_up_all(&self, me: Owner) {
        self.claim.give_up_all(&self.memory, me);
        self.pass_on();
    }

    /// One that has claimed it does not want it any more, or has it.
    pub fn give_up(&self, me: Owner) {
        // Held by now or not: whoever was waiting for the claimant may have seen it free, and left no flag in the
        // word that would have it woken.
        if self.claim.give_up(&self.memory, me) {
            self.pass_on();
        }
    }

    /// A wake-up that was not used goes to the next one.
    pub fn pass_on(&self) {
        self.lock.pass_on(&self.memory);
        let word = self.word();
        if word == 0 || word & (POISONED | RECOVERING) == POISONED {
            self.bells.notify(&self.memory);
        }
    }

    /// Where event loops wait.
    pub fn bells(&self) -> WaitPoint {
        self.bells
    }

    /// Says that the event loop of this cell waits; true where it need not.
    pub fn arm(&self, cell: usize) -> bool {
        self.bells.arm(&self.memory, cell);
        loop {
            let word = self.word();
            if word == 0 || word & (POISONED | RECOVERING) == POISONED {
                return true;
            }
            // SYNC(wait): whoever takes the word away with W in it sees the bit set before.
            if word & WAITERS != 0 || self.memory.compare_exchange(self.at, word, word | WAITERS).is_ok() {
                return false;
            }
        }
    }

    /// What a waiter does after each slice: takes the proof of life again, and looks whether the owner lives.
    pub fn look_after(&self, me: Owner) -> Result<()> {
        self.peers.relock()?;
        self.check_owner();
        if self.claim.revoke(&self.memory, &self.peers, me, self.word() == 0) {
            self.pass_on();
        }
        Ok(())
    }

    /// Marks the mutex at once if its owner is dead: for callers that do not wait.
    pub fn check_owner(&self) -> bool {
        let dead = self.lock.dead_word(&self.memory, &self.peers);
        dead.is_some_and(|word| self.poison(word))
    }

    /// Marks a word whose owner is proven dead; false where it is marked already or has changed.
    fn poison(&self, word: u64) -> bool {
        if word & (POISONED | RECOVERING) == POISONED {
            return false;
        }
        let owner = Owner::from_word(word);
        self.record(Death { owner, ..self.peers.death(owner) });
        let marked = self.memory.compare_exchange(self.at, word, owner.word() | POISONED).is_ok();
        if marked {
            // Everyone who waits for the dead must hear of it.
            self.memory.wake(self.at, u32::MAX >> 1);
            self.bells.notify_all(&self.memory);
        }
        marked
    }

    /// Gives the mutex back; after a recovery this declares what it protects consistent.
    #[inline]
    pub fn release(&self, me: Owner) -> Result<()> {
        match self.memory.compare_exchange(self.at, me.word(), 0) {
            Ok(()) => Ok(()),
            Err(_) => self.let_go(me, 0),
        }
    }

    /// Ends a recovery that failed: the mutex is poisoned as before.
    pub fn release_poisoned(&self, me: Owner) -> Result<()> {
        if self.word() & RECOVERING == 0 {
            // It was sound when it was taken: nobody has died.
            return self.release(me);
        }
        let dead = Owner::from_word(self.memory.load(self.at + DEAD)).word();
        self.let_go(me, dead | POISONED)
    }

    #[cold]
    fn let_go(&self, me: Owner, to: u64) -> Result<()> {
        loop {
            let word = self.word();
            if Owner::from_word(word) != me || word & (POISONED | RECOVERING) == POISONED {
                return Err(Error::NotOwner(match Owner::from_word(word) {
                    owner if owner.is_none() => "release of a mutex that is not held".to_owned(),
                    owner if owner.as_process() == me.as_process() => {
                        "release of a mutex that another thread of this process holds".to_owned()
                    }
                    owner => format!("release of a mutex that {} holds", self.peers.death(owner)),
                }));
            }
            // Only the flag W can change under us.
            if self.memory.compare_exchange(self.at, word, to).is_ok() {
                if word & FLAGS != 0 && to == 0 && self.claim.holder(&self.memory).is_none() {
                    self.memory.wake(self.at, 1);
                    self.bells.notify(&self.memory);
                } else if word & FLAGS != 0 {
                    // Poisoned, which concerns all, or only one of them may go on.
                    self.memory.wake(self.at, u32::MAX >> 1);
                    self.bells.notify_all(&self.memory);
                }
                return Ok(());
            }
        }
    }

    /// Takes a free or a poisoned mutex; `Ok(Some(death))` where the caller must repair what it
    /// protects, `Err(owner)` where somebody living holds or recovers it.
    pub fn try_recover(&self, me: Owner, slices: &Slices) -> std::result::Result<Option<Death>, Owner> {
        let word = self.word();
        let owner = Owner::from_word(word);
        if word == 0 {
            return match self.try_acquire(me, slices) {
                Found::Acquired => Ok(None),
                Found::Held(owner) => Err(owner),
                Found::Poisoned(death) => Err(death.owner),
            };
        }
        if word & (POISONED | RECOVERING) != POISONED {
            return Err(owner);
        }
        let death = self.death(word);
        let mine = me.word() | POISONED | RECOVERING | WAITERS;
        self.restore_record(death);
        self.memory.compare_exchange(self.at, word, mine).map(|()| Some(death)).map_err(|_| owner)
    }

    /// The record must be about the death being recovered from: a failed recovery reads it back.
    fn restore_record(&self, death: Death) {
        if Owner::from_word(self.memory.load(self.at + DEAD)) != death.owner {
            self.record(death);
        }
    }

    /// Writes the record; it names nobody while it is half written.
    fn record(&self, death: Death) {
        self.memory.store(self.at + DEAD, 0);
        self.memory.store(self.at + PID, u64::from(death.pid));
        self.memory.store(self.at + SINCE, death.since_ns);
        self.memory.store(self.at + DEAD, death.owner.word());
    }

    /// Who holds (or recovers) the mutex; nobody when free or poisoned.
    pub fn owner(&self) -> Owner {
        let word = self.word();
        if word & (POISONED | RECOVERING) == POISONED { Owner::NONE } else { Owner::from_word(word) }
    }

    /// The death that poisons the mutex, if any.
    pub fn poisoned(&self) -> Option<Death> {
        let word = self.word();
        (word & POISONED != 0).then(|| self.death(word))
    }
}
