//! Memory that stops at a chosen store, to look at what a kill leaves behind.
//!
//! A [`Crashing`] is one "process" on a memory shared by several of them in one thread. Each store
//! (and each successful read-modify-write) counts; at number `n` the process is gone: it unwinds
//! with [`Killed`] and nothing it does afterwards (drops included) reaches the memory any more.
//! A copy of bytes counts twice, so that it can be torn in the middle.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::rc::Rc;
use std::time::Duration;

use super::{Memory, Peers, Woken};
use crate::error::Death;
use crate::owner::Owner;

/// The payload a killed process unwinds with.
#[derive(Debug)]
pub struct Killed;

/// One process on a shared memory.
#[derive(Clone)]
pub struct Crashing {
    words: Rc<[Cell<u64>]>,
    left: Rc<Cell<Option<usize>>>,
    gone: Rc<Cell<bool>>,
    rung: Rc<Cell<u32>>,
}

impl Crashing {
    /// A zeroed memory of `size` bytes, with its first process.
    pub fn new(size: usize) -> Crashing {
        Crashing {
            words: vec![Cell::new(0); size.div_ceil(8)].into(),
            left: Rc::default(),
            gone: Rc::default(),
            rung: Rc::default(),
        }
    }

    /// Bells rung on this memory since the last call, by whichever process.
    pub fn take_rung(&self) -> u32 {
        self.rung.take()
    }

    /// Another process on the same memory.
    pub fn process(&self) -> Crashing {
        Crashing {
            words: Rc::clone(&self.words),
            left: Rc::default(),
            gone: Rc::default(),
            rung: Rc::clone(&self.rung),
        }
    }

    /// A copy of the memory as it is now, with its first process.
    pub fn fork_memory(&self) -> Crashing {
        Crashing {
            words: self.words.iter().cloned().collect(),
            left: Rc::default(),
            gone: Rc::default(),
            rung: Rc::default(),
        }
    }

    /// Kills this process at its `n`-th store from now (1 is the next one): that store and all
    /// later ones do not happen.
    pub fn kill_at(&self, n: usize) {
        self.left.set(Some(n));
    }

    /// Runs `operation` until it ends or is killed; `None` means killed.
    pub fn run<T>(&self, operation: impl FnOnce() -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(operation)) {
            Ok(value) => Some(value),
            Err(payload) if payload.is::<Killed>() => None,
            Err(payload) => std::panic::resume_unwind(payload),
        }
    }

    /// True once killed.
    pub fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// True where a store may happen; unwinds where it is the fatal one.
    fn may_store(&self) -> bool {
        if self.gone.get() {
            return false;
        }
        if let Some(left) = self.left.get() {
            if left <= 1 {
                self.gone.set(true);
                panic_any(Killed);
            }
            self.left.set(Some(left - 1));
        }
        true
    }

    fn write_bytes(&self, at: usize, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            let (cell, shift) = (&self.words[(at + i) / 8], (at + i) % 8 * 8);
            cell.set(cell.get() & !(0xff << shift) | u64::from(*byte) << shift);
        }
    }
}

impl Memory for Crashing {
    fn size(&self) -> usize {
        self.words.len() * 8
    }

    fn load(&self, at: usize) -> u64 {
        assert_eq!(at % 8, 0, "word offsets are aligned");
        self.words[at / 8].get()
    }

    fn store(&self, at: usize, value: u64) {
        assert_eq!(at % 8, 0, "word offsets are aligned");
        if self.may_store() {
            self.words[at / 8].set(value);
        }
    }

    fn compare_exchange(&self, at: usize, old: u64, new: u64) -> Result<(), u64> {
        let found = self.load(at);
        if found != old {
            return Err(found);
        }
        self.store(at, new);
        Ok(())
    }

    fn swap(&self, at: usize, value: u64) -> u64 {
        let old = self.load(at);
        self.store(at, value);
        old
    }

    fn fetch_or(&self, at: usize, bits: u64) -> u64 {
        let old = self.load(at);
        self.store(at, old | bits);
        old
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        let (first, second) = bytes.split_at(bytes.len() / 2);
        if self.may_store() {
            self.write_bytes(at, first);
        }
        if self.may_store() {
            self.write_bytes(at + first.len(), second);
        }
    }

    fn read(&self, at: usize, into: &mut [MaybeUninit<u8>]) {
        for (i, byte) in into.iter_mut().enumerate() {
            byte.write((self.words[(at + i) / 8].get() >> ((at + i) % 8 * 8)) as u8);
        }
    }

    fn sleep(&self, at: usize, expected: u32, _limit: Duration) -> Woken {
        // One thread plays all processes: nobody could wake us.
        if self.load(at) as u32 == expected { Woken::TimedOut } else { Woken::Changed }
    }

    fn wake(&self, _at: usize, _count: u32) -> u32 {
        0
    }

    fn ring(&self, bits: u32) -> bool {
        // As for sleepers: the test looks whether somebody would have been woken.
        if !self.gone.get() {
            self.rung.set(self.rung.get() | bits);
        }
        true
    }
}

/// Peers of a crash test: the test says who is dead.
#[derive(Clone, Default)]
pub struct Oracle {
    dead: Rc<std::cell::RefCell<Vec<Owner>>>,
}

impl Oracle {
    /// Declares a process dead.
    pub fn kill(&self, owner: Owner) {
        self.dead.borrow_mut().push(owner.as_process());
    }
}

impl Peers for Oracle {
    fn is_dead(&self, owner: Owner) -> bool {
        self.dead.borrow().contains(&owner.as_process())
    }

    fn death(&self, owner: Owner) -> Death {
        Death { owner, pid: owner.slot(), since_ns: 1 }
    }

    fn relock(&self) -> crate::error::Result<()> {
        Ok(())
    }
}

/// Lets a test run thousands of kills without a backtrace printed for each.
pub fn silence_kills() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.payload().is::<Killed>() {
                before(info);
            }
        }));
    });
}
