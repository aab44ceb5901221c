//! Waiting for a condition that another process makes true: spin while it pays, then sleep.
//!
//! # The word
//! ```text
//!  63                32 31                 1  0
//! +--------------------+--------------------+--+
//! | bells              | sequence           |S |
//! +--------------------+--------------------+--+
//! ```
//! `S`: somebody may be asleep. Waiters set it, wakers clear it and raise the sequence in the same
//! compare-and-swap, then wake one. The word is a hint and nothing else: it counts nobody, so nothing
//! is left over from a process killed while it waited. The bits of the upper half say the same of event loops,
//! which are rung instead of woken (`bell.rs`); below, what is said of `S` and sleepers holds of them too.
//!
//! # Why no wake-up is lost
//! SYNC(wait): a waiter sets `S` (full fence) and *then* looks at its condition again; a waker makes
//! the condition true, passes a full fence (releasing its lock is one) and *then* looks at `S`.
//! One of the two sees the other. The waiter sleeps on the sequence it read, so a wake-up between
//! looking and sleeping changes the word and the sleep returns at once.
//!
//! A waker clears `S` although several may sleep, so whoever wakes sets it again first thing
//! ([`WaitPoint::sleep`]), and after having taken what it was woken for it wakes the next one if
//! there is more ([`WaitPoint::notify`]).
//!
//! # Killed in between
//! A waker killed after making its condition true and before waking, or a woken process killed
//! before it passes the wake-up on: sleepers look again by themselves after [`DATA_SLICE`].

#[cfg(all(test, loom))]
mod models;

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::memory::{Memory, Woken, pause};

/// Somebody may be asleep.
const SLEEPERS: u64 = 1;
/// Event loops may wait; see `bell.rs`.
const BELLS: u64 = !LOW_HALF;
const LOW_HALF: u64 = 0xffff_ffff;

/// Longest sleep without a look at the condition and at signals. A look costs 20 to 50 us, so this is
/// about 0.02 % of a CPU.
pub const DATA_SLICE: Duration = Duration::from_millis(200);
/// Longest sleep of a waiter that must notice the death of a process within 100 ms; about 0.06 %.
pub const WATCH_SLICE: Duration = Duration::from_millis(80);

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// Try again.
    Ready,
    /// The deadline has passed.
    TimedOut,
    /// A signal handler ran: look at it, then wait again.
    Interrupted,
}

/// A place to wait; one word in shared memory.
#[derive(Clone, Copy, Debug)]
pub struct WaitPoint {
    at: usize,
}

impl WaitPoint {
    /// The wait point in the word at `at`.
    pub const fn new(at: usize) -> WaitPoint {
        WaitPoint { at }
    }

    /// Where its word is in the memory.
    pub const fn offset(self) -> usize {
        self.at
    }

    /// Wakes one waiter if any may be asleep; no system call where nobody is.
    ///
    /// The caller must have passed a full fence since it made the condition true.
    #[inline]
    pub fn notify<M: Memory>(self, memory: &M) {
        if memory.load(self.at) & (SLEEPERS | BELLS) != 0 {
            self.wake(memory, 1);
        }
    }

    /// As [`WaitPoint::notify`], but wakes everyone: for changes that concern all, such as a
    /// shutdown, or where waiters wait for different things.
    #[inline]
    pub fn notify_all<M: Memory>(self, memory: &M) {
        if memory.load(self.at) & (SLEEPERS | BELLS) != 0 {
            self.wake(memory, u32::MAX >> 1);
        }
    }

    #[cold]
    fn wake<M: Memory>(self, memory: &M, count: u32) {
        // As many rounds as there are places, and some for exchanges that fail: a word that others set again and again
        // must not keep the caller here. Whoever is not woken looks by itself after a slice.
        for _ in 0..4 * PLACES {
            let word = memory.load(self.at);
            let chosen = if count == 1 { one_of(word) } else { word & (SLEEPERS | BELLS) };
            if chosen == 0 {
                return;
            }
            let left = word & !chosen;
            let raised = (left & BELLS) | (left.wrapping_add(2) & LOW_HALF);
            if memory.compare_exchange(self.at, word, raised).is_err() {
                continue;
            }
            let woken = chosen & SLEEPERS != 0 && memory.wake(self.at, count) > 0;
            let rung = chosen & BELLS != 0 && memory.ring((chosen >> 32) as u32);
            // Where nobody was there any more, the next one is woken.
            if woken || rung {
                return;
            }
        }
    }

    /// Says that the event loop of this cell waits here. The caller looks afterwards whether what it waits for has
    /// come meanwhile.
    pub fn arm<M: Memory>(self, memory: &M, cell: usize) {
        // SYNC(wait): as for `S`.
        memory.fetch_or(self.at, bell_bit(cell));
    }

    /// Takes back what [`WaitPoint::arm`] said.
    pub fn disarm<M: Memory>(self, memory: &M, cell: usize) {
        let mut word = memory.load(self.at);
        while word & bell_bit(cell) != 0 {
            match memory.compare_exchange(self.at, word, word & !bell_bit(cell)) {
                Ok(()) => return,
                Err(found) => word = found,
            }
        }
    }

    /// True where somebody may wait here.
    pub fn has_waiters<M: Memory>(self, memory: &M) -> bool {
        memory.load(self.at) & (SLEEPERS | BELLS) != 0
    }

