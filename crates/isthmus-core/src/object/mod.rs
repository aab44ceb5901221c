//! Objects: files in shared memory with a common header, a lifetime, and a table of who uses them.
//!
//! `header.rs` specifies the first 12,288 bytes, `open.rs` the protocol of creating, opening, closing and
//! removing (which is in `remove.rs`), `attach.rs` the attachment table, `list.rs` and `look.rs` the view from outside.

mod attach;
mod header;
mod list;
mod look;
mod open;
mod remove;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use header::{
    BARRIER, BELL, BODY, BOUNDED_SEMAPHORE, CELLS, CONDITION, EVENT, MUTEX, QUEUE, RLOCK, RWLOCK, SEMAPHORE,
    SHARED_MEMORY, VALUE, cell, kind_name,
};
pub use list::{Listing, inspect};
pub use look::{Glimpse, User};

use crate::error::{Error, Result};
use crate::namespace::Namespace;
use crate::registry::Registry;
use crate::sys::file::File;
use crate::sys::map::Map;
use header::Header;

/// What to do about an object that exists, or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Use what exists, create otherwise.
    OpenOrCreate,
    /// Insist on new: [`Error::Exists`].
    Create,
    /// Insist on existing: [`Error::NotFound`].
    Open,
}

/// What an object shall be.
#[derive(Debug, Clone)]
pub struct Spec {
    /// [`QUEUE`], [`MUTEX`], [`VALUE`], [`SHARED_MEMORY`].
    pub kind: u32,
    /// Layout version of the kind.
    pub version: u32,
    /// Length of the whole file, at least [`BODY`].
    pub size: u64,
    /// Words stored in the header, with a meaning the kind gives. Of a [`SHARED_MEMORY`] the first is how many
    /// bytes of content are reserved behind the `size` that is mapped.
    pub attributes: [u64; 16],
    /// Stays until unlinked.
    pub persistent: bool,
}

/// An open object. Dropping it closes it.
#[derive(Debug)]
pub struct Object {
    namespace: Arc<Namespace>,
    registry: Arc<Registry>,
    name: Option<String>,
    file: File,
    map: Map,
    header: Header,
    created: bool,
    closed: AtomicBool,
}

impl Spec {
    /// Length of the file at birth.
    fn length(&self) -> u64 {
        let behind = if self.kind == SHARED_MEMORY { self.attributes[0] } else { 0 };
        self.size.saturating_add(behind)
    }
}

impl Object {
    /// Opens or creates a named object. `init` writes the body of a new one before anybody can see it;
    /// `check` sees the attributes and the length of an existing one and may refuse them.
    pub fn open(
        namespace: &Arc<Namespace>,
        name: &str,
        mode: Mode,
        spec: &Spec,
        init: &dyn Fn(&Map) -> Result<()>,
        check: &dyn Fn(&[u64; 16], u64) -> Result<()>,
    ) -> Result<Object> {
        open::open(namespace, name, mode, spec, init, check)
    }

    /// A new object without a name, on memory that no peer can truncate.
    pub fn anonymous(
        namespace: &Arc<Namespace>,
        spec: &Spec,
        init: &dyn Fn(&Map) -> Result<()>,
    ) -> Result<Object> {
        let registry = Registry::for_namespace(namespace)?;
        open::build(namespace, &registry, None, spec, init)
    }

    /// The anonymous object that process `pid` has open as `fd`, known by its nonce. The namespace must be
    /// the one it was created with.
    pub fn from_fd_of(
        namespace: &Arc<Namespace>,
        pid: u32,
        fd: i32,
        nonce: u64,
        (kind, version): (u32, u32),
        check: &dyn Fn(&[u64; 16], u64) -> Result<()>,
    ) -> Result<Object> {
        open::of_process(namespace, (pid, fd, nonce), (kind, version), check)
    }

    fn new(
        namespace: Arc<Namespace>,
        registry: Arc<Registry>,
        name: Option<&str>,
        file: File,
        map: Map,
        header: Header,
        created: bool,
    ) -> Object {
        let name = name.map(str::to_owned);
        Object { namespace, registry, name, file, map, header, created, closed: AtomicBool::new(false) }
    }

    /// The whole file, mapped until the object is dropped (not only closed).
    #[inline]
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// The registry of its namespace.
    #[inline]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// Its name; `None` if anonymous.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The attributes it was created with.
    pub fn attributes(&self) -> [u64; 16] {
        self.header.attributes
    }

    /// The descriptor, -1 once closed: with pid and nonce it leads other processes to an anonymous object.
    pub fn fd(&self) -> i32 {
        self.file.raw()
    }

    /// Random word that tells this object from any other.
    pub fn nonce(&self) -> u64 {
        self.header.nonce
    }

    /// The file itself.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether this handle created it.
    pub fn was_created(&self) -> bool {
        self.created
    }

    /// Whether it stays until unlinked.
    pub fn persistent(&self) -> bool {
        self.header.persistent()
    }

    /// When it was created, ns since 1970.
    pub fn created_ns(&self) -> u64 {
        self.header.created_ns
    }

    /// The process that created it, in its own PID namespace.
    pub fn creator(&self) -> u32 {
        self.header.creator as u32
    }

    /// Length of what is mapped: the whole file, but for a [`SHARED_MEMORY`].
    pub fn size(&self) -> u64 {
        self.header.total
    }

    /// Whether [`Object::close`] was called.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Ends this handle; removes the name if it was the last, in a forked child as well. Idempotent. The
    /// memory stays mapped until the object is dropped, so that other threads cannot fault.
    pub fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let identity = self.file.identity();
        self.file.close();
        if let Some(name) = self.name.as_deref().filter(|_| !self.persistent()) {
            // What cannot be removed now is garbage that the next sweep takes.
            let _ = remove::remove_garbage(&self.namespace, name, Some(identity));
        }
    }

    /// Removes the name, if it still leads to this object; users keep what they have. Also after
    /// [`Object::close`]. [`Error::NotFound`] if the name is gone or another object's.
    pub fn unlink(&self) -> Result<()> {
        match &self.name {
            Some(name) => remove::unlink(&self.namespace, name, Some(self.file.identity())),
            None => Err(Error::Invalid("an anonymous object has no name to remove".to_owned())),
        }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.close();
    }
}
