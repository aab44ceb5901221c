//! The registry file: spec of the layout and of every crash window.
//!
//! ```text
//! offset 0           header, 4096 bytes, written before the file has a name, never changed
//!   0x00 magic       "ISTHREG" and 1, little endian
//!   0x08 version     1
//!   0x10 identity    128 random bits; every object of the namespace stores them
//!   0x20 slots       2048: number of slots, slot 0 included and never used
//!   0x28 slot size   128
//!   0x30 created     ns since 1970
//!   bytes 1..2047    carry no locks' data: classic byte lock i of the file belongs to slot i
//! offset 4096 + 128*i: slot i, 1 <= i <= 2047
//!   0x00 word        generation << 8 | state           claimer, burier (compare-and-swap only)
//!   0x08 pid         in its own PID namespace          claimer
//!   0x10 pid ns      inode of that namespace, 0 unknown
//!   0x18 time ns     inode of its time namespace, 0 unknown
//!   0x20 start       clock ticks since boot            (field 22 of /proc/<pid>/stat)
//!   0x28 stack       bottom of the stack               (field 28; another after exec)
//!   0x30 user        effective user id
//!   0x38 claimed     ns since 1970
//!   0x40 noticed     death noticed: ms since 1970 << 20 | low 20 bits of the generation    burier
//!   0x48..0x60       zero
//!   0x60 command     32 bytes, zero padded
//! ```
//!
//! **States of a slot's word** (g: generation, 1 to 2^25 - 1, then 1 again):
//! ```text
//!  FREE(0) ---claim---> CLAIMING(g+1) ---publish---> LIVE(g+1) ---proof of death---> BURIED(g+1)
//!              ^             | claimer killed                                            |
//!              +-------------+-----------------------------------------------------------+
//! ```
//! Only `LIVE(g)` says that `Owner(slot, g)` may be alive; every other word says that it is not. The proof
//! of death is described in `evidence.rs`.
//!
//! **Claim**, with byte lock i held: 1 swap the word to `CLAIMING(g+1)`; 2 write the fields; 3 swap
//! `CLAIMING(g+1)` to `LIVE(g+1)`. No other process knows `Owner(i, g+1)` before 3.
//!
//! | killed after | a reader sees | repaired by |
//! |---|---|---|
//! | lock, before 1 | the old word; the kernel drops the lock | nothing to repair |
//! | 1, or within 2 | `CLAIMING(g+1)`: nobody; fields are not read | the next claimer: a free lock and not LIVE is vacant, generation g+2 |
//! | 3 | `LIVE(g+1)` of a dead process; all fields were written before | any verifier: buries |
//!
//! **Burial**: 1 swap `LIVE(g)` to `BURIED(g)`; 2 write `noticed`. Killed between: the time is unknown. A
//! burier that sleeps between while the slot is reused writes a time tagged with g, which readers of g+1
//! ignore. The fields of the dead stay readable until the slot is claimed again.
//!
//! **Living process without its lock** (a foreign close dropped it): its slot stays `LIVE`; verifiers and
//! claimers find the process in `/proc` and leave it alone; it locks again on its next slow path. Two
//! claimers at once are possible only if the first lost its lock inside a claim: the second's swap to
//! `CLAIMING(g+2)` makes the first's step 3 fail, which then takes another slot. Fields that the first wrote
//! late over the second's are put right by the second's next `relock`.

use crate::error::{Error, Result};
use crate::owner::MAX_GENERATION;
use crate::sys::map::Map;

pub(super) const NAME: &str = ".registry";
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"ISTHREG\x01");
pub(super) const VERSION: u64 = 1;
pub(super) const SLOTS: u64 = 2048;
pub(super) const SLOT_SIZE: u64 = 128;
pub(super) const HEADER: u64 = 4096;
pub(super) const FILE_SIZE: u64 = HEADER + SLOTS * SLOT_SIZE;

pub(super) const H_MAGIC: usize = 0x00;
pub(super) const H_VERSION: usize = 0x08;
pub(super) const H_IDENTITY: usize = 0x10;
pub(super) const H_SLOTS: usize = 0x20;
pub(super) const H_SLOT_SIZE: usize = 0x28;
pub(super) const H_CREATED: usize = 0x30;

