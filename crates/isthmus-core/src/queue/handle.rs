//! What a user holds of a queue: the object's file and attachment beside the structure in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::layout::Geometry;
use super::{Attempt, Numbers, On, Queue, Step};
use crate::error::{Error, Result};
use crate::memory::mapping::Mapping;
use crate::namespace::Namespace;
use crate::object::{BODY, Listing, Mode, Object, QUEUE, Spec};
use crate::owner::Owner;
use crate::registry::Registry;
use crate::session::Session;
use crate::sys::map::Map;
use crate::wait::{Spin, Waited};

/// Layout version.
pub const VERSION: u32 = 1;
/// Role of an attachment: has put a message.
pub const PRODUCER: u64 = 1;
/// Role of an attachment: has asked for a message.
pub const CONSUMER: u64 = 2;

const CAPACITY: usize = 0;
const OPTIONS: usize = 1;
const ENDS_WITH_PRODUCERS: u64 = 1;

/// What a new queue is to be like; an existing one is accepted in everything that is `None`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes {
    /// Bytes for messages.
    pub capacity: Option<u64>,
    /// Whether the queue ends when its last producer is gone.
    pub ends_with_producers: Option<bool>,
    /// Whether the queue outlives its last user.
    pub persistent: Option<bool>,
}

/// An open queue.
pub struct QueueHandle {
    // Before the session: it points into the session's mapping, and fields drop in order.
    queue: Queue<Mapping, Arc<Registry>>,
    session: Session,
    ends_with_producers: bool,
    spin_get: AtomicU32,
    spin_put: AtomicU32,
}

impl Attributes {
    fn spec(&self) -> Result<(Spec, Geometry)> {
        let geometry = Geometry::new(self.capacity.unwrap_or(super::DEFAULT_CAPACITY))?;
        let mut attributes = [0; 16];
        attributes[CAPACITY] = geometry.capacity;
        attributes[OPTIONS] = u64::from(self.ends_with_producers.unwrap_or(false)) * ENDS_WITH_PRODUCERS;
        let spec = Spec {
            kind: QUEUE,
            version: VERSION,
            size: (BODY + geometry.body_size()) as u64,
            attributes,
            persistent: self.persistent.unwrap_or(false),
        };
        Ok((spec, geometry))
    }

    /// Refuses an existing queue that differs in what was asked for.
    fn check(&self, found: &[u64; 16]) -> Result<()> {
        let geometry = Geometry::new(found[CAPACITY])?;
        if geometry.capacity != found[CAPACITY] {
            return Err(Error::Corrupt(format!(
                "the queue's header gives a capacity of {}",
                found[CAPACITY]
            )));
        }
        if let Some(asked) = self.capacity {
            let asked = Geometry::new(asked)?.capacity;
            if asked != geometry.capacity {
                return Err(Error::Incompatible(format!(
                    "the queue exists with capacity={} and capacity={asked} was asked for",
                    geometry.capacity
                )));
            }
        }
        let ends = found[OPTIONS] & ENDS_WITH_PRODUCERS != 0;
        match self.ends_with_producers {
            Some(asked) if asked != ends => Err(Error::Incompatible(format!(
                "the queue exists with ends_with_producers={ends} and {asked} was asked for"
            ))),
            _ => Ok(()),
        }
    }
}

impl QueueHandle {
    /// Opens or creates a named queue.
    pub fn open(
        namespace: &Arc<Namespace>,
        name: &str,
        mode: Mode,
        asked: &Attributes,
    ) -> Result<QueueHandle> {
        let (spec, geometry) = asked.spec()?;
        let object =
            Object::open(namespace, name, mode, &spec, &format(geometry), &|found| asked.check(found))?;
        if let Some(persistent) = asked.persistent.filter(|p| *p != object.persistent()) {
            return Err(Error::Incompatible(format!(
                "the queue exists with persistent={} and {persistent} was asked for",
                object.persistent()
            )));
        }
        QueueHandle::new(object)
    }

    /// Makes a queue without a name.
    pub fn anonymous(namespace: &Arc<Namespace>, asked: &Attributes) -> Result<QueueHandle> {
        let (spec, geometry) = asked.spec()?;
        QueueHandle::new(Object::anonymous(namespace, &spec, &format(geometry))?)
    }

    /// Opens the queue behind another process's descriptor.
    pub fn from_fd_of(namespace: &Arc<Namespace>, pid: u32, fd: i32, nonce: u64) -> Result<QueueHandle> {
        let check = |found: &[u64; 16]| Attributes::default().check(found);
        QueueHandle::new(Object::from_fd_of(namespace, pid, fd, nonce, (QUEUE, VERSION), &check)?)
    }

    fn new(object: Object) -> Result<QueueHandle> {
        let attributes = object.attributes();
        let geometry = Geometry::new(attributes[CAPACITY])?;
        if object.map().len() != BODY + geometry.body_size() {
            return Err(Error::Corrupt(format!(
                "a queue of capacity {} takes {} bytes, this file has {}",
                geometry.capacity,
                BODY + geometry.body_size(),
                object.map().len()
            )));
        }
        let session = Session::new(object)?;
        let queue = Queue::new(session.memory(), Arc::clone(session.registry()), BODY, geometry);
        Ok(QueueHandle {
            queue,
            session,
            ends_with_producers: attributes[OPTIONS] & ENDS_WITH_PRODUCERS != 0,
            spin_get: AtomicU32::new(u32::MAX),
            spin_put: AtomicU32::new(u32::MAX),
        })
    }

