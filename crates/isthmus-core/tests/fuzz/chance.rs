//! Numbers that look random and follow from the number of the case.

use std::ops::Range;

/// A generator: xorshift on a state that is never zero.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(case: u64) -> Chance {
        // Neighbouring cases must not begin alike.
        let mut state = case.wrapping_add(0x9e37_79b9_7f4a_7c15);
        for factor in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb_u64] {
            state = (state ^ state >> 30).wrapping_mul(factor);
        }
        Chance((state ^ state >> 31) | 1)
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 0 to `limit - 1`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.word()) * limit as u128) >> 64) as usize
    }

    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Words that somebody can overwrite: of a mapping, or of the bytes of a file.
pub(crate) trait Words {
    fn length(&self) -> usize;
    fn get(&self, at: usize) -> u64;
    fn set(&mut self, at: usize, word: u64);
}

impl Words for Vec<u8> {
    fn length(&self) -> usize {
        self.len()
    }

    fn get(&self, at: usize) -> u64 {
        u64::from_le_bytes(self[at..at + 8].try_into().unwrap())
    }

    fn set(&mut self, at: usize, word: u64) {
        self[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
}

/// Where damage goes and what it is made of.
pub(crate) struct Targets {
    /// Parts of the file; each is hit as often as any other.
    pub(crate) parts: Vec<Range<usize>>,
    /// Words that mean something: owners living and dead, positions, lengths.
    pub(crate) meaningful: Vec<u64>,
}

impl Targets {
    /// The word at a random place of a random part, most often near its beginning.
    fn place(&self, chance: &mut Chance, length: usize) -> usize {
        let part = &self.parts[chance.below(self.parts.len())];
        let words = part.len() / 8;
        let near = match chance.below(4) {
            0 => words,
            1 => words.min(512),
            _ => words.min(32),
        };
        (part.start + 8 * chance.below(near)).min(length - 8) & !7
    }

    /// What could stand in a word: meaningful, extreme, a little off, or anything.
    fn value(&self, chance: &mut Chance, found: u64) -> u64 {
        match chance.below(12) {
            0 => 0,
            1 => u64::MAX,
            2 => chance.below(16) as u64,
            3 => 1 << chance.below(64),
            4 => (1_u64 << chance.below(64)).wrapping_sub(1),
            5 | 6 => self.meaningful[chance.below(self.meaningful.len())] | chance.below(8) as u64,
            7 => found.wrapping_add(chance.word() % 33).wrapping_sub(16),
            8 => found ^ 1 << chance.below(64),
            9 => found ^ 1 << chance.below(16),
            10 => !found,
            _ => chance.word() >> chance.below(64),
        }
    }

    /// Overwrites one word.
    pub(crate) fn hit(&self, chance: &mut Chance, words: &mut impl Words) {
        let at = self.place(chance, words.length());
        let word = if chance.one_in(8) {
            // What stands elsewhere: plausible in itself, and wrong.
            let other = self.place(chance, words.length());
            words.get(other)
        } else {
            self.value(chance, words.get(at))
        };
        words.set(at, word);
    }

    /// Overwrites one word, a few, or many.
    pub(crate) fn damage(&self, chance: &mut Chance, words: &mut impl Words) {
        let count = chance.pick(&[1, 1, 1, 2, 3, 8, 100]);
        for _ in 0..count {
            self.hit(chance, words);
        }
    }
}
