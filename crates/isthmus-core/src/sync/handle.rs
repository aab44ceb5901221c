//! What a user holds of an object of synchronization: its file and attachment beside the structure in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::barrier::{self, Barrier};
use super::bounded::{self, BoundedSemaphore};
use super::condition::{self, Condition};
use super::event::Event;
use super::rwlock::{self, Entry, RwLock};
use super::semaphore::{self, Semaphore};
use super::{CELLS, CLAIM, Episode, WAITERS, WORD, Waitable, Want, rest};
use crate::claim::Claim;
use crate::error::{Death, Error, Result};

use crate::memory::mapping::Mapping;
use crate::mutex::handle::Flavour;
use crate::namespace::Namespace;
use crate::object::{
    BARRIER, BODY, BOUNDED_SEMAPHORE, CONDITION, EVENT, Mode as Opening, Object, RWLOCK, SEMAPHORE, Spec,
};
use crate::owner::Owner;
use crate::registry::Registry;
use crate::session::Session;
use crate::sys::clock;
use crate::sys::map::Map;
use crate::wait::{Spin, Waited};
use crate::waiters::{Mode, Waiters};

/// Layout version of all these kinds.
pub const VERSION: u32 = 1;

type Peers = Arc<Registry>;

/// The structure.
pub enum Kind {
    /// Anyone may give permits.
    Semaphore(Semaphore<Mapping, Peers>),
    /// Permits belong to those who took them.
    Bounded(BoundedSemaphore<Mapping, Peers>),
    /// Many readers or one writer.
    RwLock(RwLock<Mapping, Peers>),
    /// A flag.
    Event(Event<Mapping, Peers>),
    /// Waiting under a lock, its own for one.
    Condition(Condition<Mapping, Peers>),
    /// All wait for all.
    Barrier(Barrier<Mapping, Peers>),
}

