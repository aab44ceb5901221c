//! The queue in shared memory: many producers, many consumers, each message to one consumer.
//!
//! This file holds the operations; where things stand is in `layout.rs`, small messages in `ring.rs`,
//! large ones in `blocks.rs`, what users hold in `handle.rs`.
//!
//! Every operation here is a *try*: it does its work or says what to wait for ([`On`]). Waiting is
//! [`Queue::wait`] (`waiting.rs`), so that blocking callers and event loops share everything else.
//!
//! A critical section holds no system call, no allocation and at most an inline copy.

mod blocks;
#[cfg(not(loom))]
pub mod handle;
mod layout;
#[cfg(all(test, loom))]
mod models;
mod ring;
#[cfg(all(test, not(loom)))]
mod sweep;
mod waiting;

use std::mem::MaybeUninit;
use std::time::Duration;

pub use blocks::Run;
use layout::{
    BLOCK_SPACE, CONSUMER_LOCK, FLAGS, HAD_PRODUCER, LARGEST, MESSAGES, PRODUCER_LOCK, RING_SPACE, SHUT,
};
pub use layout::{DEFAULT_CAPACITY, Geometry, INLINE_MAX, MAX_CAPACITY, MIN_CAPACITY, UNIT};
use ring::{BATCH_MAX, Kind, Ring};

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
    /// The ring has no room for this many bytes (header included).
    RingSpace(usize),
    /// No run of this many units is free.
    BlockSpace(usize),
    /// There is no message.
    Messages,
}

/// Done, or what to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<T> {
    /// It happened.
    Done(T),
    /// It did not, and nothing has changed.
    Wait(On),
}

/// A message that was taken off the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It was copied into the caller's buffer: this many bytes.
    Inline(usize),
    /// It stands in a run that the caller now owns and must free.
    Block(Run, usize),
}

/// State of one caller's attempts at one operation, from the first try to its end.
#[derive(Debug, Default)]
pub struct Attempt {
    slices: Slices,
    /// What the caller has slept on for messages or room, and how long the last time at most.
    slept_on: Option<(On, Duration)>,
}

/// Numbers about a queue; exact when nobody is in the middle of an operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Messages in the queue.
    pub depth: u64,
    /// Messages ever put.
    pub put: u64,
    /// Messages ever taken.
    pub got: u64,
    /// Bytes in use: entries of the ring and runs that are not free.
    pub bytes_in_use: u64,
    /// Largest message so far.
    pub largest: u64,
    /// Consumers may be asleep, waiting for a message.
    pub consumers_waiting: bool,
    /// Producers may be asleep, waiting for room.
    pub producers_waiting: bool,
    /// No message is accepted any more.
    pub shut: bool,
}

