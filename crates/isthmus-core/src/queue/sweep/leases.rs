//! The crash sweep of leases and of what becomes of them: each call is killed at its first store, its second, …
//! until it completes, from several starting states. A message is never lost by the death of who has it on lease,
//! and never there twice.

use super::plain::Call::{
    self, Acknowledge, Get, GetBad, Lease, Put, Reclaim, Redeliver, Requeue, TakeLetter,
};
use super::plain::Plain;
use super::scene::{GONE, HOLDER, Scene};
use super::*;

const GIVE_BACK: Call = Call::GiveBack { for_good: false };
const REJECT: Call = Call::GiveBack { for_good: true };

fn puts(level: u8, length: usize) -> Call {
    Put { level, length, spare: 0 }
}

fn put_all(scene: &mut Scene, messages: &[(u8, usize)]) {
    for (level, length) in messages {
        scene.run(SURVIVOR, &puts(*level, *length));
    }
}

type State = (&'static str, fn(&mut Scene));

/// Starting states. In each that has any, the first message is a small one or a large one.
fn states() -> Vec<State> {
    fn small(scene: &mut Scene) {
        put_all(scene, &[(0, 40), (1, 700), (0, 9000), (1, 8)]);
    }
    fn large(scene: &mut Scene) {
        put_all(scene, &[(0, 40), (2, 5000), (0, 0), (1, 8)]);
    }
    /// One of each kind: leased by the living, by the dead (one for the last time), given back, a letter.
    fn of_all_kinds(scene: &mut Scene, [held, gone, back, letter]: [usize; 4]) {
        put_all(scene, &[(0, gone)]);
        scene.run_all(GONE, &[Lease, GIVE_BACK, Lease, GIVE_BACK, Lease]);
        put_all(scene, &[(0, held), (0, letter)]);
        scene.run(HOLDER, &Lease);
        scene.run_all(SURVIVOR, &[Lease, REJECT]);
        put_all(scene, &[(1, gone), (1, back)]);
        scene.run(GONE, &Lease);
        scene.run_all(SURVIVOR, &[Lease, GIVE_BACK]);
        scene.kill(GONE);
    }
    fn kinds_small(scene: &mut Scene) {
        of_all_kinds(scene, [40, 700, 64, 9]);
        put_all(scene, &[(0, 16), (1, 5000)]);
    }
    fn kinds_large(scene: &mut Scene) {
        of_all_kinds(scene, [5000, 4096, 4097, 4096]);
        put_all(scene, &[(1, 16)]);
    }
    fn full_table(scene: &mut Scene) {
        of_all_kinds(scene, [40, 700, 64, 9]);
        put_all(scene, &[(2, 40), (2, 80), (0, 24)]);
    }
    /// Each record holds a message of level 0 that was given back; more urgent ones wait.
    fn all_returned(scene: &mut Scene) {
        put_all(scene, &[(0, 40); 5]);
        for who in [GONE, HOLDER] {
            scene.run_all(who, &[Lease, Lease]);
        }
        scene.run(HOLDER, &Lease);
        scene.kill(GONE);
        scene.run_all(HOLDER, &[GIVE_BACK, GIVE_BACK, GIVE_BACK]);
        scene.run(SURVIVOR, &Redeliver);
        put_all(scene, &[(2, 5000), (2, 40), (0, 16)]);
    }
    fn returned_large(scene: &mut Scene) {
        put_all(scene, &[(2, 5000), (2, 40)]);
        scene.run_all(HOLDER, &[Lease, Lease, GIVE_BACK, GIVE_BACK]);
        put_all(scene, &[(2, 5001), (0, 16)]);
    }
    fn wrapped(scene: &mut Scene) {
        // The next entry's header is the last word before the end of the ring; payloads lie across it.
        for level in [0, 1] {
            put_all(scene, &[(level, 1000); 3]);
            scene.run_all(SURVIVOR, &[Get, Get, Get]);
            put_all(scene, &[(level, 1000), (level, 32), (level, 100)]);
            scene.run(SURVIVOR, &Get);
        }
    }
    fn letters(scene: &mut Scene) {
        put_all(scene, &[(0, 5000), (0, 30), (1, 20)]);
        for _ in 0..3 {
            scene.run_all(SURVIVOR, &[Lease, REJECT]);
        }
        put_all(scene, &[(1, 24)]);
    }
    vec![
        ("empty", |_| {}),
        ("small", small),
        ("large", large),
        ("all kinds, small", kinds_small),
        ("all kinds, large", kinds_large),
        ("full table", full_table),
        ("all returned", all_returned),
        ("returned, large", returned_large),
        ("wrapped", wrapped),
        ("letters", letters),
    ]
}

/// What the victim does before, and what it is killed in.
fn operations() -> Vec<(&'static [Call], Call)> {
    vec![
        (&[], Lease),
        (&[Lease], Lease),
        (&[], Get),
        (&[], GetBad),
        (&[Lease], Acknowledge),
        (&[Lease, Lease], Acknowledge),
        (&[Lease], GIVE_BACK),
        (&[Lease, GIVE_BACK], Get),
        (&[Lease, GIVE_BACK], Lease),
        (&[Lease, GIVE_BACK], GetBad),
        (&[Lease, GIVE_BACK, Lease, GIVE_BACK, Lease], GIVE_BACK),
        (&[Lease], REJECT),
        (&[Lease, Lease], REJECT),
        (&[Lease, REJECT], TakeLetter),
        (&[], TakeLetter),
        (&[], Requeue),
        (&[Lease, REJECT], Requeue),
        (&[], Redeliver),
        (&[], Reclaim),
        (&[Lease], puts(0, 200)),
        (&[], puts(1, 0)),
        (&[], puts(2, 5000)),
        (&[], Put { level: 2, length: 5000, spare: 4000 }),
        (&[Lease], Put { level: 1, length: 10, spare: 9000 }),
    ]
}

/// The victim makes a call from a state and is killed at the `n`-th store; `None` once it completes before that.
fn killed(start: &Scene, call: &Call, n: usize) -> Option<(Scene, Vec<Plain>)> {
    let mut scene = start.copy();
    let before = scene.plain.clone();
    if scene.run_killed(VICTIM, call, Some(n)).is_some() {
        scene.finish();
        return None;
    }
    let outcomes = scene.outcomes(&[before], VICTIM, call);
    Some((scene, outcomes))
}

fn scenes() -> impl Iterator<Item = (String, Scene, Call)> {
    states().into_iter().flat_map(|(name, state)| {
        operations().into_iter().filter_map(move |(before, call)| {
            let mut scene = Scene::new();
            state(&mut scene);
            scene.run_all(VICTIM, before);
            // Where there is nothing to lease there is nothing to end.
            let ends = matches!(call, Acknowledge | Call::GiveBack { .. });
            (!ends || scene.leases_of(VICTIM) > 0)
                .then(|| (format!("{name}: {before:?}, {call:?}"), scene, call))
        })
    })
}

#[test]
fn a_message_is_in_one_place_whoever_is_killed_with_it() {
    silence_kills();
    let mut kills = 0;
    for (name, start, call) in scenes() {
        for n in 1.. {
            let Some((mut scene, outcomes)) = killed(&start, &call, n) else { break };
            scene.settle(&outcomes, &(&name, n));
            scene.finish();
            kills += 1;
            assert!(n < 500, "{name} never completes");
        }
    }
    assert!(kills > 1500, "killed only {kills} times");
}

#[test]
fn one_killed_while_clearing_up_after_another_is_survived_too() {
    silence_kills();
    let seconds = [Redeliver, Reclaim, Lease, GetBad, Requeue, TakeLetter];
    let mut kills = 0;
    for (name, start, call) in scenes() {
        for n in 1.. {
            let Some((first, outcomes)) = killed(&start, &call, n) else { break };
            let outcomes = first.matching(&outcomes);
            for (which, second) in seconds.iter().enumerate() {
                // One or two of them at each store: the others come with other calls and states.
                if (n + which).is_multiple_of(5) {
                    kills += both_killed(&first, &outcomes, second, &(&name, n));
                }
            }
        }
    }
    assert!(kills > 5000, "killed only {kills} times");
}

/// The second one makes a call and is killed at each store of it; says how often.
fn both_killed(first: &Scene, from: &[Plain], call: &Call, what: &dyn std::fmt::Debug) -> usize {
    for m in 1.. {
        let mut scene = first.copy();
        let completed = scene.run_from(from, SECOND, call, m, &(what, call, m));
        scene.finish();
        if completed {
            return m;
        }
    }
    unreachable!("every call has an end")
}
