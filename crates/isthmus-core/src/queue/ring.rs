//! The ring: small messages and the descriptors of large ones, in the order of their commits.
//!
//! # Layout
//! Positions count bytes since the queue was made and only grow; `position mod ring_size` is the place.
//! An entry is a header word and its payload, padded to 8; the payload may wrap around the end.
//!
//! ```text
//!            head                                    tail
//!  ----------+--------+---------+--------+-----------+--------+------------------
//!   free     | header | payload | header | payload … |   0    | free, old bytes
//!  ----------+--------+---------+--------+-----------+--------+------------------
//!  header:  63 C | 62..56 kind | 55..32 low bits of the message's number
//!           | 31..25 low bits of the sender's generation | 24..13 its slot | 12..0 payload length
//! ```
//! **The word at the tail is always zero.** Consumers therefore never read the tail: a header that
//! is not zero is a message, and the line they look at is the line they are going to read.
//!
//! # Who writes what
//! | word | writer |
//! |---|---|
//! | entries, tail, tail_seq, head_seen | the holder of the producer lock |
//! | head, head_seq | the holder of the consumer lock |
//!
//! Putting: (1) payload, (2) zero at the new tail, (3) **header: the commit**, (4) tail_seq, (5) tail.
//! A batch writes all its entries and the header of the first one last: one commit for all.
//! Taking: (1) payload copied out, or the run of units claimed, (2) head_seq, (3) **head: the commit**.
//!
//! # Killed in between
//! | killed after | what others see | who repairs |
//! |---|---|---|
//! | put 1, 2 | nothing: the word at the tail is still zero | nobody needs to |
//! | put 3, 4 | the message; the tail stands before it | next holder of the producer lock: [`Ring::roll_forward`] |
//! | take 1 | nothing (a run claimed: see `blocks.rs`) | nobody needs to |
//! | take 2 | head_seq is ahead of head | next holder of the consumer lock: [`Ring::restore_head_seq`] |
//!
//! `tail_seq - head_seq` is the depth: numbers are carried by the entries themselves, so both can be
//! derived again at any time.

use std::mem::MaybeUninit;

use super::layout::{Geometry, INLINE_MAX};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::owner::Owner;

// Beside the tail, written under the producer lock; beside the head, under the consumer lock.
const TAIL_SEQ: usize = 8;
const HEAD_SEEN: usize = 16;
const HEAD_SEQ: usize = 8;

const COMMITTED: u64 = 1 << 63;
const KIND_SHIFT: u32 = 56;
const SEQ_SHIFT: u32 = 32;
const SEQ_MASK: u64 = 0xff_ffff;
const SENDER_SHIFT: u32 = 13;
const LENGTH_MASK: u64 = (1 << SENDER_SHIFT) - 1;
const _: () = assert!(INLINE_MAX as u64 <= LENGTH_MASK);
/// Most messages in one commit; keeps the number's low bits unambiguous for [`Ring::roll_forward`].
pub(super) const BATCH_MAX: usize = 1024;

/// Who put a message, as far as its header has room: registry slot and the low bits of the generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sender(u32);

impl Sender {
    const BITS: u32 = 19;

    #[inline]
    fn of(me: Owner) -> Sender {
        Sender(me.slot() | (me.generation() & 0x7f) << 12)
    }

    pub(super) fn from_bits(bits: u64) -> Sender {
        Sender(bits as u32 & ((1 << Sender::BITS) - 1))
    }

    pub(super) fn bits(self) -> u64 {
        u64::from(self.0)
    }

    /// Slot of the registry.
    pub fn slot(self) -> u32 {
        self.0 & 0xfff
    }

    /// Whether a process of this generation in the slot can be the sender; others of it, 128 lives apart,
    /// look the same.
    pub fn matches(self, generation: u32) -> bool {
        self.0 >> 12 == generation & 0x7f
    }
}

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The message itself.
    Inline = 1,
    /// Descriptor of a large message: first unit, length in bytes.
    Block = 2,
}

/// A header taken apart and checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) position: u64,
    pub(super) kind: Kind,
    pub(super) length: usize,
    pub(super) sender: Sender,
    seq_low: u64,
}

impl Entry {
    /// Position of the entry behind this one.
    pub(super) fn next(&self) -> u64 {
        self.position.wrapping_add(footprint(self.length))
    }
}

