//! A queue with levels, leases and dead letters as plain lists: what the one in shared memory is held against.

use super::*;

/// How often a message is handed out.
pub(super) const LIMIT: u32 = 3;

/// The bytes of a message; shown by how many they are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{} bytes: {:?}", self.0.len(), self.0.first())
    }
}

/// Where a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    Ring,
    Leased(Owner),
    Returned,
    Dead,
}

/// A message that is inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) bytes: Bytes,
    /// In a run, whatever its length.
    pub(super) large: bool,
    pub(super) level: u8,
    pub(super) number: u64,
    pub(super) stand: Stand,
    pub(super) deliveries: u32,
    pub(super) reason: String,
    /// Which record holds it; of no meaning in the ring.
    record: usize,
}

impl Known {
    pub(super) fn id(&self) -> (u8, u64) {
        (self.level, self.number)
    }
}

/// What a process does with the queue.
#[derive(Clone, Debug)]
pub(super) enum Call {
    /// `spare` more bytes are reserved than the message has; with any, it goes through a run.
    Put {
        level: u8,
        length: usize,
        spare: usize,
    },
    Get,
    /// Takes a message, finds it not valid and keeps it as a letter.
    GetBad,
    Lease,
    /// Ends the oldest lease of the process.
    Acknowledge,
    GiveBack {
        for_good: bool,
    },
    TakeLetter,
    Requeue,
    Redeliver,
    Reclaim,
}

impl Call {
    /// Reserves more than the message has.
    pub(super) fn is_spare(&self) -> bool {
        matches!(self, Call::Put { spare: 1.., .. })
    }
}

/// What a call answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Put(bool),
    Got(Option<Bytes>),
    Leased(Option<(Bytes, u32)>),
    /// False where the process has no lease.
    Ended(bool),
    Letter(Option<(Bytes, u32, String)>),
    Requeued(usize),
    Nothing,
}

pub(super) const GIVEN_BACK: &str = "given back";
pub(super) const NOT_VALID: &str = "not valid";

pub(super) fn died(owner: Owner) -> String {
    format!("process {} died holding it", owner.slot())
}

/// Everything that is inside, in the order in which it was put.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plain {
    pub(super) inside: Vec<Known>,
    pub(super) next: [u64; 16],
}

impl Plain {
    fn put(&mut self, level: u8, bytes: Bytes, large: bool) {
        let number = self.next[usize::from(level)];
        self.next[usize::from(level)] += 1;
        let (stand, deliveries, reason) = (Stand::Ring, 0, String::new());
        self.inside.push(Known { bytes, large, level, number, stand, deliveries, reason, record: 0 });
    }

    /// Bytes free in the ring of a level.
    pub(super) fn room(&self, level: u8, geometry: &Geometry) -> usize {
        let here = self.inside.iter().filter(|known| known.stand == Stand::Ring && known.level == level);
        let used = here.map(|known| entry(known.bytes.0.len(), known.large)).sum::<usize>();
        geometry.ring_size - 8 - used
    }

    /// What consumers are handed, first first: by level, of a level what was given back, then by age.
    pub(super) fn order(&self) -> Vec<&Known> {
        let waits = |known: &&Known| matches!(known.stand, Stand::Ring | Stand::Returned);
        let mut waiting: Vec<&Known> = self.inside.iter().filter(waits).collect();
        waiting.sort_by_key(|known| (u8::MAX - known.level, known.stand == Stand::Ring, known.number));
        waiting
    }

    pub(super) fn of(&self, id: (u8, u64)) -> Option<&Known> {
        self.inside.iter().find(|known| known.id() == id)
    }

    fn at(&self, id: (u8, u64)) -> usize {
        self.inside.iter().position(|known| known.id() == id).expect("it is inside")
    }

    /// The first record of a lease that is free.
    fn free_record(&self, shape: &Geometry) -> Option<usize> {
        let used = |record: &usize| {
            self.inside.iter().any(|known| known.stand != Stand::Ring && known.record == *record)
        };
        (0..shape.leases).find(|record| !used(record))
    }

    /// What the dead have on lease goes back.
    pub(super) fn redeliver(&mut self, dead: &[Owner], limit: u32) {
        for known in &mut self.inside {
            if let Stand::Leased(owner) = known.stand
                && dead.contains(&owner)
            {
                known.stand = if known.deliveries >= limit { Stand::Dead } else { Stand::Returned };
                known.reason = died(owner);
            }
        }
    }

