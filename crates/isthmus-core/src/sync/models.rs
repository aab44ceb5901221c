//! loom models of the objects of synchronization: every interleaving of small cases. Run with
//! `RUSTFLAGS="--cfg loom"`. Sleeps have no time-out here and nobody dies: a lost wake-up is a deadlock.

use loom::thread;

use super::barrier::{self, Barrier, Outcome};
use super::bounded::{self, BoundedSemaphore};
use super::condition::{self, Condition};
use super::event::Event;
use super::rwlock::{self, Entry, RwLock};
use super::semaphore::Semaphore;
use super::*;
use crate::error::Death;
use crate::memory::Peers;
use crate::memory::loom::Strict;
use crate::wait::DATA_SLICE;

#[derive(Clone, Copy)]
struct Immortal;

impl Peers for Immortal {
    fn is_dead(&self, _owner: Owner) -> bool {
        false
    }

    fn death(&self, owner: Owner) -> Death {
        Death { owner, ..Death::default() }
    }

    fn relock(&self) -> Result<()> {
        Ok(())
    }
}

fn process(slot: u32) -> Owner {
    Owner::process(slot, 1)
}

/// As [`rest`], without spinning and without end.
fn sleep(memory: &Strict, item: &impl Waitable, me: Owner, want: Want) {
    item.point(want).sleep(memory, DATA_SLICE, || item.ready(me, want));
}

fn model(preemptions: usize, check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(check);
}

fn take(memory: &Strict, it: &Semaphore<Strict, Immortal>, me: Owner) {
    let mut slept = false;
    while !it.try_acquire(me) {
        sleep(memory, it, me, Want::Permit);
        slept = true;
    }
    it.leave(me, slept);
}

#[test]
fn loom_semaphore_every_permit_reaches_one_who_waits() {
    model(3, || {
        let memory = Strict::new(CELLS);
        let semaphore = |memory: &Strict| Semaphore::new(memory.clone(), Immortal, 0);
        let threads: Vec<_> = (1..=2)
            .map(|slot| {
                let memory = memory.clone();
                thread::spawn(move || take(&memory, &semaphore(&memory), process(slot)))
            })
            .collect();
        let giver = semaphore(&memory);
        giver.release(1).unwrap();
        giver.release(1).unwrap();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(giver.value(), 0);
    });
}

#[test]
fn loom_semaphore_a_claim_keeps_others_back_and_nobody_asleep() {
    model(2, || {
        let memory = Strict::new(CELLS);
        let semaphore = |memory: &Strict| Semaphore::new(memory.clone(), Immortal, 0);
        let other = memory.clone();
        let old = thread::spawn(move || {
            let (it, me) = (semaphore(&other), process(1));
            Waitable::claim(&it, me, Want::Permit);
            take(&other, &it, me);
        });
        let third = memory.clone();
        let late = thread::spawn(move || take(&third, &semaphore(&third), process(2)));
        let giver = semaphore(&memory);
        giver.release(1).unwrap();
        giver.release(1).unwrap();
        old.join().unwrap();
        late.join().unwrap();
        assert_eq!(giver.value(), 0);
    });
}

#[test]
fn loom_bounded_semaphore_one_permit_one_holder() {
    model(3, || {
        let size = bounded::body_size(1);
        let memory = Strict::new(size + 8);
        let turn = move |memory: &Strict, me: Owner| {
            let it = BoundedSemaphore::new(memory.clone(), Immortal, 0, 1);
            let mut slept = false;
            while !it.try_acquire(me) {
                sleep(memory, &it, me, Want::Permit);
                slept = true;
            }
            it.leave(me, slept);
            let count = memory.load(size);
            memory.store(size, count + 1);
            it.release(me).unwrap();
        };
        let other = memory.clone();
        let thread = thread::spawn(move || turn(&other, process(2)));
        turn(&memory, process(1));
        thread.join().unwrap();
        assert_eq!(memory.load(size), 2);
    });
}

