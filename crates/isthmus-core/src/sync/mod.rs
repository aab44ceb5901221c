//! Synchronization in shared memory beside the mutex: semaphores, read-write locks, events, conditions, barriers.
//!
//! # Layout of the body, common to all (the mutex has the same first words, see `mutex/mod.rs`)
//! ```text
//!    0  word       of the kind
//!    8  …          of the kind, up to 32
//!   32  point      wait point (`wait.rs`)
//!   40  claim      who is to be next (`claim.rs`)
//!   48  extra      of the kind
//!   56  second     another wait point, of kinds that have two sorts of waiters
//!   64  guard      short lock (`lock.rs`), of kinds whose steps take more than one store
//!   72  limit      of the kind, written at creation
//!  128  waiters    32 bytes a waiter, see `waiters.rs`
//!    …  cells      of the kind: permits, read shares, arrivals
//! ```
//!
//! # Rules
//! - What a process holds stands in a cell of its own that names it; how many there are is counted from cells.
//! - Every step is one store, or is done under the guard with one store that commits it.
//! - Everyone who waits does it through [`rest`], at a wait point, and looks after the dead after each slice.

pub mod barrier;
pub mod bounded;
pub mod condition;
pub mod event;
#[cfg(not(loom))]
pub mod handle;
#[cfg(all(test, loom))]
mod models;
pub mod rwlock;
pub mod semaphore;
#[cfg(not(loom))]
pub mod situation;
#[cfg(all(test, not(loom)))]
mod sweep;

use std::time::{Duration, Instant};

use crate::claim::PATIENCE;
use crate::error::Result;
use crate::memory::{Memory, Peers, Woken};
use crate::owner::Owner;
use crate::wait::{Spin, WATCH_SLICE, WaitPoint, Waited};
use crate::waiters;

pub(crate) const WORD: usize = 0;
pub(crate) const POINT: usize = 32;
pub(crate) const CLAIM: usize = 40;
pub(crate) const EXTRA: usize = 48;
pub(crate) const SECOND: usize = 56;
pub(crate) const GUARD: usize = 64;
pub(crate) const LIMIT: usize = 72;
pub(crate) const WAITERS: usize = 128;
/// Where cells of the kind begin.
pub(crate) const CELLS: usize = WAITERS + waiters::COUNT * waiters::SIZE;

/// What a caller wants of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// A permit of a semaphore.
    Permit,
    /// A read share.
    Read,
    /// The lock for writing.
    Write,
    /// An event to be set, or to have been set since this generation.
    Set(u64),
    /// A barrier to open, in this generation.
    Open(u64),
    /// A notification, in this cell.
    Notified(usize),
}

/// Those of `owners` that are proven dead, each asked once. The proof takes system calls: not under a guard.
fn dead_among<P: Peers>(peers: &P, owners: impl Iterator<Item = Owner>) -> Vec<Owner> {
    let mut dead: Vec<Owner> = owners.collect();
    dead.sort_unstable_by_key(|owner| owner.word());
    dead.dedup();
    dead.retain(|owner| peers.is_dead(*owner));
    dead
}

/// Something that can be waited for.
pub trait Waitable {
    /// Where.
    fn point(&self, want: Want) -> WaitPoint;
    /// True where trying again may end otherwise.
    fn ready(&self, me: Owner, want: Want) -> bool;
    /// What a waiter does after each slice: takes back what the dead hold of what it waits for.
    fn look(&self, me: Owner, want: Want) -> Result<()>;
    /// For one that was not served in time and is to be next; nothing where kinds serve everyone at once.
    fn claim(&self, _me: Owner, _want: Want) {}
}

/// One caller's wait, from the first try to its end.
#[derive(Debug)]
pub struct Episode {
    since: Instant,
    slice: Duration,
    slept: bool,
}

impl Default for Episode {
    fn default() -> Episode {
        Episode { since: Instant::now(), slice: Duration::from_millis(1), slept: false }
    }
}

impl Episode {
    /// Whether the caller has slept: a wake-up may be its to hand on.
    pub fn has_slept(&self) -> bool {
        self.slept
    }
}

/// Waits once, at most until `deadline`; may return early. Slices grow: 1, 2, 4 … 80 ms.
pub fn rest<M: Memory>(
    memory: &M,
    item: &impl Waitable,
    (me, want): (Owner, Want),
    episode: &mut Episode,
    deadline: Option<Instant>,
    spin: &Spin,
) -> Result<Waited> {
    let start = Instant::now();
    if spin.until(deadline, || item.ready(me, want)) {
        spin.learn(start.elapsed());
        return Ok(Waited::Ready);
    }
    let left = deadline.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
    if left.is_zero() {
        return Ok(Waited::TimedOut);
    }
    if episode.since.elapsed() >= PATIENCE {
        item.claim(me, want);
    }
    episode.slept = true;
    let woken = item.point(want).sleep(memory, episode.slice.min(left), || item.ready(me, want));
    spin.learn(start.elapsed());
    Ok(match woken {
        Woken::Interrupted => Waited::Interrupted,
        Woken::TimedOut => {
            episode.slice = (episode.slice * 2).min(WATCH_SLICE);
            item.look(me, want)?;
            Waited::Ready
        }
        Woken::Woken | Woken::Changed => Waited::Ready,
    })
}
