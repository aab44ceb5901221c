//! The queue in shared memory: many producers, many consumers, each message to one consumer.
//!
//! This file holds the operations; where things stand is in `layout.rs`, small messages in `ring.rs`,
//! large ones in `blocks.rs`, leases in `leases.rs`, `leasing.rs` and `letters.rs`, looking without taking in
//! `look.rs`, what users hold in `handle.rs`.
//!
//! Every operation here is a *try*: it does its work or says what to wait for ([`On`]). Waiting is
//! [`Queue::wait`] (`waiting.rs`), so that blocking callers and event loops share everything else.
//!
//! A critical section holds no system call, no allocation and at most an inline copy.

mod bells;
mod blocks;
#[cfg(not(loom))]
pub mod handle;
mod layout;
mod leases;
mod leasing;
mod letters;
mod look;
#[cfg(all(test, loom))]
mod models;
mod numbers;
#[cfg(not(loom))]
pub mod overview;
mod ring;
#[cfg(all(test, not(loom)))]
mod sweep;
mod waiting;

use std::mem::MaybeUninit;
use std::time::Duration;

pub use blocks::Run;
use layout::{
    BLOCK_SPACE, CONSUMER_LOCK, FLAGS, HAD_PRODUCER, LARGEST, MESSAGES, PRODUCER_LOCK, PROGRESS, RETURNED,
    RING_SPACE, SHUT,
};
pub use layout::{
    DEFAULT_CAPACITY, Geometry, INLINE_MAX, MAX_CAPACITY, MAX_LEVELS, MIN_CAPACITY, REASON_MAX, UNIT,
};
use leases::Leases;
pub use leases::Origin;
pub use leasing::{Fate, Leased};
pub use letters::Letter;
pub use look::{Look, Seen, Standing};
pub use numbers::Numbers;
pub use ring::Sender;
use ring::{BATCH_MAX, Entry, Kind, Ring};

use crate::error::{Error, Result};
use crate::lock::{Lock, Slices};
use crate::memory::{Memory, Peers};
use crate::owner::Owner;
use crate::wait::WaitPoint;
use blocks::Blocks;

/// What stands in the way of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// Another producer is in its critical section.
    ProducerLock,
    /// Another consumer is.
    ConsumerLock,
    /// The ring of this level has no room for this many bytes (header included).
    RingSpace(u8, usize),
    /// No run of this many units is free.
    BlockSpace(usize),
    /// There is no message.
    Messages,
    /// Every record of a lease is in use.
    Leases,
}

/// Done, or what to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<T> {
    /// It happened.
    Done(T),
    /// It did not, and nothing has changed.
    Wait(On),
}

/// Where the bytes of a message are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Among the small ones: in the caller's buffer.
    Inline,
    /// In a run of units that the caller owns.
    Block(Run),
}

/// A message that was taken off the queue. One in a run must be freed by the caller, who owns it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Where its bytes are.
    pub place: Place,
    /// How many there are.
    pub length: usize,
    /// Where it comes from.
    pub origin: Origin,
    /// How often it was handed out, this time included.
    pub deliveries: u32,
}

/// State of one caller's attempts at one operation, from the first try to its end.
#[derive(Debug, Default)]
pub struct Attempt {
    slices: Slices,
    /// What the caller has slept on for messages or room, and how long the last time at most.
    slept_on: Option<(On, Duration)>,
}

/// A queue on some memory, among some peers.
pub struct Queue<M, P> {
    memory: M,
    peers: P,
    geometry: Geometry,
    body: usize,
    /// The ring of level 0, the only one of most queues.
    ring: Ring,
    /// The rings of all levels.
    rings: Box<[Ring]>,
    blocks: Blocks,
    leases: Leases,
    max_deliveries: u32,
    producers: Lock,
    consumers: Lock,
    messages: WaitPoint,
    ring_space: WaitPoint,
    block_space: WaitPoint,
    progress: WaitPoint,
}

/// A lock held; given back on drop.
struct Held<'a, M: Memory> {
    lock: Lock,
    memory: &'a M,
    me: Owner,
}