    /// Sleeps at most `limit` unless `ready` holds.
    pub fn sleep<M: Memory>(self, memory: &M, limit: Duration, ready: impl Fn() -> bool) -> Woken {
        // SYNC(wait): set S, then look again.
        let token = (memory.fetch_or(self.at, SLEEPERS) | SLEEPERS) as u32;
        if ready() {
            return Woken::Changed;
        }
        let woken = memory.sleep(self.at, token, limit);
        if woken == Woken::Woken {
            // The waker cleared S, but others may sleep on.
            memory.fetch_or(self.at, SLEEPERS);
        }
        woken
    }
}

/// The bit of an event loop in a wait point.
const fn bell_bit(cell: usize) -> u64 {
    1 << (32 + cell % 32)
}

/// Who may wait at a wait point: 32 bells, and sleepers.
const PLACES: u64 = 33;

/// One of those who wait, each in turn: sleepers and every bell are equals.
fn one_of(word: u64) -> u64 {
    let bells = word >> 32;
    if bells == 0 {
        return word & SLEEPERS;
    }

    let places = bells | (word & SLEEPERS) << 32;
    let start = (word >> 1) % PLACES;
    let turned = places >> start | places << (PLACES - start);
    let place = (u64::from(turned.trailing_zeros()) + start) % PLACES;
    if place == 32 { SLEEPERS } else { 1 << (32 + place) }
}

/// How long to spin before sleeping, learned from how long the last waits took.
///
/// Spinning pays while the wait is shorter than falling asleep and being woken (20 to 60 us on
/// the machines measured). A wait that turned out short raises the budget to twice its length, a long
/// one halves it, so a waiter that is always late (one CPU, an oversubscribed machine, an idle
/// producer) soon spends next to nothing on spinning.
#[derive(Debug)]
pub struct Spin {
    budget_ns: Cell<u32>,
}

const SPIN_MAX_NS: u32 = 60_000;
const SPIN_MIN_NS: u32 = 1_000;

impl Default for Spin {
    fn default() -> Spin {
        Spin { budget_ns: Cell::new(SPIN_MAX_NS) }
    }
}

impl Spin {
    /// A budget as it was left by [`Spin::learned`].
    pub fn with_budget(nanoseconds: u32) -> Spin {
        Spin { budget_ns: Cell::new(nanoseconds.clamp(SPIN_MIN_NS, SPIN_MAX_NS)) }
    }

    /// The budget, to keep for the next wait.
    pub fn learned(&self) -> u32 {
        self.budget_ns.get()
    }

    /// Spins until `ready`, the deadline or the end of the budget; true when ready.
    pub fn until(&self, deadline: Option<Instant>, ready: impl Fn() -> bool) -> bool {
        if one_cpu() {
            return ready();
        }
        let start = Instant::now();
        let mut end = start + Duration::from_nanos(u64::from(self.budget_ns.get()));
        if let Some(deadline) = deadline {
            end = end.min(deadline);
        }
        loop {
            for _ in 0..32 {
                if ready() {
                    return true;
                }
                pause();
            }
            if Instant::now() >= end {
                return false;
            }
        }
    }

    /// Tells how long a whole wait (spinning and sleeping) took.
    pub fn learn(&self, waited: Duration) {
        let waited = u32::try_from(waited.as_nanos()).unwrap_or(u32::MAX);
        let budget = self.budget_ns.get();
        self.budget_ns.set(if waited <= SPIN_MAX_NS {
            budget.max(waited.saturating_mul(2)).min(SPIN_MAX_NS)
        } else {
            (budget / 2).max(SPIN_MIN_NS)
        });
    }
}

/// With one CPU the other side cannot run while we spin.
fn one_cpu() -> bool {
    use std::sync::atomic::{AtomicU8, Ordering};
    static CPUS: AtomicU8 = AtomicU8::new(0);
    let known = CPUS.load(Ordering::Relaxed);
    let cpus = if known == 0 {
        // CPUs that are online, not those of our own affinity: the peer may be pinned to another.
        let online = crate::sys::online_cpus().clamp(1, 255) as u8;
        CPUS.store(online, Ordering::Relaxed);
        online
    } else {
        known
    };
    cpus == 1
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::memory::crash::Crashing;

    #[test]
    fn everyone_who_waits_is_woken_in_turn() {
        for cells in [vec![0], vec![31], vec![0, 31], vec![3, 4, 9, 30], (0..32).collect()] {
            for asleep in [false, true] {
                for start in 0..70 {
                    let (memory, point) = (Crashing::new(8), WaitPoint::new(0));
                    memory.store(0, start << 1 | u64::from(asleep));
                    for &cell in &cells {
                        point.arm(&memory, cell);
                    }
                    let mut rung = 0_u32;
                    for _ in 0..cells.len() {
                        // The kernel of this memory finds nobody asleep, so each call ends at a bell.
                        point.notify(&memory);
                        let now = memory.take_rung();
                        assert!(now.is_power_of_two() && rung & now == 0);
                        rung |= now;
                    }
                    assert_eq!(rung, cells.iter().fold(0, |bits, cell| bits | 1 << cell));
                    point.notify(&memory);
                    assert!(!point.has_waiters(&memory) && memory.take_rung() == 0);
                }
            }
        }
    }

    #[test]
    fn all_are_rung_at_once_and_what_was_taken_back_is_not() {
        let (memory, point) = (Crashing::new(8), WaitPoint::new(0));
        for cell in [1, 2, 34] {
            point.arm(&memory, cell);
        }
        point.disarm(&memory, 1);
        point.notify_all(&memory);
        assert_eq!(memory.take_rung(), 1 << 2);
        assert!(!point.has_waiters(&memory));
    }
}
