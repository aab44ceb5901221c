//! One number that processes share: a 64-bit integer or a float.
//!
//! # Layout of the body
//! ```text
//!    0  word        the number: an i64, or the bits of an f64; which of them stands in the header's
//!                   attributes and never changes                      anybody who uses the object
//!    8  unused, so that the word has its cache line to itself
//! ```
//!
//! # Killed in between
//! There is no in between. Each change is one atomic instruction on one aligned word: a swap, or a
//! compare-and-swap that is tried again from the value found until it succeeds or what it would write is
//! refused. Whoever is killed before that instruction has changed nothing, whoever is killed after it has
//! made the whole change; what remained was only to return. Nobody ever owns the word, so nothing is left to
//! take back and nobody waits for anybody: a compare-and-swap fails only because another one succeeded, and a
//! process that is stopped holds up no one.
//!
//! A reader sees a number that somebody wrote, never a part of one. Every value of the word is a number, so
//! there is nothing to check in what is read. All changes are full fences, plain stores are not used, and
//! loads acquire: whoever sees a number also sees what its writer did before, and all operations on all values
//! happen in one order, the same for everyone.

#[cfg(not(loom))]
pub mod handle;
#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, not(loom)))]
mod sweep;

use crate::memory::Memory;

/// Bytes of the body.
pub const BODY_SIZE: usize = 64;

/// What the word can stand for.
pub trait Number: Copy {
    /// As it stands in the word.
    fn to_word(self) -> u64;
    /// What the word stands for.
    fn from_word(word: u64) -> Self;
    /// The sum; `None` where there is no such number.
    fn plus(self, other: Self) -> Option<Self>;
    /// Whether `compare_and_set` takes the two for the same.
    fn same(self, other: Self) -> bool;
}

impl Number for i64 {
    #[inline]
    fn to_word(self) -> u64 {
        self as u64
    }

    #[inline]
    fn from_word(word: u64) -> i64 {
        word as i64
    }

    #[inline]
    fn plus(self, other: i64) -> Option<i64> {
        self.checked_add(other)
    }

    #[inline]
    fn same(self, other: i64) -> bool {
        self == other
    }
}

impl Number for f64 {
    #[inline]
    fn to_word(self) -> u64 {
        self.to_bits()
    }

    #[inline]
    fn from_word(word: u64) -> f64 {
        f64::from_bits(word)
    }

    /// Always a number of its type: beyond the largest one it is infinite.
    #[inline]
    fn plus(self, other: f64) -> Option<f64> {
        Some(self + other)
    }

    /// By value and not by bits: 0.0 is -0.0, and NaN is not even itself.
    #[inline]
    #[expect(clippy::float_cmp, reason = "compared for being the same on purpose")]
    fn same(self, other: f64) -> bool {
        self == other
    }
}

/// A shared number on some memory. Which type it has is for the caller to know, the same in every call.
#[derive(Clone, Copy)]
pub struct Value<M> {
    memory: M,
    at: usize,
}

impl<M: Memory> Value<M> {
    /// The value whose body begins at `at`.
    pub fn new(memory: M, at: usize) -> Value<M> {
        assert!(at + BODY_SIZE <= memory.size(), "the body must lie inside the memory");
        Value { memory, at }
    }

    /// The number as it is now.
    #[inline]
    pub fn get<N: Number>(&self) -> N {
        N::from_word(self.memory.load(self.at))
    }

    /// Replaces the number; returns the one before.
    #[inline]
    pub fn exchange<N: Number>(&self, new: N) -> N {
        N::from_word(self.memory.swap(self.at, new.to_word()))
    }

    /// Adds to the number and returns the sum; where there is none, changes nothing and returns the number
    /// to which nothing was added.
    #[inline]
    pub fn add<N: Number>(&self, more: N) -> Result<N, N> {
        let mut word = self.memory.load(self.at);
        loop {
            let before = N::from_word(word);
            let Some(sum) = before.plus(more) else { return Err(before) };
            match self.memory.compare_exchange(self.at, word, sum.to_word()) {
                Ok(()) => return Ok(sum),
                Err(found) => word = found,
            }
        }
    }

    /// Replaces the number where it is the same as `expected`; true where it was.
    #[inline]
    pub fn compare_and_set<N: Number>(&self, expected: N, new: N) -> bool {
        let mut word = self.memory.load(self.at);
        while N::from_word(word).same(expected) {
            match self.memory.compare_exchange(self.at, word, new.to_word()) {
                Ok(()) => return true,
                Err(found) => word = found,
            }
        }
        false
    }
}
