//! The crash sweep of growing: killed in each window, others find a size with ground under it, and grow on.

use std::cell::Cell;

use super::*;
use crate::memory::crash::{Crashing, silence_kills};

const AT: usize = 64;

fn extent(memory: Crashing) -> Extent<Crashing> {
    Extent::new(memory, AT)
}

/// Makes a file longer in steps, as `limits::reserve_range` does; the process is killed before step `killed`.
fn reserve(file: &Cell<u64>, victim: &Crashing, killed: Option<u64>, from: u64, to: u64) {
    for (step, end) in (from..to).map(|byte| byte + 1).enumerate() {
        if killed == Some(step as u64) {
            victim.kill_at(1);
            victim.store(AT + 8, 1); // a store of its own, to die at
        }
        file.set(file.get().max(end));
    }
}

#[test]
fn killed_in_any_window_the_size_has_ground_and_others_grow_on() {
    silence_kills();
    for killed_at_step in (0..=4).map(Some).chain([None]) {
        for killed_at_store in [1, 2] {
            let (memory, file) = (Crashing::new(AT + 16), Cell::new(3));
            extent(memory.process()).grow(3, |_, _| Ok(())).unwrap();

            let victim = memory.process();
            if killed_at_step.is_none_or(|step| step > 3) {
                victim.kill_at(killed_at_store);
            }
            let grown = victim.run(|| {
                extent(victim.clone()).grow(7, |from, to| {
                    assert_eq!((from, to), (3, 7));
                    reserve(&file, &victim, killed_at_step.filter(|step| *step < 4), from, to);
                    Ok(())
                })
            });
            let size = extent(memory.process()).size();
            let committed = grown.is_some();
            assert_eq!(committed, killed_at_step.is_none_or(|step| step > 3) && killed_at_store == 2);
            assert_eq!(size, if committed { 7 } else { 3 });
            assert!(size <= file.get(), "a size without ground: {size} of {}", file.get());

            let other = memory.process();
            let after = extent(other.clone()).grow(6, |from, to| {
                reserve(&file, &other, None, from, to);
                Ok(())
            });
            assert_eq!(after.unwrap(), if committed { 7 } else { 6 });
            assert!(extent(memory.process()).size() <= file.get());
        }
    }
}

#[test]
fn what_cannot_be_reserved_changes_nothing_and_what_is_there_is_not_reserved() {
    let extent = extent(Crashing::new(AT + 16));
    extent.grow(5, |_, _| Ok(())).unwrap();
    let full = || crate::error::Error::NoSpace("full".to_owned());
    assert!(extent.grow(9, |_, _| Err(full())).is_err());
    assert_eq!(extent.size(), 5);
    for size in [0, 4, 5] {
        assert_eq!(extent.grow(size, |_, _| Err(full())).unwrap(), 5);
    }
}

#[test]
fn a_larger_size_of_another_that_grew_meanwhile_stays() {
    let extent = extent(Crashing::new(AT + 16));
    let other = extent.clone();
    let grown = extent.grow(5, |_, _| other.grow(8, |_, _| Ok(())).map(drop));
    assert_eq!((grown.unwrap(), extent.size()), (8, 8));
}
