//! Files that somebody damages while nobody has them open: listed, opened as what they may be, used and closed.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use isthmus_core::error::{Error, Result};
use isthmus_core::lock::Slices;
use isthmus_core::mutex::handle::MutexHandle;
use isthmus_core::object::{Glimpse, Mode, SHARED_MEMORY, inspect};
use isthmus_core::queue::handle::{self as queue, QueueHandle};
use isthmus_core::queue::overview::Overview;
use isthmus_core::shared_memory::handle::{self as shared_memory, SharedMemoryHandle};
use isthmus_core::value::handle::{self as value, Typed, ValueHandle};

use crate::calls::{Caller, use_mutex, use_value};
use crate::chance::{Chance, Targets, Words};
use crate::guard::{Tally, alone};
use crate::run;
use crate::scene::{Image, LEVELS, Mapped, SMALL, Scene, Shape};

/// Much longer than the file is.
const FAR: usize = 40 << 20;
const NAME: &str = "damaged";
/// Where a file's length stands in its header, and that it is persistent.
const TOTAL: usize = 0x20;
const FLAGS: usize = 0x28;
/// Where the kind stands: the upper half is what it is.
const KIND: usize = 0x08;

/// Writes the file anew, sometimes cut, longer, or with holes and a header that agrees.
fn write(scene: &Scene, bytes: &mut Vec<u8>, chance: &mut Chance) {
    let whole = bytes.len();
    let length = match chance.below(10) {
        0 => chance.below(whole),
        1 => chance.pick(&[0, 8, 100, 256, 4096, 12_288, 12_352, whole - 8, whole - 4096]),
        2 => whole + chance.pick(&[1, 8, 4096, 1 << 20, FAR]),
        _ => whole,
    };
    if chance.one_in(2) && length >= 256 && length != whole {
        bytes.set(TOTAL, length as u64);
    }
    let path = scene.scratch.path().join(NAME);
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    let kept = length.min(whole);
    if chance.one_in(20) {
        // With holes where zeroes are.
        for (at, page) in bytes[..kept].chunks(4096).enumerate() {
            if page.iter().any(|byte| *byte != 0) {
                std::os::unix::fs::FileExt::write_all_at(&file, page, 4096 * at as u64).unwrap();
            }
        }
    } else {
        file.write_all(&bytes[..kept]).unwrap();
    }
    file.set_len(length as u64).unwrap();
}

fn open_queue(scene: &Scene, chance: &mut Chance, tally: &mut Tally) -> Result<()> {
    let capacity = chance.pick(&[None, None, Some(1 << 16)]);
    let asked = queue::Attributes { capacity, ..queue::Attributes::default() };
    let mode = chance.pick(&[Mode::Open, Mode::Open, Mode::OpenOrCreate, Mode::Create]);
    let handle = QueueHandle::open(&scene.namespace, NAME, mode, &asked)?;
    let mut caller = Caller::new(&handle, false);
    for _ in 0..10 {
        caller.call(chance, tally);
    }
    caller.finish(tally);
    handle.close();
    Ok(())
}

fn open_mutex(scene: &Scene, chance: &mut Chance, tally: &mut Tally) -> Result<()> {
    let handle = MutexHandle::open(&scene.namespace, NAME, Mode::Open, isthmus_core::mutex::handle::PLAIN)?;
    let mut slices = Slices::default();
    for _ in 0..6 {
        tally.note(use_mutex(&handle, &mut slices, false, chance));
    }
    Ok(())
}

fn open_value(scene: &Scene, chance: &mut Chance, tally: &mut Tally) -> Result<()> {
    let asked = value::Attributes { initial: Typed::Float(1.0), kind: None, persistent: None };
    let handle = ValueHandle::open(&scene.namespace, NAME, Mode::Open, &asked)?;
    for _ in 0..4 {
        tally.note(use_value(&handle, chance));
    }
    Ok(())
}

/// What `isthmus ls` does.
fn list(scene: &Scene) -> Result<()> {
    for listing in inspect(&scene.namespace)? {
        queue::peek(&scene.namespace, &listing);
        value::peek(&scene.namespace, &listing);
        let _ = shared_memory::peek(&scene.namespace, &listing);
    }
    Ok(())
}

