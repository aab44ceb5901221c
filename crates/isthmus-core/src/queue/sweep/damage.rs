//! Damaged records of leases: any words in them lead to an error or to other messages than were put, never to an
//! access outside of the area, a panic, or a loop without end.

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};

use super::plain::Call::{GetBad, GiveBack, Lease, Put};
use super::scene::{GONE, HOLDER, SHAPE, Scene};
use super::*;

/// A record of each kind: leased by the living (large) and the dead (small), given back (large), letters of both
/// sizes.
pub(super) fn scene() -> Scene {
    let mut scene = Scene::new();
    for length in [5000, 40, 4097, 700, 5001, 80] {
        scene.run(SURVIVOR, &Put { level: 1, length, spare: 0 });
    }
    scene.run(HOLDER, &Lease);
    scene.run(GONE, &Lease);
    scene.run(SURVIVOR, &Lease);
    scene.run_all(SURVIVOR, &[GetBad, GetBad]);
    scene.run(SURVIVOR, &GiveBack { for_good: false });
    scene.kill(GONE);
    scene
}

/// What is handed out must lie inside the area.
fn check(place: Place, length: usize, origin: Origin) {
    assert!(usize::from(origin.level) < SHAPE.levels);
    match place {
        Place::Inline => assert!(length <= SHAPE.inline_max()),
        Place::Block(run) => {
            assert!(
                length <= run.length * UNIT && run.first + run.length <= SHAPE.units,
                "{run:?}, {length}"
            );
        }
    }
}

/// Everything that reads records, several times over; errors are fine.
pub(super) fn use_all<M: Memory>(queue: &Queue<M, Oracle>, holder: &Leased) {
    let attempt = Attempt::default();
    let mut buffer = vec![MaybeUninit::new(0); SHAPE.inline_max()];
    for round in 0..4 {
        if let Ok(look) = queue.peek(20, 100) {
            assert!([look.next, look.leased, look.dead].iter().flatten().all(|seen| seen.bytes.len() <= 100));
        }
        if let Ok(Step::Done(lease)) = queue.try_lease(SURVIVOR, &attempt, round, &mut buffer) {
            check(lease.place, lease.length, lease.origin);
            if round % 2 == 0 {
                queue.give_back(&lease, "no", false);
            } else if queue.acknowledge(&lease)
                && let Place::Block(run) = lease.place
            {
                queue.free(SURVIVOR, run);
            }
        }
        if let Ok(Step::Done(Some(letter))) = queue.try_take_letter(SURVIVOR, &attempt, &mut buffer) {
            check(letter.place, letter.length, letter.origin);
            assert!(letter.reason.len() <= 3 * REASON_MAX);
        }
        if let Ok(Step::Done(letters)) = queue.try_peek_letters(SURVIVOR, &attempt) {
            for letter in letters {
                check(letter.place, letter.length, letter.origin);
            }
        }
        let _ = queue.wait(SURVIVOR, &mut Attempt::default(), On::ConsumerLock, None, false);
        let _ = queue.redeliver(SURVIVOR, &attempt);
        let _ = queue.reclaim(SURVIVOR, &attempt);
        let _ = queue.try_put(SURVIVOR, &attempt, 2, b"xyz");
        let _ = queue.wait(SURVIVOR, &mut Attempt::default(), On::Leases, None, false);
        let _ = queue.wait(SURVIVOR, &mut Attempt::default(), On::Messages, None, false);
        for position in [0, 8, 5000] {
            let _ = queue.fate(1, position);
        }
        let _ = (queue.numbers(), queue.depth(), queue.fill(), queue.is_drained(), queue.has_leases());
        if let Ok(Step::Done(taken)) = queue.try_get(SURVIVOR, &attempt, &mut buffer) {
            check(taken.place, taken.length, taken.origin);
            let _ = queue.try_bury(SURVIVOR, &attempt, &taken, &[0; 1024], "bad");
        }
        let _ = queue.try_requeue(SURVIVOR, &attempt);
    }
    queue.give_back(holder, "late", false);
    queue.acknowledge(holder);
}

fn damage(words: &[(usize, u64)], locked_by: Option<Owner>) {
    let scene = scene();
    let queue = scene.queue();
    let holder = scene.lease_of(HOLDER);
    for (at, value) in words {
        queue.memory().store(SHAPE.leases_at() + at, *value);
    }
    if let Some(owner) = locked_by {
        // As if it had been killed inside: whoever comes next repairs.
        queue.memory().store(layout::CONSUMER_LOCK, owner.word());
    }
    use_all(&queue, &holder);
}

#[test]
fn any_word_of_a_record_overwritten_is_an_error_at_most() {
    let values =
        [0, 1, 2, 3, 4, 7, 8, 0xff, 4096, 0xdead_beef, 1 << 31, 1 << 32, (7 << 32) | 2, 1 << 40, 1 << 63];
    for at in (0..SHAPE.leases * layout::LEASE).step_by(8) {
        for value in values.into_iter().chain(values.map(|value| !value)) {
            damage(&[(at, value)], None);
            damage(&[(at, value)], Some(GONE));
        }
    }
}

/// Positions that the ring cannot have: as far apart as it is long, further, the wrong way round, or not those of
/// words.
#[test]
fn a_tail_that_cannot_be_is_refused_and_writes_nothing() {
    let queue = scene().queue();
    let (memory, attempt) = (queue.memory(), Attempt::default());
    let size = SHAPE.ring_size as u64;
    for away in [size, size + 8, size - 4, 4, 1 << 40, 1 << 63, u64::MAX - 7] {
        let head = memory.load(layout::HEAD);
        memory.store(layout::TAIL, head.wrapping_add(away));
        memory.store(layout::TAIL + 16, head); // what the producers have seen of the head
        let before: Vec<u64> = (0..memory.size()).step_by(8).map(|at| memory.load(at)).collect();
        for _ in 0..2 {
            assert!(matches!(queue.try_put(SURVIVOR, &attempt, 0, b"x"), Err(Error::Corrupt(_))), "{away}");
            let batch = queue.try_put_batch(SURVIVOR, &attempt, 0, &[b"x".as_slice(); 3]);
            assert!(matches!(batch, Err(Error::Corrupt(_))), "{away}");
        }
        assert!((0..memory.size()).step_by(8).map(|at| memory.load(at)).eq(before));
    }
}

#[test]
fn numbers_that_cannot_be_are_shown_and_not_summed_up_to_nonsense() {
    let queue = scene().queue();
    for level in 0..SHAPE.levels {
        let (producer, ..) = SHAPE.level_at(level);
        queue.memory().store(producer + 8, u64::MAX);
    }
    assert_eq!((queue.depth(), queue.numbers().depth, queue.numbers().put), (u64::MAX, u64::MAX, u64::MAX));
}

proptest! {
    #![proptest_config(Config {
        cases: 2000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..Config::default()
    })]

    #[test]
    fn any_words_of_several_records_overwritten_are_errors_at_most(
        words in prop::collection::vec(
            (0..SHAPE.leases * layout::LEASE / 8, prop_oneof![0..16_u64, 0..1_u64 << 40, any::<u64>()]), 1..12
        ),
        repair in any::<bool>(),
    ) {
        let words: Vec<_> = words.into_iter().map(|(word, value)| (8 * word, value)).collect();
        damage(&words, repair.then_some(GONE));
    }
}
