//! What every object begins with: spec of the first 12,288 bytes.
//!
//! ```text
//! offset 0       header, 4096 bytes; written before the file has a name, never changed
//!   0x00 magic       "ISTHMUS" and 1, little endian; written last
//!   0x08 version     layout version of the kind (low 32 bits) | kind (high 32 bits)
//!   0x10 identity    128 bits: those of the namespace's registry
//!   0x20 total       length of the file; of a shared memory, length of what comes before its content
//!   0x28 flags       1 persistent, 2 anonymous
//!   0x30 nonce       random, not 0: tells this object from any other
//!   0x38 created     ns since 1970
//!   0x40 creator     pid in its own PID namespace
//!   0x80 attributes  16 words, meaning given by the kind
//! offset 4096    attachment table, 256 cells of 32 bytes
//!   +0x00 owner      Owner word of a process, 0 free       compare-and-swap by whoever takes the cell
//!   +0x08 roles      bits, meaning given by the kind       the owner of the cell
//!   +0x10 waiting    threads that wait as producers and (high half) as consumers    the owner of the cell
//!   +0x18            0                                      the owner of the cell
//!                  or, with role BELL: token and bell, see `bell.rs`
//! offset 12288   body, laid out by the kind
//! ```
//!
//! **Crash windows.** Creating: the file has no name until `linkat`; killed before, the kernel frees it;
//! killed after, the object is complete and, as nobody holds its lock, garbage (`open.rs`). Taking a cell: 1
//! swap the owner word (0 or a dead owner -> me); 2 write 0 to the other three words. Killed after 1, a dead
//! owner's cell is left, with the roles of the dead process before it if the cell was taken over from one:
//! whoever sees it treats it like any dead owner's. Leaving: 1 write 0 to the other three words; 2 write 0 to
//! the owner word. Killed after 1: a dead owner's cell without roles.

use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::sys::file::{self, File};
use crate::sys::map::Map;

/// Where the body of an object begins.
pub const BODY: usize = 12288;
/// Cells in the attachment table.
pub const CELLS: usize = 256;
/// Persistent: stays until unlinked.
pub(super) const PERSISTENT: u64 = 1;
/// On memfd, without a name.
pub(super) const ANONYMOUS: u64 = 2;

const MAGIC: u64 = u64::from_le_bytes(*b"ISTHMUS\x01");
const HEADER_LEN: usize = 0x100;
const ATTRIBUTES: usize = 0x80;
const TABLE: usize = 4096;
const CELL: usize = 32;
const _: () = assert!(TABLE + CELLS * CELL == BODY && ATTRIBUTES + 16 * 8 == HEADER_LEN);

/// The queue's kind.
pub const QUEUE: u32 = 1;
/// The mutex's kind.
pub const MUTEX: u32 = 2;
/// The value's kind.
pub const VALUE: u32 = 3;
/// The shared memory's kind: the only one whose file goes on behind `total`, and may grow there.
pub const SHARED_MEMORY: u32 = 4;
/// The recursive mutex's kind.
pub const RLOCK: u32 = 5;
/// The semaphore's kind.
pub const SEMAPHORE: u32 = 6;
/// The bounded semaphore's kind.
pub const BOUNDED_SEMAPHORE: u32 = 7;
/// The read-write lock's kind.
pub const RWLOCK: u32 = 8;
/// The event's kind.
pub const EVENT: u32 = 9;
/// The condition's kind.
pub const CONDITION: u32 = 10;
/// The barrier's kind.
pub const BARRIER: u32 = 11;

/// The name of a kind for error texts.
pub fn kind_name(kind: u32) -> String {
    match kind {
        QUEUE => "a queue".to_owned(),
        MUTEX => "a mutex".to_owned(),
        VALUE => "a value".to_owned(),
        SHARED_MEMORY => "a shared memory".to_owned(),
        RLOCK => "a recursive mutex".to_owned(),
        SEMAPHORE => "a semaphore".to_owned(),
        BOUNDED_SEMAPHORE => "a bounded semaphore".to_owned(),
        RWLOCK => "a read-write lock".to_owned(),
        EVENT => "an event".to_owned(),
        CONDITION => "a condition".to_owned(),
        BARRIER => "a barrier".to_owned(),
        other => format!("an object of unknown kind {other}"),
    }
}

/// Role of a cell that is an event loop's, see `bell.rs`; no other role goes with it.
pub const BELL: u64 = 1 << 63;

/// Offset of a word (0 to 3) of a cell of the attachment table.
pub const fn cell(index: usize, word: usize) -> usize {
    TABLE + index * CELL + word * 8
}

/// The header, read once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) kind: u32,
    pub(super) identity: [u64; 2],
    pub(super) total: u64,
    pub(super) flags: u64,
    pub(super) nonce: u64,
    pub(super) created_ns: u64,
    pub(super) creator: u64,
    pub(super) attributes: [u64; 16],
}

/// What an object must be to be accepted.
pub(super) struct Expected<'a> {
    pub(super) kind: u32,
    pub(super) version: u32,
    pub(super) identity: [u64; 2],
    /// How error texts call the file.
    pub(super) name: &'a str,
}

impl Header {
    /// Reads the header of a file without mapping it. `None` if the file is not an object of ours.
    pub(super) fn read(file: &File) -> Result<Option<Header>> {
        let mut bytes = [0; HEADER_LEN];
        let got = file::read_at(file, &mut bytes, 0)?;
        Ok(Header::parse(&bytes[..got]))
    }

