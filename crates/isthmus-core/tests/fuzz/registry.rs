//! The registry: overwritten while it is in use, and as a file that a process finds when it comes.

use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::Arc;

use isthmus_core::error::Result;
use isthmus_core::lock::Slices;
use isthmus_core::namespace::Namespace;
use isthmus_core::object::{Mode, inspect};
use isthmus_core::owner::Owner;
use isthmus_core::queue::handle::QueueHandle;
use isthmus_core::registry::Registry;

use crate::calls::{Caller, use_mutex, use_value};
use crate::chance::{Chance, Targets, Words};
use crate::common::Scratch;
use crate::guard::alone;
use crate::run;
use crate::scene::{Image, Mapped, SMALL, Scene, attributes};

const HEADER: usize = 4096;
const SLOT: usize = 128;

/// Maps the registry of a scene.
fn map(scene: &Scene) -> Mapped {
    let path = scene.scratch.path().join(".registry");
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len() as usize;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh mapping at an address of the kernel's choice disturbs nothing; it is never unmapped.
    let start =
        unsafe { libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    assert_ne!(start, libc::MAP_FAILED);
    // Closing it would drop this process's lock on its slot.
    let _ = file.into_raw_fd();
    // SAFETY: mapped just above.
    unsafe { Mapped::new(start.cast(), length) }
}

/// The header and the slots in use; now and then any slot.
fn targets(scene: &Scene) -> Targets {
    let slot = |number: usize| HEADER + SLOT * number..HEADER + SLOT * (number + 1);
    let mut parts: Vec<_> = scene.owners.iter().map(|owner| slot((owner >> 3 & 0xfff) as usize)).collect();
    parts.extend([0..64, slot(1), slot(2), slot(3), HEADER + SLOT..HEADER + SLOT * 2048]);
    let mut meaningful = scene.meaningful(&[std::process::id() as usize, 1]);
    let own = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc/self/ns/pid").unwrap());
    meaningful.push(own);
    Targets { parts, meaningful }
}

/// Asks about everybody whom words of the scene name, and about those who cannot be.
fn ask(registry: &Registry, owners: &[u64], chance: &mut Chance) -> Result<()> {
    registry.is_dead(Owner::from_word(chance.word()));
    for owner in owners {
        let owner = Owner::from_word(*owner);
        registry.describe(owner);
        registry.death(owner);
        registry.resolve(owner.slot(), |_| true);
        registry.is_dead(owner);
    }
    if chance.one_in(4) {
        assert!(registry.living().len() < 2048);
    }
    registry.relock()?;
    registry.me().map(drop)
}

#[test]
fn a_registry_in_use() {
    let alone = alone();
    let scene = Scene::new(SMALL);
    let image = Image::of(map(&scene));
    let queue = Image::of(Mapped::of(scene.queue.session()));
    let (targets, objects) = (targets(&scene), scene.queue_targets());
    let depth = scene.queue.depth().unwrap();
    run(alone, "a registry in use", 2000, |chance, tally| {
        let mut words = image.restore();
        let mut body = queue.restore();
        targets.damage(chance, &mut words);
        if chance.one_in(3) {
            objects.damage(chance, &mut body);
        }
        let mut caller = Caller::new(&scene.queue, false);
        let mut slices = Slices::default();
        for _ in 0..10 {
            caller.call(chance, tally);
            tally.note(match chance.below(4) {
                0 => ask(scene.queue.session().registry(), &scene.owners, chance),
                1 => use_mutex(&scene.mutex, &mut slices, false, chance),
                2 => use_value(&scene.value, chance),
                _ => inspect(&scene.namespace).map(drop),
            });
            if chance.one_in(4) {
                targets.hit(chance, &mut words);
            }
        }
        caller.finish(tally);
    });
    image.restore();
    queue.restore();
    scene.queue.session().registry().me().unwrap();
    assert_eq!(scene.queue.depth().unwrap(), depth);
}

/// A process that finds a registry: here the same process each time, with a registry that is new to it.
fn come(namespace: &Arc<Namespace>, owners: &[u64], chance: &mut Chance) -> Result<()> {
    let registry = Registry::for_namespace(namespace)?;
    registry.me()?;
    ask(&registry, owners, chance)?;
    let handle = QueueHandle::open(namespace, "own", Mode::OpenOrCreate, &attributes(SMALL))?;
    handle.numbers()?;
    handle.session().object().unlink()
}

#[test]
fn a_registry_that_is_found() {
    let alone = alone();
    let scene = Scene::new(SMALL);
    let image = Image::of(map(&scene));
    let targets = targets(&scene);
    let place = Scratch::new();
    let namespace = place.open();
    Registry::for_namespace(&namespace).unwrap(); // its descriptor is let go with the next one
    let tally = run(alone, "a registry that is found", 1000, |chance, tally| {
        let mut bytes = image.bytes().to_vec();
        targets.damage(chance, &mut bytes);
        if chance.one_in(20) {
            let length = bytes.length();
            bytes.resize(chance.pick(&[0, 100, 4096, length - 1, length + 1, length * 2]), 7);
        }
        let (new, path) = (place.path().join(".new"), place.path().join(".registry"));
        std::fs::write(&new, &bytes).unwrap();
        std::fs::rename(&new, &path).unwrap();
        tally.note(come(&namespace, &scene.owners, chance));
    });
    assert!(tally.count("well") > 0 && tally.count("incompatible") > 0);
}
