//! A look at the messages of a queue that takes none of them and disturbs nobody: it loads and never stores, it
//! takes no lock and waits for nobody, so it works on a mapping for reading only.
//!
//! # Why what it shows is whole
//! A message in a ring is written over only after the head has passed it: a producer takes the head for room only
//! when it has loaded it. So a look reads an entry and its bytes *first* and the head *then*; where the head has not
//! passed the entry, what was read was the message, and where it has, it is thrown away, and the look goes on at the
//! new head. The run of a large message is claimed again only after its consumer freed it, which is after the head.
//!
//! A record of a lease is free (its state is 0) before it is filled with another message, whose state is set last. So
//! a look reads the state, the record and the bytes, and then state and record again. Where the *state* is as it was
//! and the record, read after it, names the same message, so did all that was read between.
//!
//! SYNC(look): the fence between the bytes and the second read. Loads are acquires, so the other side needs nothing
//! that it does not do anyway.
//!
//! What it shows was in the queue at some moment of the look, in the order in which consumers get it. Where others
//! put and take meanwhile, these moments differ from message to message.
//!
//! Everything is checked as consumers check it. A queue that others damage while it is looked at is looked at for a
//! bounded time: [`TRIES`] moves of the head, [`TRIES`] changes of a record.

use std::cmp::Reverse;
use std::mem::MaybeUninit;
use std::sync::atomic::{Ordering, fence};

use super::leases::{Held, State};
use super::ring::{Entry, Kind, Ring};
use super::{Origin, Place, Queue};
use crate::error::{Error, Result};
use crate::memory::{Memory, Peers};
use crate::owner::Owner;

/// How often a look starts anew beside others who take what it reads.
const TRIES: usize = 1000;

/// What a message that was seen is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It waits for its first consumer.
    Waiting,
    /// A consumer gave it back, and it waits for the next one.
    Returned,
    /// A consumer has it on lease.
    Leased,
    /// Nobody could use it.
    Dead,
}

/// A message that was seen, and stays where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What it is doing.
    pub standing: Standing,
    /// Where it comes from.
    pub origin: Origin,
    /// How many bytes it has.
    pub length: usize,
    /// How often it was handed out.
    pub deliveries: u32,
    /// Who has it on lease; nobody otherwise.
    pub holder: Owner,
    /// The process id of the holder.
    pub holder_pid: u32,
    /// Why it was given back last.
    pub reason: String,
    /// Its beginning.
    pub bytes: Vec<u8>,
}

impl Seen {
    fn place(&self) -> (u8, u64) {
        (self.origin.level, self.origin.position)
    }
}

/// The messages of a queue, as far as they were looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Those that consumers get next, in this order.
    pub next: Vec<Seen>,
    /// All that are on lease, oldest first.
    pub leased: Vec<Seen>,
    /// All that nobody could use, oldest first.
    pub dead: Vec<Seen>,
}

impl<M: Memory, P: Peers> Queue<M, P> {
    /// Looks at the next messages, `limit` of them at most, and at all that are on lease or that nobody could use,
    /// with up to `bytes` of each.
    pub fn peek(&self, limit: usize, bytes: usize) -> Result<Look> {
        // The rings first: what moves from a ring to a lease meanwhile is seen twice then, and not missed.
        let mut rings = Vec::with_capacity(self.rings.len());
        for ring in self.rings.iter().rev() {
            rings.push(self.look_at_ring(ring, limit, bytes)?);
        }
        let mut records = Vec::new();
        for index in 0..self.geometry.leases {
            records.extend(self.look_at_record(index, bytes)?);
        }
        records.sort_by_key(|seen| (Reverse(seen.origin.level), seen.origin.position));
        let places: Vec<_> = records.iter().map(Seen::place).collect();
        let mut look = Look::default();
        let mut returned = Vec::new();
        for seen in records {
            match seen.standing {
                Standing::Leased => look.leased.push(seen),
                Standing::Dead => look.dead.push(seen),
                _ => returned.push(seen),
            }
        }
        for list in [&mut look.leased, &mut look.dead] {
            list.sort_by_key(|seen| seen.origin.number);
        }
        let waiting = rings.into_iter().flatten().filter(|seen| !places.contains(&seen.place()));
        look.next = returned.into_iter().chain(waiting).collect();
        // Stable: what was given back goes before what is in the ring of the same level.
        look.next.sort_by_key(|seen| Reverse(seen.origin.level));
        look.next.truncate(limit);
        Ok(look)
    }