    /// A header cut short has zeros for what is missing, so that a truncated object can still be told from
    /// a foreign file.
    pub(super) fn parse(bytes: &[u8]) -> Option<Header> {
        let word = |offset: usize| match bytes.get(offset..offset + 8) {
            Some(bytes) => u64::from_le_bytes(bytes.try_into().unwrap_or_default()),
            None => 0,
        };
        (word(0) == MAGIC).then(|| Header {
            version: word(0x08) as u32,
            kind: (word(0x08) >> 32) as u32,
            identity: [word(0x10), word(0x18)],
            total: word(0x20),
            flags: word(0x28),
            nonce: word(0x30),
            created_ns: word(0x38),
            creator: word(0x40),
            attributes: std::array::from_fn(|index| word(ATTRIBUTES + index * 8)),
        })
    }

    /// Writes the header into a new object; the magic last.
    pub(super) fn write(&self, map: &Map) {
        let write = |offset: usize, value: u64| map.word(offset).store(value, Ordering::Relaxed);
        write(0x08, u64::from(self.version) | u64::from(self.kind) << 32);
        write(0x10, self.identity[0]);
        write(0x18, self.identity[1]);
        write(0x20, self.total);
        write(0x28, self.flags);
        write(0x30, self.nonce);
        write(0x38, self.created_ns);
        write(0x40, self.creator);
        for (index, value) in self.attributes.iter().enumerate() {
            write(ATTRIBUTES + index * 8, *value);
        }
        // SYNC(born): everything before is visible to whoever reads the magic.
        map.word(0).store(MAGIC, Ordering::Release);
    }

    pub(super) fn persistent(&self) -> bool {
        self.flags & PERSISTENT != 0
    }

    /// Whether a file of this length can be what the header says.
    pub(super) fn fits(&self, size: u64) -> bool {
        let whole = if self.kind == SHARED_MEMORY { self.total <= size } else { self.total == size };
        whole && self.total >= BODY as u64
    }

    /// Refuses what this program cannot use, naming both sides.
    pub(super) fn validate(&self, expected: &Expected<'_>, size: u64) -> Result<()> {
        let name = expected.name;
        let problem = if self.kind != expected.kind {
            format!("{name} is {}, not {}", kind_name(self.kind), kind_name(expected.kind))
        } else if self.version != expected.version {
            format!(
                "{name} has layout version {} of {}, this program has version {}",
                self.version,
                kind_name(self.kind),
                expected.version
            )
        } else if self.identity != expected.identity {
            format!(
                "{name} belongs to registry {:016x}{:016x}, its namespace now has {:016x}{:016x}: the registry \
                 was deleted while objects were in use; unlink the object",
                self.identity[0], self.identity[1], expected.identity[0], expected.identity[1]
            )
        } else if !self.fits(size) {
            format!(
                "{name} is truncated or was resized: its header says {} bytes, the file has {size}",
                self.total
            )
        } else {
            return Ok(());
        };
        Err(Error::Incompatible(problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            version: 3,
            kind: QUEUE,
            identity: [5, 6],
            total: BODY as u64 + 64,
            flags: PERSISTENT,
            nonce: 7,
            created_ns: 8,
            creator: 9,
            attributes: std::array::from_fn(|index| index as u64 + 100),
        }
    }

    #[test]
    fn a_header_survives_a_round_trip() {
        let file = file::memory(c"test").unwrap();
        crate::sys::limits::reserve(&file, BODY as u64, None).unwrap();
        let map = Map::shared(&file, BODY).unwrap();
        assert_eq!(Header::read(&file).unwrap(), None);
        header().write(&map);
        assert_eq!(Header::read(&file).unwrap(), Some(header()));
    }

    #[test]
    fn only_a_shared_memory_may_be_longer_than_its_header_says() {
        let memory = Header { kind: SHARED_MEMORY, ..header() };
        for (size, plain, grown) in [(64, true, true), (65, false, true), (63, false, false)] {
            let size = BODY as u64 + size;
            assert_eq!((header().fits(size), memory.fits(size)), (plain, grown), "{size}");
        }
        assert!(!Header { total: 64, ..memory }.fits(1 << 20));
    }

    #[test]
    fn every_difference_is_refused_with_both_sides() {
        let expected = Expected { kind: QUEUE, version: 3, identity: [5, 6], name: "jobs" };
        header().validate(&expected, BODY as u64 + 64).unwrap();
        for (changed, size, sides) in [
            (Header { kind: MUTEX, ..header() }, BODY as u64 + 64, ["a mutex", "a queue"]),
            (Header { version: 4, ..header() }, BODY as u64 + 64, ["version 4", "version 3"]),
            (
                Header { identity: [1, 1], ..header() },
                BODY as u64 + 64,
                ["00010000000000000001", "00050000000000000006"],
            ),
            (header(), BODY as u64, ["12352", "12288"]),
            (Header { total: 64, ..header() }, 64, ["64 bytes", "has 64"]),
        ] {
            let text = changed.validate(&expected, size).unwrap_err().to_string();
            assert!(sides.iter().all(|side| text.contains(side)) && text.contains("jobs"), "{text}");
        }
    }
}