/// A queue on some memory, among some peers.
pub struct Queue<M, P> {
    memory: M,
    peers: P,
    geometry: Geometry,
    body: usize,
    ring: Ring,
    blocks: Blocks,
    producers: Lock,
    consumers: Lock,
    messages: WaitPoint,
    ring_space: WaitPoint,
    block_space: WaitPoint,
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
    /// The queue whose body begins at `body` of `memory`.
    pub fn new(memory: M, peers: P, body: usize, geometry: Geometry) -> Queue<M, P> {
        assert!(body + geometry.body_size() <= memory.size(), "the body must lie inside the memory");
        Queue {
            ring: Ring::new(body, geometry.ring_size, geometry.inline_max()),
            blocks: Blocks::new(body, &geometry),
            producers: Lock::new(body + PRODUCER_LOCK),
            consumers: Lock::new(body + CONSUMER_LOCK),
            messages: WaitPoint::new(body + MESSAGES),
            ring_space: WaitPoint::new(body + RING_SPACE),
            block_space: WaitPoint::new(body + BLOCK_SPACE),
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

    /// Puts a message of at most `inline_max` bytes.
    #[inline]
    pub fn try_put(&self, me: Owner, attempt: &Attempt, message: &[u8]) -> Result<Step<()>> {
        self.try_put_entry(me, attempt, None, message, message.len())
    }

    /// Puts the message in a run that the caller has claimed and filled; it is the queue's from now on.
    pub fn try_put_run(&self, me: Owner, attempt: &Attempt, run: Run, length: usize) -> Result<Step<()>> {
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&(run.first as u64).to_le_bytes());
        descriptor[8..].copy_from_slice(&(length as u64).to_le_bytes());
        self.try_put_entry(me, attempt, Some(run), &descriptor, length)
    }

    #[inline]
    fn try_put_entry(
        &self,
        me: Owner,
        attempt: &Attempt,
        run: Option<Run>,
        payload: &[u8],
        length: usize,
    ) -> Result<Step<()>> {
        let Some(held) = self.enter(self.producers, me, attempt) else {
            return Ok(Step::Wait(On::ProducerLock));
        };
        self.check_open()?;
        if let Some(run) = run {
            // The dead lose their runs under this same lock, and a forked child owns none of its
            // parent's: from here to the commit nobody can take it away.
            self.blocks.check_owner(&self.memory, me, run)?;
        }
        if self.ring.fitting(&self.memory, std::iter::once(payload.len()))? == 0 {
            return Ok(Step::Wait(On::RingSpace(ring::entry_size(payload.len()))));
        }
        let kind = if run.is_some() { Kind::Block } else { Kind::Inline };
        self.ring.put(&self.memory, kind, payload);
        self.note_length(length);
        drop(held);
        self.after_put(attempt);
        Ok(Step::Done(()))
    }

    /// Puts as many of these messages as fit, all in one commit, each of at most `inline_max` bytes.
    pub fn try_put_batch(&self, me: Owner, attempt: &Attempt, messages: &[&[u8]]) -> Result<Step<usize>> {
        let messages = &messages[..messages.len().min(BATCH_MAX)];
        let Some(held) = self.enter(self.producers, me, attempt) else {
            return Ok(Step::Wait(On::ProducerLock));
        };
        self.check_open()?;
        let count = self.ring.fitting(&self.memory, messages.iter().map(|m| m.len()))?;
        if count == 0 {
            return Ok(Step::Wait(On::RingSpace(messages.first().map_or(0, |m| ring::entry_size(m.len())))));
        }
        self.ring.put_batch(&self.memory, &messages[..count]);
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
            self.ring_space.notify(&self.memory);
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
        // All of them: they may need runs of different lengths.
        self.block_space.notify_all(&self.memory);
        freed
    }

    /// Takes the next message; one from the ring is copied to the front of `buffer`, which must hold
    /// `inline_max` bytes.
    #[inline]
    pub fn try_get(
        &self,
        me: Owner,
        attempt: &Attempt,
        buffer: &mut [MaybeUninit<u8>],
    ) -> Result<Step<Taken>> {
        // One who finds nothing leaves the lock and its cache line alone.
        if !self.ring.has_message(&self.memory) {
            return Ok(Step::Wait(On::Messages));
        }
        let Some(held) = self.enter(self.consumers, me, attempt) else {
            return Ok(Step::Wait(On::ConsumerLock));
        };
        let (head, seq) = (self.ring.head(&self.memory), self.ring.head_seq(&self.memory));
        let Some(entry) = self.ring.next_entry(&self.memory, head, seq)? else {
            return Ok(Step::Wait(On::Messages));
        };
        let taken = match entry.kind {
            Kind::Inline => {
                self.ring.read_payload(&self.memory, &entry, &mut buffer[..entry.length]);
                Taken::Inline(entry.length)
            }
            Kind::Block => self.adopt(me, &entry)?,
        };
        self.ring.advance_head(&self.memory, entry.next(), seq.wrapping_add(1));
        drop(held);
        self.after_take(attempt);
        Ok(Step::Done(taken))
    }

    fn adopt(&self, me: Owner, entry: &ring::Entry) -> Result<Taken> {
        let [first, length] = self.ring.descriptor(&self.memory, entry);
        let run = self.blocks.adopt(&self.memory, me, first, length)?;
        Ok(Taken::Block(run, length as usize))
    }

    /// Lengths of the small messages at the head, at most `limit` and `bytes` in all: what
    /// [`Queue::try_get_batch`] will find unless another consumer is faster. Takes no lock.
    pub fn peek_lengths(&self, limit: usize, bytes: usize, lengths: &mut Vec<usize>) {
        let mut position = self.ring.head(&self.memory);
        let mut room = bytes;
        while lengths.len() < limit.min(BATCH_MAX) {
            match self.ring.entry(&self.memory, position) {
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

    /// Takes messages from the ring in one commit, each into a buffer of exactly its length, as long as
    /// lengths agree; a large message only if it comes first. Says how many buffers were filled: none
    /// where another consumer was faster, so that lengths must be peeked at again.
    pub fn try_get_batch(
        &self,
        me: Owner,
        attempt: &Attempt,
        buffers: &mut [&mut [MaybeUninit<u8>]],
    ) -> Result<Step<(usize, Option<Taken>)>> {
        if !self.ring.has_message(&self.memory) {
            return Ok(Step::Wait(On::Messages));
        }
        let Some(held) = self.enter(self.consumers, me, attempt) else {
            return Ok(Step::Wait(On::ConsumerLock));
        };
        let (first, number) = (self.ring.head(&self.memory), self.ring.head_seq(&self.memory));
        let (mut head, mut seq) = (first, number);
        let mut large = None;
        let mut count = 0;
        while let Some(entry) = self.ring.next_entry(&self.memory, head, seq)? {
            match buffers.get_mut(count) {
                _ if entry.kind == Kind::Block => {
                    if head == first {
                        large = Some(self.adopt(me, &entry)?);
                        (head, seq) = (entry.next(), seq.wrapping_add(1));
                    }
                    break;
                }
                Some(buffer) if buffer.len() == entry.length => {
                    self.ring.read_payload(&self.memory, &entry, buffer);
                    (head, seq, count) = (entry.next(), seq.wrapping_add(1), count + 1);
                }
                _ => break,
            }
        }
        if head != first {
            self.ring.advance_head(&self.memory, head, seq);
        }
        drop(held);
        self.after_take(attempt);
        Ok(Step::Done((count, large)))
    }

    #[inline]
    fn after_take(&self, attempt: &Attempt) {
        self.ring_space.notify(&self.memory);
        if attempt.slept_on.is_some() && self.ring.has_message(&self.memory) {
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

    /// True when shut down and empty: nothing will ever come.
    pub fn is_drained(&self) -> bool {
        // The flag first: once it is set, an empty ring stays empty.
        self.flags() & SHUT != 0 && !self.ring.has_message(&self.memory)
    }

    /// True when no message waits (another moment may differ).
    pub fn is_empty(&self) -> bool {
        !self.ring.has_message(&self.memory)
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
        for point in [self.messages, self.ring_space, self.block_space] {
            point.notify_all(&self.memory);
        }
    }

    /// Who is inside the producers' and the consumers' critical section.
    pub fn lock_owners(&self) -> [Owner; 2] {
        [self.producers.owner(&self.memory), self.consumers.owner(&self.memory)]
    }

    /// Messages in the queue.
    pub fn depth(&self) -> u64 {
        self.ring.depth(&self.memory)
    }

    /// Numbers for people.
    pub fn numbers(&self) -> Numbers {
        let put = self.ring.count_put(&self.memory);
        let depth = self.depth();
        let mut units = 0;
        // Without the lock: a split or merge under way ends the walk early, never wrongly.
        let _ = self.blocks.owned(&self.memory, |run, _| units += run.length);
        Numbers {
            depth,
            put,
            got: put.saturating_sub(depth),
            bytes_in_use: self.ring.used(&self.memory) + (units * UNIT) as u64,
            largest: self.memory.load(self.body + LARGEST),
            consumers_waiting: self.messages.has_sleepers(&self.memory),
            producers_waiting: self.ring_space.has_sleepers(&self.memory)
                || self.block_space.has_sleepers(&self.memory),
            shut: self.flags() & SHUT != 0,
        }
    }
}
