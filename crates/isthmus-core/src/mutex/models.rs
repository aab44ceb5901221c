//! loom models of the mutex: every interleaving of small cases. Run with `RUSTFLAGS="--cfg loom"`.
//!
//! Sleeps have no time-out here, and the kernel of these models wakes exactly as many sleepers of exactly
//! that word as it is asked to, first come, first served: a wake-up that is lost, or handed to one who goes
//! away with it, leaves a thread asleep, which loom reports as a deadlock.

use loom::thread;

use super::*;
use crate::memory::loom::Strict;

/// Word behind the body: what the mutex protects.
const DATA: usize = BODY_SIZE;
/// Died holding the mutex, in the models that begin with a death.
const DEAD: Owner = Owner::process(9, 1);

/// Only [`DEAD`] is dead.
#[derive(Clone, Copy)]
struct OneDied;

impl Peers for OneDied {
    fn is_dead(&self, owner: Owner) -> bool {
        owner == DEAD
    }

    fn death(&self, owner: Owner) -> Death {
        Death { owner, pid: owner.slot(), since_ns: 1 }
    }

    fn relock(&self) -> Result<()> {
        Ok(())
    }
}

type Modelled = Mutex<Strict, OneDied>;

fn mutex(memory: &Strict) -> Modelled {
    Mutex::new(memory.clone(), OneDied, 0)
}

fn process(slot: u32) -> Owner {
    Owner::process(slot, 1)
}

/// One who has slept looks at the owner first; in time everyone has.
fn patient() -> Slices {
    let mut slices = Slices::default();
    slices.slept = true;
    slices
}

/// As [`Mutex::wait`], without spinning.
fn wait(mutex: &Modelled, slices: &mut Slices) {
    if let Rest::Dead(word) = mutex.lock.rest(&mutex.memory, &OneDied, slices, Duration::MAX) {
        mutex.poison(word);
    }
}

/// True where acquired, false where the owner died.
fn acquire(mutex: &Modelled, me: Owner) -> bool {
    let mut slices = Slices::default();
    loop {
        match mutex.try_acquire(me, &slices) {
            Found::Acquired => return true,
            Found::Poisoned(death) => {
                assert_eq!((death.owner, death.pid), (DEAD, DEAD.slot()));
                mutex.leave(me, &slices);
                return false;
            }
            Found::Held(_) => wait(mutex, &mut slices),
        }
    }
}

fn recover(mutex: &Modelled, me: Owner, mut slices: Slices) -> Option<Death> {
    loop {
        match mutex.try_recover(me, &slices) {
            Ok(death) => return death,
            Err(_) => wait(mutex, &mut slices),
        }
    }
}

/// Acquires, counts and releases: two at once would lose a count.
fn turn(mutex: &Modelled, me: Owner) {
    assert!(acquire(mutex, me));
    let count = mutex.memory.load(DATA);
    assert_eq!(mutex.owner(), me);
    mutex.memory.store(DATA, count + 1);
    mutex.release(me).expect("held");
}

/// As [`turn`], in an event loop.
fn turn_in_a_loop(mutex: &Modelled, me: Owner, cell: usize) {
    let mut slices = Slices::default();
    while mutex.try_acquire(me, &slices) != Found::Acquired {
        slices.slept = true;
        if !mutex.arm(cell) {
            mutex.memory.hear(1 << cell);
        }
    }
    mutex.bells().disarm(&mutex.memory, cell);
    let count = mutex.memory.load(DATA);
    mutex.memory.store(DATA, count + 1);
    mutex.release(me).expect("held");
}

fn model(preemptions: usize, check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(check);
}

#[test]
fn loom_mutex_of_a_thread_and_an_event_loop() {
    model(3, || {
        let memory = Strict::new(DATA + 8);
        let (one, two) = (mutex(&memory), mutex(&memory));
        let other = thread::spawn(move || turn_in_a_loop(&two, process(2), 4));
        turn(&one, process(1));
        other.join().unwrap();
        assert_eq!(memory.load(DATA), 2);
    });
}

#[test]
fn loom_mutex_of_a_thread_and_two_event_loops() {
    model(2, || {
        let memory = Strict::new(DATA + 8);
        let (one, two, three) = (mutex(&memory), mutex(&memory), mutex(&memory));
        let other = thread::spawn(move || turn_in_a_loop(&two, process(2), 4));
        let third = thread::spawn(move || turn_in_a_loop(&three, process(3), 5));
        turn(&one, process(1));
        other.join().unwrap();
        third.join().unwrap();
        assert_eq!(memory.load(DATA), 3);
    });
}

