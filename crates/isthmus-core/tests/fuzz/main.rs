//! Hostile memory: words of objects and of the registry overwritten before, between and during calls.
//!
//! The answer is an error at worst: never a panic, an access outside of the mapping, a wait without end, or memory
//! without bounds. A case is a number and nothing else, so that each can be run again:
//!
//! | variable | meaning |
//! |---|---|
//! | `ISTHMUS_FUZZ_CASES` | cases of each test; the default takes seconds |
//! | `ISTHMUS_FUZZ_FIRST` | number of the first case |
//!
//! `docs/design/hostile_input.md` says what was run and what was found.
#![cfg(not(loom))]

mod bells;
mod calls;
mod chance;
mod changing;
mod closed;
#[path = "../common/mod.rs"]
mod common;
mod guard;
mod open;
mod registry;
mod scene;
mod sync;

use std::sync::MutexGuard;

use chance::Chance;
use guard::{Guard, Tally};

/// A number from the environment.
fn asked(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Runs the cases of one test, one after the other, and says how their calls ended.
fn run(
    alone: MutexGuard<'static, ()>,
    test: &'static str,
    default: u64,
    mut case: impl FnMut(&mut Chance, &mut Tally),
) -> Tally {
    let count = asked("ISTHMUS_FUZZ_CASES").unwrap_or(default);
    let first = asked("ISTHMUS_FUZZ_FIRST").unwrap_or(0);
    let guard = Guard::new(test, alone);
    let mut tally = Tally::default();
    for number in first..first + count {
        guard.begin(number);
        case(&mut Chance::new(number), &mut tally);
        guard.end();
    }
    guard.finish();
    println!("{test}: {count} cases from {first}; calls ended as follows: {tally}");
    tally
}
