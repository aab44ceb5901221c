//! Semaphores, events, read-write locks, conditions and barriers, open and as files.

use std::time::{Duration, Instant};

use isthmus_core::error::{Error, Result};
use isthmus_core::object::{BARRIER, BODY, BOUNDED_SEMAPHORE, CONDITION, EVENT, Mode, RWLOCK, SEMAPHORE};
use isthmus_core::owner::Owner;
use isthmus_core::sync::handle::{Kind, SyncHandle};
use isthmus_core::sync::{Episode, Want};

use crate::calls::look_at;
use crate::chance::{Chance, Targets, Words};
use crate::changing::while_changing;
use crate::guard::{Tally, alone};
use crate::run;
use crate::scene::{Image, Mapped, SMALL, Scene};

const KINDS: [u32; 6] = [SEMAPHORE, BOUNDED_SEMAPHORE, RWLOCK, EVENT, CONDITION, BARRIER];

fn open(scene: &Scene, kind: u32, name: &str, mode: Mode) -> Result<SyncHandle> {
    let limit = if matches!(kind, RWLOCK | EVENT | CONDITION) { 0 } else { 3 };
    SyncHandle::open(&scene.namespace, name, mode, kind, (None, limit))
}

/// The first words, the records of waiters and the cells.
fn targets(scene: &Scene, handle: &SyncHandle) -> Targets {
    let end = handle.session().object().map().len();
    let cells = BODY + 128 + 120 * 32;
    let parts = vec![0..256, 4096..BODY, BODY..BODY + 88, BODY..BODY + 88, BODY + 128..cells, cells..end];
    let mut meaningful = scene.meaningful(&[1, 3]);
    meaningful.extend((0..6).map(|generation| generation << 1));
    Targets { parts, meaningful }
}

/// One who uses an object, and what it has.
struct User<'a> {
    handle: &'a SyncHandle,
    arrival: Option<isthmus_core::sync::barrier::Arrival>,
    cell: Option<usize>,
    patient: bool,
}

impl User<'_> {
    fn call(&mut self, chance: &mut Chance) -> Result<()> {
        let me = self.handle.session().me_here()?;
        let want = self.want(chance);
        match chance.below(8) {
            0 | 1 => drop(self.handle.try_take(me, want)?),
            2 => self.handle.give_back(me, want, chance.pick(&[0, 1, 2, u64::MAX]))?,
            3 => {
                let time = Duration::from_millis(if self.patient { 3 } else { 0 });
                let mut episode = Episode::default();
                self.handle.wait(me, want, &mut episode, Some(Instant::now() + time))?;
                self.handle.leave(me, episode.has_slept() || chance.one_in(2));
            }
            4 => self.handle.look(me, want)?,
            5 => {
                self.handle.claim(me, want);
                drop(self.handle.record(me, want, true));
                look_at(self.handle.session(), &[]);
            }
            _ => self.own(me, chance)?,
        }
        Ok(())
    }

    fn want(&self, chance: &mut Chance) -> Want {
        match self.handle.kind() {
            Kind::Semaphore(_) | Kind::Bounded(_) => Want::Permit,
            Kind::RwLock(_) => chance.pick(&[Want::Read, Want::Write]),
            Kind::Event(_) => Want::Set(chance.below(4) as u64),
            Kind::Condition(_) => Want::Notified(self.cell.unwrap_or(usize::MAX)),
            Kind::Barrier(_) => Want::Open(chance.below(4) as u64),
        }
    }

    /// What only this kind has.
    fn own(&mut self, me: Owner, chance: &mut Chance) -> Result<()> {
        match self.handle.kind() {
            Kind::Semaphore(it) => drop(it.value()),
            Kind::Bounded(it) => assert!(it.value() <= it.permits() && it.holders().len() <= it.permits()),
            Kind::RwLock(it) => match chance.below(4) {
                0 => drop(it.try_recover(me)),
                1 => it.release_poisoned(me)?,
                2 => drop(it.reclaim()),
                _ => assert!(it.readers().len() <= 1024),
            },
            Kind::Event(it) => match chance.below(3) {
                0 => it.set(),
                1 => it.clear(),
                _ => assert!(it.is_set() || it.happened(it.generation().wrapping_add(1))),
            },
            Kind::Condition(it) => match chance.below(4) {
                0 => self.cell = it.enter(me)?.or(self.cell),
                1 => drop(it.notify(me, chance.pick(&[1, 3, usize::MAX]))),
                2 => {
                    if let Some(cell) = self.cell.take() {
                        it.leave(me, cell);
                    }
                }
                _ => assert!(it.list().len() <= 2048 && it.pass_on(me).is_none_or(|()| true)),
            },
            Kind::Barrier(it) => match chance.below(4) {
                0 => {
                    self.arrival = it.arrive(me).flatten();
                    if let Some(arrival) = self.arrival.filter(|arrival| it.is_last(arrival)) {
                        it.open(me, &arrival);
                    }
                }
                1 => {
                    if let Some(arrival) = self.arrival.take() {
                        it.outcome(me, &arrival);
                        it.leave(me, &arrival);
                    }
                }
                2 => drop(it.reset(me)),
                _ if chance.one_in(4) => it.abort(),
                _ => assert!(it.list().len() <= it.parties() && it.waiting() <= it.parties()),
            },
        }
        Ok(())
    }
}