#[test]
fn loom_mutex_one_at_a_time() {
    model(3, || {
        let memory = Strict::new(DATA + 8);
        let (one, two) = (mutex(&memory), mutex(&memory));
        let thread = thread::spawn(move || {
            turn(&one, process(1));
            turn(&one, process(1));
        });
        turn(&two, process(2));
        thread.join().unwrap();
        assert_eq!(memory.load(DATA), 3);
        assert_eq!(memory.load(0), 0, "free, and nobody thinks that somebody sleeps");
    });
}

#[test]
fn loom_mutex_every_sleeper_gets_its_turn() {
    model(2, || {
        let memory = Strict::new(DATA + 8);
        let threads: Vec<_> = (1..=2)
            .map(|slot| {
                let mine = mutex(&memory);
                thread::spawn(move || turn(&mine, process(slot)))
            })
            .collect();
        turn(&mutex(&memory), process(3));
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(memory.load(DATA), 3);
    });
}

#[test]
fn loom_mutex_a_sleeper_that_gives_up_takes_no_wake_up_along() {
    model(2, || {
        let memory = Strict::new(DATA + 8);
        let barger = mutex(&memory);
        assert!(acquire(&barger, process(1)));
        let (leaver, sleeper) = (mutex(&memory), mutex(&memory));
        let leaving = thread::spawn(move || {
            let mut slices = Slices::default();
            wait(&leaver, &mut slices);
            leaver.leave(process(2), &slices);
        });
        let sleeping = thread::spawn(move || turn(&sleeper, process(2)));
        barger.release(process(1)).expect("held");
        turn(&barger, process(1));
        leaving.join().unwrap();
        sleeping.join().unwrap();
        assert_eq!(memory.load(DATA), 2);
    });
}

#[test]
fn loom_mutex_one_recovers_and_the_next_finds_it_repaired() {
    model(3, || {
        let memory = Strict::new(DATA + 8);
        memory.store(0, DEAD.word());
        let section = |mutex: &Modelled, me: Owner| {
            let repair = recover(mutex, me, patient());
            assert_eq!(repair.is_some(), mutex.memory.load(DATA) == 0, "the first one repairs, nobody else");
            assert!(repair.is_none_or(|death| death.owner == DEAD && death.pid == DEAD.slot()));
            mutex.memory.store(DATA, 1);
            mutex.release(me).expect("held");
        };
        let other = mutex(&memory);
        let thread = thread::spawn(move || section(&other, process(1)));
        section(&mutex(&memory), process(2));
        thread.join().unwrap();
        assert_eq!(memory.load(0) & !WAITERS, 0);
    });
}

#[test]
fn loom_mutex_whoever_sleeps_beside_the_dead_is_told() {
    model(2, || {
        let memory = Strict::new(DATA + 8);
        memory.store(0, DEAD.word());
        // These two sleep at once and never look at the owner themselves.
        let takers: Vec<_> = (1..=2)
            .map(|slot| {
                let mine = mutex(&memory);
                thread::spawn(move || {
                    if acquire(&mine, process(slot)) {
                        assert_eq!(mine.memory.load(DATA), 1, "healthy only after the repair");
                        mine.release(process(slot)).expect("held");
                    }
                })
            })
            .collect();
        let recoverer = mutex(&memory);
        assert!(recover(&recoverer, process(3), patient()).is_some());
        recoverer.memory.store(DATA, 1);
        recoverer.release(process(3)).expect("held");
        for taker in takers {
            taker.join().unwrap();
        }
    });
}

#[test]
fn loom_mutex_after_a_failed_recovery_the_next_recoverer_wakes() {
    model(3, || {
        let memory = Strict::new(DATA + 8);
        memory.store(0, DEAD.word());
        let first = mutex(&memory);
        assert!(recover(&first, process(1), patient()).is_some());
        let second = mutex(&memory);
        let thread = thread::spawn(move || {
            let death = recover(&second, process(2), patient());
            assert_eq!(death.map(|death| death.owner), Some(DEAD), "poisoned as before");
            second.release(process(2)).expect("held");
        });
        first.release_poisoned(process(1)).expect("recovering");
        thread.join().unwrap();
        assert!(acquire(&first, process(1)));
    });
}
