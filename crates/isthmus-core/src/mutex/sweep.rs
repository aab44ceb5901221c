//! The crash sweep of the mutex: each call is killed at its first store, its second, … until it completes,
//! from every state of the word; what a survivor then finds must be a state on the call's way, and it must
//! get from there to a healthy mutex.
//!
//! What is expected comes from a model of the states ([`State`], [`way`]), not from the word: `OwnerDied` is
//! due exactly where the one who was killed held the mutex (or was recovering it), and names that one.

use super::*;
use crate::memory::crash::{Crashing, Oracle, silence_kills};

/// Not zero, so that a forgotten offset shows.
const AT: usize = 64;
/// Killed during its call.
const VICTIM: Owner = Owner::process(1, 3).with_context(7);
/// Lives on.
const HOLDER: Owner = Owner::process(2, 1).with_context(7);
/// Finds out what is left.
const SURVIVOR: Owner = Owner::process(3, 1).with_context(1);
/// Killed while it repairs what the victim left.
const SECOND: Owner = Owner::process(4, 1).with_context(2);
/// Died before anything begins.
const FIRST: Owner = Owner::process(5, 1).with_context(3);
/// Another one, while recovering from `FIRST`.
const NEXT: Owner = Owner::process(6, 1).with_context(4);

type TestMutex = Mutex<Crashing, Oracle>;

/// A mutex as its users see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// By the living.
    Held(Owner),
    /// Whoever acquires hears that this owner died.
    Poisoned(Owner),
    /// The first one lives and recovers from the death of the second one.
    Recovering(Owner, Owner),
    /// The same, but it died as well, which nobody has noticed yet: `acquire` goes on naming the second one,
    /// the next `recover` is about the first.
    Abandoned(Owner, Owner),
}
use State::{Abandoned, Free, Held, Poisoned, Recovering};

impl State {
    /// The same once `who` is dead.
    fn without(self, who: Owner) -> State {
        match self {
            Held(owner) if owner == who => Poisoned(who),
            Recovering(owner, dead) if owner == who => Abandoned(who, dead),
            other => other,
        }
    }
}

struct World {
    memory: Crashing,
    oracle: Oracle,
}

impl World {
    fn new() -> World {
        World { memory: Crashing::new(AT + BODY_SIZE), oracle: Oracle::default() }
    }

    fn process(&self) -> TestMutex {
        Mutex::new(self.memory.process(), self.oracle.clone(), AT)
    }