/// Bytes an entry takes in the ring.
const fn footprint(length: usize) -> u64 {
    8 + (length as u64).next_multiple_of(8)
}

/// Bytes a payload of this length takes in the ring, header included.
pub(super) const fn entry_size(length: usize) -> usize {
    footprint(length) as usize
}

/// The ring of one level of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring {
    producer: usize,
    consumer: usize,
    data: usize,
    size: usize,
    payload_max: usize,
    level: u8,
}

impl Ring {
    pub(super) fn new(body: usize, geometry: &Geometry, level: usize) -> Ring {
        let (producer, consumer, data) = geometry.level_at(level);
        Ring {
            producer: body + producer,
            consumer: body + consumer,
            data: body + data,
            size: geometry.ring_size,
            payload_max: geometry.inline_max(),
            level: level as u8,
        }
    }

    /// The level of priority, 0 the least urgent.
    #[inline]
    pub(super) fn level(&self) -> u8 {
        self.level
    }

    /// Where a position is; always a word inside the ring, whatever stands in a word that says where.
    #[inline]
    fn place(&self, position: u64) -> usize {
        self.data + (position as usize & (self.size - 8))
    }

    #[inline]
    fn write<M: Memory>(&self, memory: &M, position: u64, bytes: &[u8]) {
        let place = self.place(position);
        let room = self.data + self.size - place;
        if bytes.len() <= room {
            memory.write(place, bytes);
        } else {
            let (first, second) = bytes.split_at(room);
            memory.write(place, first);
            memory.write(self.data, second);
        }
    }

    #[inline]
    fn read<M: Memory>(&self, memory: &M, position: u64, into: &mut [MaybeUninit<u8>]) {
        let place = self.place(position);
        let room = self.data + self.size - place;
        if into.len() <= room {
            memory.read(place, into);
        } else {
            let (first, second) = into.split_at_mut(room);
            memory.read(place, first);
            memory.read(self.data, second);
        }
    }

    /// Reads the payload of an entry.
    #[inline]
    pub(super) fn read_payload<M: Memory>(&self, memory: &M, entry: &Entry, into: &mut [MaybeUninit<u8>]) {
        self.read(memory, entry.position.wrapping_add(8), into);
    }

