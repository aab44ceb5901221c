//! Every call of the core on objects whose memory was damaged.

use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use isthmus_core::error::{Error, Result};
use isthmus_core::lock::Slices;
use isthmus_core::mutex::Found;
use isthmus_core::mutex::handle::MutexHandle;
use isthmus_core::owner::Owner;
use isthmus_core::queue::handle::QueueHandle;
use isthmus_core::queue::{Attempt, INLINE_MAX, Leased, Letter, On, Place, Run, Step, Taken};
use isthmus_core::session::Session;
use isthmus_core::value::handle::{Type, ValueHandle};
use isthmus_core::wait::Waited;

use crate::chance::Chance;
use crate::guard::Tally;
use crate::scene::place_of;

/// One who uses a queue, and what it holds.
pub(crate) struct Caller<'a> {
    handle: &'a QueueHandle,
    attempt: Attempt,
    buffer: Vec<MaybeUninit<u8>>,
    leases: Vec<Leased>,
    runs: Vec<(Owner, Run)>,
    taken: Vec<Taken>,
    /// Whether waits are given time, so that they sleep.
    patient: bool,
}

impl<'a> Caller<'a> {
    pub(crate) fn new(handle: &'a QueueHandle, patient: bool) -> Caller<'a> {
        Caller {
            handle,
            attempt: Attempt::default(),
            buffer: vec![MaybeUninit::new(0); INLINE_MAX],
            leases: vec![],
            runs: vec![],
            taken: vec![],
            patient,
        }
    }

    /// One call.
    pub(crate) fn call(&mut self, chance: &mut Chance, tally: &mut Tally) {
        let result = match chance.below(8) {
            0 => self.put(chance),
            1 => self.put_large(chance),
            2 => self.get(chance),
            3 => self.lease(chance),
            4 => self.end_lease(chance),
            5 => self.letters(chance),
            6 => self.look(chance),
            _ => self.wait_or_recover(chance),
        };
        tally.note(result);
    }

    fn level(&self, chance: &mut Chance) -> u8 {
        chance.below(self.handle.queue().geometry().levels) as u8
    }

    fn put(&mut self, chance: &mut Chance) -> Result<()> {
        let (queue, me, level) = (self.handle.queue(), self.handle.producer()?, self.level(chance));
        let most = queue.geometry().inline_max();
        let bytes = vec![7; most];
        let length = chance.pick(&[0, 1, 8, 100, most - 1, most]);
        if chance.one_in(2) {
            if let Step::Done(position) = queue.try_put(me, &self.attempt, level, &bytes[..length])? {
                queue.fate(level, position)?;
            }
        } else {
            let all: Vec<&[u8]> = (0..chance.below(40)).map(|_| &bytes[..chance.below(200)]).collect();
            if !all.is_empty() {
                queue.try_put_batch(me, &self.attempt, level, &all)?;
            }
        }
        Ok(())
    }

    fn put_large(&mut self, chance: &mut Chance) -> Result<()> {
        let (queue, me, level) = (self.handle.queue(), self.handle.producer()?, self.level(chance));
        let most = queue.geometry().message_max();
        let length = chance.pick(&[1, 4096, 4097, 9000, most / 2, most, most + 1]);
        let Step::Done(run) = queue.try_claim(me, &self.attempt, length)? else { return Ok(()) };
        let to = queue.memory().address(queue.run_offset(run), length);
        // SAFETY: `address` has checked that all of it lies in the mapping.
        unsafe { to.write_bytes(9, length) };
        match chance.below(4) {
            0 => self.runs.push((me, run)),
            1 => drop(queue.free(me, run)),
            _ => {
                let length = chance.pick(&[length, length / 2, 0]);
                if !matches!(queue.try_put_run(me, &self.attempt, level, run, length), Ok(Step::Done(_))) {
                    queue.free(me, run);
                }
            }
        }
        Ok(())
    }

    fn get(&mut self, chance: &mut Chance) -> Result<()> {
        let (queue, me) = (self.handle.queue(), self.handle.consumer()?);
        if chance.one_in(3) {
            let mut lengths = vec![];
            queue.peek_lengths(chance.pick(&[1, 10, 5000]), chance.pick(&[0, 100, 1 << 20]), &mut lengths);
            let mut own: Vec<Vec<MaybeUninit<u8>>> =
                lengths.iter().map(|length| vec![MaybeUninit::new(0); *length]).collect();
            let mut buffers: Vec<&mut [MaybeUninit<u8>]> = own.iter_mut().map(Vec::as_mut_slice).collect();
            if let Step::Done((count, Some(large))) = queue.try_get_batch(me, &self.attempt, &mut buffers)? {
                assert!(count <= lengths.len());
                self.keep(me, large, chance);
            }
        } else if let Step::Done(taken) = queue.try_get(me, &self.attempt, &mut self.buffer)? {
            self.keep(me, taken, chance);
        }
        Ok(())
    }

    /// Looks at a message that was taken and does with it what users do.
    fn keep(&mut self, me: Owner, taken: Taken, chance: &mut Chance) {
        place_of(taken.place, taken.length, self.handle);
        self.handle.sender(taken.origin.sender);
        match (taken.place, chance.below(3)) {
            (_, 0) => self.taken.push(taken),
            (Place::Block(run), 1) => self.runs.push((me, run)),
            (Place::Block(run), _) => drop(self.handle.queue().free(me, run)),
            _ => {}
        }
    }

    fn lease(&mut self, chance: &mut Chance) -> Result<()> {
        let me = self.handle.consumer()?;
        let near = chance.pick(&[0, 3, usize::MAX]);
        let step = self.handle.queue().try_lease(me, &self.attempt, near, &mut self.buffer)?;
        if let Step::Done(leased) = step {
            place_of(leased.place, leased.length, self.handle);
            self.handle.sender(leased.origin.sender);
            assert!(usize::from(leased.origin.level) < self.handle.queue().geometry().levels);
            self.leases.push(leased);
        }
        Ok(())
    }

    fn end_lease(&mut self, chance: &mut Chance) -> Result<()> {
        let me = self.handle.consumer()?;
        let Some(leased) = self.leases.pop() else { return Ok(()) };
        match chance.below(4) {
            0 if self.handle.acknowledge(&leased) => {
                if let Place::Block(run) = leased.place {
                    self.handle.queue().free(me, run);
                }
            }
            0 => {}
            1 => drop(self.handle.give_back(&leased, &"é".repeat(chance.below(300)), false)),
            2 => drop(self.handle.give_back(&leased, "no", true)),
            _ => self.leases.insert(0, leased), // ended again later
        }
        Ok(())
    }

    fn letters(&mut self, chance: &mut Chance) -> Result<()> {
        let (queue, me) = (self.handle.queue(), self.handle.consumer()?);
        let look = |letter: &Letter| {
            place_of(letter.place, letter.length, self.handle);
            assert!(letter.reason.len() <= 3 * 256);
        };
        match chance.below(4) {
            0 => {
                if let Step::Done(Some(letter)) =
                    queue.try_take_letter(me, &self.attempt, &mut self.buffer)?
                {
                    look(&letter);
                    if let Place::Block(run) = letter.place {
                        queue.free(me, run);
                    }
                }
            }
            1 => {
                if let Step::Done(letters) = queue.try_peek_letters(me, &self.attempt)? {
                    assert!(letters.len() <= queue.geometry().leases);
                    letters.iter().for_each(look);
                }
            }
            2 => drop(queue.try_requeue(me, &self.attempt)?),
            _ => {
                if let Some(taken) = self.taken.pop() {
                    queue.try_bury(me, &self.attempt, &taken, &[0; INLINE_MAX], "not valid")?;
                }
            }
        }
        Ok(())
    }

    /// What takes nothing: numbers, people, the end.
    fn look(&mut self, chance: &mut Chance) -> Result<()> {
        let (handle, queue) = (self.handle, self.handle.queue());
        match chance.below(5) {
            0 => {
                let fill = queue.fill();
                assert!(fill >= 0.0);
                handle.numbers()?;
                handle.depth()?;
            }
            1 => {
                handle.check_end()?;
                queue.fate(self.level(chance), chance.word() & !7)?;
            }
            2 => look_at(handle.session(), &queue.lock_owners()),
            3 => {
                let (limit, bytes) = (chance.pick(&[0, 1, 5, usize::MAX]), chance.pick(&[0, 16, 5000]));
                let seen = queue.peek(limit, bytes)?;
                assert!(seen.next.len() <= limit && queue.depths().len() == queue.geometry().levels);
                for seen in seen.next.iter().chain(&seen.leased).chain(&seen.dead) {
                    assert!(seen.bytes.len() <= seen.length && seen.length <= queue.geometry().message_max());
                    handle.session().registry().describe(seen.holder);
                }
            }
            _ => {
                let _ = (queue.is_drained(), queue.has_leases(), queue.had_producer(), queue.has_message());
                handle.message_type();
                handle.max_deliveries();
            }
        }
        Ok(())
    }

    fn wait_or_recover(&mut self, chance: &mut Chance) -> Result<()> {
        let (queue, me) = (self.handle.queue(), self.handle.consumer()?);
        match chance.below(8) {
            0 => drop(queue.reclaim(me, &self.attempt)?),
            1 => queue.redeliver(me, &self.attempt)?,
            2 => queue.leave(&self.attempt),
            3 => queue.wake_all(),
            4 if chance.one_in(8) => drop(self.handle.try_shut_down(&self.attempt)?),
            5 => self.attempt = Attempt::default(),
            _ => {
                let ring = On::RingSpace(self.level(chance), chance.pick(&[8, 100, 4000]));
                let blocks = On::BlockSpace(chance.below(100));
                let all = [On::ProducerLock, On::ConsumerLock, On::Messages, On::Leases];
                let on = if chance.one_in(3) {
                    chance.pick(&[ring, On::BlockSpace(1), blocks])
                } else {
                    chance.pick(&all)
                };
                let time = Duration::from_millis(if self.patient { 3 } else { 0 });
                let deadline = Instant::now() + time;
                let waited = self.handle.wait(me, &mut self.attempt, on, Some(deadline))?;
                assert!(self.patient || waited != Waited::Interrupted);
            }
        }
        Ok(())
    }

    /// Ends everything that is held.
    pub(crate) fn finish(mut self, tally: &mut Tally) {
        for leased in self.leases.drain(..) {
            self.handle.give_back(&leased, "late", false);
        }
        for (owner, run) in self.runs.drain(..) {
            self.handle.queue().free(owner, run);
        }
        tally.note(self.handle.numbers());
    }
}

/// Looks at who uses an object.
pub(crate) fn look_at(session: &Session, owners: &[Owner]) {
    let registry = session.registry();
    for owner in owners {
        registry.describe(*owner);
        registry.death(*owner);
    }
    let (producers, consumers) = session.object().waiting();
    assert!(producers <= 256 << 32 && consumers <= 256 << 32);
    for (_, owner, _) in session.object().attachments() {
        registry.describe(owner);
    }
}

/// One call of a mutex.
pub(crate) fn use_mutex(
    handle: &MutexHandle,
    slices: &mut Slices,
    patient: bool,
    chance: &mut Chance,
) -> Result<()> {
    let (me, mutex) = (handle.session().me_here()?, handle.mutex());
    match chance.below(8) {
        0 | 1 => {
            if let Found::Poisoned(death) = handle.try_acquire(me, slices) {
                return Err(Error::OwnerDied(death));
            }
        }
        2 => mutex.release(me)?,
        3 => mutex.release_poisoned(me)?,
        4 => drop(handle.try_recover(me, slices)),
        5 => drop((mutex.check_owner(), mutex.may_go_on(me))),
        6 => {
            look_at(handle.session(), &[mutex.owner()]);
            drop(mutex.poisoned().map(|death| death.to_string()));
        }
        _ => {
            let time = Duration::from_millis(if patient { 3 } else { 0 });
            handle.wait(me, slices, Some(Instant::now() + time))?;
            mutex.leave(me, slices);
        }
    }
    Ok(())
}

/// One call of a value.
pub(crate) fn use_value(handle: &ValueHandle, chance: &mut Chance) -> Result<()> {
    let value = handle.value()?;
    let word = chance.word();
    match (handle.kind(), chance.below(4)) {
        (Type::Int, 0) => drop(value.exchange(word as i64)),
        (Type::Int, 1) => drop(value.add(word as i64)),
        (Type::Int, 2) => drop(value.compare_and_set(value.get::<i64>(), 5)),
        (Type::Float, 0) => drop(value.exchange(f64::from_bits(word))),
        (Type::Float, 1) => drop(value.add(f64::from_bits(word))),
        (Type::Float, 2) => drop(value.compare_and_set(value.get::<f64>(), 5.0)),
        _ => look_at(handle.session(), &[]),
    }
    Ok(())
}
