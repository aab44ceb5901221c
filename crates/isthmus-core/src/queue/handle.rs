//! What a user holds of a queue: the object's file and attachment beside the structure in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::layout::Geometry;
use super::{Attempt, Leased, Numbers, On, Queue, Sender, Step};
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
pub const VERSION: u32 = 3;
/// Role of an attachment: has put a message.
pub const PRODUCER: u64 = 1;
/// Role of an attachment: has asked for a message.
pub const CONSUMER: u64 = 2;

const CAPACITY: usize = 0;
pub(super) const OPTIONS: usize = 1;
const FINGERPRINT: usize = 2;
/// Levels of priority, and in the upper half how often a message is handed out.
const LEVELS: usize = 3;
const TYPE_NAME: std::ops::Range<usize> = 4..11;
pub(super) const ENDS_WITH_PRODUCERS: u64 = 1;

/// How often a message is handed out at most, where nothing else is asked for.
pub const DEFAULT_DELIVERIES: u32 = 20;

/// What the messages of a queue are: for the core only something to compare and to show.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MessageType {
    /// Equal for types whose messages can be exchanged; 0 for plain bytes.
    pub fingerprint: u64,
    /// For people, at most [`TYPE_NAME_MAX`] bytes.
    pub name: String,
}

/// Most bytes of a type's name; what is longer is cut.
pub const TYPE_NAME_MAX: usize = TYPE_NAME.end.saturating_sub(TYPE_NAME.start) * 8;

impl MessageType {
    fn write(&self, attributes: &mut [u64; 16]) {
        attributes[FINGERPRINT] = self.fingerprint;
        let mut bytes = [0; TYPE_NAME_MAX];
        let mut end = self.name.len().min(TYPE_NAME_MAX);
        while !self.name.is_char_boundary(end) {
            end -= 1;
        }
        bytes[..end].copy_from_slice(&self.name.as_bytes()[..end]);
        for (word, part) in attributes[TYPE_NAME].iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(part.try_into().unwrap_or_default());
        }
    }

    pub(super) fn read(attributes: &[u64; 16]) -> MessageType {
        let bytes: Vec<u8> = attributes[TYPE_NAME].iter().flat_map(|word| word.to_le_bytes()).collect();
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let name = String::from_utf8_lossy(&bytes[..end]);
        MessageType {
            fingerprint: attributes[FINGERPRINT],
            name: name.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
        }
    }
}

/// What a new queue is to be like; an existing one is accepted in everything that is `None`.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    /// Bytes for messages.
    pub capacity: Option<u64>,
    /// Levels of priority.
    pub priorities: Option<usize>,
    /// How often a message is handed out before it is given up.
    pub max_deliveries: Option<u32>,
    /// What the messages are.
    pub message_type: Option<MessageType>,
    /// What they are in a new queue of a private namespace where `message_type` does not say; elsewhere they are
    /// bytes.
    pub default_type: MessageType,
    /// Whether the queue ends when its last producer is gone.
    pub ends_with_producers: Option<bool>,
    /// Whether the queue outlives its last user.
    pub persistent: Option<bool>,
}

