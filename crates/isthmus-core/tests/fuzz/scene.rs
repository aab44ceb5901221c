//! A namespace with a queue, a mutex and a value that this process, a living one and a dead one have used; its
//! memory can be put back as it was, as often as one likes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use isthmus_core::mutex::handle::MutexHandle;
use isthmus_core::namespace::Namespace;
use isthmus_core::object::{BODY, Mode};
use isthmus_core::queue::handle::{Attributes, QueueHandle};
use isthmus_core::queue::{Attempt, Geometry, INLINE_MAX, Leased, Place, Step};
use isthmus_core::session::Session;
use isthmus_core::shared_memory::handle::{self as shared_memory, SharedMemoryHandle};
use isthmus_core::value::handle::{self as value, Typed, ValueHandle};

use crate::chance::{Targets, Words};
use crate::common::{Child, Scratch, fork};

/// Bytes of the queue for messages, and its levels.
#[derive(Clone, Copy)]
pub(crate) struct Shape(pub(crate) u64, pub(crate) usize);

/// Enough for one message of each kind, and small: it is put back for each case.
pub(crate) const SMALL: Shape = Shape(64 << 10, 1);
/// Three levels, of which each has a small ring.
pub(crate) const LEVELS: Shape = Shape(64 << 10, 3);
/// More units and leases.
pub(crate) const LARGE: Shape = Shape(256 << 10, 2);

pub(crate) struct Scene {
    pub(crate) namespace: Arc<Namespace>,
    pub(crate) queue: QueueHandle,
    pub(crate) mutex: MutexHandle,
    pub(crate) value: ValueHandle,
    pub(crate) shared_memory: SharedMemoryHandle,
    /// Words of this process, of the living one and of the dead one.
    pub(crate) owners: Vec<u64>,
    pub(crate) scratch: Scratch,
    _living: Child,
}

/// What stands in the memory of an object, to be put back.
pub(crate) struct Image {
    words: Mapped,
    bytes: Vec<u8>,
}

/// The words of a mapping that stays as long as this is used.
#[derive(Clone, Copy)]
pub(crate) struct Mapped {
    start: *mut u8,
    length: usize,
}

// SAFETY: words are only touched atomically; other processes write there anyway.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// The memory of an object whose handle lives longer.
    pub(crate) fn of(session: &Session) -> Mapped {
        let map = session.object().map();
        Mapped { start: map.ptr(), length: map.len() }
    }

    /// # Safety
    /// `length` bytes from `start`, a multiple of 8, stay mapped as long as the result is used.
    pub(crate) unsafe fn new(start: *mut u8, length: usize) -> Mapped {
        Mapped { start, length }
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.length);
        // SAFETY: inside the mapping and aligned, just checked.
        unsafe { AtomicU64::from_ptr(self.start.add(at).cast()) }
    }
}

impl Words for Mapped {
    fn length(&self) -> usize {
        self.length
    }

    fn get(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::Relaxed)
    }

    fn set(&mut self, at: usize, word: u64) {
        self.word(at).store(word, Ordering::Relaxed);
    }
}

impl Image {
    pub(crate) fn of(words: Mapped) -> Image {
        let mut bytes = vec![0; words.length];
        // SAFETY: both are this long.
        unsafe { std::ptr::copy_nonoverlapping(words.start, bytes.as_mut_ptr(), words.length) };
        Image { words, bytes }
    }

