//! Leases: taking a message without giving up the claim to give it back, and what becomes of it; of one that
//! nobody can use, see `letters.rs`.
//!
//! What the records look like and what a kill leaves behind is in `leases.rs`.

use std::mem::MaybeUninit;

use super::leases::{Held, Record, State};
use super::ring::Entry;
use super::{Attempt, On, Origin, Place, Queue, RETURNED, Ring, SHUT, Step, Taken};
use crate::error::Result;
use crate::memory::{Memory, Peers};
use crate::owner::Owner;

/// A message that the caller holds until it ends the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leased {
    index: usize,
    held: Held,
    /// Where its bytes are; those of a small one were copied to the caller's buffer as well.
    pub place: Place,
    /// How many there are.
    pub length: usize,
    /// Where it comes from.
    pub origin: Origin,
}

impl Leased {
    /// How often the message was handed out, this time included.
    pub fn deliveries(&self) -> u32 {
        self.held.deliveries
    }

    /// Which record holds it: a good place to look for a free one next time.
    pub fn index(&self) -> usize {
        self.index
    }
}

/// What has become of a message that was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It waits to be taken.
    Waiting,
    /// A consumer has it and has not acknowledged it, or gave it back.
    Leased,
    /// It was taken and, where it was leased, acknowledged.
    Done,
    /// Nobody could use it; why.
    Dead(String),
}

impl<M: Memory, P: Peers> Queue<M, P> {
    /// Takes the next message on lease; a small one is copied to the front of `buffer` as well, which must hold
    /// `inline_max` bytes. `near`: the record to try first.
    pub fn try_lease(
        &self,
        me: Owner,
        attempt: &Attempt,
        near: usize,
        buffer: &mut [MaybeUninit<u8>],
    ) -> Result<Step<Leased>> {
        if !self.has_message() {
            return Ok(Step::Wait(On::Messages));
        }
        let Some(lock) = self.enter(self.consumers, me, attempt) else {
            return Ok(Step::Wait(On::ConsumerLock));
        };
        let front = self.front()?;
        let returned = self.has_returned();
        let leased = if returned
            && let Some((index, held)) = self.next_returned(front.map(|(ring, ..)| ring.level()))?
        {
            self.lease_returned(me, index, held, buffer)?
        } else {
            let Some((ring, entry, seq)) = front else { return Ok(Step::Wait(On::Messages)) };
            if let Some(index) = self.leases.find_free(&self.memory, near) {
                self.lease_entry(me, index, ring, &entry, seq, buffer)?
            } else if returned && let Some((index, held)) = self.next_returned(None)? {
                // Less urgent than the one in the ring, but it has a record, and if all of them hold messages
                // that were given back, nothing else ever frees one.
                self.lease_returned(me, index, held, buffer)?
            } else {
                return Ok(Step::Wait(On::Leases));
            }
        };
        drop(lock);
        self.after_take(attempt);
        if returned {
            self.after_returned();
        }
        Ok(Step::Done(leased))
    }