    /// What a lease takes: where all records are in use, only what has one.
    fn next_lease(&self, shape: &Geometry) -> Option<(u8, u64)> {
        let full = self.free_record(shape).is_none();
        let order = self.order();
        let first = order.first().filter(|known| !full || known.stand == Stand::Returned);
        first.or_else(|| order.iter().find(|known| known.stand == Stand::Returned)).map(|known| known.id())
    }

    /// The states that a call goes through, the last one when it is completed, and what it answers. A put that
    /// finds room in the ring is taken to find blocks as well.
    pub(super) fn steps(
        &self,
        who: Owner,
        call: &Call,
        bytes: &Bytes,
        dead: &[Owner],
        shape: &Geometry,
    ) -> (Vec<Plain>, Said) {
        // Nobody clears up after itself, and was alive at the time.
        let dead: Vec<Owner> = dead.iter().copied().filter(|owner| *owner != who).collect();
        let dead = dead.as_slice();
        let mut now = self.clone();
        let mut steps = vec![self.clone()];
        let mine = self.inside.iter().position(|known| known.stand == Stand::Leased(who));
        let said = match call {
            Call::Put { level, length, spare } => {
                let large = spare + length > shape.inline_max();
                let fits = entry(*length, large) <= self.room(*level, shape);
                if fits {
                    now.put(*level, bytes.clone(), large);
                }
                Said::Put(fits)
            }
            Call::Get | Call::GetBad => {
                if now.order().is_empty() {
                    // Whoever waits looks after the dead.
                    now.redeliver(dead, LIMIT);
                    steps.push(now.clone());
                }
                let first = now.order().first().map(|known| known.id());
                let taken = first.map(|id| {
                    let at = now.at(id);
                    now.inside.remove(at)
                });
                let answer = taken.as_ref().map(|taken| taken.bytes.clone());
                if let (Call::GetBad, Some(taken)) = (call, taken) {
                    steps.push(now.clone());
                    if let Some(record) = now.free_record(shape) {
                        let (stand, deliveries) = (Stand::Dead, taken.deliveries + 1);
                        let reason = NOT_VALID.to_owned();
                        now.inside.push(Known { stand, deliveries, reason, record, ..taken });
                    }
                }
                Said::Got(answer)
            }
            Call::Lease => {
                if now.next_lease(shape).is_none() {
                    now.redeliver(dead, LIMIT);
                    steps.push(now.clone());
                }
                Said::Leased(now.next_lease(shape).map(|id| {
                    let (at, record) = (now.at(id), now.free_record(shape));
                    let known = &mut now.inside[at];
                    if known.stand == Stand::Ring {
                        known.record = record.expect("looked for before");
                    }
                    known.stand = Stand::Leased(who);
                    known.deliveries += 1;
                    (known.bytes.clone(), known.deliveries)
                }))
            }
            Call::Acknowledge => {
                mine.map(|at| now.inside.remove(at));
                Said::Ended(mine.is_some())
            }
            Call::GiveBack { for_good } => {
                if let Some(at) = mine {
                    let known = &mut now.inside[at];
                    let spent = *for_good || known.deliveries >= LIMIT;
                    known.stand = if spent { Stand::Dead } else { Stand::Returned };
                    GIVEN_BACK.clone_into(&mut known.reason);
                }
                Said::Ended(mine.is_some())
            }
            Call::TakeLetter => {
                let letters = self.inside.iter().filter(|known| known.stand == Stand::Dead);
                let letter = letters.min_by_key(|known| (known.number, known.record)).cloned();
                now.inside.retain(|known| letter.as_ref().is_none_or(|letter| letter.id() != known.id()));
                Said::Letter(letter.map(|letter| (letter.bytes, letter.deliveries, letter.reason)))
            }
            Call::Requeue => {
                let is_letter = |at: &usize| now.inside[*at].stand == Stand::Dead;
                let mut letters: Vec<usize> = (0..now.inside.len()).filter(is_letter).collect();
                letters.sort_by_key(|at| now.inside[*at].record);
                for at in &letters {
                    let known = &mut now.inside[*at];
                    (known.stand, known.deliveries) = (Stand::Returned, 0);
                    steps.push(now.clone());
                }
                Said::Requeued(letters.len())
            }
            Call::Redeliver => {
                now.redeliver(dead, LIMIT);
                Said::Nothing
            }
            Call::Reclaim => Said::Nothing,
        };
        steps.push(now);
        (steps, said)
    }
}

/// Bytes of an entry in the ring.
fn entry(length: usize, large: bool) -> usize {
    8 + if large { 16 } else { length.next_multiple_of(8) }
}