    /// Makes the memory what it was; gives it to be damaged.
    pub(crate) fn restore(&self) -> Mapped {
        // SAFETY: both are this long.
        unsafe { std::ptr::copy_nonoverlapping(self.bytes.as_ptr(), self.words.start, self.words.length) };
        self.words
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

pub(crate) fn attributes(Shape(capacity, levels): Shape) -> Attributes {
    Attributes {
        capacity: Some(capacity),
        priorities: Some(levels),
        max_deliveries: Some(3),
        persistent: Some(true),
        // Who waits then looks whether producers live.
        ends_with_producers: Some(levels > 1),
        ..Attributes::default()
    }
}

/// A message of this length.
fn message(length: usize) -> Vec<u8> {
    (0..length).map(|at| at as u8).collect()
}

fn put(handle: &QueueHandle, level: usize, length: usize) {
    let (queue, me, attempt) = (handle.queue(), handle.producer().unwrap(), Attempt::default());
    let level = level as u8;
    let done = if length <= queue.geometry().inline_max() {
        queue.try_put(me, &attempt, level, &message(length)).unwrap()
    } else {
        let Step::Done(run) = queue.try_claim(me, &attempt, length).unwrap() else { panic!("no room") };
        let to = queue.memory().address(queue.run_offset(run), length);
        // SAFETY: the run is this process's and as long as the message.
        unsafe { std::ptr::copy_nonoverlapping(message(length).as_ptr(), to, length) };
        queue.try_put_run(me, &attempt, level, run, length).unwrap()
    };
    assert!(matches!(done, Step::Done(_)), "no room");
}

fn lease(handle: &QueueHandle) -> Leased {
    let mut buffer = vec![std::mem::MaybeUninit::new(0); INLINE_MAX];
    let me = handle.consumer().unwrap();
    match handle.queue().try_lease(me, &Attempt::default(), 0, &mut buffer).unwrap() {
        Step::Done(leased) => leased,
        Step::Wait(on) => panic!("{on:?}"),
    }
}

/// A process that puts, leases a small and a large message, claims memory, and then waits.
fn user(scratch: &Scratch) -> (Child, u64) {
    let path = scratch.path().to_owned();
    let mut child = fork(move |parent| {
        let namespace = Namespace::open(Some(&path)).unwrap();
        let handle = QueueHandle::open(&namespace, "queue", Mode::Open, &Attributes::default()).unwrap();
        put(&handle, 0, 5000);
        put(&handle, 0, 60);
        let _held = (lease(&handle), lease(&handle));
        let me = handle.producer().unwrap();
        assert!(matches!(handle.queue().try_claim(me, &Attempt::default(), 1), Ok(Step::Done(_))));
        parent.send(me.word());
        parent.wait();
    });
    let owner = child.receive();
    (child, owner)
}

impl Scene {
    pub(crate) fn new(shape: Shape) -> Scene {
        let scratch = Scratch::new();
        let namespace = scratch.open();
        let queue = QueueHandle::open(&namespace, "queue", Mode::Create, &attributes(shape)).unwrap();
        let mutex =
            MutexHandle::open(&namespace, "mutex", Mode::Create, isthmus_core::mutex::handle::PLAIN).unwrap();
        let asked = value::Attributes { initial: Typed::Int(7), kind: None, persistent: Some(true) };
        let value = ValueHandle::open(&namespace, "value", Mode::Create, &asked).unwrap();
        let asked =
            shared_memory::Attributes { size: Some(20_000), description: b"frames", persistent: Some(true) };
        let shared_memory = SharedMemoryHandle::open(&namespace, "memory", Mode::Create, &asked).unwrap();
        // Positions begin somewhere, not at zero.
        for _ in 0..3 {
            put(&queue, 0, 700);
            queue.acknowledge(&lease(&queue));
        }
        let (mut dead, its_owner) = user(&scratch);
        let (living, owner) = user(&scratch);
        dead.kill();
        for (at, length) in [40, 10, 5000, 20, 0, 30, 90].into_iter().enumerate() {
            put(&queue, at % shape.1, length);
        }
        for (reason, for_good) in [("again", false), ("no use", true)] {
            let leased = lease(&queue);
            assert!(queue.give_back(&leased, reason, for_good));
        }
        let _held = lease(&queue);
        let me = queue.session().me_here().unwrap();
        let owners = vec![me.as_process().word(), me.word(), owner, its_owner];
        Scene { namespace, queue, mutex, value, shared_memory, owners, scratch, _living: living }
    }

    /// Parts of the queue's file, and what can stand in them.
    pub(crate) fn queue_targets(&self) -> Targets {
        let shape: &Geometry = self.queue.queue().geometry();
        let body = [
            0,
            512 + (shape.levels - 1) * 256,
            shape.leases_at(),
            shape.slots_at(),
            shape.table_at(),
            shape.units_at(),
            shape.body_size(),
        ];
        let mut parts = vec![0..256, 4096..BODY];
        parts.extend(body.windows(2).map(|ends| BODY + ends[0]..BODY + ends[1]));
        // The messages that are in the rings, wherever these have got to.
        let words = Mapped::of(self.queue.session());
        for level in 0..shape.levels {
            let (tail, head) = match level.checked_sub(1) {
                None => (8, 136),
                Some(above) => (512 + 256 * above, 512 + 256 * above + 128),
            };
            let place = |at: usize| words.get(BODY + at) as usize & (shape.ring_size - 1);
            let ring = BODY + body[1] + level * shape.ring_size;
            if place(head) < place(tail) {
                parts.push(ring + place(head)..ring + place(tail));
            }
        }
        let sizes = [shape.ring_size, shape.capacity as usize, shape.units, shape.leases, body[6]];
        Targets { parts, meaningful: self.meaningful(&sizes) }
    }

    /// Parts of the file of a mutex or a value.
    pub(crate) fn small_targets(&self) -> Targets {
        Targets { parts: vec![0..256, 4096..BODY, BODY..BODY + 64], meaningful: self.meaningful(&[BODY]) }
    }

    /// Owners as they stand in words of locks, runs and leases, and sizes.
    pub(crate) fn meaningful(&self, sizes: &[usize]) -> Vec<u64> {
        let mut all: Vec<u64> = sizes.iter().map(|size| *size as u64).collect();
        for owner in &self.owners {
            let (slot, generation) = (owner >> 3 & 0xfff, owner >> 39);
            all.push(*owner);
            for length in 1..3 {
                all.push(length << 37 | generation << 12 | slot);
            }
            for state in 1..4 {
                all.push(1 << 40 | generation << 15 | slot << 3 | state);
            }
            all.push(generation << 8 | 2); // in the registry: lives
        }
        all
    }
}

/// Frees or ends whatever the case has left; by then it may be anybody's.
pub(crate) fn place_of(place: Place, length: usize, handle: &QueueHandle) {
    let queue = handle.queue();
    match place {
        Place::Inline => assert!(length <= queue.geometry().inline_max()),
        Place::Block(run) => {
            let from = queue.memory().address(queue.run_offset(run), length);
            for at in (0..length).step_by(512) {
                // SAFETY: `address` has checked that all of it lies in the mapping.
                let _ = unsafe { from.add(at).read_volatile() };
            }
        }
    }
}
