//! Letters: messages that nobody could use, kept in the table of leases until somebody takes them or has them
//! handed out again.
//!
//! What the records look like and what a kill leaves behind is in `leases.rs`.

use std::mem::MaybeUninit;

use super::leases::{Held, Reason, Record, State};
use super::{Attempt, On, Origin, Place, Queue, RETURNED, Step, Taken};
use crate::error::Result;
use crate::memory::{Memory, Peers};
use crate::owner::Owner;

/// A message that nobody could use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Where its bytes are.
    pub place: Place,
    /// How many there are.
    pub length: usize,
    /// Where it comes from.
    pub origin: Origin,
    /// How often it was handed out.
    pub deliveries: u32,
    /// Why it is here.
    pub reason: String,
}

impl<M: Memory, P: Peers> Queue<M, P> {
    /// Keeps a message that was got and cannot be used; false where every record is in use. Of a small one `bytes`
    /// are kept, a large one's run is the queue's again.
    pub fn try_bury(
        &self,
        me: Owner,
        attempt: &Attempt,
        taken: &Taken,
        bytes: &[u8],
        reason: &str,
    ) -> Result<Step<bool>> {
        let Some(_lock) = self.enter(self.consumers, me, attempt) else {
            return Ok(Step::Wait(On::ConsumerLock));
        };
        let Some(index) = self.leases.find_free(&self.memory, 0) else { return Ok(Step::Done(false)) };
        match taken.place {
            Place::Inline => self.leases.write(&self.memory, index, &bytes[..taken.length]),
            // The dead lose their runs under this same lock: no record may name what is another's by now.
            Place::Block(run) => self.blocks.check_owner(&self.memory, me, run)?,
        }
        let record = Record { place: taken.place, length: taken.length, origin: taken.origin };
        self.leases.fill(&self.memory, index, &record);
        self.leases.set_reason(&self.memory, index, reason);
        let held = Held { state: State::Dead, owner: Owner::NONE, deliveries: taken.deliveries };
        self.leases.set(&self.memory, index, held);
        Ok(Step::Done(true))
    }

    /// Takes the oldest message that nobody could use; a small one is copied to `buffer`, the run of a large one
    /// is the caller's.
    pub fn try_take_letter(
        &self,
        me: Owner,
        attempt: &Attempt,
        buffer: &mut [MaybeUninit<u8>],
    ) -> Result<Step<Option<Letter>>> {
        let Some(lock) = self.enter(self.consumers, me, attempt) else {
            return Ok(Step::Wait(On::ConsumerLock));
        };
        let mut oldest: Option<(u64, usize, Held)> = None;
        for (index, held) in self.leases.all(&self.memory).filter(|(_, held)| held.state == State::Dead) {
            let number = self.leases.origin(&self.memory, index)?.number;
            if oldest.is_none_or(|(other, ..)| number < other) {
                oldest = Some((number, index, held));
            }
        }
        let Some((_, index, held)) = oldest else { return Ok(Step::Done(None)) };
        let reason = self.leases.reason(&self.memory, index);
        let Record { place, length, origin } = self.open_record(me, index, buffer)?;
        self.leases.clear(&self.memory, index);
        drop(lock);
        self.progress.notify_all(&self.memory);
        let (deliveries, reason) = (held.deliveries, reason.text());
        Ok(Step::Done(Some(Letter { place, length, origin, deliveries, reason })))
    }

    /// What [`Queue::try_take_letter`] would give, all of it, without the bytes.
    pub fn try_peek_letters(&self, me: Owner, attempt: &Attempt) -> Result<Step<Vec<Letter>>> {
        // Nothing is allocated under the lock.
        let mut found: Vec<(Record, Held, Reason)> = Vec::with_capacity(self.geometry.leases);
        let Some(lock) = self.enter(self.consumers, me, attempt) else {
            return Ok(Step::Wait(On::ConsumerLock));
        };
        for (index, held) in self.leases.all(&self.memory).filter(|(_, held)| held.state == State::Dead) {
            let record = self.leases.read(&self.memory, index)?;
            found.push((record, held, self.leases.reason(&self.memory, index)));
        }
        drop(lock);
        found.sort_by_key(|(record, ..)| record.origin.number);
        let letter = |(record, held, reason): (Record, Held, Reason)| {
            let Record { place, length, origin } = record;
            Letter { place, length, origin, deliveries: held.deliveries, reason: reason.text() }
        };
        Ok(Step::Done(found.into_iter().map(letter).collect()))
    }

    /// Gives all messages that nobody could use to the consumers again, as if never handed out; says how many.
    pub fn try_requeue(&self, me: Owner, attempt: &Attempt) -> Result<Step<usize>> {
        let Some(lock) = self.enter(self.consumers, me, attempt) else {
            return Ok(Step::Wait(On::ConsumerLock));
        };
        let mut count = 0;
        for (index, held) in self.leases.all(&self.memory) {
            if held.state == State::Dead {
                let held = Held { state: State::Returned, owner: Owner::NONE, deliveries: 0 };
                self.leases.set(&self.memory, index, held);
                count += 1;
            }
        }
        if count > 0 {
            self.memory.swap(self.body + RETURNED, 1);
        }
        drop(lock);
        // Those who wait for a record as well: they can have one of these messages.
        self.progress.notify_all(&self.memory);
        self.messages.notify_all(&self.memory);
        Ok(Step::Done(count))
    }
}