pub(super) const WORD: usize = 0x00;
pub(super) const PID: usize = 0x08;
pub(super) const PID_NS: usize = 0x10;
pub(super) const TIME_NS: usize = 0x18;
pub(super) const START: usize = 0x20;
pub(super) const STACK: usize = 0x28;
pub(super) const USER: usize = 0x30;
pub(super) const CLAIMED: usize = 0x38;
pub(super) const NOTICED: usize = 0x40;
pub(super) const COMMAND: usize = 0x60;
pub(super) const COMMAND_LEN: usize = 32;

const _: () = assert!(SLOTS - 1 <= crate::owner::MAX_SLOT as u64);
const _: () = assert!(SLOTS <= HEADER && COMMAND + COMMAND_LEN == SLOT_SIZE as usize);

pub(super) const CLAIMING: u64 = 1;
pub(super) const LIVE: u64 = 2;
pub(super) const BURIED: u64 = 3;

pub(super) const fn word(generation: u32, state: u64) -> u64 {
    (generation as u64) << 8 | state
}

pub(super) const fn state(word: u64) -> u64 {
    word & 0xff
}

/// Generation in a word; bits beyond those an `Owner` can hold are cut off.
pub(super) const fn generation(word: u64) -> u32 {
    ((word >> 8) & MAX_GENERATION as u64) as u32
}

pub(super) const fn next_generation(generation: u32) -> u32 {
    if generation >= MAX_GENERATION { 1 } else { generation + 1 }
}

/// Offset of a word of a slot. The caller has checked that `slot < SLOTS`.
pub(super) const fn at(slot: u32, field: usize) -> usize {
    HEADER as usize + slot as usize * SLOT_SIZE as usize + field
}

/// Milliseconds and generation in one word.
pub(super) const fn noticed(ns: u64, generation: u32) -> u64 {
    (ns / 1_000_000) << 20 | (generation as u64 & 0xf_ffff)
}

/// Nanoseconds out of [`noticed`], 0 if it is about another generation.
pub(super) const fn noticed_ns(word: u64, generation: u32) -> u64 {
    if word & 0xf_ffff == generation as u64 & 0xf_ffff { (word >> 20) * 1_000_000 } else { 0 }
}

/// Checks the header of a mapped registry and gives its identity.
pub(super) fn check_header(map: &Map, path: &std::path::Path) -> Result<[u64; 2]> {
    let read = |offset: usize| map.word(offset).load(std::sync::atomic::Ordering::Acquire);
    let refuse = |what: String| {
        Err(Error::Incompatible(format!(
            "{}: {what}; remove the namespace directory when no process uses it",
            path.display()
        )))
    };
    if read(H_MAGIC) != MAGIC {
        return refuse("this is not a registry of Isthmus".to_owned());
    }
    if read(H_VERSION) != VERSION {
        return refuse(format!("the registry has layout {}, this program has {VERSION}", read(H_VERSION)));
    }
    if (read(H_SLOTS), read(H_SLOT_SIZE)) != (SLOTS, SLOT_SIZE) {
        return refuse(format!(
            "the registry has {} slots of {} bytes, this program has {SLOTS} of {SLOT_SIZE}",
            read(H_SLOTS),
            read(H_SLOT_SIZE)
        ));
    }
    match [read(H_IDENTITY), read(H_IDENTITY + 8)] {
        [0, 0] => refuse("the registry has no identity".to_owned()),
        identity => Ok(identity),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_round_trip() {
        for generation_ in [1, 2, MAX_GENERATION] {
            for state_ in [0, CLAIMING, LIVE, BURIED] {
                let word = word(generation_, state_);
                assert_eq!((generation(word), state(word)), (generation_, state_));
            }
        }
        assert_eq!(next_generation(MAX_GENERATION), 1);
        assert_eq!(next_generation(0), 1);
    }

    #[test]
    fn the_time_of_another_generation_is_not_believed() {
        let now = 1_900_000_000_123_456_789;
        assert_eq!(noticed_ns(noticed(now, 7), 7), now / 1_000_000 * 1_000_000);
        assert_eq!(noticed_ns(noticed(now, 7), 8), 0);
    }
}
