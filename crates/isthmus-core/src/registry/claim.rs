//! Taking a slot. The steps and their crash windows are in `layout.rs`.

use std::sync::atomic::Ordering;

use super::Registry;
use super::evidence::{self, Identity};
use super::layout::{self, BURIED, CLAIMING, LIVE, SLOTS, at, generation, next_generation, state, word};
use crate::error::{Error, Result};
use crate::owner::Owner;
use crate::process;
use crate::sys::{clock, lock, proc};

impl Registry {
    /// Claims a slot for this process, unless another of its threads was first.
    #[cold]
    pub(super) fn claim(&self) -> Result<Owner> {
        let file = self.descriptor().ok_or_else(|| Error::Os {
            call: "openat",
            path: Some(self.path.clone()),
            errno: libc::EBADF,
        })?;
        let guard = self.lock.lock();
        if self.me_epoch.load(Ordering::Acquire) == process::epoch() {
            drop(guard);
            return self.me();
        }
        let own = Identity::own();
        for slot in 1..SLOTS as u32 {
            if !lock::lock_byte(file, u64::from(slot))? {
                continue; // its owner lives, or another claimer is looking
            }
            if let Some(me) = self.claim_locked(slot, &own) {
                self.me.store(me.word(), Ordering::Relaxed);
                for (place, value) in self.written.iter().zip(own.words()) {
                    place.store(value, Ordering::Relaxed);
                }
                // SYNC(me): pairs with the load in `me`.
                self.me_epoch.store(process::epoch(), Ordering::Release);
                return Ok(me);
            }
            lock::unlock_byte(file, u64::from(slot))?;
        }
        Err(Error::NoSpace(format!(
            "the registry {} is full: {} processes are using the namespace; use another namespace for some",
            self.path.display(),
            SLOTS - 1
        )))
    }

    /// With the slot's byte locked: `None` if it belongs to a living process (which lost its lock).
    pub(super) fn claim_locked(&self, slot: u32, own: &Identity) -> Option<Owner> {
        let place = self.map.word(at(slot, layout::WORD));
        let mut seen = place.load(Ordering::Acquire);
        if state(seen) == LIVE {
            // Our holding the lock is what "free" means here.
            if !evidence::is_dead(&self.identity_in(slot), true) {
                return None;
            }
            self.bury(slot, seen);
            seen = place.load(Ordering::Acquire);
        }
        if !matches!(state(seen), 0 | CLAIMING | BURIED) {
            return None;
        }
        let fresh = next_generation(generation(seen));
        place.compare_exchange(seen, word(fresh, CLAIMING), Ordering::AcqRel, Ordering::Acquire).ok()?;
        self.write_fields(slot, own);
        // SYNC(slot): the fields are visible to whoever sees LIVE.
        place
            .compare_exchange(word(fresh, CLAIMING), word(fresh, LIVE), Ordering::AcqRel, Ordering::Acquire)
            .ok()?;
        Some(Owner::process(slot, fresh))
    }

    pub(super) fn write_fields(&self, slot: u32, own: &Identity) {
        let write = |field: usize, value: u64| self.map.word(at(slot, field)).store(value, Ordering::Release);
        write(layout::PID, own.pid);
        write(layout::PID_NS, own.pid_ns);
        write(layout::TIME_NS, own.time_ns);
        write(layout::START, own.start);
        write(layout::STACK, own.stack);
        write(layout::USER, u64::from(proc::user()));
        write(layout::CLAIMED, clock::wall_ns());
        let mut command = proc::own_command(layout::COMMAND_LEN);
        command.resize(layout::COMMAND_LEN, 0);
        for (part, bytes) in command.chunks_exact(8).enumerate() {
            let value = bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
            write(layout::COMMAND + part * 8, value);
        }
    }
}