    /// The descriptor of a large message: its first unit, its length in bytes.
    pub(super) fn descriptor<M: Memory>(&self, memory: &M, entry: &Entry) -> [u64; 2] {
        let mut bytes = [MaybeUninit::new(0); 16];
        self.read_payload(memory, entry, &mut bytes);
        // SAFETY: initialised with zeroes above, then overwritten.
        let byte = |i: usize| unsafe { bytes[i].assume_init() };
        [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|i| byte(at + i))))
    }

    /// The head, as it stands now.
    #[inline]
    pub(super) fn head<M: Memory>(&self, memory: &M) -> u64 {
        memory.load(self.consumer)
    }

    /// True where a message waits at the head. A hint: another consumer may take it first.
    #[inline]
    pub(super) fn has_message<M: Memory>(&self, memory: &M) -> bool {
        memory.load(self.place(self.head(memory))) != 0
    }

    /// The entry at `position`, or `None` where it is not committed yet.
    #[inline(always)]
    pub(super) fn entry<M: Memory>(&self, memory: &M, position: u64) -> Result<Option<Entry>> {
        if position & 7 != 0 {
            return Err(corrupt("a position in the ring", position));
        }
        let header = memory.load(self.place(position));
        if header == 0 {
            return Ok(None);
        }
        let length = (header & LENGTH_MASK) as usize;
        let kind = match (header >> KIND_SHIFT) & 0x7f {
            1 => Kind::Inline,
            2 if length == 16 => Kind::Block,
            _ => return Err(corrupt("an entry's kind", header)),
        };
        if header & COMMITTED == 0 || length > self.payload_max.max(16) {
            return Err(corrupt("an entry's header", header));
        }
        let sender = Sender::from_bits(header >> SENDER_SHIFT);
        Ok(Some(Entry { position, kind, length, sender, seq_low: (header >> SEQ_SHIFT) & SEQ_MASK }))
    }

    /// The entry a consumer takes next; its number must be the expected one. Consumer lock held.
    #[inline(always)]
    pub(super) fn next_entry<M: Memory>(&self, memory: &M, position: u64, seq: u64) -> Result<Option<Entry>> {
        match self.entry(memory, position)? {
            Some(entry) if entry.seq_low != seq & SEQ_MASK => {
                Err(corrupt("a message's number", entry.seq_low))
            }
            other => Ok(other),
        }
    }

    /// The number of the message at the head. Consumer lock held.
    #[inline]
    pub(super) fn head_seq<M: Memory>(&self, memory: &M) -> u64 {
        memory.load(self.consumer + HEAD_SEQ)
    }

    /// The number of an entry: the one after the entry before it, or of the entry at the head, whose number may be
    /// about to be raised. Without a lock it is right where the entry is still there afterwards.
    pub(super) fn number<M: Memory>(&self, memory: &M, entry: &Entry, expected: Option<u64>) -> Result<u64> {
        match expected {
            None => full_seq(self.head_seq(memory), entry.seq_low),
            Some(number) if number & SEQ_MASK == entry.seq_low => Ok(number),
            Some(_) => Err(corrupt("a message's number", entry.seq_low)),
        }
    }

    /// Refuses an entry that reaches further than the ring is long. Without a lock it is right where the entry is
    /// still there afterwards.
    pub(super) fn check_reach<M: Memory>(&self, memory: &M, entry: &Entry) -> Result<()> {
        if entry.next().wrapping_sub(self.head(memory)) >= self.size as u64 {
            return Err(corrupt("the chain of messages", entry.next()));
        }
        Ok(())
    }

    /// Takes `count` messages off: everything before `position`. Consumer lock held. **The commit.**
    #[inline]
    pub(super) fn advance_head<M: Memory>(&self, memory: &M, position: u64, seq: u64) {
        memory.store(self.consumer + HEAD_SEQ, seq);
        memory.store(self.consumer, position);
    }

    /// How many of these payload lengths fit now, in order. Producer lock held.
    #[inline]
    pub(super) fn fitting<M: Memory>(
        &self,
        memory: &M,
        lengths: impl Iterator<Item = usize> + Clone,
    ) -> Result<usize> {
        let tail = memory.load(self.producer);
        let count = self.fitting_before(tail, memory.load(self.producer + HEAD_SEEN), lengths.clone())?;
        if count == lengths.clone().count() {
            return Ok(count);
        }
        // Only now read the consumers' line: as long as the head seen last leaves room, the
        // producer does not touch it.
        let head = self.head(memory);
        memory.store(self.producer + HEAD_SEEN, head);
        self.fitting_before(tail, head, lengths)
    }

    #[inline]
    fn fitting_before(&self, tail: u64, head: u64, lengths: impl Iterator<Item = usize>) -> Result<usize> {
        let used = tail.wrapping_sub(head);
        // One word stays free for the zero behind the last entry.
        let room = (self.size as u64 - 8).checked_sub(used).filter(|_| (tail | head).is_multiple_of(8));
        let Some(mut room) = room else { return Err(corrupt("head or tail of the ring", used)) };
        let mut count = 0;
        for length in lengths {
            let need = footprint(length);
            if need > room {
                break;
            }
            room -= need;
            count += 1;
        }
        Ok(count)
    }

    /// Puts one message that is known to fit and says at which position. Producer lock held.
    #[inline]
    pub(super) fn put<M: Memory>(&self, memory: &M, me: Owner, kind: Kind, payload: &[u8]) -> u64 {
        let tail = memory.load(self.producer);
        let seq = memory.load(self.producer + TAIL_SEQ);
        self.write(memory, tail.wrapping_add(8), payload);
        let next = tail.wrapping_add(footprint(payload.len()));
        memory.store(self.place(next), 0);
        // SYNC(entry): payload and the zero behind it are visible to whoever sees this header.
        memory.store(self.place(tail), header(kind, seq, me, payload.len()));
        memory.store(self.producer + TAIL_SEQ, seq.wrapping_add(1));
        memory.store(self.producer, next);
        tail
    }

    /// Puts up to [`BATCH_MAX`] messages that are known to fit, in one commit. Producer lock held.
    pub(super) fn put_batch<M: Memory>(&self, memory: &M, me: Owner, payloads: &[&[u8]]) {
        let first = memory.load(self.producer);
        let seq = memory.load(self.producer + TAIL_SEQ);
        let (mut tail, mut number) = (first, seq);
        for payload in payloads {
            self.write(memory, tail.wrapping_add(8), payload);
            if tail != first {
                memory.store(self.place(tail), header(Kind::Inline, number, me, payload.len()));
            }
            tail = tail.wrapping_add(footprint(payload.len()));
            number = number.wrapping_add(1);
        }
        memory.store(self.place(tail), 0);
        // SYNC(entry): as in `put`, for the whole chain behind the first header.
        memory.store(self.place(first), header(Kind::Inline, seq, me, payloads[0].len()));
        memory.store(self.producer + TAIL_SEQ, number);
        memory.store(self.producer, tail);
    }

    /// After a producer died: moves the tail behind everything it committed. Producer lock held.
    pub(super) fn roll_forward<M: Memory>(&self, memory: &M) -> Result<()> {
        let mut tail = memory.load(self.producer);
        let stored = memory.load(self.producer + TAIL_SEQ);
        let head = self.head(memory);
        let mut first = true;
        let mut seq = stored;
        while let Some(entry) = self.entry(memory, tail)? {
            if first {
                // Numbers may have been raised before the kill; the entry knows its own.
                seq = full_seq(stored, entry.seq_low)?;
                first = false;
            }
            // Signed: consumers may have taken these messages already, before the tail passed them.
            let used = entry.next().wrapping_sub(head) as i64;
            if entry.seq_low != seq & SEQ_MASK || used >= self.size as i64 {
                return Err(corrupt("the chain of messages behind the tail", entry.seq_low));
            }
            seq = seq.wrapping_add(1);
            tail = entry.next();
        }
        memory.store(self.producer + TAIL_SEQ, seq);
        memory.store(self.producer, tail);
        Ok(())
    }

    /// After a consumer died: the message at the head knows its number. Consumer lock held.
    pub(super) fn restore_head_seq<M: Memory>(&self, memory: &M) -> Result<()> {
        if let Some(entry) = self.entry(memory, self.head(memory))? {
            memory.store(self.consumer + HEAD_SEQ, full_seq(self.head_seq(memory), entry.seq_low)?);
        }
        Ok(())
    }

    /// Calls `visit` with each entry from head to tail. Both locks held.
    pub(super) fn entries<M: Memory>(&self, memory: &M, mut visit: impl FnMut(&Entry)) -> Result<()> {
        let head = self.head(memory);
        let mut position = head;
        while let Some(entry) = self.entry(memory, position)? {
            position = entry.next();
            if position.wrapping_sub(head) >= self.size as u64 {
                return Err(corrupt("the chain of messages", position));
            }
            visit(&entry);
        }
        Ok(())
    }

    /// Messages in the ring; exact when nobody is in the middle of a put or a get.
    pub(super) fn depth<M: Memory>(&self, memory: &M) -> u64 {
        // Head first: taken the other way round, a message that came and went would count as -1.
        let taken = self.head_seq(memory);
        let put = memory.load(self.producer + TAIL_SEQ);
        put.saturating_sub(taken)
    }

    /// Messages committed since the queue was made.
    pub(super) fn count_put<M: Memory>(&self, memory: &M) -> u64 {
        memory.load(self.producer + TAIL_SEQ)
    }

    /// True where the message at `position` has been taken.
    pub(super) fn is_taken<M: Memory>(&self, memory: &M, position: u64) -> bool {
        self.head(memory).wrapping_sub(position) as i64 > 0
    }

    /// Bytes of the ring in use.
    pub(super) fn used<M: Memory>(&self, memory: &M) -> u64 {
        let head = self.head(memory);
        memory.load(self.producer).saturating_sub(head).min(self.size as u64)
    }
}

#[inline]
fn header(kind: Kind, seq: u64, sender: Owner, length: usize) -> u64 {
    COMMITTED
        | (kind as u64) << KIND_SHIFT
        | (seq & SEQ_MASK) << SEQ_SHIFT
        | Sender::of(sender).bits() << SENDER_SHIFT
        | length as u64
}

/// The whole number of a message from its low bits; it is at most one batch behind `stored`.
fn full_seq(stored: u64, low: u64) -> Result<u64> {
    let behind = stored.wrapping_sub(low) & SEQ_MASK;
    if behind > BATCH_MAX as u64 || behind > stored {
        return Err(corrupt("a message's number", low));
    }
    Ok(stored - behind)
}

#[cold]
pub(super) fn corrupt(what: &str, found: u64) -> Error {
    Error::Corrupt(format!("the queue's shared memory is damaged: {what} reads {found:#x}"))
}