    fn look_at_ring(&self, ring: &Ring, limit: usize, bytes: usize) -> Result<Vec<Seen>> {
        let mut found = Vec::new();
        let mut position = ring.head(&self.memory);
        let mut number = None;
        let mut tries = 0;
        let mut copied = 0;
        while found.len() < limit {
            let read = self.read_entry(ring, position, number, bytes);
            // SYNC(look): what was read was there before the head is looked at.
            fence(Ordering::Acquire);
            if ring.is_taken(&self.memory, position) {
                tries += 1;
                if tries > TRIES {
                    break; // consumers are faster than we are: what was found will do
                }
                position = ring.head(&self.memory);
                number = None;
                continue;
            }
            let Some((entry, seen)) = read? else { break };
            position = entry.next();
            number = Some(seen.origin.number.wrapping_add(1));
            copied += seen.bytes.len() as u64;
            if copied > self.geometry.capacity {
                // Damaged descriptors may all name the same run.
                return Err(Error::Corrupt(format!(
                    "the messages of a ring have more bytes than the queue's capacity of {}",
                    self.geometry.capacity
                )));
            }
            found.push(seen);
        }
        Ok(found)
    }

    /// What stands at a position, as far as it is still there afterwards; `None` behind the last message.
    fn read_entry(
        &self,
        ring: &Ring,
        position: u64,
        expected: Option<u64>,
        bytes: usize,
    ) -> Result<Option<(Entry, Seen)>> {
        let Some(entry) = ring.entry(&self.memory, position)? else { return Ok(None) };
        ring.check_reach(&self.memory, &entry)?;
        let number = ring.number(&self.memory, &entry, expected)?;
        let (length, bytes) = match entry.kind {
            Kind::Inline => {
                let mut buffer = vec![MaybeUninit::new(0); entry.length.min(bytes)];
                ring.read_payload(&self.memory, &entry, &mut buffer);
                (entry.length, initialised(buffer))
            }
            Kind::Block => {
                let [first, length] = ring.descriptor(&self.memory, &entry);
                let run = self.blocks.named(&self.memory, first, length)?;
                let length = length as usize;
                (length, self.copy_of(self.blocks.offset(run), length.min(bytes)))
            }
        };
        let seen = Seen {
            standing: Standing::Waiting,
            origin: Self::origin(ring, &entry, number),
            length,
            deliveries: 0,
            holder: Owner::NONE,
            holder_pid: 0,
            reason: String::new(),
            bytes,
        };
        Ok(Some((entry, seen)))
    }