    /// The structure in shared memory.
    #[inline]
    pub fn queue(&self) -> &Queue<Mapping, Arc<Registry>> {
        &self.queue
    }

    /// The object and this process's part in it.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Whether the queue ends when its last producer is gone.
    pub fn ends_with_producers(&self) -> bool {
        self.ends_with_producers
    }

    /// This process, about to put.
    #[inline]
    pub fn producer(&self) -> Result<Owner> {
        let me = self.session.me()?;
        if self.session.take_role(PRODUCER) {
            self.join_producers();
        }
        Ok(me)
    }

    /// This process, about to get.
    #[inline]
    pub fn consumer(&self) -> Result<Owner> {
        let me = self.session.me()?;
        self.session.take_role(CONSUMER);
        Ok(me)
    }

    /// Says that this process will put: with `ends_with_producers`, consumers wait for it.
    #[cold]
    fn join_producers(&self) {
        self.queue.note_producer();
        // A newcomer takes over from the dead: whether the queue was lost or ended is decided by
        // whoever is the last.
        for (cell, owner, roles) in self.session.object().attachments() {
            if roles & PRODUCER != 0 && self.session.registry().is_dead(owner) {
                self.session.object().evict(cell, owner);
            }
        }
    }

    /// For a consumer that found no message: an error where none will come any more.
    pub fn check_end(&self) -> Result<()> {
        if self.queue.is_drained() {
            return Err(Error::ShutDown);
        }
        if !self.ends_with_producers || !self.queue.had_producer() {
            return Ok(());
        }
        // Looked at twice until nothing has changed in between: one look at the table, cell by cell, can miss
        // a producer that comes while another goes.
        let mut attached = self.session.object().attachments();
        loop {
            let again = self.session.object().attachments();
            if again == attached {
                break;
            }
            attached = again;
        }
        let mut lost = None;
        for (_, owner, roles) in attached {
            if roles & PRODUCER != 0 {
                if !self.session.registry().is_dead(owner) {
                    return Ok(());
                }
                lost = Some(owner);
            }
        }
        // Nobody is left; what the last one put before it went is still to be taken.
        if !self.queue.is_empty() {
            return Ok(());
        }
        Err(match lost {
            Some(owner) => Error::PeerDied(self.session.registry().death(owner)),
            None => Error::ShutDown,
        })
    }

    /// Waits for what stood in the way of an attempt; may return early.
    pub fn wait(
        &self,
        me: Owner,
        attempt: &mut Attempt,
        on: On,
        deadline: Option<Instant>,
    ) -> Result<Waited> {
        let learned = match on {
            On::Messages | On::ConsumerLock => &self.spin_get,
            _ => &self.spin_put,
        };
        let spin = Spin::with_budget(learned.load(Ordering::Relaxed));
        let waited = self.queue.wait(me, attempt, on, deadline, &spin, self.ends_with_producers);
        learned.store(spin.learned(), Ordering::Relaxed);
        waited
    }

    /// Messages in the queue and other numbers.
    pub fn numbers(&self) -> Result<Numbers> {
        self.session.me()?;
        Ok(self.queue.numbers())
    }

    /// Stops accepting messages; false where a living process held the lock all the time.
    pub fn try_shut_down(&self, attempt: &Attempt) -> Result<Step<()>> {
        self.queue.try_shut_down(self.session.me()?, attempt)
    }

    /// Ends this handle; says how many messages stay behind where it was the last one and nobody
    /// will ever take them. Other threads that wait on it are woken.
    pub fn close(&self) -> u64 {
        let last_look = || {
            // Threads of this process that wait here must find it closed.
            self.queue.wake_all();
            let registry = self.session.registry();
            let attached = self.session.object().attachments();
            let others = attached.iter().filter(|(_, owner, _)| !registry.is_dead(*owner)).count() > 1;
            if others || self.session.object().persistent() { 0 } else { self.queue.depth() }
        };
        self.session.close(last_look).unwrap_or(0)
    }
}

impl Drop for QueueHandle {
    fn drop(&mut self) {
        self.close();
    }
}

/// Prepares the body of a new queue.
fn format(geometry: Geometry) -> impl Fn(&Map) -> Result<()> {
    move |map| {
        // SAFETY: the map outlives this function and nobody else sees it yet.
        let memory = unsafe { Mapping::new(map.ptr(), map.len()) };
        Queue::<Mapping, Arc<Registry>>::format(&memory, BODY, &geometry);
        Ok(())
    }
}

/// Depth and capacity of a named queue that is only looked at: nothing stays open, nobody is disturbed.
pub fn peek(namespace: &Namespace, listing: &Listing) -> Option<(u64, u64)> {
    let geometry = Geometry::new(listing.attributes[CAPACITY]).ok()?;
    let size = BODY + geometry.body_size();
    let file = crate::sys::file::open_at(namespace.directory(), &listing.name, false).ok()??;
    if listing.version != VERSION || file.stat().ok()?.size != size as u64 {
        return None;
    }
    let map = Map::read_only(&file, size).ok()?;
    // SAFETY: the map outlives this function, and a look only loads words.
    let memory = unsafe { Mapping::new(map.ptr(), map.len()) };
    let ring = super::Ring::new(BODY, geometry.ring_size, geometry.inline_max());
    Some((ring.depth(&memory), geometry.capacity))
}
