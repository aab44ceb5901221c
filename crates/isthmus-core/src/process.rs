//! Which process and which thread is running: the two numbers every operation asks for.
//!
//! **Epoch.** A private page marked `MADV_WIPEONFORK` holds the epoch of this process. The kernel hands a
//! forked child a zeroed copy, whatever created it (`os.fork`, a C library, a raw `clone`), so no hook can be
//! forgotten. Whoever finds zero draws the next number from an ordinary counter, which the child inherited;
//! thus a child's epoch differs from that of every ancestor. Siblings may share a number: an epoch is only
//! ever compared inside one process.
//!
//! **Context.** The number of a thread is its kernel thread id: unique among living threads, at most 22 bits
//! (`PID_MAX_LIMIT` is 4,194,304), never 0, and what `ps -L` shows. It is read once per thread and epoch.

use std::cell::Cell;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::owner::MAX_CONTEXT;
use crate::sys;

/// Stands in for the page until the first use, so that the fast path has no extra branch.
static NOT_YET: AtomicU64 = AtomicU64::new(0);
static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new((&raw const NOT_YET).cast_mut());
/// Epochs drawn so far, by this process and its ancestors; inherited over fork on purpose.
static DRAWN: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static CONTEXT: Cell<(u64, u32)> = const { Cell::new((0, 0)) };
}

/// The epoch of this process: never 0, constant for its life, different in a forked child.
#[inline(always)]
pub fn epoch() -> u64 {
    // SYNC(page): the page is mapped before its address is published.
    let page = PAGE.load(Ordering::Acquire);
    // SAFETY: PAGE points to NOT_YET or to the page mapped in `first_use`, which is never unmapped.
    let epoch = unsafe { &*page }.load(Ordering::Relaxed);
    if epoch != 0 { epoch } else { first_use() }
}

/// The number of the calling thread: 1 to `MAX_CONTEXT`, different for each living thread of the process.
#[inline]
pub fn context() -> u32 {
    context_in(epoch())
}

/// As [`context`], for one who has just asked for the epoch.
#[inline(always)]
pub fn context_in(now: u64) -> u32 {
    let (at, context) = CONTEXT.get();
    if at == now { context } else { fresh_context(now) }
}

#[cold]
fn fresh_context(now: u64) -> u32 {
    let context = sys::proc::thread_id() & MAX_CONTEXT;
    // A thread that is being torn down has no thread-locals any more; it asks the kernel each time.
    let _ = CONTEXT.try_with(|cell| cell.set((now, context)));
    context
}

/// First call in this process, or first call after fork.
#[cold]
fn first_use() -> u64 {
    let mut page = PAGE.load(Ordering::Acquire);
    if std::ptr::eq(page, &raw const NOT_YET) {
        let fresh = sys::map::wiped_on_fork();
        // SYNC(page): pairs with the load in `epoch`.
        page = match PAGE.compare_exchange(page, fresh, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => fresh,
            Err(other) => other, // another thread was first; our page is a one-time leak of 4 KiB
        };
    }
    let drawn = DRAWN.fetch_add(1, Ordering::Relaxed) + 1;
    // SAFETY: as in `epoch`.
    match unsafe { &*page }.compare_exchange(0, drawn, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => drawn,
        Err(other) => other,
    }
}

/// A lock that a forked child never finds taken: the word holds the epoch of the holder's process, and an
/// epoch of another process means "free". What it protects must be consistent at every instruction, because
/// a child may take over in the middle. For rare, short sections only: waiters yield.
#[derive(Debug)]
pub(crate) struct ForkLock(AtomicU64);

/// Held [`ForkLock`]; released on drop.
pub(crate) struct ForkGuard<'a>(&'a AtomicU64);

impl ForkLock {
    pub(crate) const fn new() -> ForkLock {
        ForkLock(AtomicU64::new(0))
    }

    pub(crate) fn lock(&self) -> ForkGuard<'_> {
        let now = epoch();
        let mut round = 0_u32;
        loop {
            let seen = self.0.load(Ordering::Relaxed);
            // SYNC(forklock): what the last holder wrote is visible to the next.
            if seen != now && self.0.compare_exchange(seen, now, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return ForkGuard(&self.0);
            }
            // After a while sleep, or a real-time waiter would keep the holder from running.
            if round < 100 {
                std::thread::yield_now();
            } else {
                sys::clock::nap_us(50);
            }
            round = round.saturating_add(1);
        }
    }
}

impl Drop for ForkGuard<'_> {
    fn drop(&mut self) {
        // SYNC(forklock): pairs with the exchange in `lock`.
        self.0.store(0, Ordering::Release);
    }
}

/// A process-wide list that a forked child can always use: replaced as a whole, by one store.
pub(crate) struct Shelf<T> {
    lock: ForkLock,
    items: AtomicPtr<Vec<T>>,
}

/// The list, locked.
pub(crate) struct ShelfGuard<'a, T> {
    shelf: &'a Shelf<T>,
    _guard: ForkGuard<'a>,
}

impl<T> Shelf<T> {
    pub(crate) const fn new() -> Shelf<T> {
        Shelf { lock: ForkLock::new(), items: AtomicPtr::new(std::ptr::null_mut()) }
    }

    pub(crate) fn lock(&self) -> ShelfGuard<'_, T> {
        ShelfGuard { _guard: self.lock.lock(), shelf: self }
    }
}

impl<T> ShelfGuard<'_, T> {
    pub(crate) fn items(&self) -> &[T] {
        let items = self.shelf.items.load(Ordering::Acquire);
        // SAFETY: null or a leaked box, replaced and freed only through this guard.
        unsafe { items.as_ref() }.map_or(&[], Vec::as_slice)
    }

    pub(crate) fn replace(&mut self, items: Vec<T>) {
        let old = self.shelf.items.swap(Box::into_raw(Box::new(items)), Ordering::AcqRel);
        if !old.is_null() {
            // SAFETY: from `Box::into_raw` above; the lock is held, so nobody reads it.
            drop(unsafe { Box::from_raw(old) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_is_constant_within_a_process() {
        let first = epoch();
        assert_ne!(first, 0);
        let others: Vec<u64> =
            (0..8).map(|_| std::thread::spawn(epoch)).map(|thread| thread.join().unwrap()).collect();
        assert!(others.iter().all(|&other| other == first));
    }

    #[test]
    fn each_living_thread_has_its_own_context() {
        let barrier = std::sync::Arc::new(std::sync::Barrier::new(16));
        let threads: Vec<_> = (0..16)
            .map(|_| {
                let barrier = barrier.clone();
                std::thread::spawn(move || {
                    let mine = context();
                    barrier.wait();
                    assert_eq!(mine, context());
                    mine
                })
            })
            .collect();
        let mut seen: Vec<u32> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 16);
        assert!(seen.iter().all(|&context| (1..=MAX_CONTEXT).contains(&context)));
    }
}
