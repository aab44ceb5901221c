//! Memory for loom: every interleaving and every allowed reordering of a small model.
//!
//! Bytes are words too (each copied relaxed), so that a payload read before its commit was visible
//! shows up as a wrong value. Sleeping is a condition variable, so that a lost wake-up shows up as
//! a deadlock. Read-modify-writes carry the full fence that the trait promises.

use std::mem::MaybeUninit;
use std::time::Duration;

use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::sync::{Arc, Condvar, Mutex};

use super::{Memory, Woken};

struct Shared {
    words: Vec<AtomicU64>,
    /// Bits of bells rung and not yet heard.
    kernel: Mutex<u32>,
    sleepers: Condvar,
}

/// A small memory shared by loom's threads.
#[derive(Clone)]
pub struct Loom(Arc<Shared>);

impl Loom {
    /// A zeroed memory of `size` bytes.
    pub fn new(size: usize) -> Loom {
        Loom(Arc::new(Shared {
            words: (0..size.div_ceil(8)).map(|_| AtomicU64::new(0)).collect(),
            kernel: Mutex::new(0),
            sleepers: Condvar::new(),
        }))
    }

    /// What an event loop does: waits until its bell is rung.
    pub fn hear(&self, bit: u32) {
        let mut kernel = self.0.kernel.lock().expect("no panics inside");
        while *kernel & bit == 0 {
            kernel = self.0.sleepers.wait(kernel).expect("no panics inside");
        }
        *kernel &= !bit;
    }
}

impl Memory for Loom {
    fn size(&self) -> usize {
        self.0.words.len() * 8
    }

    fn load(&self, at: usize) -> u64 {
        self.0.words[at / 8].load(Ordering::Acquire)
    }

    fn store(&self, at: usize, value: u64) {
        self.0.words[at / 8].store(value, Ordering::Release);
    }

    fn compare_exchange(&self, at: usize, old: u64, new: u64) -> Result<(), u64> {
        fence(Ordering::SeqCst);
        let done =
            self.0.words[at / 8].compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).map(drop);
        fence(Ordering::SeqCst);
        done
    }

    fn swap(&self, at: usize, value: u64) -> u64 {
        fence(Ordering::SeqCst);
        let old = self.0.words[at / 8].swap(value, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        old
    }

    fn fetch_or(&self, at: usize, bits: u64) -> u64 {
        fence(Ordering::SeqCst);
        let old = self.0.words[at / 8].fetch_or(bits, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        old
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at.is_multiple_of(8), "loom models copy whole words");
        for (i, chunk) in bytes.chunks(8).enumerate() {
            // What is behind the last byte is lost: nothing that a model looks at shares a word.
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0.words[at / 8 + i].store(u64::from_le_bytes(word), Ordering::Relaxed);
        }
    }

    fn read(&self, at: usize, into: &mut [MaybeUninit<u8>]) {
        assert!(at.is_multiple_of(8), "loom models copy whole words");
        for (i, chunk) in into.chunks_mut(8).enumerate() {
            let bytes = self.0.words[at / 8 + i].load(Ordering::Relaxed).to_le_bytes();
            chunk.copy_from_slice(&bytes.map(MaybeUninit::new)[..chunk.len()]);
        }
    }

    fn sleep(&self, at: usize, expected: u32, _limit: Duration) -> Woken {
        let kernel = self.0.kernel.lock().expect("no panics inside");
        if self.load(at) as u32 != expected {
            return Woken::Changed;
        }
        // No time-out: a wake-up that only a time-out would repair must show as a deadlock.
        drop(self.0.sleepers.wait(kernel).expect("no panics inside"));
        Woken::Woken
    }

    fn wake(&self, _at: usize, _count: u32) -> u32 {
        let _kernel = self.0.kernel.lock().expect("no panics inside");
        // One condition variable serves all words, so all must look again.
        self.0.sleepers.notify_all();
        1
    }

    fn ring(&self, bits: u32) -> bool {
        *self.0.kernel.lock().expect("no panics inside") |= bits;
        self.0.sleepers.notify_all();
        true
    }
}

/// One who sleeps.
struct Ticket {
    at: usize,
    number: u64,
    bell: Arc<Condvar>,
}

#[derive(Default)]
struct Asleep {
    tickets: Vec<Ticket>,
    drawn: u64,
}

/// Loom's words with a futex that wakes no more than it must: exactly as many sleepers of exactly that word as it is
/// asked to, first come, first served. A wake-up that is handed to one who goes away with it shows as a deadlock too.
#[derive(Clone)]
pub struct Strict {
    words: Loom,
    kernel: Arc<Mutex<Asleep>>,
}

impl Strict {
    /// A zeroed memory of `size` bytes.
    pub fn new(size: usize) -> Strict {
        Strict { words: Loom::new(size), kernel: Arc::new(Mutex::new(Asleep::default())) }
    }

    /// What an event loop does: waits until its bell is rung.
    pub fn hear(&self, bit: u32) {
        self.words.hear(bit);
    }
}

impl Memory for Strict {
    fn size(&self) -> usize {
        self.words.size()
    }

    fn load(&self, at: usize) -> u64 {
        self.words.load(at)
    }

    fn store(&self, at: usize, value: u64) {
        self.words.store(at, value);
    }

    fn compare_exchange(&self, at: usize, old: u64, new: u64) -> Result<(), u64> {
        self.words.compare_exchange(at, old, new)
    }

    fn swap(&self, at: usize, value: u64) -> u64 {
        self.words.swap(at, value)
    }

    fn fetch_or(&self, at: usize, bits: u64) -> u64 {
        self.words.fetch_or(at, bits)
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        self.words.write(at, bytes);
    }

    fn read(&self, at: usize, into: &mut [MaybeUninit<u8>]) {
        self.words.read(at, into);
    }

    fn sleep(&self, at: usize, expected: u32, _limit: Duration) -> Woken {
        let mut kernel = self.kernel.lock().expect("no panics inside");
        if self.load(at) as u32 != expected {
            return Woken::Changed;
        }
        kernel.drawn += 1;
        let (number, bell) = (kernel.drawn, Arc::new(Condvar::new()));
        kernel.tickets.push(Ticket { at, number, bell: Arc::clone(&bell) });
        while kernel.tickets.iter().any(|ticket| ticket.number == number) {
            kernel = bell.wait(kernel).expect("no panics inside");
        }
        Woken::Woken
    }

    fn wake(&self, at: usize, count: u32) -> u32 {
        let mut kernel = self.kernel.lock().expect("no panics inside");
        let mut woken = 0;
        while let Some(first) = kernel.tickets.iter().position(|ticket| ticket.at == at && woken < count) {
            kernel.tickets.remove(first).bell.notify_one();
            woken += 1;
        }
        woken
    }

    fn ring(&self, bits: u32) -> bool {
        self.words.ring(bits)
    }
}