    /// The message that a record holds; `None` where it is free, or its message is still in the ring.
    fn look_at_record(&self, index: usize, bytes: usize) -> Result<Option<Seen>> {
        for _ in 0..TRIES {
            let word = self.leases.word(&self.memory, index);
            let Some(held) = Held::from_word(word) else { return Ok(None) };
            let record = self.leases.read(&self.memory, index);
            let read = record.as_ref().ok().map(|record| {
                let offset = match record.place {
                    Place::Inline => self.leases.slot(index),
                    Place::Block(run) => self.blocks.offset(run),
                };
                self.copy_of(offset, record.length.min(bytes))
            });
            let reason = self.leases.reason(&self.memory, index);
            let holder_pid = self.leases.holder(&self.memory, index);
            // SYNC(look): what was read was there before the state is looked at.
            fence(Ordering::Acquire);
            if self.leases.word(&self.memory, index) != word
                || self.leases.read(&self.memory, index).ok() != record.as_ref().ok().copied()
            {
                continue;
            }
            let (record, bytes) = (record?, read.unwrap_or_default());
            let leased = held.state == State::Leased;
            let ring = &self.rings[usize::from(record.origin.level)];
            if leased && !ring.is_taken(&self.memory, record.origin.position) {
                return Ok(None);
            }
            return Ok(Some(Seen {
                standing: match held.state {
                    State::Leased => Standing::Leased,
                    State::Returned => Standing::Returned,
                    State::Dead => Standing::Dead,
                },
                origin: record.origin,
                length: record.length,
                deliveries: held.deliveries,
                holder: if leased { held.owner } else { Owner::NONE },
                holder_pid: if leased { holder_pid } else { 0 },
                reason: if leased { String::new() } else { reason.text() },
                bytes,
            }));
        }
        Ok(None) // it is busy with message after message: none of them stays
    }

    /// Bytes of the memory, from a place that was checked.
    fn copy_of(&self, offset: usize, length: usize) -> Vec<u8> {
        let mut buffer = vec![MaybeUninit::new(0); length];
        self.memory.read(offset, &mut buffer);
        initialised(buffer)
    }

    /// Messages in the ring of each level, the least urgent first; without those given back.
    pub fn depths(&self) -> Vec<u64> {
        self.rings.iter().map(|ring| ring.depth(&self.memory)).collect()
    }
}

