//! Levels of priority: the order in which messages come out, and puts into one level killed at every store.

use super::calls::take_lease;
use super::plain::Call::{self, Lease, Put};
use super::scene::{HOLDER, SHAPE, Scene};
use super::*;

const GIVE_BACK: Call = Call::GiveBack { for_good: false };

fn queue() -> (World, TestQueue) {
    let world = World::of(SHAPE);
    let queue = world.process();
    (world, queue)
}

fn put_at(queue: &TestQueue, level: u8, text: &str) {
    assert!(drive(queue, SURVIVOR, |a| queue.try_put(SURVIVOR, a, level, text.as_bytes())).is_some());
}

fn lease(queue: &TestQueue, who: Owner) -> Leased {
    take_lease(queue, who).expect("a message waits").1
}

fn texts(messages: Vec<Vec<u8>>) -> Vec<String> {
    messages.into_iter().map(|bytes| String::from_utf8(bytes).unwrap()).collect()
}

#[test]
fn the_most_urgent_comes_first_and_in_a_level_the_oldest() {
    let (_world, queue) = queue();
    for (level, text) in [(0, "a"), (1, "b"), (2, "c"), (1, "d"), (0, "e"), (2, "f")] {
        put_at(&queue, level, text);
    }
    assert_eq!(texts(drain(&queue, SURVIVOR)), ["c", "f", "b", "d", "a", "e"]);
}

#[test]
fn what_was_given_back_comes_first_in_its_level_and_oldest_first() {
    let (_world, queue) = queue();
    for (level, text) in [(1, "a"), (1, "b"), (1, "c"), (0, "d")] {
        put_at(&queue, level, text);
    }
    let leases = [(); 2].map(|()| lease(&queue, HOLDER));
    put_at(&queue, 2, "e");
    for lease in leases.iter().rev() {
        assert!(queue.give_back(lease, "", false));
    }
    assert_eq!(texts(drain(&queue, SURVIVOR)), ["e", "a", "b", "c", "d"]);
    assert!(!queue.has_message(), "no hint of a message that is gone");
}

#[test]
fn a_table_full_of_less_urgent_messages_stops_nobody() {
    let mut scene = Scene::new();
    for _ in 0..SHAPE.leases {
        scene.run(SURVIVOR, &Put { level: 0, length: 10, spare: 0 });
        scene.run(HOLDER, &Lease);
    }
    for _ in 0..SHAPE.leases {
        scene.run(HOLDER, &GIVE_BACK);
    }
    scene.run(SURVIVOR, &Put { level: 1, length: 20, spare: 0 });
    let queue = scene.queue();
    // No record is free for the urgent one: one that was given back goes first and frees its own.
    let first = lease(&queue, SECOND);
    assert_eq!((first.origin.level, first.deliveries()), (0, 2));
    assert!(queue.acknowledge(&first));
    assert_eq!(lease(&queue, SECOND).origin.level, 1);
}

#[test]
fn a_batch_killed_at_every_store_is_all_there_or_not_at_all() {
    silence_kills();
    let batch = [message(1, 10), message(2, 0), message(3, 900)];
    let slices: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
    for n in 1.. {
        let (world, survivor) = queue();
        for level in 0..3 {
            put_at(&survivor, level, "before");
        }
        let victim = world.process();
        victim.memory().kill_at(n);
        let put = || drive(&victim, VICTIM, |a| victim.try_put_batch(VICTIM, a, 1, &slices));
        let completed = victim.memory().run(put).is_some();
        world.oracle.kill(VICTIM);
        for level in 0..3 {
            put_at(&survivor, level, "after");
        }
        let (before, after) = (b"before".to_vec(), b"after".to_vec());
        let around = |middle: &[Vec<u8>]| {
            let mut all = vec![before.clone(), after.clone(), before.clone()];
            all.extend(middle.iter().cloned().chain([after.clone(), before.clone(), after.clone()]));
            all
        };
        let left = drain(&survivor, SURVIVOR);
        assert!(left == around(&batch) || left == around(&[]) && !completed, "killed at store {n}");
        check_capacity(&survivor);
        if completed {
            assert!(n > 10, "a batch is many stores");
            return;
        }
    }
}

#[test]
fn what_a_shortened_message_does_not_need_is_free_at_once() {
    let (_world, queue) = queue();
    let run = drive(&queue, SURVIVOR, |a| queue.try_claim(SURVIVOR, a, SHAPE.message_max())).unwrap();
    queue.memory().write(queue.run_offset(run), &message(1, 5000));
    let asleep = |queue: &TestQueue| queue.block_space.has_waiters(queue.memory());
    queue.block_space.sleep(queue.memory(), std::time::Duration::ZERO, || false);
    assert!(asleep(&queue));
    assert!(drive(&queue, SURVIVOR, |a| queue.try_put_run(SURVIVOR, a, 2, run, 5000)).is_some());
    assert!(!asleep(&queue), "who waits for a block was woken");
    assert_eq!(queue.numbers().bytes_in_use, 2 * UNIT as u64 + 24);
    let rest = drive(&queue, SECOND, |a| queue.try_claim(SECOND, a, 6 * UNIT)).expect("six units are left");
    queue.memory().write(queue.run_offset(rest), &vec![0xff; 6 * UNIT]);
    assert_eq!(get(&queue, SURVIVOR), Some(message(1, 5000)), "nobody wrote into it");
    assert!(queue.free(SECOND, rest));
    check_capacity(&queue);
}
