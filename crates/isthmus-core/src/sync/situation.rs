//! Who holds what and who waits for what, in a whole namespace: facts for finding deadlocks, read from outside without
//! disturbing anybody.

use super::barrier::Barrier;
use super::bounded::BoundedSemaphore;
use super::event::Event;
use super::handle::{body_size, limits};
use super::rwlock::RwLock;
use super::semaphore::Semaphore;
use super::{CLAIM, WAITERS};
use crate::claim::Claim;
use crate::error::{Death, Result};
use crate::mutex::{self, Mutex};
use crate::namespace::Namespace;
use crate::object::{BARRIER, EVENT};
use crate::object::{BODY, BOUNDED_SEMAPHORE, CONDITION, Glimpse, MUTEX, RLOCK, RWLOCK, SEMAPHORE};
use crate::owner::Owner;
use crate::registry::Registry;
use crate::waiters::{self, Mode, Record, Waiters};

/// A lock, or what is like one.
#[derive(Debug, Clone)]
pub struct Thing {
    /// Its name, or where it was found.
    pub name: String,
    /// Whether it has a name.
    pub named: bool,
    /// Kind of object.
    pub kind: u32,
    /// Random word that tells it from any other.
    pub nonce: u64,
    /// Who has it, and for what.
    pub holders: Vec<(Owner, Mode)>,
    /// Who waits for it.
    pub waiters: Vec<Record>,
    /// Who is to be next.
    pub claim: Owner,
    /// The death that poisons it.
    pub poisoned: Option<Death>,
    /// Permits that are free, whether an event is set, how many wait at a barrier.
    pub number: Option<(&'static str, u64)>,
    /// Living processes that use it.
    pub users: usize,
}

/// All locks of a namespace: the named ones, and those without a name that its living processes have open.
pub fn situation(namespace: &Namespace) -> Result<Vec<Thing>> {
    let registry = Registry::for_namespace(namespace)?;
    let mut things: Vec<Thing> = Vec::new();
    for name in namespace.list()? {
        if let Some(glimpse) = Glimpse::of(namespace, &name)?
            && glimpse.listing().problem.is_none()
        {
            things.extend(thing(&glimpse, true));
        }
    }
    for process in registry.living() {
        for glimpse in Glimpse::anonymous_of(namespace, process.pid)? {
            if !things.iter().any(|known| known.nonce == glimpse.nonce()) {
                things.extend(thing(&glimpse, false));
            }
        }
    }
    Ok(things)
}

/// What a lock that is looked at is like; `None` for what is no lock, or damaged.
pub fn thing(glimpse: &Glimpse, named: bool) -> Option<Thing> {
    let listing = glimpse.listing();
    let (kind, limit) = (listing.kind, listing.attributes[0]);
    let size = match kind {
        MUTEX | RLOCK => WAITERS + waiters::COUNT * waiters::SIZE,
        SEMAPHORE | BOUNDED_SEMAPHORE | RWLOCK | EVENT | CONDITION | BARRIER => {
            let (_, least, most) = limits(kind);
            if !(least..=most).contains(&limit) {
                return None;
            }
            body_size(kind, limit)
        }
        _ => return None,
    };
    // Only asked what loads: the memory cannot be written to.
    let memory = glimpse.memory(BODY + size)?;
    let peers = || glimpse.registry().clone();
    let mut holders = Vec::new();
    let mut poisoned = None;
    let mut number = None;
    match kind {
        MUTEX | RLOCK | CONDITION => {
            let mutex = Mutex::new(memory, peers(), BODY);
            holders.push((mutex.owner(), Mode::Exclusive));
            poisoned = mutex.poisoned();
        }
        RWLOCK => {
            let lock = RwLock::new(memory, peers(), BODY);
            holders.push((lock.writer().owner(), Mode::Exclusive));
            holders.extend(lock.readers().into_iter().map(|owner| (owner, Mode::Shared)));
            poisoned = lock.writer().poisoned();
        }
        BOUNDED_SEMAPHORE => {
            let semaphore = BoundedSemaphore::new(memory, peers(), BODY, limit as usize);
            number = Some(("value", semaphore.value() as u64));
            holders.extend(semaphore.holders().into_iter().map(|owner| (owner, Mode::Permit)));
        }
        SEMAPHORE => number = Some(("value", Semaphore::new(memory, peers(), BODY).value())),
        EVENT => number = Some(("set", u64::from(Event::new(memory, peers(), BODY).is_set()))),
        BARRIER => {
            let barrier = Barrier::new(memory, peers(), BODY, limit as usize);
            number = Some(("waiting", barrier.waiting() as u64));
        }
        _ => {}
    }
    holders.retain(|(owner, _)| !owner.is_none());
    Some(Thing {
        name: listing.name.clone(),
        named,
        kind,
        nonce: glimpse.nonce(),
        holders,
        waiters: Waiters::new(BODY + WAITERS).list(&memory),
        claim: Claim::new(BODY + CLAIM).holder(&memory),
        poisoned,
        number,
        users: glimpse.users().len(),
    })
}

const _: () = assert!(mutex::BODY_SIZE <= WAITERS, "records of waiters stand behind the words of a mutex");
