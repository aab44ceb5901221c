//! What a handle of any object is made of: the object, who this process is, and what happens to both
//! on close and fork.
//!
//! The hot path asks one question, [`Session::me`]: one load of the process epoch and one compare.
//! A forked child (whose epoch differs) and a closed handle (epoch 0) both fail that compare and go the
//! slow way: the child registers itself and claims an attachment of its own, the closed handle raises.
//!
//! Closing gives the memory back at once, so it must not happen under another thread's feet. Callers hold the
//! GIL (or another lock of theirs) from [`Session::me`] to the end of an operation; where they let go of it
//! in between, to wait or to copy, they hold a [`Stay`], and the last one to leave gives the memory back. What
//! outlives calls and looks at the memory (a view, a lease) counts itself by [`Session::keep`].

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::bell::{self, Bell};
use crate::error::{Death, Error, Result};
use crate::memory::Peers;
use crate::memory::mapping::{Bells, Mapping};
use crate::object::Object;
use crate::owner::Owner;
use crate::process;
use crate::registry::Registry;

const NO_CELL: usize = usize::MAX;

impl Peers for Arc<Registry> {
    fn is_dead(&self, owner: Owner) -> bool {
        Registry::is_dead(self, owner)
    }

    fn death(&self, owner: Owner) -> Death {
        Registry::death(self, owner)
    }

    #[inline]
    fn pid(&self, _me: Owner) -> u32 {
        Registry::pid(self)
    }

    fn relock(&self) -> Result<()> {
        Registry::relock(self)
    }
}

/// An open object in this process.
pub struct Session {
    object: Object,
    epoch: AtomicU64,
    me: AtomicU64,
    cell: AtomicUsize,
    roles: AtomicU64,
    closed: AtomicBool,
    stays: AtomicUsize,
    keeps: AtomicUsize,
    bells: Mutex<Vec<Rope>>,
}

/// An event loop that waits for the object, and the cell that says so.
struct Rope {
    bell: Weak<Bell>,
    id: u64,
    epoch: u64,
    cell: usize,
    token: u32,
}

/// Keeps the memory of a session mapped, closed or not.
pub struct Stay<'a>(&'a Session);

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        if self.0.stays.fetch_sub(1, Ordering::AcqRel) == 1
            && self.0.is_closed()
            && self.0.keeps.load(Ordering::Relaxed) == 0
        {
            self.0.object.map().release();
        }
    }
}

/// A thread that waits, as others see it in numbers about the object.
pub struct Waiting<'a> {
    session: &'a Session,
    cell: usize,
    consuming: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Closed meanwhile: the cell is no longer ours, and was cleared.
        if self.session.cell.load(Ordering::Relaxed) == self.cell {
            self.session.object.count_waiting(self.cell, self.consuming, false);
        }
    }
}

impl Session {
    /// Attaches this process to an object just opened.
    pub fn new(object: Object) -> Result<Session> {
        let session = Session {
            object,
            epoch: AtomicU64::new(0),
            me: AtomicU64::new(0),
            cell: AtomicUsize::new(NO_CELL),
            roles: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            stays: AtomicUsize::new(0),
            keeps: AtomicUsize::new(0),
            bells: Mutex::default(),
        };
        session.enter()?;
        Ok(session)
    }

    /// The object.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// Who is alive, in the object's namespace.
    pub fn registry(&self) -> &Arc<Registry> {
        self.object.registry()
    }

    /// The object's memory. Whoever holds it keeps the session.
    pub fn memory(&self) -> Mapping {
        let map = self.object.map();
        // SAFETY: the map lives as long as the object, page aligned, shared and writable; handles
        // hold the session beside the mapping.
        let memory = unsafe { Mapping::new(map.ptr(), map.len()) };
        // SAFETY: so does the namespace.
        unsafe {
            memory.with_bells(Bells { directory: self.object.namespace().directory(), ring: bell::ring })
        }
    }

