//! Bells: cells that say an event loop waits, bits in wait points, files under the names of bells, and what
//! somebody writes into a FIFO. Whoever wakes others rings what is a bell with a listener, and nothing else.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use isthmus_core::bell::Bell;
use isthmus_core::lock::Slices;
use isthmus_core::object::{BELL, BODY, cell};

use crate::calls::{Caller, use_mutex};
use crate::chance::{Chance, Words};
use crate::changing::Stop;
use crate::guard::alone;
use crate::run;
use crate::scene::{Image, Mapped, SMALL, Scene};

/// Wait points of a queue, and of a mutex.
const POINTS: [usize; 4] = [BODY + 256, BODY + 320, BODY + 352, BODY + 368];
const MUTEX_POINT: usize = BODY + 32;
const CELLS: usize = 256;

/// Numbers of bells of which these files have the names; the last is nobody's.
const PLANTED: [u64; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

fn fifo(path: &Path) {
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a C string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
}

/// Plants a file of each kind; the FIFOs with a reader are returned.
fn plant(directory: &Path) -> [std::fs::File; 2] {
    let name = |number: u64| directory.join(format!(".bell-{number:016x}"));
    for number in 1..=3 {
        fifo(&name(number));
    }
    std::fs::write(name(4), "mine").unwrap();
    std::fs::create_dir(name(5)).unwrap();
    std::os::unix::fs::symlink(name(4), name(6)).unwrap();
    drop(std::os::unix::net::UnixListener::bind(name(7)).unwrap());
    [2, 3].map(|number| {
        let mut options = std::fs::File::options();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(name(number)).unwrap()
    })
}

/// Who wakes others looks for somebody to wake as long as the bits that somebody sets again and again allow, and not
/// for ever.
#[test]
fn bits_of_bells_that_are_set_again_at_once() {
    let alone = alone();
    let scene = Scene::new(SMALL);
    let image = Image::of(Mapped::of(scene.queue.session()));
    let depth = scene.queue.depth().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let (mut words, stop) = (image.restore(), &stop);
        for index in 128..160 {
            words.set(cell(index, 1), BELL);
            words.set(cell(index, 3), PLANTED[7]);
        }
        threads.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for point in POINTS {
                    words.set(point, u64::MAX << 32);
                }
            }
        });
        let _stop = Stop(stop);
        while words.get(POINTS[3]) == 0 {
            std::thread::yield_now();
        }
        run(alone, "bits that are set again", 20, |_, tally| {
            scene.queue.queue().wake_all();
            tally.note(scene.queue.depth());
        });
    });
    image.restore();
    assert_eq!(scene.queue.depth().unwrap(), depth);
}

/// Says in some cells that event loops wait, and in wait points that they are to be rung.
fn arm(words: &mut Mapped, points: &[usize], known: u64, chance: &mut Chance) {
    for _ in 0..chance.pick(&[1, 3, 40]) {
        let index = chance.below(CELLS);
        let id = if chance.one_in(3) { known } else { chance.pick(&PLANTED) };
        words.set(cell(index, 1), if chance.one_in(8) { chance.word() } else { BELL });
        words.set(cell(index, 2), chance.word());
        words.set(cell(index, 3), id);
    }
    for point in points {
        let one = 1 << (32 + chance.below(32));
        let bits = chance.pick(&[one, u64::MAX << 32, 0]);
        words.set(*point, words.get(*point) | bits);
    }
}

#[test]
fn bells_of_all_kinds() {
    let alone = alone();
    let scene = Scene::new(SMALL);
    let [mut listener, mut full] = plant(scene.scratch.path());
    while full.write(&[7; 4096]).is_ok() {}
    let bell = Bell::new(&scene.namespace).unwrap();
    let (index, _) = scene.queue.session().bell(&bell).unwrap();
    let session = scene.queue.session();
    let id = session.object().map().word(cell(index, 3)).load(Ordering::Relaxed);
    let (queue, mutex) = (Image::of(Mapped::of(session)), Image::of(Mapped::of(scene.mutex.session())));
    let (mut targets, depth) = (scene.queue_targets(), scene.queue.depth().unwrap());
    targets.meaningful.extend([BELL, id, u64::MAX << 32]);
    targets.meaningful.extend(PLANTED);
    targets.parts.push(BODY + 256..BODY + 384);
    let mut writer =
        std::fs::File::options().write(true).open(format!("/proc/self/fd/{}", bell.fd())).unwrap();
    let mut rung = 0;
    run(alone, "bells of all kinds", 1500, |chance, tally| {
        let (mut words, mut lock) = (queue.restore(), mutex.restore());
        arm(&mut words, &POINTS, id, chance);
        arm(&mut lock, &[MUTEX_POINT], id, chance);
        targets.damage(chance, &mut words);
        let mut caller = Caller::new(&scene.queue, false);
        let mut slices = Slices::default();
        for _ in 0..8 {
            caller.call(chance, tally);
            tally.note(use_mutex(&scene.mutex, &mut slices, false, chance));
            if chance.one_in(4) {
                arm(&mut words, &POINTS, id, chance);
            }
        }
        caller.finish(tally);
        if chance.one_in(4) {
            // Garbage in the bell itself, also of a length that is no whole number of tokens.
            let garbage: Vec<u8> = (0..chance.below(100)).map(|_| chance.word() as u8).collect();
            writer.write_all(&garbage).unwrap();
        }
        let (tokens, _) = bell.read();
        assert!(tokens.len() <= 1024);
        rung += tokens.len();
        let _ = listener.read(&mut vec![0; 65_536]);
        if chance.one_in(50) {
            scene.namespace.sweep().unwrap();
            assert!(!scene.scratch.path().join(".bell-0000000000000001").exists(), "nobody listens there");
            fifo(&scene.scratch.path().join(".bell-0000000000000001"));
        }
    });
    assert!(rung > 0);
    for (number, content) in [(4, "mine"), (6, "mine")] {
        let path = scene.scratch.path().join(format!(".bell-{number:016x}"));
        assert_eq!(std::fs::read_to_string(path).unwrap(), content);
    }
    assert!(scene.scratch.path().join(".bell-0000000000000007").exists(), "a socket is nobody's bell");
    queue.restore();
    mutex.restore();
    assert_eq!(scene.queue.depth().unwrap(), depth);
    assert!(full.as_raw_fd() > 2);
}