/// Looks at a table of attachments that changes under them: damaged memory may do so for ever.
const LOOKS: usize = 100;

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
    fn spec(&self, namespace: &Namespace) -> Result<(Spec, Geometry)> {
        let capacity = self.capacity.unwrap_or(super::DEFAULT_CAPACITY);
        let geometry = Geometry::new(capacity, self.priorities.unwrap_or(1))?;
        let mut attributes = [0; 16];
        attributes[LEVELS] =
            geometry.levels as u64 | u64::from(self.max_deliveries.unwrap_or(DEFAULT_DELIVERIES)) << 32;
        let plain = MessageType { fingerprint: 0, name: "bytes".to_owned() };
        let default = if namespace.is_private() { &self.default_type } else { &plain };
        self.message_type.as_ref().unwrap_or(default).write(&mut attributes);
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

    /// Refuses an existing queue that differs in what was asked for, or from what it says of itself.
    fn check(&self, found: &[u64; 16], size: u64) -> Result<()> {
        let geometry = geometry(found)?;
        let whole = (BODY + geometry.body_size()) as u64;
        if size != whole {
            return Err(Error::Corrupt(format!(
                "a queue of capacity {} takes {whole} bytes, this file has {size}",
                geometry.capacity
            )));
        }
        let differs = |what: &str, found: &dyn std::fmt::Display, asked: &dyn std::fmt::Display| {
            Err(Error::Incompatible(format!(
                "the queue exists with {what}={found} and {what}={asked} was asked for"
            )))
        };
        if let Some(asked) = self.capacity {
            let asked = Geometry::new(asked, geometry.levels)?.capacity;
            if asked != geometry.capacity {
                return differs("capacity", &geometry.capacity, &asked);
            }
        }
        if let Some(asked) = self.priorities.filter(|asked| *asked != geometry.levels) {
            return differs("priorities", &geometry.levels, &asked);
        }
        if let Some(asked) = self.max_deliveries.filter(|asked| *asked != max_deliveries(found)) {
            return differs("max_deliveries", &max_deliveries(found), &asked);
        }
        let ends = found[OPTIONS] & ENDS_WITH_PRODUCERS != 0;
        if let Some(asked) = self.ends_with_producers.filter(|asked| *asked != ends) {
            return differs("ends_with_producers", &ends, &asked);
        }
        let kind = MessageType::read(found);
        match &self.message_type {
            Some(asked) if asked.fingerprint != kind.fingerprint => Err(Error::Incompatible(format!(
                "the queue exists with messages of type {} (fingerprint {:016x}) and type={} ({:016x}) was asked for",
                kind.name, kind.fingerprint, asked.name, asked.fingerprint
            ))),
            _ => Ok(()),
        }
    }
}

/// How the memory of a queue with these attributes is divided.
pub(super) fn geometry(found: &[u64; 16]) -> Result<Geometry> {
    let levels = found[LEVELS] as u32 as usize;
    match Geometry::new(found[CAPACITY], levels) {
        Ok(geometry) if geometry.capacity == found[CAPACITY] => Ok(geometry),
        _ => Err(Error::Corrupt(format!(
            "the queue's header gives a capacity of {} and {levels} levels of priority",
            found[CAPACITY]
        ))),
    }
}

pub(super) fn max_deliveries(found: &[u64; 16]) -> u32 {
    (found[LEVELS] >> 32) as u32
}

impl QueueHandle {
    /// Opens or creates a named queue.
    pub fn open(
        namespace: &Arc<Namespace>,
        name: &str,
        mode: Mode,
        asked: &Attributes,
    ) -> Result<QueueHandle> {
        let (spec, geometry) = asked.spec(namespace)?;
        let object = Object::open(namespace, name, mode, &spec, &format(geometry), &|found, size| {
            asked.check(found, size)
        })?;
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
        let (spec, geometry) = asked.spec(namespace)?;
        QueueHandle::new(Object::anonymous(namespace, &spec, &format(geometry))?)
    }

    /// Opens the queue behind another process's descriptor.
    pub fn from_fd_of(namespace: &Arc<Namespace>, pid: u32, fd: i32, nonce: u64) -> Result<QueueHandle> {
        let check = |found: &[u64; 16], size| Attributes::default().check(found, size);
        QueueHandle::new(Object::from_fd_of(namespace, pid, fd, nonce, (QUEUE, VERSION), &check)?)
    }