    fn lease_entry(
        &self,
        me: Owner,
        index: usize,
        ring: &Ring,
        entry: &Entry,
        seq: u64,
        buffer: &mut [MaybeUninit<u8>],
    ) -> Result<Leased> {
        let (place, length) = self.take_entry(me, ring, entry, buffer)?;
        if place == Place::Inline {
            // SAFETY: take_entry has filled this much of it.
            let message = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length) };
            self.leases.write(&self.memory, index, message);
        }
        let origin = Self::origin(ring, entry, seq);
        self.leases.fill(&self.memory, index, &Record { place, length, origin });
        let held = Held { state: State::Leased, owner: me.as_process(), deliveries: 1 };
        self.leases.set_holder(&self.memory, index, self.peers.pid(me));
        self.leases.set(&self.memory, index, held);
        ring.advance_head(&self.memory, entry.next(), seq.wrapping_add(1));
        Ok(Leased { index, held, place, length, origin })
    }

    #[cold]
    fn lease_returned(
        &self,
        me: Owner,
        index: usize,
        held: Held,
        buffer: &mut [MaybeUninit<u8>],
    ) -> Result<Leased> {
        let Record { place, length, origin } = self.open_record(me, index, buffer)?;
        let held = Held {
            state: State::Leased,
            owner: me.as_process(),
            deliveries: held.deliveries.saturating_add(1),
        };
        self.leases.set_holder(&self.memory, index, self.peers.pid(me));
        self.leases.set(&self.memory, index, held);
        Ok(Leased { index, held, place, length, origin })
    }

    /// Reads a record: a small message into `buffer`, a large one's run becomes `me`'s. Consumer lock held.
    pub(super) fn open_record(
        &self,
        me: Owner,
        index: usize,
        buffer: &mut [MaybeUninit<u8>],
    ) -> Result<Record> {
        let record = self.leases.read(&self.memory, index)?;
        match record.place {
            Place::Inline => {
                self.memory.read(self.leases.slot(index), &mut buffer[..record.length]);
            }
            Place::Block(run) => {
                self.blocks.adopt(&self.memory, me, run.first as u64, record.length as u64)?;
            }
        }
        Ok(record)
    }

    /// The message given back that goes before one of level `front`, to be taken. Consumer lock held.
    #[cold]
    fn next_returned(&self, front: Option<u8>) -> Result<Option<(usize, Held)>> {
        // Lowered before looking: whoever gives back meanwhile raises it after.
        self.memory.swap(self.body + RETURNED, 0);
        let first = self.leases.first_returned(&self.memory)?;
        let taken = first.filter(|first| front.is_none_or(|front| first.level >= front));
        if first.is_some_and(|first| first.more || taken.is_none()) {
            self.memory.store(self.body + RETURNED, 1);
        }
        Ok(taken.map(|taken| (taken.index, taken.held)))
    }

    /// For one who has looked for what was given back and taken a message: those who looked while the hint was
    /// down may have gone to sleep beside one, or wait for the end of a queue that has ended with this one.
    #[cold]
    pub(super) fn after_returned(&self) {
        if self.has_message() {
            self.messages.notify(&self.memory);
        }
        self.after_end();
    }

    /// Takes a message that was given back, for good. Consumer lock held.
    #[cold]
    pub(super) fn get_returned(
        &self,
        me: Owner,
        front: Option<u8>,
        buffer: &mut [MaybeUninit<u8>],
    ) -> Result<Option<Taken>> {
        let Some((index, held)) = self.next_returned(front)? else { return Ok(None) };
        let Record { place, length, origin } = self.open_record(me, index, buffer)?;
        self.leases.clear(&self.memory, index);
        let deliveries = held.deliveries.saturating_add(1);
        Ok(Some(Taken { place, length, origin, deliveries }))
    }

    /// Ends a lease: the message is done. False where the lease is not the caller's any more: it was declared
    /// dead meanwhile. The run of a large message stays the caller's, to be freed.
    pub fn acknowledge(&self, lease: &Leased) -> bool {
        let ended = self.leases.end(&self.memory, lease.index, lease.held, None);
        self.after_end();
        ended
    }

    /// Ends a lease: the message goes to the next consumer, before all others, or is dead after as many
    /// deliveries as the queue allows, or at once if `for_good`. False as for [`Queue::acknowledge`]. A run is
    /// the queue's again.
    pub fn give_back(&self, lease: &Leased, reason: &str, for_good: bool) -> bool {
        if self.leases.word(&self.memory, lease.index) != lease.held.word() {
            return false;
        }
        self.leases.set_reason(&self.memory, lease.index, reason);
        let ended = self.give_up(lease.index, lease.held, for_good);
        if ended == Some(State::Returned) {
            // A full fence, as notifying asks for.
            self.memory.swap(self.body + RETURNED, 1);
            self.messages.notify(&self.memory);
        }
        self.after_end();
        ended.is_some()
    }

    /// From leased to returned or dead; by the owner, or with proof of its death. Says what it is now; `None` where
    /// the lease was not as it was any more. The hint is the caller's to raise.
    fn give_up(&self, index: usize, held: Held, for_good: bool) -> Option<State> {
        let spent = for_good || held.deliveries >= self.max_deliveries;
        let state = if spent { State::Dead } else { State::Returned };
        let to = Held { state, owner: Owner::NONE, deliveries: held.deliveries };
        self.leases.end(&self.memory, index, held, Some(to)).then_some(state)
    }

    fn after_end(&self) {
        self.progress.notify_all(&self.memory);
        // Those who wait for a message of a queue that has ended wait for the last lease.
        if self.messages.has_waiters(&self.memory) && self.flags() & SHUT != 0 {
            self.messages.notify_all(&self.memory);
        }
    }

    /// Makes everyone who waits for a message look again.
    pub fn wake_consumers(&self) {
        self.messages.notify_all(&self.memory);
    }

    /// Gives messages back that were leased to processes that are dead, and finds again what was given back by one
    /// that was killed doing so. Does nothing where a living process is inside the lock.
    pub fn redeliver(&self, me: Owner, attempt: &Attempt) -> Result<()> {
        let mut owners: Vec<(Owner, u32)> = Vec::new();
        let mut returned = false;
        for (index, held) in self.leases.all(&self.memory) {
            let known = held.owner == me.as_process() || owners.iter().any(|(owner, _)| *owner == held.owner);
            match held.state {
                State::Leased if !known => owners.push((held.owner, self.leases.holder(&self.memory, index))),
                State::Returned => returned = true,
                _ => {}
            }
        }
        // Proving a death takes system calls, and saying whose it was an allocation: not under a lock.
        owners.retain(|(owner, _)| self.peers.is_dead(*owner));
        let reasons: Vec<String> =
            owners.iter().map(|(_, pid)| format!("process {pid} died holding it")).collect();
        if owners.is_empty() && (!returned || self.has_returned()) {
            return Ok(());
        }
        let Some(lock) = self.enter_or_take_over(self.consumers, me, attempt)? else { return Ok(()) };
        let mut returned = false;
        for (index, held) in self.leases.all(&self.memory) {
            let dead = owners.iter().position(|(owner, _)| *owner == held.owner);
            let state = match dead.filter(|_| held.state == State::Leased) {
                Some(dead) => {
                    self.leases.set_reason(&self.memory, index, &reasons[dead]);
                    self.give_up(index, held, false)
                }
                None => Some(held.state),
            };
            returned |= state == Some(State::Returned);
        }
        if returned {
            self.memory.swap(self.body + RETURNED, 1);
        }
        drop(lock);
        self.after_end();
        self.messages.notify_all(&self.memory);
        Ok(())
    }

    /// True where some message is leased or was given back.
    pub fn has_leases(&self) -> bool {
        self.leases.all(&self.memory).any(|(_, held)| held.state != State::Dead)
    }

    pub(super) fn count_leases(&self, state: State) -> u64 {
        self.leases.all(&self.memory).filter(|(_, held)| held.state == state).count() as u64
    }

    /// True where a lease could be taken.
    pub(super) fn has_free_lease(&self) -> bool {
        self.leases.find_free(&self.memory, 0).is_some()
    }

    /// The runs that records name. Consumer lock held.
    pub(super) fn leased_runs(&self, runs: &mut Vec<u64>) -> Result<()> {
        for (index, _) in self.leases.all(&self.memory) {
            if let Place::Block(run) = self.leases.read(&self.memory, index)?.place {
                runs.push(run.first as u64);
            }
        }
        Ok(())
    }

    /// After a consumer died. Consumer lock held.
    pub(super) fn repair_leases(&self) -> Result<()> {
        if self.leases.clear_void(&self.memory, &self.rings)? {
            self.memory.swap(self.body + RETURNED, 1);
        }
        Ok(())
    }

    /// What has become of the message put at `position` of a level.
    pub fn fate(&self, level: u8, position: u64) -> Result<Fate> {
        if !self.ring_of(level).is_taken(&self.memory, position) {
            return Ok(Fate::Waiting);
        }
        // From the ring to a record: the record is there before the head moves on, and it stays the same one
        // until the message is done.
        for (index, _) in self.leases.all(&self.memory) {
            let ours = |origin: Origin| (origin.level, origin.position) == (level, position);
            if !ours(self.leases.origin(&self.memory, index)?) {
                continue;
            }
            let held = self.leases.held(&self.memory, index);
            let reason = self.leases.reason(&self.memory, index);
            // Looked at again: if it is still ours, so was all that was read in between.
            match held.filter(|_| self.leases.origin(&self.memory, index).is_ok_and(ours)) {
                Some(held) if held.state == State::Dead => return Ok(Fate::Dead(reason.text())),
                Some(_) => return Ok(Fate::Leased),
                None => {}
            }
        }
        Ok(Fate::Done)
    }
}