/// What `isthmus inspect` does.
fn look(scene: &Scene) -> Result<()> {
    if let Some(glimpse) = Glimpse::of(&scene.namespace, NAME)? {
        glimpse.users();
        let _ = Overview::of(&glimpse, 10, 100);
    }
    Ok(())
}

/// A shared memory of 20,000 bytes says of itself how many they are.
fn open_shared_memory(scene: &Scene, chance: &mut Chance) -> Result<()> {
    let asked = shared_memory::Attributes {
        size: chance.pick(&[None, Some(20_000)]),
        description: b"",
        persistent: None,
    };
    let handle = SharedMemoryHandle::open(&scene.namespace, NAME, Mode::Open, &asked)?;
    assert!(handle.description()?.len() <= 4096);
    handle.grow(chance.pick(&[0, 1, u64::MAX]))?;
    assert!(
        handle.size()? <= std::fs::metadata(scene.scratch.path().join(NAME)).map_or(0, |found| found.len())
    );
    handle.content(false).map(drop)
}

fn files(test: &'static str, shape: Shape, default: u64, of: impl Fn(&Scene) -> (Mapped, Targets)) {
    let alone = alone();
    let scene = Scene::new(shape);
    let (words, targets) = of(&scene);
    let image = Image::of(words);
    // Behind what is mapped of it, a shared memory may have as much content as it likes.
    let goes_on = Words::get(&image.bytes().to_vec(), KIND) >> 32 == u64::from(SHARED_MEMORY);
    let tally = run(alone, test, default, |chance, tally| {
        let mut bytes = image.bytes().to_vec();
        // Of what is not persistent, and nobody has open, there is only garbage.
        bytes.set(FLAGS, u64::from(!chance.one_in(8)));
        targets.damage(chance, &mut bytes);
        write(&scene, &mut bytes, chance);
        for _ in 0..2 {
            let result = match chance.below(10) {
                0 => list(&scene),
                1 => scene.namespace.sweep().map(drop),
                2 => open_mutex(&scene, chance, tally),
                3 => open_value(&scene, chance, tally),
                4 => look(&scene),
                5 => open_shared_memory(&scene, chance),
                _ => open_queue(&scene, chance, tally),
            };
            let refused = matches!(
                result,
                Ok(())
                    | Err(Error::Incompatible(_)
                        | Error::Corrupt(_)
                        | Error::NotFound(_)
                        | Error::Exists(_)
                        | Error::TooLarge { .. }
                        | Error::Invalid(_))
            );
            assert!(refused, "{result:?}");
            tally.note(result);
        }
        // What a file says of its length costs nothing where it is a lie.
        if let Ok(found) = std::fs::metadata(scene.scratch.path().join(NAME)) {
            assert!(found.blocks() * 512 < FAR as u64 || found.len() < FAR as u64 || goes_on);
        }
    });
    assert!(tally.count("incompatible") > 0 && tally.count("well") > 0);
}

#[test]
fn files_of_queues() {
    files("files of queues", SMALL, 2000, |scene| (Mapped::of(scene.queue.session()), scene.queue_targets()));
}

#[test]
fn files_of_queues_with_priorities() {
    files("files of queues with priorities", LEVELS, 1000, |scene| {
        (Mapped::of(scene.queue.session()), scene.queue_targets())
    });
}

#[test]
fn files_of_shared_memory() {
    files("files of shared memory", SMALL, 1000, |scene| {
        // As it is mapped: the content behind it is not looked at here.
        (Mapped::of(scene.shared_memory.session()), scene.small_targets())
    });
}

#[test]
fn files_of_mutexes() {
    files("files of mutexes", SMALL, 1000, |scene| {
        (Mapped::of(scene.mutex.session()), scene.small_targets())
    });
}

#[test]
fn files_of_values() {
    files("files of values", SMALL, 1000, |scene| (Mapped::of(scene.value.session()), scene.small_targets()));
}
