//! Creating, opening and closing: the protocol that makes names disappear with their last user.
//!
//! Every handle has an open file description of its own with a shared `flock`, taken before the file has a
//! name (creator) or before it is trusted (opener). **A named object that is not persistent and whose file
//! nobody locks is garbage**: whoever gets the exclusive lock on it removes the name. That is the closer, an
//! opener that comes across it, or a sweep. A forked child shares the description: the lock stays until both
//! have closed.
//!
//! ```text
//! create: no name -> reserve -> lock shared -> map, body, header -> linkat -> open the name anew, lock that
//!         shared, unlock and close the first -> use
//! open:   open -> [not persistent: exclusive lock? garbage: remove, start over]
//!         -> lock shared (taken: somebody is removing it, wait and start over)
//!         -> does the name still lead here? else start over -> validate -> map through another open -> use
//! close:  close own descriptor -> open the name anew -> same file? -> exclusive lock? -> still the same
//!         file? -> remove the name -> close
//! ```
//! A mapping keeps the description it was made through open, and with it the lock, until it is unmapped. So
//! the description that carries the lock is never the one that was mapped: `close` must work while other
//! threads still look at the memory, and unlocking explicitly would unlock for forked children too.
//!
//! The closer asks on a new description because converting its own would succeed under a forked child that
//! shares it. An exclusive lock is held for a few system calls; killed in between, the kernel drops it and
//! the object is garbage as before. A process *stopped* exactly there holds up openers of this name, who give
//! up after `PATIENCE` with an error that says so.
//!
//! Removing by name is safe: on this inode removers exclude each other, by the exclusive lock, or by a shared
//! one plus byte lock 0 of the description (`Object::unlink`), and nobody else removes names. A file that does
//! not carry our magic is never locked and never removed.

use std::sync::Arc;

use super::header::{ANONYMOUS, BODY, Expected, Header, PERSISTENT};
use super::remove::{Wait, foreign, read_regular, remove_garbage, remove_if_same};
use super::{Mode, Object, Spec};
use crate::error::{Error, Result};
use crate::namespace::{Namespace, check_name};
use crate::registry::Registry;
use crate::sys::file::{self, File};
use crate::sys::lock::{Flock, flock, unflock};
use crate::sys::map::Map;
use crate::sys::{clock, limits, proc};

pub(super) type Init<'a> = &'a dyn Fn(&Map) -> Result<()>;
pub(super) type Check<'a> = &'a dyn Fn(&[u64; 16], u64) -> Result<()>;

pub(super) fn open(
    namespace: &Arc<Namespace>,
    name: &str,
    mode: Mode,
    spec: &Spec,
    init: Init<'_>,
    check: Check<'_>,
) -> Result<Object> {
    check_name(name)?;
    let registry = Registry::for_namespace(namespace)?;
    let mut wait = Wait::new();
    loop {
        if let Some(found) = file::stat_at(namespace.directory(), name)? {
            if matches!(mode, Mode::Create) {
                if !remove_garbage(namespace, name, None)? {
                    return Err(Error::Exists(namespace.path_of(name)));
                }
            } else if !found.is_regular() {
                return Err(foreign(namespace, name));
            } else if let Some(object) =
                existing(namespace, &registry, name, (spec.kind, spec.version), check, &mut wait)?
            {
                return Ok(object);
            }
            continue;
        }
        if matches!(mode, Mode::Open) {
            return Err(Error::NotFound(namespace.path_of(name)));
        }
        let object = build(namespace, &registry, Some(name), spec, init)?;
        if file::publish(&object.file, namespace.directory(), name)? {
            return lock_beside_mapping(namespace, name, object);
        }
        object.file.close(); // somebody was faster; ours has no name and vanishes
    }
}

/// Moves the lock of a new object from the description that was mapped to one that was not.
fn lock_beside_mapping(namespace: &Namespace, name: &str, mut object: Object) -> Result<Object> {
    let moved = match file::open_at(namespace.directory(), name, true) {
        Ok(Some(fresh)) if fresh.identity() == object.file.identity() => {
            flock(&fresh, Flock::Shared).map(|locked| locked.then_some(fresh))
        }
        Ok(_) => Ok(None), // unlinked already: no name, nothing to keep it with
        Err(error) => Err(error),
    };
    match moved {
        Ok(None) => {}
        Ok(Some(fresh)) => {
            unflock(&object.file);
            object.file = fresh;
        }
        Err(error) => {
            unflock(&object.file); // so that dropping the object can remove the name
            return Err(error);
        }
    }
    Ok(object)
}

