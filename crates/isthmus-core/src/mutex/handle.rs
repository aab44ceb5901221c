//! What a user holds of a mutex: the object's file and attachment beside the word in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use super::{BODY_SIZE, Found, Mutex};
use crate::error::{Death, Error, Result};
use crate::lock::Slices;
use crate::memory::mapping::Mapping;
use crate::namespace::Namespace;
use crate::object::{BODY, MUTEX, Mode, Object, RLOCK, Spec, kind_name};
use crate::owner::Owner;
use crate::process;
use crate::registry::Registry;
use crate::session::Session;
use crate::wait::{Spin, Waited};

/// Layout version.
pub const VERSION: u32 = 2;

/// An open mutex.
pub struct MutexHandle {
    // Before the session: it points into the session's mapping, and fields drop in order.
    mutex: Mutex<Mapping, Arc<Registry>>,
    session: Session,
    recursive: bool,
    spin: AtomicU32,
    held_in: AtomicU64,
}

/// What a mutex is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flavour {
    /// Kind of the object.
    pub kind: u32,
    /// Layout version of the kind.
    pub version: u32,
    /// Bytes of the file.
    pub size: u64,
    /// Whether its owner may take it again.
    pub recursive: bool,
}

const SIZE: u64 = (BODY + BODY_SIZE).next_multiple_of(4096) as u64;
/// A mutex.
pub const PLAIN: Flavour = Flavour { kind: MUTEX, version: VERSION, size: SIZE, recursive: false };
/// A mutex that its owner may take again.
pub const RECURSIVE: Flavour = Flavour { kind: RLOCK, version: 1, size: SIZE, recursive: true };

impl Flavour {
    fn check(self) -> impl Fn(&[u64; 16], u64) -> Result<()> {
        move |_, size| {
            if size == self.size {
                return Ok(());
            }
            let (kind, expected) = (kind_name(self.kind), self.size);
            Err(Error::Corrupt(format!("{kind} takes {expected} bytes, this file has {size}")))
        }
    }

    fn spec(self) -> Spec {
        Spec {
            kind: self.kind,
            version: self.version,
            size: self.size,
            attributes: [0; 16],
            persistent: false,
        }
    }
}

impl MutexHandle {
    /// Opens or creates a named mutex.
    pub fn open(namespace: &Arc<Namespace>, name: &str, mode: Mode, flavour: Flavour) -> Result<MutexHandle> {
        let object = Object::open(namespace, name, mode, &flavour.spec(), &|_| Ok(()), &flavour.check())?;
        MutexHandle::new(object, flavour)
    }

    /// Makes a mutex without a name.
    pub fn anonymous(namespace: &Arc<Namespace>, flavour: Flavour) -> Result<MutexHandle> {
        MutexHandle::new(Object::anonymous(namespace, &flavour.spec(), &|_| Ok(()))?, flavour)
    }

    /// Opens the mutex behind another process's descriptor.
    pub fn from_fd_of(
        namespace: &Arc<Namespace>,
        (pid, fd, nonce): (u32, i32, u64),
        flavour: Flavour,
    ) -> Result<MutexHandle> {
        let kind = (flavour.kind, flavour.version);
        let object = Object::from_fd_of(namespace, pid, fd, nonce, kind, &flavour.check())?;
        MutexHandle::new(object, flavour)
    }

    fn new(object: Object, flavour: Flavour) -> Result<MutexHandle> {
        let session = Session::new(object)?;
        let mutex = Mutex::new(session.memory(), Arc::clone(session.registry()), BODY);
        Ok(MutexHandle {
            mutex,
            session,
            recursive: flavour.recursive,
            spin: AtomicU32::new(u32::MAX),
            held_in: AtomicU64::new(0),
        })
    }

    /// Gives the mutex back; a recursive one once.
    #[inline]
    pub fn release(&self, me: Owner) -> Result<()> {
        if self.recursive && self.mutex.depth() > 0 && self.mutex.owner() == me {
            self.mutex.set_depth(self.mutex.depth() - 1);
            return Ok(());
        }
        self.mutex.release(me)
    }

    /// Gives a recursive mutex back as often as its owner has it; how often that was beside the first time.
    pub fn release_all(&self, me: Owner) -> Result<u64> {
        let depth = if self.recursive { self.mutex.depth() } else { 0 };
        self.mutex.release(me)?;
        Ok(depth)
    }

    /// The owner has it as often as before [`MutexHandle::release_all`].
    pub fn restore(&self, depth: u64) {
        if depth != 0 {
            self.mutex.set_depth(depth);
        }
    }

    /// Ends this handle; what is held stays held. Closing twice does nothing.
    pub fn close(&self) {
        self.session.close(|| {
            if let Ok(me) = self.session.registry().me() {
                self.mutex.give_up_all(me);
            }
        });
    }

    /// The object and this process's part in it.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The structure in shared memory.
    #[inline]
    pub fn mutex(&self) -> &Mutex<Mapping, Arc<Registry>> {
        &self.mutex
    }

    /// Takes the mutex if it is free.
    #[inline]
    pub fn try_acquire(&self, me: Owner, slices: &Slices) -> Found {
        let found = self.mutex.try_acquire(me, slices);
        if found == Found::Acquired {
            self.held_in.store(process::epoch(), Ordering::Relaxed);
            // What an owner that died had on top.
            if self.recursive && self.mutex.depth() != 0 {
                self.mutex.set_depth(0);
            }
        } else if self.recursive && found == Found::Held(me) && self.mutex.owner() == me {
            self.mutex.set_depth(self.mutex.depth() + 1);
            return Found::Acquired;
        }
        found
    }

    /// Takes a free or a poisoned mutex, see [`Mutex::try_recover`].
    pub fn try_recover(&self, me: Owner, slices: &Slices) -> std::result::Result<Option<Death>, Owner> {
        let taken = self.mutex.try_recover(me, slices)?;
        self.mutex.set_depth(0);
        self.held_in.store(process::epoch(), Ordering::Relaxed);
        Ok(taken)
    }

    /// True where the mutex was last acquired through this handle by a process that has forked this
    /// one: it is the parent's, and leaving its `with` block here does nothing.
    pub fn is_parents(&self) -> bool {
        let held_in = self.held_in.load(Ordering::Relaxed);
        held_in != 0 && held_in != process::epoch()
    }

    /// Waits for a mutex found held; may return early.
    pub fn wait(&self, me: Owner, slices: &mut Slices, deadline: Option<Instant>) -> Result<Waited> {
        let spin = Spin::with_budget(self.spin.load(Ordering::Relaxed));
        let waited = self.mutex.wait(me, slices, deadline, &spin);
        self.spin.store(spin.learned(), Ordering::Relaxed);
        waited
    }
}
