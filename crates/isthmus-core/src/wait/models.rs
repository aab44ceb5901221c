//! loom models of bells: an event loop among sleepers. Run with `RUSTFLAGS="--cfg loom"`.
//!
//! A bell that is never rung leaves its loop waiting for ever, which loom reports as a deadlock.

use loom::thread;

use super::{DATA_SLICE, WaitPoint};
use crate::memory::Memory;
use crate::memory::loom::Strict;

/// Messages that are there.
const COUNT: usize = 8;
const POINT: WaitPoint = WaitPoint::new(0);
/// The cell of the event loop, and of another.
const CELL: usize = 3;
const OTHER: usize = 5;

fn bit(cell: usize) -> u32 {
    1 << cell
}

fn put(memory: &Strict) {
    loop {
        let count = memory.load(COUNT);
        if memory.compare_exchange(COUNT, count, count + 1).is_ok() {
            break;
        }
    }
    POINT.notify(memory);
}

fn take(memory: &Strict) -> bool {
    let count = memory.load(COUNT);
    count > 0 && memory.compare_exchange(COUNT, count, count - 1).is_ok()
}

/// Who has taken one hands its wake-up on, as there may be more.
fn pass_on(memory: &Strict) {
    if memory.load(COUNT) > 0 {
        POINT.notify(memory);
    }
}

/// What the driver of `isthmus.aio` does.
fn take_in_a_loop(memory: &Strict, cell: usize) {
    while !take(memory) {
        POINT.arm(memory, cell);
        if memory.load(COUNT) == 0 {
            memory.hear(bit(cell));
        }
    }
    POINT.disarm(memory, cell);
    pass_on(memory);
}

fn take_asleep(memory: &Strict) {
    while !take(memory) {
        POINT.sleep(memory, DATA_SLICE, || memory.load(COUNT) > 0);
    }
    pass_on(memory);
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

#[test]
fn loom_a_loop_that_arms_is_rung_or_sees_the_message() {
    model(|| {
        let memory = Strict::new(16);
        let theirs = memory.clone();
        let putting = thread::spawn(move || put(&theirs));
        take_in_a_loop(&memory, CELL);
        putting.join().unwrap();
    });
}

#[test]
fn loom_a_loop_and_a_sleeper_get_one_message_each() {
    model(|| {
        let memory = Strict::new(16);
        let (a, b) = (memory.clone(), memory.clone());
        let asleep = thread::spawn(move || take_asleep(&a));
        let in_a_loop = thread::spawn(move || take_in_a_loop(&b, CELL));
        put(&memory);
        put(&memory);
        asleep.join().unwrap();
        in_a_loop.join().unwrap();
        assert_eq!(memory.load(COUNT), 0);
    });
}

#[test]
fn loom_two_loops_get_one_message_each() {
    model(|| {
        let memory = Strict::new(16);
        let (a, b) = (memory.clone(), memory.clone());
        let one = thread::spawn(move || take_in_a_loop(&a, CELL));
        let other = thread::spawn(move || take_in_a_loop(&b, OTHER));
        put(&memory);
        put(&memory);
        one.join().unwrap();
        other.join().unwrap();
    });
}

#[test]
fn loom_what_concerns_all_reaches_all() {
    model(|| {
        let memory = Strict::new(16);
        let (a, b) = (memory.clone(), memory.clone());
        let wait = |memory: &Strict, cell: usize| {
            while memory.load(COUNT) == 0 {
                POINT.arm(memory, cell);
                if memory.load(COUNT) == 0 {
                    memory.hear(bit(cell));
                }
            }
        };
        let one = thread::spawn(move || wait(&a, CELL));
        let other = thread::spawn(move || wait(&b, OTHER));
        memory.swap(COUNT, 1);
        POINT.notify_all(&memory);
        one.join().unwrap();
        other.join().unwrap();
    });
}