/// Opens what the name leads to; `None` to start over.
fn existing(
    namespace: &Arc<Namespace>,
    registry: &Arc<Registry>,
    name: &str,
    (kind, version): (u32, u32),
    check: Check<'_>,
    wait: &mut Wait,
) -> Result<Option<Object>> {
    let file = match file::open_at(namespace.directory(), name, true) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(None),
        Err(Error::Os { errno: libc::ELOOP | libc::ENXIO | libc::EISDIR, .. }) => {
            return Err(foreign(namespace, name));
        }
        Err(error) => return Err(error),
    };
    let Some(header) = read_regular(&file)? else { return Err(foreign(namespace, name)) };
    if !header.persistent() && flock(&file, Flock::Exclusive)? {
        // Nobody uses it, so by the rule it does not exist any more.
        remove_if_same(namespace, name, &file)?;
        return Ok(None);
    }
    let to_map =
        if flock(&file, Flock::Shared)? { file::open_at(namespace.directory(), name, true)? } else { None };
    let Some(to_map) = to_map.filter(|to_map| to_map.identity() == file.identity()) else {
        drop(file);
        wait.again(namespace, name)?;
        return Ok(None);
    };
    let expected = Expected { kind, version, identity: registry.identity(), name };
    let identity = file.identity();
    let opened = accept(namespace, registry, Some(name), (file, Some(&to_map)), header, &expected, check);
    if opened.is_err() {
        // Our shared lock may have kept the last user from removing the name.
        let _ = remove_garbage(namespace, name, Some(identity));
    }
    opened.map(Some)
}

/// Validates a file that is locked (or anonymous), and maps it through `to_map`.
fn accept(
    namespace: &Arc<Namespace>,
    registry: &Arc<Registry>,
    name: Option<&str>,
    (file, to_map): (File, Option<&File>),
    header: Header,
    expected: &Expected<'_>,
    check: Check<'_>,
) -> Result<Object> {
    let found = file.stat()?;
    header.validate(expected, found.size)?;
    // Refused before memory is taken for it: a header may lie about how much that is.
    check(&header.attributes, header.total)?;
    if found.reserved < found.size {
        // Holes (somebody copied the file): reserve them now instead of a SIGBUS later.
        limits::reserve(&file, found.size, Some((namespace.directory(), namespace.path())))?;
    }
    let map = Map::shared(to_map.unwrap_or(&file), header.total as usize)?;
    Ok(Object::new(namespace.clone(), registry.clone(), name, file, map, header, false))
}

/// Builds a complete object without a name.
pub(super) fn build(
    namespace: &Arc<Namespace>,
    registry: &Arc<Registry>,
    name: Option<&str>,
    spec: &Spec,
    init: Init<'_>,
) -> Result<Object> {
    if spec.size < BODY as u64 {
        return Err(Error::Invalid(format!("an object has at least {BODY} bytes, not {}", spec.size)));
    }
    let attempt = || -> Result<File> {
        if name.is_none() {
            let file = file::memory(c"isthmus")?;
            limits::reserve(&file, spec.length(), None)?;
            file::seal_length(&file)?;
            return Ok(file);
        }
        let (directory, path) = (namespace.directory(), namespace.path());
        let file = file::unnamed(directory, path, namespace.file_mode())?;
        limits::reserve(&file, spec.length(), Some((directory, path)))?;
        Ok(file)
    };
    let file = match attempt() {
        Err(Error::NoSpace(_)) if !namespace.sweep()?.is_empty() => attempt()?,
        other => other?,
    };
    // Nobody else can know a file without a name; the lock cannot be refused.
    flock(&file, Flock::Shared)?;
    let map = Map::shared(&file, spec.size as usize)?;
    init(&map)?;
    let persistent = if spec.persistent { PERSISTENT } else { 0 };
    let header = Header {
        version: spec.version,
        kind: spec.kind,
        identity: registry.identity(),
        total: spec.size,
        flags: if name.is_none() { ANONYMOUS } else { persistent },
        nonce: proc::random_word(),
        created_ns: clock::wall_ns(),
        creator: u64::from(proc::id()),
        attributes: spec.attributes,
    };
    header.write(&map);
    Ok(Object::new(namespace.clone(), registry.clone(), name, file, map, header, true))
}

/// Opens an anonymous object that another process (or this one) has open.
pub(super) fn of_process(
    namespace: &Arc<Namespace>,
    (pid, fd, nonce): (u32, i32, u64),
    (kind, version): (u32, u32),
    check: Check<'_>,
) -> Result<Object> {
    let registry = Registry::for_namespace(namespace)?;
    let gone = || {
        Error::NotFound(std::path::PathBuf::from(format!(
            "the anonymous object {fd} of process {pid} (its sender must live until it is received)"
        )))
    };
    let file = match file::open_of_process(pid, fd) {
        Err(Error::NotFound(_) | Error::Os { errno: libc::ESRCH, .. }) => return Err(gone()),
        Err(Error::Os { errno: libc::EACCES | libc::EPERM, .. }) => {
            return Err(Error::Permission(format!(
                "process {pid} does not let this one open its descriptors (another user, or not dumpable); use \
                 a named object"
            )));
        }
        other => other?,
    };
    match read_regular(&file)? {
        Some(header) if header.nonce == nonce && header.flags & ANONYMOUS != 0 => {
            let expected =
                Expected { kind, version, identity: registry.identity(), name: "the anonymous object" };
            accept(namespace, &registry, None, (file, None), header, &expected, check)
        }
        _ => Err(gone()), // the sender closed it, and the number is used again
    }
}
