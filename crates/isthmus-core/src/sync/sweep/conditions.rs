//! The crash sweep of conditions: notifications are exact whoever dies, the one who passes them on included.

use super::super::condition::{BODY_SIZE, Condition};
use super::*;

/// Another one that dies: while it passes on what the victim was notified of.
const SECOND: Owner = Owner::process(4, 1).with_context(2);

type TestCondition = Condition<Crashing, Oracle>;

fn condition(memory: &Crashing, oracle: &Oracle) -> TestCondition {
    Condition::new(memory.clone(), oracle.clone(), AT)
}

fn enter(condition: &TestCondition, me: Owner) -> usize {
    condition.enter(me).unwrap().expect("nobody is in the guard")
}

/// How many of these waiters are notified; their waits end.
fn notified(condition: &TestCondition, waiters: &[(Owner, usize)]) -> usize {
    let ended = waiters.iter().map(|&(owner, cell)| condition.leave(owner, cell).expect("the guard is free"));
    ended.filter(|notified| *notified).count()
}

fn waiter(number: u32) -> Owner {
    HOLDER.with_context(number + 1)
}

#[test]
fn what_the_dead_were_notified_of_goes_to_the_next_and_once_only() {
    silence_kills();
    // The victim is notified as the first of those who wait, and dies; SECOND passes it on and dies at every store.
    for others in 1..4 {
        for notify in 1..=2_usize {
            for n in 1.. {
                let world = World::new(BODY_SIZE);
                let it = condition(&world.memory, &world.oracle);
                enter(&it, VICTIM);
                let second = enter(&it, SECOND);
                let waiting: Vec<_> = (0..others).map(|i| (waiter(i), enter(&it, waiter(i)))).collect();
                assert_eq!(it.notify(HOLDER, notify), Some(notify));
                world.oracle.kill(VICTIM);
                let passing = world.memory.process();
                passing.kill_at(n);
                let theirs = condition(&passing, &world.oracle);
                let done = passing
                    .run(|| {
                        // It hears of its own notification, if it has one, or passes on the victim's.
                        theirs.pass_on(SECOND);
                        theirs.leave(SECOND, second)
                    })
                    .is_some()
                    && !passing.is_gone();
                let used_by_second = done && {
                    // Completed: it may have used one itself.
                    true
                };
                world.oracle.kill(SECOND);
                // Whoever looks next settles what both left, in as many looks as there are dead.
                for _ in 0..3 {
                    it.pass_on(waiter(0)).unwrap();
                }
                let got = notified(&it, &waiting);
                let expected = notify.min(waiting.len());
                if used_by_second {
                    assert!(got + 1 >= expected && got <= expected, "{others} {notify} {n}: {got}");
                    break;
                }
                // SECOND was killed: what it had not used, and what it had been passed, is all there. The one
                // store that ends its wait is the use of its notification.
                assert!(got == expected || got + 1 == expected, "{others} {notify} {n}: {got}");
            }
        }
    }
}

#[test]
fn passing_on_killed_at_every_store_neither_loses_nor_doubles() {
    silence_kills();
    for n in 1.. {
        let world = World::new(BODY_SIZE);
        let it = condition(&world.memory, &world.oracle);
        enter(&it, VICTIM);
        let waiting: Vec<_> = (0..3).map(|i| (waiter(i), enter(&it, waiter(i)))).collect();
        // One who only passes on, and has no cell.
        assert_eq!(it.notify(HOLDER, 1), Some(1));
        world.oracle.kill(VICTIM);
        let passing = world.memory.process();
        passing.kill_at(n);
        let theirs = condition(&passing, &world.oracle);
        let done = passing.run(|| theirs.pass_on(SECOND)).is_some() && !passing.is_gone();
        world.oracle.kill(SECOND);
        it.pass_on(waiter(0)).unwrap();
        it.pass_on(waiter(1)).unwrap();
        assert_eq!(notified(&it, &waiting), 1, "killed at {n}");
        if done {
            break;
        }
    }
}

#[test]
fn using_what_was_passed_on_killed_at_every_store_neither_loses_nor_doubles() {
    silence_kills();
    for n in 1.. {
        let world = World::new(BODY_SIZE);
        let it = condition(&world.memory, &world.oracle);
        enter(&it, VICTIM);
        let second = enter(&it, SECOND);
        let waiting: Vec<_> = (0..3).map(|i| (waiter(i), enter(&it, waiter(i)))).collect();
        assert_eq!(it.notify(HOLDER, 1), Some(1));
        world.oracle.kill(VICTIM);
        // Passed on to SECOND, which is the next, by one who dies before it frees the victim's cell.
        it.pass_on(waiter(0)).unwrap();
        let using = world.memory.process();
        using.kill_at(n);
        let theirs = condition(&using, &world.oracle);
        let used = using.run(|| theirs.leave(SECOND, second)).is_some() && !using.is_gone();
        let cell_is_free = !it.list().contains(&SECOND);
        world.oracle.kill(SECOND);
        it.pass_on(waiter(1)).unwrap();
        let got = notified(&it, &waiting);
        if used {
            assert_eq!(got, 0);
            break;
        }
        assert!(got == 1 || got == 0 && cell_is_free, "killed at {n}: {got}");
    }
}

#[test]
fn entering_and_notifying_killed_at_every_store_leaves_a_condition_that_works() {
    type Call = fn(&TestCondition);
    let calls: [Call; 4] = [
        |it| drop(it.enter(VICTIM)),
        |it| {
            it.notify(VICTIM, 1);
        },
        |it| {
            it.notify(VICTIM, 3);
        },
        |it| {
            if let Ok(Some(cell)) = it.enter(VICTIM) {
                it.leave(VICTIM, cell);
            }
        },
    ];
    for (number, call) in calls.into_iter().enumerate() {
        let waiting = std::cell::RefCell::new(Vec::new());
        sweep(
            BODY_SIZE,
            |world| {
                let it = condition(&world.memory, &world.oracle);
                *waiting.borrow_mut() = (0..3).map(|i| (waiter(i), enter(&it, waiter(i)))).collect();
            },
            |memory, oracle| call(&condition(memory, oracle)),
            |world, completed| {
                let it = condition(&world.memory, &world.oracle);
                let most = [0, 1, 3, 0][number];
                it.pass_on(SURVIVOR).unwrap();
                let got = notified(&it, &waiting.borrow());
                assert!(got == most || !completed && got < most, "call {number}: {got}");
                // It goes on working, also in the cell of the dead.
                let (a, b) = (enter(&it, SURVIVOR), enter(&it, HOLDER));
                assert_eq!(it.notify(HOLDER, 5).map(|n| n >= 2), Some(true));
                assert_eq!(notified(&it, &[(SURVIVOR, a), (HOLDER, b)]), 2);
            },
        );
    }
}
