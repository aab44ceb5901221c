//! The crash sweep: each call is killed at its first store, its second, … until it completes; a survivor with proof of
//! the death then has to find the object as it was before the call or after it, or as the contract of the dead says.

mod conditions;

use super::barrier::{Arrival, Barrier, Outcome};
use super::bounded::{self, BoundedSemaphore};
use super::event::Event;
use super::rwlock::{self, Entry, RwLock};
use super::semaphore::Semaphore;
use super::*;
use crate::memory::crash::{Crashing, Oracle, silence_kills};

/// Not zero, so that a forgotten offset shows.
const AT: usize = 64;
const VICTIM: Owner = Owner::process(1, 3).with_context(7);
const HOLDER: Owner = Owner::process(2, 1).with_context(7);
const SURVIVOR: Owner = Owner::process(3, 1).with_context(1);

type LockCall = fn(&RwLock<Crashing, Oracle>);
type BarrierCall = fn(&Barrier<Crashing, Oracle>);

struct World {
    memory: Crashing,
    oracle: Oracle,
}

impl World {
    fn new(size: usize) -> World {
        World { memory: Crashing::new(AT + size), oracle: Oracle::default() }
    }
}

/// Runs `call` of the victim on copies of what `setup` makes, killed at every store; `check` sees what is left, and
/// whether the call had completed. Says at how many stores it was killed.
fn sweep(
    size: usize,
    setup: impl Fn(&World),
    call: impl Fn(&Crashing, &Oracle),
    check: impl Fn(&World, bool),
) -> usize {
    silence_kills();
    for n in 1.. {
        let world = World::new(size);
        setup(&world);
        let victim = world.memory.process();
        victim.kill_at(n);
        let completed = victim.run(|| call(&victim, &world.oracle)).is_some() && !victim.is_gone();
        world.oracle.kill(VICTIM);
        check(&world, completed);
        if completed {
            return n - 1;
        }
    }
    unreachable!("some call completes")
}

#[test]
fn a_semaphore_is_as_before_or_after_each_call() {
    let semaphore = |memory: &Crashing, oracle: &Oracle| Semaphore::new(memory.clone(), oracle.clone(), AT);
    for start in [0, 1, 2, 5] {
        let setup = |world: &World| {
            if start > 0 {
                semaphore(&world.memory, &world.oracle).release(start).unwrap();
            }
        };
        sweep(
            CELLS,
            setup,
            |memory, oracle| {
                semaphore(memory, oracle).try_acquire(VICTIM);
            },
            |world, completed| {
                let left = semaphore(&world.memory, &world.oracle).value();
                let after = start.saturating_sub(1);
                assert!(left == after || !completed && left == start);
            },
        );
        let killed = sweep(
            CELLS,
            setup,
            |memory, oracle| semaphore(memory, oracle).release(2).unwrap(),
            |world, completed| {
                let it = semaphore(&world.memory, &world.oracle);
                assert!(it.value() == start + 2 || !completed && it.value() == start);
                let taken = (0..100).take_while(|_| it.try_acquire(SURVIVOR)).count() as u64;
                assert!(taken == start + 2 || taken == start);
            },
        );
        assert!(killed >= 1);
    }
}

