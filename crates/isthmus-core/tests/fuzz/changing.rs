//! Memory that changes while it is read: another thread overwrites words and puts them back all the time.

use std::sync::atomic::{AtomicBool, Ordering};

use isthmus_core::lock::Slices;
use isthmus_core::object::cell;

use crate::calls::{Caller, use_mutex, use_value};
use crate::chance::{Chance, Targets, Words};
use crate::guard::alone;
use crate::run;
use crate::scene::{Image, LEVELS, Mapped, SMALL, Scene, Shape};

/// Runs `body` while another thread changes the words of an object.
pub(crate) fn while_changing(image: &Image, targets: &Targets, body: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let mut words = image.restore();
        let stop = &stop;
        threads.spawn(move || {
            let mut chance = Chance::new(u64::from(std::process::id()));
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..chance.pick(&[1, 30, 300]) {
                    targets.hit(&mut chance, &mut words);
                }
                if chance.one_in(2) {
                    image.restore();
                }
            }
        });
        // Dropped also where the body panics, or the scope would wait for the thread for ever.
        let _stop = Stop(stop);
        body();
    });
    image.restore();
}

/// Tells a thread to end when it is dropped.
pub(crate) struct Stop<'a>(pub(crate) &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn queue(test: &'static str, shape: Shape) {
    let alone = alone();
    let scene = Scene::new(shape);
    let image = Image::of(Mapped::of(scene.queue.session()));
    let (targets, depth) = (scene.queue_targets(), scene.queue.depth().unwrap());
    while_changing(&image, &targets, || {
        run(alone, test, 3000, |chance, tally| {
            let mut caller = Caller::new(&scene.queue, chance.one_in(200));
            for _ in 0..20 {
                caller.call(chance, tally);
            }
            caller.finish(tally);
        });
    });
    assert_eq!(scene.queue.depth().unwrap(), depth);
}

/// Who waits for producers looks at the table of attachments until it stands still, and not for ever.
#[test]
fn a_table_of_attachments_that_never_stands_still() {
    let alone = alone();
    let scene = Scene::new(LEVELS);
    let image = Image::of(Mapped::of(scene.queue.session()));
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let (mut words, stop) = (image.restore(), &stop);
        threads.spawn(move || {
            let mut owner = 0;
            while !stop.load(Ordering::Relaxed) {
                owner += 8;
                words.set(cell(200, 0), owner);
            }
        });
        let _stop = Stop(stop);
        run(alone, "a table that never stands still", 300, |_, tally| {
            tally.note(scene.queue.check_end());
        });
    });
    image.restore();
}

#[test]
fn a_queue_that_changes() {
    queue("a queue that changes", SMALL);
}

#[test]
fn a_queue_with_priorities_that_changes() {
    queue("a queue with priorities that changes", LEVELS);
}

#[test]
fn a_mutex_and_a_value_that_change() {
    let alone = alone();
    let scene = Scene::new(SMALL);
    let mutex = Image::of(Mapped::of(scene.mutex.session()));
    let value = Image::of(Mapped::of(scene.value.session()));
    let targets = scene.small_targets();
    while_changing(&mutex, &targets, || {
        while_changing(&value, &targets, || {
            run(alone, "a mutex and a value that change", 3000, |chance, tally| {
                let mut slices = Slices::default();
                let patient = chance.one_in(200);
                for _ in 0..20 {
                    tally.note(use_mutex(&scene.mutex, &mut slices, patient, chance));
                    tally.note(use_value(&scene.value, chance));
                }
            });
        });
    });
    assert_eq!(scene.value.value().unwrap().get::<i64>(), 7);
}
