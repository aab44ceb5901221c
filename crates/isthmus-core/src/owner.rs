//! Who holds what: one 64-bit word names a process (registry slot and generation) and, for locks,
//! a context inside it (thread or task), beside three flags that only locks use.
//!
//! ```text
//!  63          39 38            15 14        3  2 1 0
//! +--------------+----------------+-----------+------+
//! | generation   | context        | slot      |R P W |
//! +--------------+----------------+-----------+------+
//! ```
//! The low 32 bits (flags, slot, low half of the context) are the part a futex sleeps on.
//! Slot 0 is never handed out, so an all-zero word means "nobody".

/// Somebody may be asleep on this lock.
pub const WAITERS: u64 = 1;
/// The owner in the word died holding this lock.
pub const POISONED: u64 = 1 << 1;
/// With [`POISONED`]: the owner in the word lives and is repairing what the lock protects.
pub const RECOVERING: u64 = 1 << 2;
/// All three flags.
pub const FLAGS: u64 = WAITERS | POISONED | RECOVERING;

const SLOT_SHIFT: u32 = 3;
const SLOT_BITS: u32 = 12;
const CONTEXT_SHIFT: u32 = 15;
const CONTEXT_BITS: u32 = 24;
const GENERATION_SHIFT: u32 = 39;
const GENERATION_BITS: u32 = 25;

/// Highest usable slot index; index 0 is reserved for "nobody".
pub const MAX_SLOT: u32 = (1 << SLOT_BITS) - 1;
/// Highest generation before it wraps to 1.
pub const MAX_GENERATION: u32 = (1 << GENERATION_BITS) - 1;
/// Highest context number before it wraps to 0.
pub const MAX_CONTEXT: u32 = (1 << CONTEXT_BITS) - 1;

const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

/// A process (context 0) or a context inside it. Never carries flags.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Owner(u64);

impl Owner {
    /// Nobody.
    pub const NONE: Owner = Owner(0);

    /// The process in `slot` of this `generation`; out-of-range bits are cut off.
    pub const fn process(slot: u32, generation: u32) -> Owner {
        Owner(
            ((slot as u64 & mask(SLOT_BITS)) << SLOT_SHIFT)
                | ((generation as u64 & mask(GENERATION_BITS)) << GENERATION_SHIFT),
        )
    }

    /// The same process with the given context.
    pub const fn with_context(self, context: u32) -> Owner {
        Owner(self.as_process().0 | ((context as u64 & mask(CONTEXT_BITS)) << CONTEXT_SHIFT))
    }

    /// Reads an owner from a word, dropping the flags.
    pub const fn from_word(word: u64) -> Owner {
        Owner(word & !FLAGS)
    }

    /// The word, without flags.
    pub const fn word(self) -> u64 {
        self.0
    }

    /// True for [`Owner::NONE`].
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Registry slot, 1 to [`MAX_SLOT`]; 0 only for nobody.
    pub const fn slot(self) -> u32 {
        ((self.0 >> SLOT_SHIFT) & mask(SLOT_BITS)) as u32
    }

    /// Generation of the slot.
    pub const fn generation(self) -> u32 {
        ((self.0 >> GENERATION_SHIFT) & mask(GENERATION_BITS)) as u32
    }

    /// Thread or task inside the process; 0 when the process as a whole is meant.
    pub const fn context(self) -> u32 {
        ((self.0 >> CONTEXT_SHIFT) & mask(CONTEXT_BITS)) as u32
    }

    /// The process alone.
    pub const fn as_process(self) -> Owner {
        Owner(self.0 & !(mask(CONTEXT_BITS) << CONTEXT_SHIFT))
    }
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "slot {} generation {} context {}", self.slot(), self.generation(), self.context())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_overlap_and_survive_a_round_trip() {
        let owner = Owner::process(MAX_SLOT, MAX_GENERATION).with_context(MAX_CONTEXT);
        assert_eq!(owner.word() | FLAGS, u64::MAX);
        assert_eq!(
            (owner.slot(), owner.generation(), owner.context()),
            (MAX_SLOT, MAX_GENERATION, MAX_CONTEXT)
        );
        assert_eq!(owner.as_process(), Owner::process(MAX_SLOT, MAX_GENERATION));
    }

    #[test]
    fn flags_are_dropped_on_reading() {
        let owner = Owner::process(3, 9).with_context(4);
        assert_eq!(Owner::from_word(owner.word() | FLAGS), owner);
    }
}