#[test]
fn permits_come_back_from_the_dead_and_from_nobody_else() {
    const PERMITS: usize = 3;
    let it = |memory: &Crashing, oracle: &Oracle| {
        BoundedSemaphore::new(memory.clone(), oracle.clone(), AT, PERMITS)
    };
    for (of_holder, of_victim) in [(0, 0), (0, 2), (1, 1), (2, 0), (3, 0), (0, 3), (2, 1)] {
        let setup = |world: &World| {
            let semaphore = it(&world.memory, &world.oracle);
            (0..of_holder).for_each(|_| assert!(semaphore.try_acquire(HOLDER)));
            (0..of_victim).for_each(|_| assert!(semaphore.try_acquire(VICTIM)));
        };
        let check = |world: &World, _completed: bool| {
            let semaphore = it(&world.memory, &world.oracle);
            semaphore.look(SURVIVOR, Want::Permit).unwrap();
            assert_eq!(semaphore.value(), PERMITS - of_holder);
            assert_eq!(semaphore.holders(), vec![HOLDER; of_holder]);
            for _ in of_holder..PERMITS {
                assert!(semaphore.try_acquire(SURVIVOR));
            }
            assert!(!semaphore.try_acquire(SURVIVOR));
            assert!(semaphore.release(VICTIM).is_err());
        };
        let size = bounded::body_size(PERMITS);
        sweep(
            size,
            setup,
            |memory, oracle| {
                it(memory, oracle).try_acquire(VICTIM);
            },
            check,
        );
        sweep(size, setup, |memory, oracle| drop(it(memory, oracle).release(VICTIM)), check);
        // Claimed, killed with the claim.
        let call = |memory: &Crashing, oracle: &Oracle| {
            let semaphore = it(memory, oracle);
            Waitable::claim(&semaphore, VICTIM, Want::Permit);
            if semaphore.try_acquire(VICTIM) {
                semaphore.leave(VICTIM, true);
            }
        };
        sweep(size, setup, call, check);
    }
}

#[test]
fn a_writer_that_dies_poisons_and_a_reader_that_dies_does_not() {
    let it = |memory: &Crashing, oracle: &Oracle| RwLock::new(memory.clone(), oracle.clone(), AT);
    let calls: [(&str, LockCall); 6] = [
        ("read", |lock| drop(lock.try_read(VICTIM))),
        ("read and release", |lock| {
            if lock.try_read(VICTIM).unwrap() == Entry::In {
                lock.release_read(VICTIM).unwrap();
            }
        }),
        ("write", |lock| {
            lock.try_write(VICTIM);
        }),
        ("write and release", |lock| {
            if lock.try_write(VICTIM) == Entry::In {
                lock.release_write(VICTIM).unwrap();
            }
        }),
        ("claim", |lock| {
            Waitable::claim(lock, VICTIM, Want::Write);
            lock.leave(VICTIM, true);
        }),
        ("recover", |lock| {
            if lock.try_recover(VICTIM).is_some() {
                lock.release_write(VICTIM).unwrap();
            }
        }),
    ];
    let setups: [(&str, LockCall); 4] = [
        ("free", |_| ()),
        ("read by the living", |lock| assert_eq!(lock.try_read(HOLDER).unwrap(), Entry::In)),
        ("read by the victim", |lock| assert_eq!(lock.try_read(VICTIM).unwrap(), Entry::In)),
        ("written by the living", |lock| assert_eq!(lock.try_write(HOLDER), Entry::In)),
    ];
    for (state, prepare) in setups {
        for (name, call) in calls {
            sweep(
                rwlock::BODY_SIZE,
                |world| prepare(&it(&world.memory, &world.oracle)),
                |memory, oracle| call(&it(memory, oracle)),
                |world, completed| {
                    let lock = it(&world.memory, &world.oracle);
                    lock.look(SURVIVOR, Want::Write).unwrap();
                    let held = state.contains("living");
                    match lock.try_write(SURVIVOR) {
                        Entry::In => assert!(!held, "{state}, {name}"),
                        Entry::Blocked => assert!(held, "{state}, {name}"),
                        Entry::Poisoned(death) => {
                            assert!(!held || state.starts_with("read"), "{state}, {name}");
                            assert_eq!(death.owner, VICTIM);
                            let writing = name.starts_with("write") || name == "recover";
                            assert!(writing && (!completed || name == "write"), "{state}, {name}");
                            assert!(matches!(lock.try_read(SURVIVOR), Ok(Entry::Poisoned(_))));
                            assert!(lock.try_recover(SURVIVOR).is_some());
                            lock.release_write(SURVIVOR).unwrap();
                            assert_eq!(lock.try_read(SURVIVOR).unwrap(), Entry::In);
                        }
                    }
                },
            );
        }
    }
}