fn use_it(handle: &SyncHandle, calls: usize, chance: &mut Chance, tally: &mut Tally) {
    let mut user = User { handle, arrival: None, cell: None, patient: chance.one_in(200) };
    for _ in 0..calls {
        let result = user.call(chance);
        tally.note(result);
    }
}

#[test]
fn open_objects_of_synchronization() {
    let alone = alone();
    let scene = Scene::new(SMALL);
    let handles: Vec<SyncHandle> = KINDS
        .iter()
        .map(|kind| open(&scene, *kind, &format!("sync-{kind}"), Mode::Create).unwrap())
        .collect();
    let images: Vec<(Image, Targets)> = handles
        .iter()
        .map(|handle| (Image::of(Mapped::of(handle.session())), targets(&scene, handle)))
        .collect();
    run(alone, "open objects of synchronization", 4000, |chance, tally| {
        let at = chance.below(KINDS.len());
        let (handle, (image, targets)) = (&handles[at], &images[at]);
        let mut words = image.restore();
        targets.damage(chance, &mut words);
        for _ in 0..4 {
            use_it(handle, 5, chance, tally);
            targets.hit(chance, &mut words);
        }
    });
    for (image, _) in &images {
        image.restore();
    }
}

#[test]
fn objects_of_synchronization_that_change() {
    for kind in KINDS {
        let alone = alone();
        let scene = Scene::new(SMALL);
        let handle = open(&scene, kind, "changing", Mode::Create).unwrap();
        let image = Image::of(Mapped::of(handle.session()));
        while_changing(&image, &targets(&scene, &handle), || {
            run(alone, "objects of synchronization that change", 500, |chance, tally| {
                use_it(&handle, 5, chance, tally);
            });
        });
    }
}

#[test]
fn files_of_synchronization() {
    let alone = alone();
    let scene = Scene::new(SMALL);
    let images: Vec<(u32, Vec<u8>, Targets)> = KINDS
        .iter()
        .map(|kind| {
            let handle = open(&scene, *kind, "whole", Mode::Create).unwrap();
            let (image, targets) = (Image::of(Mapped::of(handle.session())), targets(&scene, &handle));
            (*kind, image.bytes().to_vec(), targets)
        })
        .collect();
    let path = scene.scratch.path().join("damaged");
    let tally = run(alone, "files of synchronization", 2000, |chance, tally| {
        let (kind, bytes, targets) = &images[chance.below(KINDS.len())];
        let mut bytes = bytes.clone();
        bytes.set(0x28, 1); // persistent
        targets.damage(chance, &mut bytes);
        if chance.one_in(10) {
            let length = chance.pick(&[BODY, BODY + 64, bytes.length() - 4096, bytes.length() + 4096]);
            bytes.resize(length, 0);
            bytes.set(0x20, length as u64);
        }
        std::fs::write(&path, &bytes).unwrap();
        let kind = if chance.one_in(8) { chance.pick(&KINDS) } else { *kind };
        match open(&scene, kind, "damaged", Mode::Open) {
            Ok(handle) => use_it(&handle, 8, chance, tally),
            Err(error) => {
                let refused = matches!(
                    error,
                    Error::Incompatible(_) | Error::Corrupt(_) | Error::NotFound(_) | Error::TooLarge { .. }
                );
                assert!(refused, "{error:?}");
                tally.note(Err::<(), _>(error));
            }
        }
    });
    assert!(tally.count("incompatible") > 0 && tally.count("corrupt") > 0 && tally.count("well") > 0);
}
