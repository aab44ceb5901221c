//! Random histories of leases, letters and levels: calls of processes that are killed at random stores or between
//! two calls, against the plain queue.

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};

use super::plain::Call;
use super::scene::{SHAPE, Scene};
use super::*;

const PROCESSES: usize = 3;

#[derive(Clone, Debug)]
enum Turn {
    Call(Call),
    /// Killed at this store of the call, if it has as many.
    Killed(Call, usize),
    /// Killed between two calls.
    Dies,
}

fn turns() -> impl Strategy<Value = Vec<(usize, Turn)>> {
    let level = 0..SHAPE.levels as u8;
    let length = prop_oneof![4 => 0..200_usize, 2 => 0..1025_usize, 2 => 1025..9000_usize];
    let spare = prop_oneof![5 => Just(0_usize), 1 => 1..9000_usize];
    let put = (level, length, spare).prop_map(|(level, length, spare)| Call::Put { level, length, spare });
    let call = prop_oneof![
        8 => put,
        3 => Just(Call::Get),
        1 => Just(Call::GetBad),
        8 => Just(Call::Lease),
        4 => Just(Call::Acknowledge),
        4 => Just(Call::GiveBack { for_good: false }),
        1 => Just(Call::GiveBack { for_good: true }),
        1 => Just(Call::TakeLetter),
        1 => Just(Call::Requeue),
        1 => Just(Call::Redeliver),
        1 => Just(Call::Reclaim),
    ];
    let turn = prop_oneof![
        8 => call.clone().prop_map(Turn::Call),
        3 => (call, 1..32_usize).prop_map(|(call, n)| Turn::Killed(call, n)),
        1 => Just(Turn::Dies),
    ];
    prop::collection::vec((0..PROCESSES, turn), 1..80)
}

fn play(turns: Vec<(usize, Turn)>) {
    let mut scene = Scene::new();
    let mut generations = [1; PROCESSES];
    for (process, turn) in turns {
        let who = Owner::process(process as u32 + 10, generations[process]);
        match turn {
            Turn::Call(call) => {
                scene.run(who, &call);
            }
            Turn::Killed(call, n) => {
                let before = scene.plain.clone();
                if scene.run_killed(who, &call, Some(n)).is_none() {
                    let outcomes = scene.outcomes(&[before], who, &call);
                    scene.settle_and_go_on(&outcomes, &(&call, n));
                    generations[process] += 1;
                }
            }
            Turn::Dies => {
                scene.kill(who);
                generations[process] += 1;
            }
        }
    }
    scene.finish();
}

proptest! {
    #![proptest_config(Config {
        cases: 400,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..Config::default()
    })]

    #[test]
    fn any_history_of_leases_and_kills_is_one_of_a_plain_queue(turns in turns()) {
        silence_kills();
        play(turns);
    }
}