impl<M: Memory> Drop for Held<'_, M> {
    #[inline]
    fn drop(&mut self) {
        self.lock.release(self.memory, self.me);
    }
}

impl<M: Memory, P: Peers> Queue<M, P> {
    /// The queue whose body begins at `body` of `memory`; a message is handed out `max_deliveries` times.
    pub fn new(memory: M, peers: P, body: usize, geometry: Geometry, max_deliveries: u32) -> Queue<M, P> {
        assert!(body + geometry.body_size() <= memory.size(), "the body must lie inside the memory");
        Queue {
            ring: Ring::new(body, &geometry, 0),
            rings: (0..geometry.levels).map(|level| Ring::new(body, &geometry, level)).collect(),
            blocks: Blocks::new(body, &geometry),
            leases: Leases::new(body, &geometry),
            max_deliveries,
            producers: Lock::new(body + PRODUCER_LOCK),
            consumers: Lock::new(body + CONSUMER_LOCK),
            messages: WaitPoint::new(body + MESSAGES),
            ring_space: WaitPoint::new(body + RING_SPACE),
            block_space: WaitPoint::new(body + BLOCK_SPACE),
            progress: WaitPoint::new(body + PROGRESS),
            memory,
            peers,
            geometry,
            body,
        }
    }

    /// Prepares a zeroed body that nobody else sees yet.
    pub fn format(memory: &M, body: usize, geometry: &Geometry) {
        Blocks::new(body, geometry).format(memory);
    }

    /// The memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// How capacity is divided.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Offset of a run's bytes in the memory.
    pub fn run_offset(&self, run: Run) -> usize {
        self.blocks.offset(run)
    }