    /// The same at another place, to look at without changing anything here.
    fn copy(&self) -> World {
        World { memory: self.memory.fork_memory(), oracle: self.oracle.clone() }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Got {
    Mutex,
    /// It was taken for repair.
    Repair(Owner),
    Died(Owner),
    TimedOut,
}

/// Everything that is said of a death fits together.
fn named(death: Death) -> Owner {
    assert_eq!((death.pid, death.since_ns), (death.owner.slot(), 1), "pid and time of {:?}", death.owner);
    death.owner
}

/// Acquires or recovers the way callers do; waits that cannot end in one thread count as timed out.
fn take(mutex: &TestMutex, me: Owner, recover: bool, patience: u32) -> Got {
    let (mut slices, spin) = (Slices::default(), Spin::with_budget(0));
    let deadline = (patience == 0).then(Instant::now);
    for _ in 0..=patience + 1 {
        if recover {
            match mutex.try_recover(me, &slices) {
                Ok(Some(death)) => return Got::Repair(named(death)),
                Ok(None) => return Got::Mutex,
                Err(_) => {}
            }
        } else {
            match mutex.try_acquire(me, &slices) {
                Found::Acquired => return Got::Mutex,
                Found::Poisoned(death) => {
                    mutex.leave(me, &slices);
                    return Got::Died(named(death));
                }
                Found::Held(_) => {}
            }
        }
        if mutex.wait(me, &mut slices, deadline, &spin).unwrap() == Waited::TimedOut && !mutex.check_owner() {
            break;
        }
    }
    mutex.leave(me, &slices);
    Got::TimedOut
}

fn acquire(mutex: &TestMutex, me: Owner) -> Got {
    take(mutex, me, false, 6)
}

fn recover(mutex: &TestMutex, me: Owner) -> Got {
    take(mutex, me, true, 6)
}

type Setup = (&'static str, State, fn(&World));

/// Starting states, each with what users see in it.
fn states() -> Vec<Setup> {
    fn held_by(world: &World, owner: Owner, waiters: bool) {
        assert_eq!(acquire(&world.process(), owner), Got::Mutex);
        if waiters {
            let lock = world.process().lock;
            let mut slices = Slices::default();
            lock.rest(&world.memory, &world.oracle, &mut slices, Duration::from_millis(1));
            assert_ne!(world.memory.load(AT) & WAITERS, 0);
        }
    }
    fn dead_holder(world: &World, waiters: bool) {
        held_by(world, FIRST, waiters);
        world.oracle.kill(FIRST);
    }
    fn poisoned(world: &World) {
        dead_holder(world, false);
        assert!(world.process().check_owner());
    }
    fn recovered_by(world: &World, owner: Owner) {
        poisoned(world);
        assert_eq!(recover(&world.process(), owner), Got::Repair(FIRST));
    }
    /// The record is about a death that is long repaired.
    fn old_record(world: &World) {
        recovered_by(world, NEXT);
        world.process().release(NEXT).unwrap();
    }
    vec![
        ("free", Free, |_| {}),
        ("free, once recovered", Free, old_record),
        ("held", Held(HOLDER), |w| held_by(w, HOLDER, false)),
        ("held with waiters", Held(HOLDER), |w| held_by(w, HOLDER, true)),
        ("held by the victim", Held(VICTIM), |w| held_by(w, VICTIM, false)),
        ("held by the victim with waiters", Held(VICTIM), |w| held_by(w, VICTIM, true)),
        ("held by the dead", Poisoned(FIRST), |w| dead_holder(w, false)),
        ("held by the dead with waiters", Poisoned(FIRST), |w| dead_holder(w, true)),
        ("held by the dead, once recovered", Poisoned(HOLDER), |w| {
            old_record(w);
            held_by(w, HOLDER, false);
            w.oracle.kill(HOLDER);
        }),
        ("poisoned", Poisoned(FIRST), poisoned),
        ("poisoned again", Poisoned(FIRST), |w| {
            recovered_by(w, NEXT);
            w.process().release_poisoned(NEXT).unwrap();
        }),
        ("recovering", Recovering(HOLDER, FIRST), |w| recovered_by(w, HOLDER)),
        ("recovering by the victim", Recovering(VICTIM, FIRST), |w| recovered_by(w, VICTIM)),
        ("recovering by the dead", Abandoned(NEXT, FIRST), |w| {
            recovered_by(w, NEXT);
            w.oracle.kill(NEXT);
        }),
    ]
}

/// A call, what it answers, and the states it passes through, beginning with the first.
struct Call {
    name: &'static str,
    run: fn(&TestMutex, Owner) -> Answer,
    way: fn(State, Owner) -> (Answer, Vec<State>),
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Got(Got),
    Released(bool),
    Nothing,
}

/// A recoverer's death is noticed: first the record names it, then the word says so.
fn way_of_noticing(from: State) -> Vec<State> {
    match from {
        Abandoned(dead, _) => vec![from, Abandoned(dead, dead), Poisoned(dead)],
        _ => vec![from],
    }
}

fn way_of_acquire(from: State, me: Owner) -> (Answer, Vec<State>) {
    match from {
        Free => (Answer::Got(Got::Mutex), vec![Free, Held(me)]),
        Held(_) => (Answer::Got(Got::TimedOut), vec![from]),
        Poisoned(dead) | Recovering(_, dead) | Abandoned(_, dead) => {
            (Answer::Got(Got::Died(dead)), vec![from])
        }
    }
}

fn way_of_recover(from: State, me: Owner) -> (Answer, Vec<State>) {
    match from {
        Free => (Answer::Got(Got::Mutex), vec![Free, Held(me)]),
        Held(_) | Recovering(..) => (Answer::Got(Got::TimedOut), vec![from]),
        Poisoned(dead) => (Answer::Got(Got::Repair(dead)), vec![from, Recovering(me, dead)]),
        Abandoned(dead, _) => {
            let mut way = way_of_noticing(from);
            way.push(Recovering(me, dead));
            (Answer::Got(Got::Repair(dead)), way)
        }
    }
}

fn way_of_release(from: State, me: Owner) -> (Answer, Vec<State>) {
    match from {
        Held(owner) | Recovering(owner, _) if owner == me => (Answer::Released(true), vec![from, Free]),
        _ => (Answer::Released(false), vec![from]),
    }
}

/// Acquires, or recovers where that is called for, and releases: what a careful user does.
fn whole_turn(mutex: &TestMutex, me: Owner) -> Answer {
    let got = match acquire(mutex, me) {
        Got::Died(_) => recover(mutex, me),
        other => other,
    };
    if matches!(got, Got::Mutex | Got::Repair(_)) {
        mutex.release(me).unwrap();
    }
    Answer::Got(got)
}

fn way_of_whole_turn(from: State, me: Owner) -> (Answer, Vec<State>) {
    let (answer, mut way) = way_of_recover(from, me);
    if way.len() > 1 {
        way.push(Free);
    }
    (answer, way)
}

fn calls() -> Vec<Call> {
    vec![
        Call { name: "acquire", run: |m, me| Answer::Got(acquire(m, me)), way: way_of_acquire },
        Call {
            name: "acquire(timeout=0)",
            run: |m, me| Answer::Got(take(m, me, false, 0)),
            way: way_of_acquire,
        },
        Call { name: "recover", run: |m, me| Answer::Got(recover(m, me)), way: way_of_recover },
        Call {
            name: "recover(timeout=0)",
            run: |m, me| Answer::Got(take(m, me, true, 0)),
            way: way_of_recover,
        },
        Call { name: "release", run: |m, me| Answer::Released(m.release(me).is_ok()), way: way_of_release },
        Call {
            name: "release as poisoned",
            // Only one who recovers may call it.
            run: |m, me| {
                Answer::Released(m.poisoned().is_some() && m.owner() == me && m.release_poisoned(me).is_ok())
            },
            way: |from, me| match from {
                Recovering(owner, dead) if owner == me => {
                    (Answer::Released(true), vec![from, Poisoned(dead)])
                }
                _ => (Answer::Released(false), vec![from]),
            },
        },
        Call {
            name: "check the owner",
            run: |m, _| {
                m.check_owner();
                Answer::Nothing
            },
            way: |from, _| (Answer::Nothing, way_of_noticing(from)),
        },
        Call { name: "a whole turn", run: whole_turn, way: way_of_whole_turn },
        Call {
            name: "a failed recovery",
            run: |m, me| {
                let got = recover(m, me);
                match got {
                    Got::Repair(_) => m.release_poisoned(me).unwrap(),
                    Got::Mutex => m.release(me).unwrap(),
                    _ => {}
                }
                Answer::Got(got)
            },
            way: |from, me| {
                let (answer, mut way) = way_of_recover(from, me);
                if let Some(taken) = way.len().checked_sub(2) {
                    way.push(way[taken]);
                }
                (answer, way)
            },
        },
    ]
}

/// What a survivor finds. May mark a death that nobody has marked yet.
fn seen(world: &World) -> State {
    let mutex = world.process();
    let got = acquire(&mutex, SURVIVOR);
    let owner = mutex.owner();
    match got {
        Got::Mutex => {
            assert_eq!((owner, mutex.poisoned()), (SURVIVOR, None));
            mutex.release(SURVIVOR).unwrap();
            Free
        }
        Got::TimedOut => Held(owner),
        Got::Died(dead) if owner.is_none() => Poisoned(dead),
        Got::Died(dead) if world.oracle.is_dead(owner) => Abandoned(owner, dead),
        Got::Died(dead) => Recovering(owner, dead),
        Got::Repair(_) => unreachable!("acquire never recovers"),
    }
}

/// From this state the survivor gets to a healthy mutex, together with the living.
fn check_heals(world: &World, state: State) {
    let mutex = world.process();
    match state {
        Free => {}
        Held(owner) => {
            assert_eq!(recover(&mutex, SURVIVOR), Got::TimedOut, "the living are waited for");
            assert!(mutex.release(SURVIVOR).is_err(), "and not robbed");
            world.process().release(owner).unwrap();
        }
        Poisoned(dead) => {
            assert!(mutex.release(SURVIVOR).is_err(), "OwnerDied does not hand the mutex over");
            assert_eq!(acquire(&mutex, SURVIVOR), Got::Died(dead), "and is told to every taker");
            assert_eq!(recover(&mutex, SURVIVOR), Got::Repair(dead));
            assert_eq!(seen(world), Recovering(SURVIVOR, dead), "also while somebody repairs");
            mutex.release_poisoned(SURVIVOR).unwrap();
            assert_eq!(seen(world), Poisoned(dead), "and after a repair that failed");
            assert_eq!(recover(&mutex, SURVIVOR), Got::Repair(dead));
            mutex.release(SURVIVOR).unwrap();
        }
        Recovering(owner, _) => {
            assert_eq!(recover(&mutex, SURVIVOR), Got::TimedOut, "one recovers at a time");
            world.process().release(owner).unwrap();
        }
        Abandoned(owner, _) => {
            assert_eq!(recover(&mutex, SURVIVOR), Got::Repair(owner));
            mutex.release(SURVIVOR).unwrap();
        }
    }
    assert_eq!(seen(world), Free, "healthy at last");
    assert_eq!(mutex.poisoned(), None);
    assert!(mutex.release(SURVIVOR).is_err(), "nobody holds it");
}

/// The first place on the way, from `least` on, where this state stands.
fn place_on(way: &[State], least: usize, found: State, who: Owner) -> Option<usize> {
    (least..way.len()).find(|&place| way[place].without(who) == found)
}

/// Kills the call at its `n`-th store; `None` once it completes before that, else the world after it.
fn killed(setup: &Setup, call: &Call, n: usize) -> (World, Option<Answer>) {
    let world = World::new();
    setup.2(&world);
    let victim = world.process();
    victim.memory.kill_at(n);
    let answer = victim.memory.run(|| (call.run)(&victim, VICTIM));
    world.oracle.kill(VICTIM);
    (world, answer)
}

#[test]
fn every_call_killed_at_every_store_leaves_a_state_on_its_way() {
    silence_kills();
    let mut kills = 0;
    for setup in &states() {
        for call in &calls() {
            let what = format!("{} when {}", call.name, setup.0);
            let (expected, way) = (call.way)(setup.1, VICTIM);
            let mut least = 0;
            for n in 1.. {
                assert!(n < 200, "{what} never completes");
                let (world, answer) = killed(setup, call, n);
                let found = seen(&world.copy());
                let place = place_on(&way, least, found, VICTIM);
                assert!(place.is_some(), "{what}, killed at store {n}: {found:?} is not on the way {way:?}");
                least = place.unwrap_or(0);
                check_heals(&world, found);
                if let Some(answer) = answer {
                    assert_eq!(answer, expected, "{what}");
                    let last = way[way.len() - 1].without(VICTIM);
                    assert_eq!(found, last, "{what} completed");
                    break;
                }
                kills += 1;
            }
        }
    }
    assert!(kills > 150, "the sweep killed only {kills} times");
}

#[test]
fn one_killed_while_poisoning_or_recovering_is_survived_too() {
    silence_kills();
    let mut kills = 0;
    for setup in &states() {
        for call in &calls() {
            for n in 1..200 {
                let (world, answer) = killed(setup, call, n);
                let between = seen(&world.copy());
                let what = format!("{} when {}, killed at store {n}", call.name, setup.0);
                let (_, way) = way_of_whole_turn(between, SECOND);
                let mut least = 0;
                for m in 1..200 {
                    let world = World { memory: world.memory.fork_memory(), oracle: Oracle::default() };
                    for dead in [FIRST, NEXT, VICTIM] {
                        world.oracle.kill(dead);
                    }
                    if setup.1 == Poisoned(HOLDER) {
                        world.oracle.kill(HOLDER);
                    }
                    let second = world.process();
                    second.memory.kill_at(m);
                    let done = second.memory.run(|| whole_turn(&second, SECOND));
                    world.oracle.kill(SECOND);
                    let found = seen(&world.copy());
                    let place = place_on(&way, least, found, SECOND);
                    assert!(place.is_some(), "{what}, then the second at {m}: {found:?} not on {way:?}");
                    least = place.unwrap_or(0);
                    check_heals(&world, found);
                    if done.is_some() {
                        break;
                    }
                    kills += 1;
                }
                if answer.is_some() {
                    break;
                }
            }
        }
    }
    assert!(kills > 500, "killed only {kills} times");
}

#[test]
fn one_who_was_declared_dead_and_comes_back_harms_nobody() {
    let world = World::new();
    let (late, survivor) = (world.process(), world.process());
    assert_eq!(acquire(&late, VICTIM), Got::Mutex);
    world.oracle.kill(VICTIM);
    assert_eq!(acquire(&survivor, SURVIVOR), Got::Died(VICTIM));
    assert!(late.release(VICTIM).is_err(), "it is not its owner any more");
    assert_eq!(recover(&survivor, SURVIVOR), Got::Repair(VICTIM));
    assert!(late.release(VICTIM).is_err());
    assert!(late.release_poisoned(VICTIM).is_err());
    assert_eq!(survivor.owner(), SURVIVOR);
    survivor.release(SURVIVOR).unwrap();
    assert_eq!(seen(&world), Free);
}

#[test]
fn threads_of_one_process_are_told_apart() {
    let world = World::new();
    let mutex = world.process();
    let (one, other) = (HOLDER.with_context(1), HOLDER.with_context(2));
    assert_eq!(acquire(&mutex, one), Got::Mutex);
    assert_eq!(acquire(&mutex, other), Got::TimedOut);
    let refused = mutex.release(other).unwrap_err().to_string();
    assert!(refused.contains("another thread of this process"), "{refused}");
    mutex.release(one).unwrap();
    assert_eq!(acquire(&mutex, other), Got::Mutex);
    world.oracle.kill(other);
    assert_eq!(
        acquire(&mutex, SURVIVOR),
        Got::Died(other),
        "the death of the process is that of its threads"
    );
}