/// An open object of synchronization.
pub struct SyncHandle {
    // Before the session: it points into the session's mapping, and fields drop in order.
    kind: Kind,
    session: Session,
    spin: AtomicU32,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Took {
    /// The caller has it.
    Yes,
    /// It would have to wait.
    Blocked,
    /// The owner died: not taken.
    Poisoned(Death),
}

pub(super) fn limits(kind: u32) -> (&'static str, u64, u64) {
    match kind {
        SEMAPHORE => ("value", 0, semaphore::MAX),
        BOUNDED_SEMAPHORE => ("value", 1, bounded::MAX),
        BARRIER => ("parties", 1, barrier::MAX),
        _ => ("limit", 0, 0),
    }
}

pub(super) fn body_size(kind: u32, limit: u64) -> usize {
    match kind {
        BOUNDED_SEMAPHORE => bounded::body_size(limit as usize),
        RWLOCK => rwlock::BODY_SIZE,
        CONDITION => condition::BODY_SIZE,
        BARRIER => barrier::body_size(limit as usize),
        _ => CELLS,
    }
}

fn file_size(kind: u32, limit: u64) -> u64 {
    (BODY + body_size(kind, limit)).next_multiple_of(4096) as u64
}

fn spec(kind: u32, limit: u64) -> Result<Spec> {
    let (what, least, most) = limits(kind);
    if !(least..=most).contains(&limit) {
        return Err(Error::Invalid(format!("{what} is {limit}: it takes {least} to {most}")));
    }
    let mut attributes = [0; 16];
    attributes[0] = limit;
    Ok(Spec { kind, version: VERSION, size: file_size(kind, limit), attributes, persistent: false })
}

fn init(kind: u32, limit: u64) -> impl Fn(&Map) -> Result<()> {
    move |map| {
        if kind == SEMAPHORE {
            map.word(BODY + WORD).store(limit, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Refuses one that exists with another limit; a semaphore's value is what it is by now.
fn check(kind: u32, asked: Option<u64>) -> impl Fn(&[u64; 16], u64) -> Result<()> {
    move |found, size| {
        let (what, least, most) = limits(kind);
        if !(least..=most).contains(&found[0]) {
            return Err(Error::Corrupt(format!("the header gives {what}={}", found[0])));
        }
        if size != file_size(kind, found[0]) {
            return Err(Error::Corrupt(format!(
                "an object of this kind takes {} bytes, this file has {size}",
                file_size(kind, found[0])
            )));
        }
        match asked {
            Some(asked) if asked != found[0] && kind != SEMAPHORE => Err(Error::Incompatible(format!(
                "it exists with {what}={} and {what}={asked} was asked for",
                found[0]
            ))),
            _ => Ok(()),
        }
    }
}

impl SyncHandle {
    /// Opens or creates a named object of this kind; `limit` as the kind has it, of a new one `default`.
    pub fn open(
        namespace: &Arc<Namespace>,
        name: &str,
        mode: Opening,
        kind: u32,
        (limit, default): (Option<u64>, u64),
    ) -> Result<SyncHandle> {
        // Of one that exists, what a new one would be like does not matter.
        let least = limits(kind).1;
        let new = limit.unwrap_or(if mode == Opening::Open { least } else { default });
        let object =
            Object::open(namespace, name, mode, &spec(kind, new)?, &init(kind, new), &check(kind, limit))?;
        SyncHandle::new(kind, object)
    }

    /// Makes one without a name.
    pub fn anonymous(namespace: &Arc<Namespace>, kind: u32, limit: u64) -> Result<SyncHandle> {
        SyncHandle::new(kind, Object::anonymous(namespace, &spec(kind, limit)?, &init(kind, limit))?)
    }

    /// Opens the one behind another process's descriptor.
    pub fn from_fd_of(
        namespace: &Arc<Namespace>,
        kind: u32,
        (pid, fd, nonce): (u32, i32, u64),
    ) -> Result<SyncHandle> {
        let object = Object::from_fd_of(namespace, pid, fd, nonce, (kind, VERSION), &check(kind, None))?;
        SyncHandle::new(kind, object)
    }

    fn new(kind: u32, object: Object) -> Result<SyncHandle> {
        let limit = object.attributes()[0];

        let session = Session::new(object)?;
        let (memory, peers) = (session.memory(), Arc::clone(session.registry()));
        let kind = match kind {
            SEMAPHORE => Kind::Semaphore(Semaphore::new(memory, peers, BODY)),
            BOUNDED_SEMAPHORE => Kind::Bounded(BoundedSemaphore::new(memory, peers, BODY, limit as usize)),
            RWLOCK => Kind::RwLock(RwLock::new(memory, peers, BODY)),
            EVENT => Kind::Event(Event::new(memory, peers, BODY)),
            CONDITION => Kind::Condition(Condition::new(memory, peers, BODY)),
            BARRIER => Kind::Barrier(Barrier::new(memory, peers, BODY, limit as usize)),
            other => return Err(Error::Invalid(format!("kind {other} is no object of synchronization"))),
        };
        Ok(SyncHandle { kind, session, spin: AtomicU32::new(u32::MAX) })
    }

    /// Ends this handle; what is held stays held. Closing twice does nothing.
    pub fn close(&self) {
        self.session.close(|| {
            if let Ok(me) = self.session.registry().me() {
                Claim::new(BODY + CLAIM).give_up_all(&self.session.memory(), me);
                self.leave(me, true);
            }
        });
    }

    /// The structure.
    #[inline]
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The object and this process's part in it.
    #[inline]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// What was asked for at creation: permits, parties.
    pub fn limit(&self) -> u64 {
        self.session.object().attributes()[0]
    }

    /// What waits are for.
    fn item(&self) -> &dyn AnyWaitable {
        match &self.kind {
            Kind::Semaphore(it) => it,
            Kind::Bounded(it) => it,
            Kind::RwLock(it) => it,
            Kind::Event(it) => it,
            Kind::Condition(it) => it,
            Kind::Barrier(it) => it,
        }
    }

    /// Takes what is wanted, if it can be had at once.
    #[inline]
    pub fn try_take(&self, me: Owner, want: Want) -> Result<Took> {
        let took = |yes: bool| if yes { Took::Yes } else { Took::Blocked };
        let entry = |entry: Entry| match entry {
            Entry::In => Took::Yes,
            Entry::Blocked => Took::Blocked,
            Entry::Poisoned(death) => Took::Poisoned(death),
        };
        Ok(match (&self.kind, want) {
            (Kind::Semaphore(it), _) => took(it.try_acquire(me)),
            (Kind::Bounded(it), _) => took(it.try_acquire(me)),
            (Kind::RwLock(it), Want::Read) => entry(it.try_read(me)?),
            (Kind::RwLock(it), _) => entry(it.try_write(me)),
            // Nothing is taken of the others.
            _ => Took::Blocked,
        })
    }

    /// Gives back what was taken.
    #[inline]
    pub fn give_back(&self, me: Owner, want: Want, count: u64) -> Result<()> {
        match (&self.kind, want) {
            (Kind::Semaphore(it), _) => it.release(count),
            (Kind::Bounded(it), _) => (0..count).try_for_each(|_| it.release(me)),
            (Kind::RwLock(it), Want::Read) => it.release_read(me),
            (Kind::RwLock(it), _) => it.release_write(me),
            _ => Ok(()),
        }
    }

    /// True where trying again may end otherwise.
    pub fn is_ready(&self, me: Owner, want: Want) -> bool {
        self.item().ready_any(me, want)
    }

    /// Where to wait.
    pub fn point(&self, want: Want) -> crate::wait::WaitPoint {
        self.item().point_any(want)
    }

    /// What a waiter does after each slice.
    pub fn look(&self, me: Owner, want: Want) -> Result<()> {
        self.item().look_any(me, want)
    }

    /// For one that has waited long and is to be next.
    pub fn claim(&self, me: Owner, want: Want) {
        self.item().claim_any(me, want);
    }

    /// The caller has what it wanted, or gives up, after it has slept.
    pub fn leave(&self, me: Owner, slept: bool) {
        match &self.kind {
            Kind::Semaphore(it) => it.leave(me, slept),
            Kind::Bounded(it) => it.leave(me, slept),
            Kind::RwLock(it) => it.leave(me, slept),
            _ => {}
        }
    }

    /// Waits once; may return early.
    pub fn wait(
        &self,
        me: Owner,
        want: Want,
        episode: &mut Episode,
        deadline: Option<Instant>,
    ) -> Result<Waited> {
        let spin = Spin::with_budget(self.spin.load(Ordering::Relaxed));
        let waited = self.item().rest_any(&self.session.memory(), (me, want), episode, deadline, &spin);
        self.spin.store(spin.learned(), Ordering::Relaxed);
        waited
    }

    /// Says that `me` waits, for reports and for finding deadlocks, until the result is dropped.
    pub fn record(&self, me: Owner, want: Want, timed: bool) -> Recorded<'_> {
        let mode = match want {
            Want::Permit => Mode::Permit,
            Want::Read => Mode::Shared,
            Want::Write => Mode::Exclusive,
            _ => Mode::Signal,
        };
        Recorded::new(&self.session, me, (mode, timed))
    }
}

/// A record of a waiter, for as long as it lives.
pub struct Recorded<'a> {
    session: &'a Session,
    index: Option<usize>,
}

impl<'a> Recorded<'a> {
    /// Says that `me` waits at the object of this session.
    pub fn new(session: &'a Session, me: Owner, what: (Mode, bool)) -> Recorded<'a> {
        let table = Waiters::new(BODY + WAITERS);
        let index = table.enter(&session.memory(), session.registry(), me, what, clock::wall_ns());
        Recorded { session, index }
    }

    /// For one who keeps the index itself, and calls [`Recorded::end`].
    pub fn keep(mut self) -> Option<usize> {
        self.index.take()
    }

    /// Ends a record that was kept.
    pub fn end(session: &Session, index: usize) {
        if !session.is_closed() {
            Waiters::new(BODY + WAITERS).leave(&session.memory(), index);
        }
    }
}

impl Drop for Recorded<'_> {
    fn drop(&mut self) {
        if let Some(index) = self.index {
            Recorded::end(self.session, index);
        }
    }
}

/// [`Waitable`] behind a pointer.
trait AnyWaitable {
    fn point_any(&self, want: Want) -> crate::wait::WaitPoint;
    fn ready_any(&self, me: Owner, want: Want) -> bool;
    fn look_any(&self, me: Owner, want: Want) -> Result<()>;
    fn claim_any(&self, me: Owner, want: Want);
    fn rest_any(
        &self,
        memory: &Mapping,
        who: (Owner, Want),
        episode: &mut Episode,
        deadline: Option<Instant>,
        spin: &Spin,
    ) -> Result<Waited>;
}

impl<T: Waitable> AnyWaitable for T {
    fn point_any(&self, want: Want) -> crate::wait::WaitPoint {
        self.point(want)
    }
    fn ready_any(&self, me: Owner, want: Want) -> bool {
        self.ready(me, want)
    }
    fn look_any(&self, me: Owner, want: Want) -> Result<()> {
        self.look(me, want)
    }
    fn claim_any(&self, me: Owner, want: Want) {
        self.claim(me, want);
    }
    fn rest_any(
        &self,
        memory: &Mapping,
        who: (Owner, Want),
        episode: &mut Episode,
        deadline: Option<Instant>,
        spin: &Spin,
    ) -> Result<Waited> {
        rest(memory, self, who, episode, deadline, spin)
    }
}

/// The lock of a condition: the first words of the same object.
pub const CONDITION_LOCK: Flavour = Flavour {
    kind: CONDITION,
    version: VERSION,
    size: (BODY + condition::BODY_SIZE).next_multiple_of(4096) as u64,
    recursive: true,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_from_kind_and_limit() {
        assert_eq!(file_size(EVENT, 0), 16384);
        assert_eq!(file_size(BOUNDED_SEMAPHORE, 1), 16384);
        assert!(spec(BARRIER, 0).is_err() && spec(BARRIER, barrier::MAX + 1).is_err());
        assert!(spec(SEMAPHORE, 0).is_ok() && spec(SEMAPHORE, semaphore::MAX + 1).is_err());
    }
}