    /// The cell in which an event loop waits for this object, and what will be written into its FIFO. Cells of
    /// loops that are gone are given back.
    pub fn bell(&self, bell: &Arc<Bell>) -> Result<(usize, u32)> {
        self.me()?;
        let epoch = process::epoch();
        let mut ropes = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rope) = ropes.iter().find(|rope| rope.id == bell.id() && rope.epoch == epoch) {
            return Ok((rope.cell, rope.token));
        }
        ropes.retain(|rope| {
            let alive = rope.epoch == epoch && rope.bell.upgrade().is_some_and(|bell| !bell.is_closed());
            if !alive {
                self.object.detach(rope.cell);
            }
            alive
        });
        let token = bell.next_token();
        let cell = self.object.attach_bell(bell.id(), token)?;
        ropes.push(Rope { bell: Arc::downgrade(bell), id: bell.id(), epoch, cell, token });
        Ok((cell, token))
    }

    /// Whether the bit of this cell in wait points stands for its event loop alone, which may then take it back.
    pub fn owns_bit(&self, cell: usize) -> bool {
        !self.is_closed() && !self.object.shares_bit(cell)
    }

    /// What [`Session::me`] answers nearly always: the epoch and this process, if nothing has changed.
    #[inline(always)]
    fn known(&self) -> Option<(u64, Owner)> {
        let epoch = process::epoch();
        let me = Owner::from_word(self.me.load(Ordering::Relaxed));
        // One who was buried hears of it in whatever it does.
        let unchanged = self.epoch.load(Ordering::Relaxed) == epoch && self.object.registry().is_live(me);
        unchanged.then_some((epoch, me))
    }

    /// This process, as others see it in shared words.
    #[inline(always)]
    pub fn me(&self) -> Result<Owner> {
        match self.known() {
            Some((_, me)) => Ok(me),
            None => self.enter(),
        }
    }

    /// The calling thread of this process.
    #[inline(always)]
    pub fn me_here(&self) -> Result<Owner> {
        match self.known() {
            Some((epoch, me)) => Ok(me.with_context(process::context_in(epoch))),
            None => Ok(self.enter()?.with_context(process::context())),
        }
    }

    /// The calling thread, or with a number a task of this process.
    #[inline]
    pub fn me_as(&self, task: Option<u32>) -> Result<Owner> {
        match task {
            None => self.me_here(),
            Some(task) => self.me().map(|me| me.with_context(task)),
        }
    }

    #[cold]
    fn enter(&self) -> Result<Owner> {
        if self.is_closed() {
            return Err(Error::Closed);
        }
        let me = self.registry().me()?;
        self.me.store(me.word(), Ordering::Relaxed);
        self.cell.store(self.object.attach()?, Ordering::Relaxed);
        self.roles.store(0, Ordering::Relaxed);
        self.epoch.store(process::epoch(), Ordering::Relaxed);
        Ok(me)
    }

    /// Publishes what this handle does with the object; true the first time.
    #[inline]
    pub fn take_role(&self, role: u64) -> bool {
        self.roles.load(Ordering::Relaxed) & role == 0 && self.publish_role(role)
    }

    #[cold]
    fn publish_role(&self, role: u64) -> bool {
        let roles = self.roles.fetch_or(role, Ordering::Relaxed) | role;
        self.object.set_roles(self.cell.load(Ordering::Relaxed), roles);
        true
    }

    /// True once closed, in this process or before it was forked.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Keeps the memory mapped for an operation that lets go of the caller's lock in between.
    pub fn stay(&self) -> Result<Stay<'_>> {
        self.stays.fetch_add(1, Ordering::AcqRel);
        let stay = Stay(self);
        if self.is_closed() { Err(Error::Closed) } else { Ok(stay) }
    }

    /// Keeps the memory mapped until [`Session::release`], beyond what borrows allow. With the callers' lock held,
    /// and therefore without a locked instruction: it is a part of every lease.
    #[inline]
    pub fn keep(&self) -> Result<()> {
        if self.is_closed() {
            return Err(Error::Closed);
        }
        self.keeps.store(self.keeps.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        Ok(())
    }

    /// Takes back one [`Session::keep`]; with the callers' lock held.
    #[inline]
    pub fn release(&self) {
        let left = self.keeps.load(Ordering::Relaxed) - 1;
        self.keeps.store(left, Ordering::Relaxed);
        if left == 0 && self.is_closed() {
            // The last to leave gives the memory back.
            self.stays.fetch_add(1, Ordering::AcqRel);
            drop(Stay(self));
        }
    }

    /// Says to whoever asks for numbers that the calling thread waits, as long as the result lives.
    pub fn waiting(&self, consuming: bool) -> Waiting<'_> {
        let cell = self.cell.load(Ordering::Relaxed);
        self.object.count_waiting(cell, consuming, true);
        Waiting { session: self, cell, consuming }
    }

    /// Counts a task that begins or ends to wait, as [`Session::waiting`] counts threads.
    pub fn count_waiting(&self, consuming: bool, begins: bool) {
        self.object.count_waiting(self.cell.load(Ordering::Relaxed), consuming, begins);
    }

    /// Detaches and lets go of the object, after a last look at its memory; `None` where that was done
    /// before. Threads that [`Stay`] find it closed when they look next.
    pub fn close<T>(&self, last_look: impl FnOnce() -> T) -> Option<T> {
        let stay = self.stay().ok()?;
        if self.closed.swap(true, Ordering::AcqRel) {
            return None;
        }
        let seen = last_look();
        // A forked child that never used the handle has no attachment of its own to give up.
        let mine = self.epoch.swap(0, Ordering::Relaxed) == process::epoch();
        let cell = self.cell.swap(NO_CELL, Ordering::Relaxed);
        if mine && cell != NO_CELL {
            self.object.detach(cell);
        }
        for rope in self.bells.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            self.object.detach(rope.cell);
        }
        self.object.close();
        drop(stay);
        Some(seen)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close(|| ());
    }
}
