//! loom models of the queue: every interleaving of small cases, on a memory that reorders whatever
//! the orderings in the code allow. Run with `RUSTFLAGS="--cfg loom"`.

mod leases;

use loom::thread;

use super::layout::Geometry;
use super::*;
use crate::memory::loom::Loom;
use crate::memory::{Memory, Peers};
use crate::wait::DATA_SLICE;

/// Nobody dies in these models: deaths are the crash sweep's.
#[derive(Clone, Copy)]
struct Immortal;

impl Peers for Immortal {
    fn is_dead(&self, _owner: Owner) -> bool {
        false
    }
    fn death(&self, owner: Owner) -> crate::error::Death {
        crate::error::Death { owner, ..Default::default() }
    }
    fn relock(&self) -> Result<()> {
        Ok(())
    }
}

/// A ring of 64 bytes and two units: enough for every path, small enough for loom.
fn tiny() -> (Loom, Geometry) {
    let geometry = Geometry { capacity: 0, levels: 1, ring_size: 64, leases: 1, units: 0 };
    (Loom::new(geometry.body_size()), geometry)
}

fn queue(memory: &Loom, geometry: Geometry) -> Queue<Loom, Immortal> {
    Queue::new(memory.clone(), Immortal, 0, geometry, 3)
}

fn put(queue: &Queue<Loom, Immortal>, me: Owner, value: u64) {
    loop {
        match queue.try_put(me, &Attempt::default(), 0, &value.to_le_bytes()).unwrap() {
            Step::Done(_) => return,
            Step::Wait(_) => thread::yield_now(),
        }
    }
}

fn get(queue: &Queue<Loom, Immortal>, me: Owner) -> u64 {
    let mut buffer = [MaybeUninit::new(0); 16];
    loop {
        match queue.try_get(me, &Attempt::default(), &mut buffer).unwrap() {
            // SAFETY: initialised above.
            Step::Done(Taken { place: Place::Inline, length: 8, .. }) => {
                return u64::from_le_bytes(std::array::from_fn(|i| unsafe { buffer[i].assume_init() }));
            }
            Step::Done(other) => panic!("an entry that nobody put: {other:?}"),
            Step::Wait(_) => thread::yield_now(),
        }
    }
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

#[test]
fn loom_a_message_is_whole_when_its_header_is_seen() {
    model(|| {
        let (memory, geometry) = tiny();
        let producer = queue(&memory, geometry);
        let thread = thread::spawn(move || {
            put(&producer, Owner::process(1, 1), 11);
            put(&producer, Owner::process(1, 1), 12);
        });
        let consumer = queue(&memory, geometry);
        assert_eq!(get(&consumer, Owner::process(2, 1)), 11);
        assert_eq!(get(&consumer, Owner::process(2, 1)), 12);
        thread.join().unwrap();
        assert_eq!(consumer.depth(), 0);
    });
}

#[test]
fn loom_two_producers_share_the_ring() {
    model(|| {
        let (memory, geometry) = tiny();
        let (one, two) = (queue(&memory, geometry), queue(&memory, geometry));
        let thread = thread::spawn(move || put(&one, Owner::process(1, 1), 1));
        put(&two, Owner::process(2, 1), 2);
        thread.join().unwrap();
        let consumer = queue(&memory, geometry);
        let got = [get(&consumer, Owner::process(3, 1)), get(&consumer, Owner::process(3, 1))];
        assert!(got == [1, 2] || got == [2, 1], "{got:?}");
    });
}

#[test]
fn loom_a_full_ring_is_never_overwritten() {
    // Three entries of 16 bytes fill the ring of 64 (8 stay free): the fourth must wait for room.
    model(|| {
        let (memory, geometry) = tiny();
        let producer = queue(&memory, geometry);
        let me = Owner::process(1, 1);
        for value in 1..=3 {
            put(&producer, me, value);
        }
        let thread = thread::spawn(move || put(&producer, me, 4));
        let consumer = queue(&memory, geometry);
        for value in 1..=4 {
            assert_eq!(get(&consumer, Owner::process(2, 1)), value);
        }
        thread.join().unwrap();
    });
}

#[test]
fn loom_no_wake_up_is_lost() {
    // Sleeps of the model have no time-out: a lost wake-up is a deadlock, which loom reports.
    model(|| {
        let (memory, geometry) = tiny();
        let producer = queue(&memory, geometry);
        let thread = thread::spawn(move || put(&producer, Owner::process(1, 1), 7));
        let consumer = queue(&memory, geometry);
        while !consumer.has_message() {
            consumer.messages.sleep(&memory, DATA_SLICE, || consumer.has_message());
        }
        assert_eq!(get(&consumer, Owner::process(2, 1)), 7);
        thread.join().unwrap();
    });
}

#[test]
fn loom_a_lock_is_handed_over() {
    model(|| {
        let memory = Loom::new(16);
        let lock = Lock::new(0);
        let section = move |memory: &Loom, me: Owner| {
            let mut slices = Slices::default();
            while !lock.try_acquire(memory, me, slices.slept) {
                lock.rest(memory, &Immortal, &mut slices, DATA_SLICE);
            }
            let count = memory.load(8);
            memory.store(8, count + 1);
            lock.release(memory, me);
        };
        let other = memory.clone();
        let thread = thread::spawn(move || section(&other, Owner::process(1, 1)));
        section(&memory, Owner::process(2, 1));
        thread.join().unwrap();
        assert_eq!(memory.load(8), 2);
    });
}
