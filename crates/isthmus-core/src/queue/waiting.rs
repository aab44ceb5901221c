//! Waiting for what stood in the way of an operation, and taking back what the dead left in it.

use std::time::{Duration, Instant};

use super::ring::Kind;
use super::{Attempt, Held, On, Queue, SHUT};
use crate::error::Result;
use crate::lock::{Lock, Rest};
use crate::memory::{Memory, Peers, Woken};
use crate::owner::Owner;
use crate::wait::{DATA_SLICE, WATCH_SLICE, Waited};

impl<M: Memory, P: Peers> Queue<M, P> {
    /// True where trying again may succeed.
    #[inline]
    pub fn is_ready(&self, on: On) -> bool {
        match on {
            On::Messages => self.has_message(),
            On::RingSpace(level, size) => {
                self.ring_of(level).used(&self.memory) + size as u64 + 8 <= self.geometry.ring_size as u64
                    || self.flags() & SHUT != 0
            }
            // Not a search: only whether the run freed last is long enough.
            On::BlockSpace(need) => {
                self.blocks.hinted(&self.memory, need).is_some() || self.flags() & SHUT != 0
            }
            On::ProducerLock => self.producers.is_free(&self.memory),
            On::ConsumerLock => self.consumers.is_free(&self.memory),
            // What was given back needs no other record.
            On::Leases => self.has_free_lease() || self.has_returned(),
        }
    }

    /// Sleeps until messages are taken or acknowledged or room comes back, at most `limit`; may return early.
    pub fn wait_progress(&self, limit: Duration, reached: impl Fn() -> bool) -> Result<()> {
        self.peers.relock()?;
        self.progress.sleep(&self.memory, limit.min(WATCH_SLICE), reached);
        Ok(())
    }