    fn new(object: Object) -> Result<QueueHandle> {
        let attributes = object.attributes();
        let geometry = geometry(&attributes)?;
        let session = Session::new(object)?;
        let deliveries = max_deliveries(&attributes);
        let queue = Queue::new(session.memory(), Arc::clone(session.registry()), BODY, geometry, deliveries);
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
        let settled = (0..LOOKS).any(|_| {
            let before = std::mem::replace(&mut attached, self.session.object().attachments());
            before == attached
        });
        if !settled {
            return Ok(()); // somebody comes or goes all the time, so somebody is there
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
        // Nobody is left; what the last one put before it went is still to be taken, and what consumers have on
        // lease may come back.
        if self.queue.has_message() || self.queue.has_leases() {
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
        let consuming = matches!(on, On::Messages | On::ConsumerLock | On::Leases);
        let learned = if consuming { &self.spin_get } else { &self.spin_put };
        let spin = Spin::with_budget(learned.load(Ordering::Relaxed));
        let start = Instant::now();
        let waited = if spin.until(deadline, || self.queue.is_ready(on)) {
            Ok(Waited::Ready)
        } else {
            let _waiting = self.session.waiting(consuming);
            self.queue.wait(me, attempt, on, deadline, self.ends_with_producers)
        };
        spin.learn(start.elapsed());
        learned.store(spin.learned(), Ordering::Relaxed);
        waited
    }

    /// Messages in the queue and other numbers, after what the dead have left behind was given back.
    pub fn numbers(&self) -> Result<Numbers> {
        let me = self.session.me()?;
        let attempt = Attempt::default();
        self.queue.reclaim(me, &attempt)?;
        self.queue.redeliver(me, &attempt)?;
        Ok(self.queue.numbers())
    }

    /// Messages in the queue.
    pub fn depth(&self) -> Result<u64> {
        self.session.me()?;
        Ok(self.queue.depth())
    }

    /// What the messages are.
    pub fn message_type(&self) -> MessageType {
        MessageType::read(&self.session.object().attributes())
    }

    /// How often a message is handed out before it is given up.
    pub fn max_deliveries(&self) -> u32 {
        max_deliveries(&self.session.object().attributes())
    }

    /// Process id of who put a message; `None` where it is not known any more.
    pub fn sender(&self, sender: Sender) -> Option<u32> {
        let registry = self.session.registry();
        registry.resolve(sender.slot(), |generation| sender.matches(generation)).map(|info| info.pid)
    }

    /// A message is done; false where the lease was lost.
    pub fn acknowledge(&self, lease: &Leased) -> bool {
        let ended = self.queue.acknowledge(lease);
        if self.ends_with_producers {
            // It may have been the last thing that kept consumers waiting.
            self.queue.wake_consumers();
        }
        ended
    }

    /// A message goes back to the queue, or is given up; false where the lease was lost.
    pub fn give_back(&self, lease: &Leased, reason: &str, for_good: bool) -> bool {
        let ended = self.queue.give_back(lease, reason, for_good);
        if self.ends_with_producers {
            self.queue.wake_consumers();
        }
        ended
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
            if others || self.session.object().persistent() {
                return 0;
            }
            if let Ok(me) = registry.me() {
                // What the dead had on lease is inside as well.
                let _ = self.queue.redeliver(me, &Attempt::default());
            }
            self.queue.depth()
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
    let geometry = geometry(&listing.attributes).ok()?;
    let size = BODY + geometry.body_size();
    let file = crate::sys::file::open_at(namespace.directory(), &listing.name, false).ok()??;
    let found = file.stat().ok()?;
    // A hole would take memory to look at, and end by SIGBUS where there is none.
    if listing.version != VERSION || found.size != size as u64 || found.reserved < found.size {
        return None;
    }
    let map = Map::read_only(&file, size).ok()?;
    // SAFETY: the map outlives this function, and a look only loads words.
    let memory = unsafe { Mapping::new(map.ptr(), map.len()) };
    // Never asked whether anybody lives: looking at numbers takes no proof.
    let deaths = Registry::for_namespace(namespace).ok()?;
    let queue = Queue::new(memory, deaths, BODY, geometry, max_deliveries(&listing.attributes));
    Some((queue.depth(), geometry.capacity))
}
