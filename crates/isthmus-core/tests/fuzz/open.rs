//! Objects that are open while somebody overwrites their memory between two calls.

use isthmus_core::lock::Slices;

use crate::calls::{Caller, use_mutex, use_value};
use crate::guard::alone;
use crate::run;
use crate::scene::{Image, LARGE, LEVELS, Mapped, SMALL, Scene, Shape};

/// One case in this many sleeps where it has to wait; the others look once and give up.
const PATIENT: usize = 200;

fn queue(test: &'static str, shape: Shape, default: u64) {
    let alone = alone();
    let scene = Scene::new(shape);
    let image = Image::of(Mapped::of(scene.queue.session()));
    let (targets, depth) = (scene.queue_targets(), scene.queue.depth().unwrap());
    run(alone, test, default, |chance, tally| {
        let mut words = image.restore();
        targets.damage(chance, &mut words);
        let mut caller = Caller::new(&scene.queue, chance.one_in(PATIENT));
        for _ in 0..chance.pick(&[5, 10, 30]) {
            caller.call(chance, tally);
            if chance.one_in(8) {
                targets.hit(chance, &mut words);
            }
        }
        caller.finish(tally);
    });
    // Put back, it is what it was: the damage was in the memory and nowhere else.
    image.restore();
    assert_eq!(scene.queue.depth().unwrap(), depth);
}

#[test]
fn an_open_queue() {
    queue("an open queue", SMALL, 3000);
}

#[test]
fn an_open_queue_with_priorities() {
    queue("an open queue with priorities", LEVELS, 3000);
}

#[test]
fn a_large_open_queue() {
    queue("a large open queue", LARGE, 1000);
}

#[test]
fn an_open_mutex() {
    let alone = alone();
    let scene = Scene::new(SMALL);
    let image = Image::of(Mapped::of(scene.mutex.session()));
    let targets = scene.small_targets();
    run(alone, "an open mutex", 3000, |chance, tally| {
        let mut words = image.restore();
        targets.damage(chance, &mut words);
        let mut slices = Slices::default();
        let patient = chance.one_in(PATIENT);
        for _ in 0..chance.pick(&[5, 10, 30]) {
            tally.note(use_mutex(&scene.mutex, &mut slices, patient, chance));
            if chance.one_in(4) {
                targets.hit(chance, &mut words);
            }
        }
    });
    image.restore();
    assert!(scene.mutex.mutex().owner().is_none() && scene.mutex.mutex().poisoned().is_none());
}

#[test]
fn an_open_value() {
    let alone = alone();
    let scene = Scene::new(SMALL);
    let image = Image::of(Mapped::of(scene.value.session()));
    let targets = scene.small_targets();
    run(alone, "an open value", 1000, |chance, tally| {
        let mut words = image.restore();
        targets.damage(chance, &mut words);
        for _ in 0..8 {
            tally.note(use_value(&scene.value, chance));
            targets.hit(chance, &mut words);
        }
    });
    image.restore();
    assert_eq!(scene.value.value().unwrap().get::<i64>(), 7);
}