#[test]
fn an_event_is_set_or_not_and_reaches_those_who_wait() {
    let it = |memory: &Crashing, oracle: &Oracle| Event::new(memory.clone(), oracle.clone(), AT);
    for (set, clear) in [(true, false), (false, true), (true, true)] {
        let generation = std::cell::Cell::new(0);
        sweep(
            CELLS,
            |world| {
                let event = it(&world.memory, &world.oracle);
                if clear && !set {
                    event.set();
                }
                generation.set(event.generation());
            },
            |memory, oracle| {
                let event = it(memory, oracle);
                if set {
                    event.set();
                }
                if clear {
                    event.clear();
                }
            },
            |world, completed| {
                let event = it(&world.memory, &world.oracle);
                if completed && set {
                    // Also where it was cleared behind it.
                    assert!(event.happened(generation.get()));
                    assert!(event.ready(SURVIVOR, Want::Set(generation.get())));
                }
                if completed {
                    assert_eq!(event.is_set(), set && !clear);
                }
                event.set();
                assert!(event.is_set());
                event.clear();
                assert!(!event.is_set());
            },
        );
    }
}

fn arrive(barrier: &Barrier<Crashing, Oracle>, me: Owner) -> Option<Arrival> {
    barrier.arrive(me).expect("nobody is in the guard")
}

#[test]
fn a_barrier_counts_no_arrival_of_the_dead() {
    const PARTIES: usize = 3;
    let it = |memory: &Crashing, oracle: &Oracle| Barrier::new(memory.clone(), oracle.clone(), AT, PARTIES);
    let size = super::barrier::body_size(PARTIES);
    let calls: [(&str, BarrierCall); 4] = [
        ("arrive", |barrier| {
            barrier.arrive(VICTIM);
        }),
        ("arrive and leave", |barrier| {
            if let Some(Some(arrival)) = barrier.arrive(VICTIM) {
                barrier.leave(VICTIM, &arrival);
            }
        }),
        ("reset", |barrier| {
            barrier.reset(VICTIM);
        }),
        ("abort", |barrier| barrier.abort()),
    ];
    for before in 0..PARTIES {
        // All cells hold what an earlier generation left.
        for rounds in [0, 2] {
            for (name, call) in calls {
                let waiting = std::cell::RefCell::new(Vec::new());
                let setup = |world: &World| {
                    let barrier = it(&world.memory, &world.oracle);
                    for _ in 0..rounds {
                        let all: Vec<_> = (0..PARTIES).map(|_| arrive(&barrier, SURVIVOR).unwrap()).collect();
                        assert_eq!(barrier.open(SURVIVOR, all.last().unwrap()), Some(Outcome::Open));
                    }
                    *waiting.borrow_mut() = (0..before).map(|_| arrive(&barrier, HOLDER).unwrap()).collect();
                };
                let check = |world: &World, _completed: bool| {
                    let barrier = it(&world.memory, &world.oracle);
                    barrier.look(SURVIVOR, Want::Open(rounds as u64)).unwrap();
                    let outcomes: Vec<_> =
                        waiting.borrow().iter().map(|one| barrier.outcome(HOLDER, one)).collect();
                    // One who waits is never told that all have come.
                    assert!(outcomes.iter().all(|it| *it != Outcome::Open), "{name} {before}: {outcomes:?}");
                    if outcomes.contains(&Outcome::Waiting) {
                        // Then the victim does not count, and the rest can still come.
                        let mut last = None;
                        for _ in before..PARTIES {
                            last = Some(arrive(&barrier, SURVIVOR).unwrap());
                        }
                        assert_eq!(barrier.open(SURVIVOR, &last.unwrap()), Some(Outcome::Open));
                        for one in waiting.borrow().iter() {
                            assert_eq!(barrier.outcome(HOLDER, one), Outcome::Open);
                        }
                        return;
                    }
                    // Broken or reset: everyone leaves, and it works again.
                    for one in waiting.borrow().iter() {
                        assert_eq!(barrier.leave(HOLDER, one), Some(()));
                    }
                    if barrier.is_broken() {
                        assert_eq!(barrier.reset(SURVIVOR), Some(()));
                    }
                    let all: Vec<_> = (0..PARTIES).map(|_| arrive(&barrier, SURVIVOR).unwrap()).collect();
                    assert_eq!(barrier.open(SURVIVOR, all.last().unwrap()), Some(Outcome::Open), "{name}");
                };
                sweep(size, setup, |memory, oracle| call(&it(memory, oracle)), check);
            }
        }
    }
}