    /// Waits, at most until `deadline`, for what stood in the way; may return early. With `watch`, a
    /// wait for messages returns every [`WATCH_SLICE`], so that the caller can look whether the
    /// producers live.
    pub fn wait(
        &self,
        me: Owner,
        attempt: &mut Attempt,
        on: On,
        deadline: Option<Instant>,
        watch: bool,
    ) -> Result<Waited> {
        self.peers.relock()?;
        let left = match deadline {
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(Waited::TimedOut);
                }
                left
            }
            None => Duration::MAX,
        };
        Ok(match on {
            On::ProducerLock => self.rest(self.producers, me, attempt, left)?,
            On::ConsumerLock => self.rest(self.consumers, me, attempt, left)?,
            On::Messages => {
                // Messages leased to the dead come back when somebody looks.
                let slice = left.min(if watch || self.has_leases() { WATCH_SLICE } else { DATA_SLICE });
                attempt.slept_on = Some((on, slice));
                let woken =
                    self.messages.sleep(&self.memory, slice, || self.is_ready(on) || self.is_drained());
                if woken == Woken::TimedOut {
                    self.redeliver(me, attempt)?;
                }
                Self::ended(woken)
            }
            On::Leases => {
                let slice = left.min(WATCH_SLICE);
                attempt.slept_on = Some((on, slice));
                let woken = self.progress.sleep(&self.memory, slice, || self.is_ready(on));
                if woken == Woken::TimedOut {
                    self.redeliver(me, attempt)?;
                }
                Self::ended(woken)
            }
            On::RingSpace(..) | On::BlockSpace(_) => {
                // Room held by the dead comes back when somebody looks: 1, 2, 4 … 80 ms.
                let slice =
                    attempt.slept_on.map_or(Duration::from_millis(1), |(_, s)| (s * 2).min(WATCH_SLICE));
                attempt.slept_on = Some((on, slice));
                let point = if matches!(on, On::RingSpace(..)) { self.ring_space } else { self.block_space };
                let woken = point.sleep(&self.memory, slice.min(left), || self.room_for(me, on));
                if woken == Woken::TimedOut {
                    self.reclaim(me, attempt)?;
                }
                Self::ended(woken)
            }
        })
    }

    /// The caller gives up: wake-ups it may have swallowed, wherever it slept, go to the next ones.
    pub fn leave(&self, attempt: &Attempt) {
        if attempt.slices.slept {
            self.producers.pass_on(&self.memory);
            self.consumers.pass_on(&self.memory);
        }
        match attempt.slept_on {
            Some((On::Messages, _)) => self.messages.notify(&self.memory),
            Some((On::RingSpace(..), _)) => self.notify_room(),
            _ => {}
        }
    }

    fn ended(woken: Woken) -> Waited {
        if woken == Woken::Interrupted { Waited::Interrupted } else { Waited::Ready }
    }

    /// Looks for room the way a producer does; used once between announcing a sleep and sleeping.
    pub(super) fn room_for(&self, me: Owner, on: On) -> bool {
        match on {
            On::BlockSpace(need) => {
                if self.is_ready(on) {
                    return true;
                }
                let Some(_held) = self.enter(self.producers, me, &Attempt::default()) else {
                    return true;
                };
                match self.blocks.claim(&self.memory, me, need) {
                    Ok(Some(run)) => {
                        self.blocks.free(&self.memory, me, run);
                        true
                    }
                    Ok(None) => false,
                    Err(_) => true,
                }
            }
            other => self.is_ready(other),
        }
    }

    fn rest(&self, lock: Lock, me: Owner, attempt: &mut Attempt, limit: Duration) -> Result<Waited> {
        match lock.rest(&self.memory, &self.peers, &mut attempt.slices, limit) {
            Rest::Again => Ok(Waited::Ready),
            Rest::Interrupted => Ok(Waited::Interrupted),
            Rest::Dead(word) => self.take_over(lock, word, me).map(|_| Waited::Ready),
        }
    }

    /// Repairs what the lock protects after its owner was killed. The lock is held.
    fn repair(&self, lock: Lock) -> Result<()> {
        if lock == self.producers {
            self.rings.iter().try_for_each(|ring| ring.roll_forward(&self.memory))?;
            self.blocks.clear_interiors(&self.memory)
        } else {
            self.rings.iter().try_for_each(|ring| ring.restore_head_seq(&self.memory))?;
            self.repair_leases()
        }
    }

    /// Enters or takes over from the dead; `None` where a living process is inside.
    pub(super) fn enter_or_take_over(
        &self,
        lock: Lock,
        me: Owner,
        attempt: &Attempt,
    ) -> Result<Option<Held<'_, M>>> {
        if let Some(held) = self.enter(lock, me, attempt) {
            return Ok(Some(held));
        }
        match lock.dead_word(&self.memory, &self.peers) {
            Some(word) => self.take_over(lock, word, me),
            None => Ok(None),
        }
    }

    /// Takes a lock over from the dead owner in `word` and repairs what it protects.
    fn take_over(&self, lock: Lock, word: u64, me: Owner) -> Result<Option<Held<'_, M>>> {
        if !lock.take_over(&self.memory, word, me) {
            return Ok(None);
        }
        let held = Held { lock, memory: &self.memory, me };
        self.repair(lock)?;
        Ok(Some(held))
    }

    /// Repairs at once whatever dead processes left behind: locks, and blocks that nobody will free.
    /// Says whether anything came back. Does nothing where a living process is inside a lock.
    pub fn reclaim(&self, me: Owner, attempt: &Attempt) -> Result<bool> {
        let Some(producers) = self.enter_or_take_over(self.producers, me, attempt)? else {
            return Ok(false);
        };
        let mut dead: Vec<Owner> = Vec::new();
        self.blocks.owned(&self.memory, |_, owner| {
            if owner != me && !dead.contains(&owner) {
                dead.push(owner);
            }
        })?;
        // Proving a death takes system calls: not under a lock.
        drop(producers);
        dead.retain(|owner| self.peers.is_dead(*owner));
        if dead.is_empty() {
            return Ok(false);
        }
        let Some(producers) = self.enter_or_take_over(self.producers, me, attempt)? else {
            return Ok(false);
        };
        let Some(consumers) = self.enter_or_take_over(self.consumers, me, attempt)? else {
            return Ok(false);
        };
        let mut named = Vec::new();
        for ring in &self.rings {
            ring.entries(&self.memory, |entry| {
                if entry.kind == Kind::Block {
                    named.push(ring.descriptor(&self.memory, entry)[0]);
                }
            })?;
        }
        self.leased_runs(&mut named)?;
        named.sort_unstable();
        let freed = self.blocks.free_dead(&self.memory, &named, |owner| dead.contains(&owner))?;
        drop(consumers);
        drop(producers);
        if freed > 0 {
            self.block_space.notify_all(&self.memory);
        }
        Ok(freed > 0)
    }
}
