//! Waiting of event loops: the same places as in `waiting.rs`, without ever sleeping in them.

use super::{Attempt, On, Queue};
use crate::error::Result;
use crate::memory::{Memory, Peers};
use crate::owner::Owner;
use crate::wait::WaitPoint;

impl On {
    /// As one number: for callers that wait elsewhere.
    pub fn code(self) -> u64 {
        match self {
            On::ProducerLock => 0,
            On::ConsumerLock => 1,
            On::RingSpace(level, size) => 2 | u64::from(level) << 8 | (size as u64) << 16,
            On::BlockSpace(units) => 3 | (units as u64) << 16,
            On::Messages => 4,
            On::Leases => 5,
        }
    }

    /// What [`On::code`] stands for.
    pub fn from_code(code: u64) -> Option<On> {
        let (level, size) = ((code >> 8) as u8, (code >> 16) as usize);
        Some(match code as u8 {
            0 => On::ProducerLock,
            1 => On::ConsumerLock,
            2 => On::RingSpace(level, size),
            3 => On::BlockSpace(size),
            4 => On::Messages,
            5 => On::Leases,
            _ => return None,
        })
    }
}

impl<M: Memory, P: Peers> Queue<M, P> {
    /// Where to wait for this; `None` for what lasts less than a microsecond as long as its owner runs.
    pub fn wait_point(&self, on: On) -> Option<WaitPoint> {
        match on {
            On::ProducerLock | On::ConsumerLock => None,
            On::Messages => Some(self.messages),
            On::RingSpace(..) => Some(self.ring_space),
            On::BlockSpace(_) => Some(self.block_space),
            On::Leases => Some(self.progress),
        }
    }

    /// Where to wait for messages to be taken or acknowledged, and for room to come back.
    pub fn progress_point(&self) -> WaitPoint {
        self.progress
    }

    /// Whether trying again may succeed, looked at as carefully as before going to sleep.
    pub fn may_go_on(&self, me: Owner, on: On) -> bool {
        match on {
            On::Messages => self.is_ready(on) || self.is_drained(),
            other => self.room_for(me, other),
        }
    }

    /// What a waiter does after each slice: takes the proof of life again, and gives back what the dead hold of
    /// what it waits for.
    pub fn look(&self, me: Owner, on: On) -> Result<()> {
        self.peers.relock()?;
        let attempt = Attempt::default();
        match on {
            On::ProducerLock => self.enter_or_take_over(self.producers, me, &attempt).map(drop),
            On::ConsumerLock => self.enter_or_take_over(self.consumers, me, &attempt).map(drop),
            On::Messages | On::Leases => self.redeliver(me, &attempt),
            On::RingSpace(..) | On::BlockSpace(_) => self.reclaim(me, &attempt).map(drop),
        }
    }

    /// A wake-up that was not used goes to the next one who waits for the same.
    pub fn pass_on(&self, on: On) {
        match on {
            On::Messages if self.has_message() => self.messages.notify(&self.memory),
            On::RingSpace(..) => self.notify_room(),
            On::BlockSpace(_) => self.block_space.notify_all(&self.memory),
            On::Leases if self.is_ready(on) => self.progress.notify_all(&self.memory),
            _ => {}
        }
    }
}