    #[inline]
    fn enter(&self, lock: Lock, me: Owner, attempt: &Attempt) -> Option<Held<'_, M>> {
        // The section is short: a few more looks are cheaper than going to sleep.
        for _ in 0..20 {
            if lock.try_acquire(&self.memory, me, attempt.slices.slept) {
                return Some(Held { lock, memory: &self.memory, me });
            }
            crate::memory::pause();
        }
        None
    }

    fn flags(&self) -> u64 {
        self.memory.load(self.body + FLAGS)
    }

    #[inline]
    fn note_length(&self, length: usize) {
        if length as u64 > self.memory.load(self.body + LARGEST) {
            self.memory.store(self.body + LARGEST, length as u64);
        }
    }

    fn check_length(&self, length: usize) -> Result<()> {
        let limit = self.geometry.message_max();
        if length > limit {
            return Err(Error::TooLarge {
                what: "message in bytes",
                size: length as u64,
                limit: limit as u64,
            });
        }
        Ok(())
    }

    fn check_open(&self) -> Result<()> {
        if self.flags() & SHUT != 0 { Err(Error::ShutDown) } else { Ok(()) }
    }

    /// The ring of a level; the caller has checked that there is one.
    #[inline]
    fn ring_of(&self, level: u8) -> &Ring {
        if level == 0 { &self.ring } else { &self.rings[usize::from(level)] }
    }

    /// Puts a message of at most `inline_max` bytes; says at which position of the level's ring.
    #[inline]
    pub fn try_put(&self, me: Owner, attempt: &Attempt, level: u8, message: &[u8]) -> Result<Step<u64>> {
        self.try_put_entry(me, attempt, level, None, message, message.len())
    }

    /// Puts the message in a run that the caller has claimed and filled; it is the queue's from now on. What the
    /// message does not need of the run is given back.
    pub fn try_put_run(
        &self,
        me: Owner,
        attempt: &Attempt,
        level: u8,
        run: Run,
        length: usize,
    ) -> Result<Step<u64>> {
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&(run.first as u64).to_le_bytes());
        descriptor[8..].copy_from_slice(&(length as u64).to_le_bytes());
        self.try_put_entry(me, attempt, level, Some(run), &descriptor, length)
    }

    #[inline]
    fn try_put_entry(
        &self,
        me: Owner,
        attempt: &Attempt,
        level: u8,
        run: Option<Run>,
        payload: &[u8],
        length: usize,
    ) -> Result<Step<u64>> {
        let ring = self.ring_of(level);
        let Some(held) = self.enter(self.producers, me, attempt) else {
            return Ok(Step::Wait(On::ProducerLock));
        };
        self.check_open()?;
        if let Some(run) = run {
            // The dead lose their runs under this same lock, and a forked child owns none of its
            // parent's: from here to the commit nobody can take it away.
            self.blocks.check_owner(&self.memory, me, run)?;
        }
        if ring.fitting(&self.memory, std::iter::once(payload.len()))? == 0 {
            return Ok(Step::Wait(On::RingSpace(level, ring::entry_size(payload.len()))));
        }
        let shortened =
            run.is_some_and(|run| self.blocks.shorten(&self.memory, me, run, Blocks::units_for(length)));
        let kind = if run.is_some() { Kind::Block } else { Kind::Inline };
        let position = ring.put(&self.memory, me, kind, payload);
        self.note_length(length);
        drop(held);
        self.after_put(attempt);
        if shortened {
            self.block_space.notify_all(&self.memory);
        }
        Ok(Step::Done(position))
    }

    /// Puts as many of these messages as fit, all in one commit, each of at most `inline_max` bytes.
    pub fn try_put_batch(
        &self,
        me: Owner,
        attempt: &Attempt,
        level: u8,
        messages: &[&[u8]],
    ) -> Result<Step<usize>> {
        let ring = self.ring_of(level);
        let messages = &messages[..messages.len().min(BATCH_MAX)];
        let Some(held) = self.enter(self.producers, me, attempt) else {
            return Ok(Step::Wait(On::ProducerLock));
        };
        self.check_open()?;
        let count = ring.fitting(&self.memory, messages.iter().map(|m| m.len()))?;
        if count == 0 {
            let size = messages.first().map_or(0, |m| ring::entry_size(m.len()));
            return Ok(Step::Wait(On::RingSpace(level, size)));
        }
        ring.put_batch(&self.memory, me, &messages[..count]);
        self.note_length(messages[..count].iter().map(|m| m.len()).max().unwrap_or(0));
        drop(held);
        self.after_put(attempt);
        Ok(Step::Done(count))
    }

    #[inline]
    fn after_put(&self, attempt: &Attempt) {
        // SYNC(wait): releasing the lock was the full fence.
        self.messages.notify(&self.memory);
        if attempt.slept_on.is_some() {
            // The wake-up that brought us here may have made room for one more producer.
            self.notify_room();
        }
    }

    /// Wakes a producer that waits for room in a ring; all where they may wait for different rings.
    #[inline]
    fn notify_room(&self) {
        if self.rings.len() == 1 {
            self.ring_space.notify(&self.memory);
        } else {
            self.ring_space.notify_all(&self.memory);
        }
    }

    /// Claims a run for a message of `length` bytes, to be filled and then put or freed.
    pub fn try_claim(&self, me: Owner, attempt: &Attempt, length: usize) -> Result<Step<Run>> {
        self.check_length(length)?;
        let need = Blocks::units_for(length);
        let Some(_held) = self.enter(self.producers, me, attempt) else {
            return Ok(Step::Wait(On::ProducerLock));
        };
        self.check_open()?;
        Ok(match self.blocks.claim(&self.memory, me, need)? {
            Some(run) => Step::Done(run),
            None => Step::Wait(On::BlockSpace(need)),
        })
    }

    /// Gives back a run that the caller owns; false where it does not: it was declared dead meanwhile and
    /// whatever it has read from the run may be somebody else's.
    pub fn free(&self, me: Owner, run: Run) -> bool {
        let freed = self.blocks.free(&self.memory, me, run);
        self.progress.notify_all(&self.memory);
        // All of them: they may need runs of different lengths.
        self.block_space.notify_all(&self.memory);
        freed
    }

    /// True where a message waits, in a ring or given back. A hint: another consumer may take it first.
    #[inline]
    pub fn has_message(&self) -> bool {
        self.ring.has_message(&self.memory)
            || self.has_returned()
            || (self.rings.len() > 1 && self.rings[1..].iter().any(|ring| ring.has_message(&self.memory)))
    }

    /// True where some message was given back and waits to be taken again.
    #[inline]
    pub fn has_returned(&self) -> bool {
        self.memory.load(self.body + RETURNED) != 0
    }

    /// The ring whose message goes first.
    #[inline(always)]
    fn front_ring(&self) -> &Ring {
        if self.rings.len() == 1 {
            return &self.ring;
        }
        let urgent = self.rings[1..].iter().rev();
        urgent.into_iter().find(|ring| ring.has_message(&self.memory)).unwrap_or(&self.ring)
    }

    /// The message that goes first, and its number; consumer lock held.
    #[inline(always)]
    fn front(&self) -> Result<Option<(&Ring, Entry, u64)>> {
        let ring = self.front_ring();
        let (head, seq) = (ring.head(&self.memory), ring.head_seq(&self.memory));
        Ok(ring.next_entry(&self.memory, head, seq)?.map(|entry| (ring, entry, seq)))
    }

    /// Takes the next message; a small one is copied to the front of `buffer`, which must hold
    /// `inline_max` bytes.
    #[inline(always)]
    pub fn try_get(
        &self,
        me: Owner,
        attempt: &Attempt,
        buffer: &mut [MaybeUninit<u8>],
    ) -> Result<Step<Taken>> {
        // One who finds nothing leaves the lock and its cache line alone.
        if !self.has_message() {
            return Ok(Step::Wait(On::Messages));
        }
        let Some(held) = self.enter(self.consumers, me, attempt) else {
            return Ok(Step::Wait(On::ConsumerLock));
        };
        let front = self.front()?;
        let returned = self.has_returned();
        let taken = if returned
            && let Some(taken) = self.get_returned(me, front.map(|(ring, ..)| ring.level()), buffer)?
        {
            taken
        } else {
            let Some((ring, entry, seq)) = front else { return Ok(Step::Wait(On::Messages)) };
            let (place, length) = self.take_entry(me, ring, &entry, buffer)?;
            ring.advance_head(&self.memory, entry.next(), seq.wrapping_add(1));
            Taken { place, length, origin: Self::origin(ring, &entry, seq), deliveries: 1 }
        };
        drop(held);
        self.after_take(attempt);
        if returned {
            self.after_returned();
        }
        Ok(Step::Done(taken))
    }

    /// Copies a small message to the front of `buffer`, or makes `me` the owner of a large one's run; it is
    /// still in the ring. Says how long it is. Consumer lock held.
    #[inline(always)]
    fn take_entry(
        &self,
        me: Owner,
        ring: &Ring,
        entry: &Entry,
        buffer: &mut [MaybeUninit<u8>],
    ) -> Result<(Place, usize)> {
        match entry.kind {
            Kind::Inline => {
                ring.read_payload(&self.memory, entry, &mut buffer[..entry.length]);
                Ok((Place::Inline, entry.length))
            }
            Kind::Block => {
                let [first, length] = ring.descriptor(&self.memory, entry);
                let run = self.blocks.adopt(&self.memory, me, first, length)?;
                Ok((Place::Block(run), length as usize))
            }
        }
    }

    #[inline(always)]
    fn origin(ring: &Ring, entry: &Entry, number: u64) -> Origin {
        Origin { level: ring.level(), number, position: entry.position, sender: entry.sender }
    }

    /// Lengths of the small messages at the head, at most `limit` and `bytes` in all: what
    /// [`Queue::try_get_batch`] will find unless another consumer is faster. Takes no lock.
    pub fn peek_lengths(&self, limit: usize, bytes: usize, lengths: &mut Vec<usize>) {
        let ring = self.front_ring();
        let mut position = ring.head(&self.memory);
        let mut room = bytes;
        while lengths.len() < limit.min(BATCH_MAX) {
            match ring.entry(&self.memory, position) {
                Ok(Some(entry)) if entry.kind == Kind::Inline && entry.length <= room => {
                    room -= entry.length;
                    lengths.push(entry.length);
                    position = entry.next();
                }
                // A damaged entry is reported by whoever takes it.
                _ => return,
            }
        }
    }

    /// Takes messages from one ring in one commit, each into a buffer of exactly its length, as long as
    /// lengths agree; a large message only if it comes first. Says how many buffers were filled: none
    /// where another consumer was faster, so that lengths must be peeked at again, and where messages were
    /// given back, which [`Queue::try_get`] takes.
    pub fn try_get_batch(
        &self,
        me: Owner,
        attempt: &Attempt,
        buffers: &mut [&mut [MaybeUninit<u8>]],
    ) -> Result<Step<(usize, Option<Taken>)>> {
        if !self.has_message() {
            return Ok(Step::Wait(On::Messages));
        }
        if self.has_returned() {
            return Ok(Step::Done((0, None)));
        }
        let Some(held) = self.enter(self.consumers, me, attempt) else {
            return Ok(Step::Wait(On::ConsumerLock));
        };
        let ring = self.front_ring();
        let (first, number) = (ring.head(&self.memory), ring.head_seq(&self.memory));
        let (mut head, mut seq) = (first, number);
        let mut large = None;
        let mut count = 0;
        while let Some(entry) = ring.next_entry(&self.memory, head, seq)? {
            match buffers.get_mut(count) {
                _ if entry.kind == Kind::Block => {
                    if head == first {
                        let (place, length) = self.take_entry(me, ring, &entry, &mut [])?;
                        let origin = Self::origin(ring, &entry, seq);
                        large = Some(Taken { place, length, origin, deliveries: 1 });
                        (head, seq) = (entry.next(), seq.wrapping_add(1));
                    }
                    break;
                }
                Some(buffer) if buffer.len() == entry.length => {
                    ring.read_payload(&self.memory, &entry, buffer);
                    (head, seq, count) = (entry.next(), seq.wrapping_add(1), count + 1);
                }
                _ => break,
            }
        }
        if head != first {
            ring.advance_head(&self.memory, head, seq);
        }
        drop(held);
        self.after_take(attempt);
        Ok(Step::Done((count, large)))
    }

    #[inline]
    fn after_take(&self, attempt: &Attempt) {
        self.notify_room();
        self.progress.notify_all(&self.memory);
        if attempt.slept_on.is_some() && self.has_message() {
            // The wake-up that brought us here may have been meant for one more consumer.
            self.messages.notify(&self.memory);
        }
    }

    /// Accepts no more messages; those inside can still be taken. Everyone who waits looks again.
    pub fn try_shut_down(&self, me: Owner, attempt: &Attempt) -> Result<Step<()>> {
        // Under the lock, so that no message is committed behind the flag.
        let Some(held) = self.enter(self.producers, me, attempt) else {
            return Ok(Step::Wait(On::ProducerLock));
        };
        self.memory.fetch_or(self.body + FLAGS, SHUT);
        drop(held);
        self.wake_all();
        Ok(Step::Done(()))
    }

    /// True when no message is accepted any more.
    pub fn is_shut(&self) -> bool {
        self.flags() & SHUT != 0
    }

    /// True when shut down, empty and no lease is out: nothing will ever come.
    pub fn is_drained(&self) -> bool {
        // The flag first: once it is set, an empty ring stays empty. Leases last: a message goes from the ring
        // to a lease and back to nobody.
        self.flags() & SHUT != 0 && !self.has_message() && !self.has_leases()
    }

    /// Remembers that there has been a producer.
    pub fn note_producer(&self) {
        self.memory.fetch_or(self.body + FLAGS, HAD_PRODUCER);
    }

    /// True once any process has been a producer.
    pub fn had_producer(&self) -> bool {
        self.flags() & HAD_PRODUCER != 0
    }

    /// Makes everyone who sleeps here look again: a handle was closed, a producer is gone.
    pub fn wake_all(&self) {
        for point in [self.messages, self.ring_space, self.block_space, self.progress] {
            point.notify_all(&self.memory);
        }
    }

    /// Who is inside the producers' and the consumers' critical section.
    pub fn lock_owners(&self) -> [Owner; 2] {
        [self.producers.owner(&self.memory), self.consumers.owner(&self.memory)]
    }
}
