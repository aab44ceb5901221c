//! What a user holds of a mutex: the object's file and attachment beside the word in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use super::{BODY_SIZE, Found, Mutex};
use crate::error::{Death, Error, Result};
use crate::lock::Slices;
use crate::memory::mapping::Mapping;
use crate::namespace::Namespace;
use crate::object::{BODY, MUTEX, Mode, Object, Spec};
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
    spin: AtomicU32,
    held_in: AtomicU64,
}

const SIZE: u64 = (BODY + BODY_SIZE).next_multiple_of(4096) as u64;

fn check(_: &[u64; 16], size: u64) -> Result<()> {
    match size {
        SIZE => Ok(()),
        other => Err(Error::Corrupt(format!("a mutex takes {SIZE} bytes, this file has {other}"))),
    }
}

fn spec(persistent: bool) -> Spec {
    Spec { kind: MUTEX, version: VERSION, size: SIZE, attributes: [0; 16], persistent }
}

impl MutexHandle {
    /// Opens or creates a named mutex.
    pub fn open(namespace: &Arc<Namespace>, name: &str, mode: Mode) -> Result<MutexHandle> {
        let object = Object::open(namespace, name, mode, &spec(false), &|_| Ok(()), &check)?;
        MutexHandle::new(object)
    }

    /// Makes a mutex without a name.
    pub fn anonymous(namespace: &Arc<Namespace>) -> Result<MutexHandle> {
        MutexHandle::new(Object::anonymous(namespace, &spec(false), &|_| Ok(()))?)
    }

    /// Opens the mutex behind another process's descriptor.
    pub fn from_fd_of(namespace: &Arc<Namespace>, pid: u32, fd: i32, nonce: u64) -> Result<MutexHandle> {
        let object = Object::from_fd_of(namespace, pid, fd, nonce, (MUTEX, VERSION), &check)?;
        MutexHandle::new(object)
    }

    fn new(object: Object) -> Result<MutexHandle> {
        let session = Session::new(object)?;
        let mutex = Mutex::new(session.memory(), Arc::clone(session.registry()), BODY);
        Ok(MutexHandle { mutex, session, spin: AtomicU32::new(u32::MAX), held_in: AtomicU64::new(0) })
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
        }
        found
    }

    /// Takes a free or a poisoned mutex, see [`Mutex::try_recover`].
    pub fn try_recover(&self, me: Owner, slices: &Slices) -> std::result::Result<Option<Death>, Owner> {
        let taken = self.mutex.try_recover(me, slices)?;
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
    pub fn wait(&self, slices: &mut Slices, deadline: Option<Instant>) -> Result<Waited> {
        let spin = Spin::with_budget(self.spin.load(Ordering::Relaxed));
        let waited = self.mutex.wait(slices, deadline, &spin);
        self.spin.store(spin.learned(), Ordering::Relaxed);
        waited
    }
}
