//! Memory that changes while it is read: in a run of many calls the n-th load gives another word than the one that
//! stands there, for every n and for words of all kinds; the loads before and behind it give the true one. What
//! was checked must be what is used. An error at most, never an access outside of the area or a panic.

use std::cell::Cell;
use std::rc::Rc;

use super::damage::{scene, use_all};
use super::scene::{GONE, HOLDER, SHAPE};
use super::*;
use crate::memory::Woken;

/// One process on a memory of which one load is wrong.
#[derive(Clone)]
struct Fickle {
    true_one: Crashing,
    /// Loads until the wrong one; 0 once that was.
    left: Rc<Cell<usize>>,
    wrong: fn(u64) -> u64,
}

impl Fickle {
    fn seen(&self, word: u64) -> u64 {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        if left == 1 { (self.wrong)(word) } else { word }
    }
}

impl Memory for Fickle {
    fn size(&self) -> usize {
        self.true_one.size()
    }

    fn load(&self, at: usize) -> u64 {
        self.seen(self.true_one.load(at))
    }

    fn store(&self, at: usize, value: u64) {
        self.true_one.store(at, value);
    }

    fn compare_exchange(&self, at: usize, old: u64, new: u64) -> std::result::Result<(), u64> {
        self.true_one.compare_exchange(at, old, new)
    }

    fn swap(&self, at: usize, value: u64) -> u64 {
        self.seen(self.true_one.swap(at, value))
    }

    fn fetch_or(&self, at: usize, bits: u64) -> u64 {
        self.seen(self.true_one.fetch_or(at, bits))
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        self.true_one.write(at, bytes);
    }

    /// Bytes are a load a word.
    fn read(&self, at: usize, into: &mut [MaybeUninit<u8>]) {
        self.true_one.read(at, into);
        for word in into.chunks_exact_mut(8).take(4) {
            let bytes: [u8; 8] = std::array::from_fn(|at| filled(&word[at..=at])[0]);
            for (to, byte) in word.iter_mut().zip(self.seen(u64::from_le_bytes(bytes)).to_le_bytes()) {
                to.write(byte);
            }
        }
    }

    fn sleep(&self, at: usize, expected: u32, limit: std::time::Duration) -> Woken {
        self.true_one.sleep(at, expected, limit)
    }

    fn wake(&self, at: usize, count: u32) -> u32 {
        self.true_one.wake(at, count)
    }

    fn ring(&self, bits: u32) -> bool {
        self.true_one.ring(bits)
    }
}

/// Words to see instead of the true one.
const WRONG: [fn(u64) -> u64; 10] = [
    |_| 0,
    |_| u64::MAX,
    |word| word ^ 1,
    |word| word ^ 4,
    |word| word.wrapping_add(8),
    |word| word.wrapping_sub(8),
    |word| word ^ 1 << 63,
    |word| word ^ 1 << 40, // of a run: eight units more or less
    |word| word ^ 1 << 38,
    |word| word.rotate_left(32),
];

#[test]
fn any_load_may_see_another_word() {
    let scene = scene();
    let holder = scene.lease_of(HOLDER);
    for (locked, wrong) in [false, true].into_iter().flat_map(|locked| WRONG.map(|wrong| (locked, wrong))) {
        for number in 1.. {
            let oracle = Oracle::default();
            oracle.kill(GONE);
            let memory = scene.queue().memory().fork_memory();
            if locked {
                // As if it had been killed inside: whoever comes next repairs.
                memory.store(layout::CONSUMER_LOCK, GONE.word());
                memory.store(layout::PRODUCER_LOCK, GONE.word());
            }
            let left = Rc::new(Cell::new(number));
            let memory = Fickle { true_one: memory, left: Rc::clone(&left), wrong };
            let queue = Queue::new(memory, oracle, BODY, SHAPE, 3);
            use_all(&queue, &holder);
            use_blocks(&queue);
            if left.get() > 0 {
                break;
            }
        }
    }
}

/// Claims of all lengths, used whole.
fn use_blocks(queue: &Queue<Fickle, Oracle>) {
    let attempt = Attempt::default();
    // Units one by one, so that the run freed last, which is tried first, is the last of all.
    let claim = || queue.try_claim(SURVIVOR, &attempt, 1).ok();
    let units: Vec<Run> = std::iter::from_fn(|| match claim()? {
        Step::Done(run) => Some(run),
        Step::Wait(_) => None,
    })
    .collect();
    for run in units {
        queue.free(SURVIVOR, run);
    }
    for length in [5000, 1, 5000, 9000, 20_000] {
        if let Ok(Step::Done(run)) = queue.try_claim(SURVIVOR, &attempt, length) {
            assert!(run.first + run.length <= SHAPE.units && run.length * UNIT >= length);
            queue.memory().write(queue.run_offset(run), &vec![1; length]);
            if length != 5000 || queue.try_put_run(SURVIVOR, &attempt, 0, run, length / 2).is_err() {
                queue.free(SURVIVOR, run);
            }
        }
    }
    let _ = queue.try_put_batch(SURVIVOR, &attempt, 1, &[b"abc", b"", b"0123456789"]);
    let mut lengths = Vec::new();
    queue.peek_lengths(10, 1000, &mut lengths);
    let mut own: Vec<_> = lengths.iter().map(|length| vec![MaybeUninit::new(0); *length]).collect();
    let mut buffers: Vec<_> = own.iter_mut().map(Vec::as_mut_slice).collect();
    let _ = queue.try_get_batch(SURVIVOR, &attempt, &mut buffers);
}