fn write_turn(memory: &Strict, me: Owner) {
    let it = RwLock::new(memory.clone(), Immortal, 0);
    let mut slept = false;
    while it.try_write(me) != Entry::In {
        sleep(memory, &it, me, Want::Write);
        slept = true;
    }
    it.leave(me, slept);
    let at = rwlock::BODY_SIZE;
    // Two words that a reader must see equal.
    memory.store(at, memory.load(at) + 1);
    memory.store(at + 8, memory.load(at + 8) + 1);
    it.release_write(me).unwrap();
}

fn read_turn(memory: &Strict, me: Owner) {
    let it = RwLock::new(memory.clone(), Immortal, 0);
    let mut slept = false;
    while it.try_read(me).unwrap() != Entry::In {
        sleep(memory, &it, me, Want::Read);
        slept = true;
    }
    it.leave(me, slept);
    let at = rwlock::BODY_SIZE;
    assert_eq!(memory.load(at), memory.load(at + 8));
    it.release_read(me).unwrap();
}

#[test]
fn loom_rwlock_readers_see_no_half_write() {
    model(2, || {
        let memory = Strict::new(rwlock::BODY_SIZE + 16);
        let other = memory.clone();
        let reading = thread::spawn(move || read_turn(&other, process(2)));
        write_turn(&memory, process(1));
        reading.join().unwrap();
    });
}

#[test]
fn loom_rwlock_writers_exclude_each_other() {
    model(2, || {
        let memory = Strict::new(rwlock::BODY_SIZE + 16);
        let other = memory.clone();
        let writing = thread::spawn(move || write_turn(&other, process(2)));
        write_turn(&memory, process(1));
        writing.join().unwrap();
        assert_eq!(memory.load(rwlock::BODY_SIZE), 2);
    });
}

#[test]
fn loom_event_reaches_one_who_sleeps_through_set_and_clear() {
    model(3, || {
        let memory = Strict::new(CELLS);
        let other = memory.clone();
        let waiting = thread::spawn(move || {
            let it = Event::new(other.clone(), Immortal, 0);
            while !it.happened(0) {
                sleep(&other, &it, process(2), Want::Set(0));
            }
        });
        let it = Event::new(memory.clone(), Immortal, 0);
        it.set();
        it.clear();
        waiting.join().unwrap();
    });
}

#[test]
fn loom_condition_a_notification_between_entering_and_sleeping_is_not_lost() {
    model(2, || {
        let memory = Strict::new(condition::BODY_SIZE);
        let it = Condition::new(memory.clone(), Immortal, 0);
        let cell = it.enter(process(2)).unwrap().expect("nobody is in the guard");
        let other = memory.clone();
        let waiting = thread::spawn(move || {
            let (it, me, want) =
                (Condition::new(other.clone(), Immortal, 0), process(2), Want::Notified(cell));
            while !it.ready(me, want) {
                sleep(&other, &it, me, want);
            }
            loop {
                match it.leave(me, cell) {
                    Some(notified) => break assert!(notified),
                    None => thread::yield_now(),
                }
            }
        });
        while it.notify(process(1), 1).is_none() {
            thread::yield_now();
        }
        waiting.join().unwrap();
    });
}

#[test]
fn loom_barrier_opens_for_all() {
    model(2, || {
        let memory = Strict::new(barrier::body_size(2));
        let come = |memory: &Strict, me: Owner| {
            let it = Barrier::new(memory.clone(), Immortal, 0, 2);
            let arrival = loop {
                match it.arrive(me) {
                    Some(arrival) => break arrival.expect("not broken"),
                    None => thread::yield_now(),
                }
            };
            if it.is_last(&arrival) {
                while it.open(me, &arrival).is_none() {
                    thread::yield_now();
                }
            }
            let want = Want::Open(arrival.generation);
            while !it.ready(me, want) {
                sleep(memory, &it, me, want);
            }
            assert_eq!(it.outcome(me, &arrival), Outcome::Open);
        };
        let other = memory.clone();
        let second = thread::spawn(move || come(&other, process(2)));
        come(&memory, process(1));
        second.join().unwrap();
    });
}
