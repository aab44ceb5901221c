//! A merge cut short leaves a word inside a free run; whoever takes the lock over must clear it, or the run
//! freed last would be found there and handed out twice.

use super::*;

fn claim(queue: &TestQueue, me: Owner, units: usize) -> Option<Run> {
    drive(queue, me, |a| queue.try_claim(me, a, units * UNIT))
}

#[test]
fn a_merge_killed_at_every_store_hands_no_unit_out_twice() {
    silence_kills();
    for n in 1.. {
        let world = World::new();
        let survivor = world.process();
        let halves = [4, 8].map(|units| claim(&survivor, SURVIVOR, units).unwrap());
        for run in halves {
            // The second one is the run freed last, which the next claim tries first.
            assert!(survivor.free(SURVIVOR, run));
        }
        let victim = world.process();
        victim.memory().kill_at(n);
        let completed = victim.memory().run(|| claim(&victim, VICTIM, 12)).is_some();
        world.oracle.kill(VICTIM);

        assert!(claim(&survivor, SURVIVOR, 8).is_some(), "killed at store {n}");
        assert!(claim(&survivor, SURVIVOR, 4).is_some(), "killed at store {n}");
        assert_eq!(claim(&survivor, SURVIVOR, 1), None, "killed at store {n}: all twelve are taken");
        if completed {
            assert!(n > 4, "merging and claiming are several stores");
            return;
        }
    }
}