fn initialised(bytes: Vec<MaybeUninit<u8>>) -> Vec<u8> {
    // SAFETY: whoever makes these buffers fills them with zeroes first.
    bytes.into_iter().map(|byte| unsafe { byte.assume_init() }).collect()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    use super::super::{Attempt, Geometry, INLINE_MAX, Leased, Step, UNIT};
    use super::*;
    use crate::error::Death;
    use crate::memory::mapping::Mapping;
    use crate::sys::map::Map;
    use crate::sys::{file, limits};

    /// All live.
    struct Everybody;

    impl Peers for Everybody {
        fn is_dead(&self, _owner: Owner) -> bool {
            false
        }

        fn death(&self, owner: Owner) -> Death {
            Death { owner, pid: 0, since_ns: 0 }
        }

        fn relock(&self) -> Result<()> {
            Ok(())
        }
    }

    const SHAPE: Geometry =
        Geometry { capacity: 96 << 10, levels: 1, ring_size: 32 << 10, leases: 4, units: 16 };
    const LOOKS: usize = 60_000;

    fn map() -> Map {
        let size = SHAPE.body_size();
        let file = file::memory(c"look").unwrap();
        limits::reserve(&file, size as u64, None).unwrap();
        let map = Map::shared(&file, size).unwrap();
        // SAFETY: the map outlives this function.
        let memory = unsafe { Mapping::new(map.ptr(), size) };
        Queue::<Mapping, Everybody>::format(&memory, 0, &SHAPE);
        map
    }

    fn queue(map: &Map) -> Queue<Mapping, Everybody> {
        // SAFETY: tests drop the queue before the map.
        Queue::new(unsafe { Mapping::new(map.ptr(), map.len()) }, Everybody, 0, SHAPE, 3)
    }

    /// A message whose every byte tells its number; each sixteenth is a large one.
    fn message(number: u64) -> Vec<u8> {
        let length = if number.is_multiple_of(16) { UNIT * 2 - 7 } else { number as usize * 7 % 600 };
        vec![(number ^ number >> 8) as u8; length]
    }

    fn put(queue: &Queue<Mapping, Everybody>, me: Owner, message: &[u8]) -> bool {
        let attempt = Attempt::default();
        if message.len() <= INLINE_MAX {
            return matches!(queue.try_put(me, &attempt, 0, message), Ok(Step::Done(_)));
        }
        let Ok(Step::Done(run)) = queue.try_claim(me, &attempt, message.len()) else { return false };
        queue.memory().write(queue.run_offset(run), message);
        let done = matches!(queue.try_put_run(me, &attempt, 0, run, message.len()), Ok(Step::Done(_)));
        if !done {
            queue.free(me, run);
        }
        done
    }

    /// Takes a message for good, or on lease.
    fn take(queue: &Queue<Mapping, Everybody>, me: Owner, lease: bool) -> Option<Leased> {
        let mut buffer = vec![MaybeUninit::new(0); SHAPE.inline_max()];
        let attempt = Attempt::default();
        if lease {
            let Ok(Step::Done(lease)) = queue.try_lease(me, &attempt, 0, &mut buffer) else { return None };
            return Some(lease);
        }
        let Ok(Step::Done(taken)) = queue.try_get(me, &attempt, &mut buffer) else { return None };
        if let Place::Block(run) = taken.place {
            queue.free(me, run);
        }
        None
    }

    fn end(queue: &Queue<Mapping, Everybody>, me: Owner, lease: &Leased, give_back: bool) {
        if give_back {
            queue.give_back(lease, "once more", false);
            return;
        }
        queue.acknowledge(lease);
        if let Place::Block(run) = lease.place {
            queue.free(me, run);
        }
    }

    #[test]
    fn whatever_is_seen_is_whole_while_others_put_and_take() {
        let (map, done, seen) = (map(), AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (queue, me) = (queue(&map), Owner::process(1, 1));
                let mut number = 0;
                while !done.load(Ordering::Relaxed) {
                    number += u64::from(put(&queue, me, &message(number)));
                }
            });
            scope.spawn(|| {
                let (queue, me) = (queue(&map), Owner::process(2, 1));
                let mut leases = VecDeque::new();
                for way in 0_u64.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    // Something always stays to be seen.
                    if queue.depth() > 8 {
                        leases.extend(take(&queue, me, way.is_multiple_of(2)));
                    }
                    if leases.len() > 2
                        && let Some(lease) = leases.pop_front()
                    {
                        end(&queue, me, &lease, way.is_multiple_of(3) && lease.deliveries() < 2);
                    }
                }
            });
            let queue = queue(&map);
            while queue.depth() < 8 {
                std::thread::yield_now();
            }
            let check = || {
                for round in 0..LOOKS {
                    let look = queue.peek(round % 40 + 1, usize::MAX)?;
                    for shown in look.next.iter().chain(&look.leased).chain(&look.dead) {
                        let whole = message(shown.origin.number);
                        let alike = shown.bytes == whole && shown.length == whole.len();
                        assert!(alike, "message {} is torn: {shown:?}", shown.origin.number);
                        seen.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Ok(())
            };
            let checked: std::thread::Result<Result<()>> =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
            done.store(true, Ordering::Relaxed);
            checked.unwrap().unwrap();
        });
        assert!(seen.into_inner() > 0, "there was nothing to see");
    }

    #[test]
    fn as_many_and_as_much_as_asked_for() {
        let map = map();
        let (queue, me) = (queue(&map), Owner::process(1, 1));
        for number in 0..5 {
            assert!(put(&queue, me, &message(number)));
        }
        let look = queue.peek(2, 10).unwrap();
        let shown: Vec<_> =
            look.next.iter().map(|seen| (seen.origin.number, seen.length, seen.bytes.len())).collect();
        assert_eq!(shown, [(0, UNIT * 2 - 7, 10), (1, 7, 7)]);
        assert_eq!(queue.peek(0, 0).unwrap(), Look::default());
        assert_eq!(queue.peek(9, 0).unwrap().next.len(), 5);
        assert_eq!((queue.depth(), queue.depths()), (5, vec![5]));
    }
}
