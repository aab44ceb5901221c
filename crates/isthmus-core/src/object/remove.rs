//! Removing names: what is garbage, and what somebody asked to remove. The protocol is in `open.rs`.

use super::header::Header;
use crate::error::{Error, Result};
use crate::namespace::Namespace;
use crate::sys::clock;
use crate::sys::file::{self, File};
use crate::sys::lock::{Flock, flock, lock_byte_of_description};

/// How long an opener waits for a remover, ns. Removing takes microseconds.
const PATIENCE: u64 = 5_000_000_000;

/// Waiting for somebody who removes a name.
pub(super) struct Wait {
    deadline: u64,
    nap_us: u32,
}

impl Wait {
    pub(super) fn new() -> Wait {
        Wait { deadline: clock::monotonic_ns() + PATIENCE, nap_us: 20 }
    }

    pub(super) fn again(&mut self, namespace: &Namespace, name: &str) -> Result<()> {
        if clock::monotonic_ns() > self.deadline {
            return Err(Error::Timeout(format!(
                "{} is being removed by a process that does not go on (stopped?)",
                namespace.path_of(name).display()
            )));
        }
        clock::nap_us(self.nap_us);
        self.nap_us = (self.nap_us * 2).min(2000);
        Ok(())
    }
}

pub(super) fn foreign(namespace: &Namespace, name: &str) -> Error {
    Error::Incompatible(format!(
        "{} is not an object of this version of Isthmus: a symlink, a directory, a foreign file, or another \
         header layout",
        namespace.path_of(name).display()
    ))
}

/// The header of a regular file of ours; `None` for anything else.
pub(super) fn read_regular(file: &File) -> Result<Option<Header>> {
    if file.stat()?.is_regular() { Header::read(file) } else { Ok(None) }
}

fn leads_to(namespace: &Namespace, name: &str, file: &File) -> Result<bool> {
    let found = file::stat_at(namespace.directory(), name)?;
    Ok(found.is_some_and(|found| (found.dev, found.ino) == file.identity()))
}

/// With a lock that excludes other removers of this file.
pub(super) fn remove_if_same(namespace: &Namespace, name: &str, file: &File) -> Result<bool> {
    Ok(leads_to(namespace, name, file)? && file::remove(namespace.directory(), name)?)
}

/// Removes a name if the object behind it (and it is `identity`, if given) is garbage. Everything that is not
/// certainly garbage stays, errors of other users' files included.
pub(super) fn remove_garbage(
    namespace: &Namespace,
    name: &str,
    identity: Option<(u64, u64)>,
) -> Result<bool> {
    let not_ours = |error: Error| match error {
        Error::Os { errno: libc::EACCES | libc::EPERM | libc::ELOOP | libc::ENXIO | libc::EBUSY, .. } => {
            Ok(false)
        }
        other => Err(other),
    };
    let attempt = || -> Result<bool> {
        match file::stat_at(namespace.directory(), name)? {
            Some(found) if found.is_regular() => {}
            _ => return Ok(false),
        }
        let Some(file) = file::open_at(namespace.directory(), name, false)? else { return Ok(false) };
        if identity.is_some_and(|identity| identity != file.identity()) {
            return Ok(false);
        }
        match read_regular(&file)? {
            Some(header) if !header.persistent() && flock(&file, Flock::Exclusive)? => {
                remove_if_same(namespace, name, &file)
            }
            _ => Ok(false),
        }
    };
    attempt().or_else(not_ours)
}

/// Removes a name whoever uses the object; only of `identity`, if given.
pub(super) fn unlink(namespace: &Namespace, name: &str, identity: Option<(u64, u64)>) -> Result<()> {
    let mut wait = Wait::new();
    let gone = || Err(Error::NotFound(namespace.path_of(name)));
    loop {
        match file::stat_at(namespace.directory(), name)? {
            None => return gone(),
            Some(found) if !found.is_regular() => return Err(foreign(namespace, name)),
            Some(_) => {}
        }
        let Some(file) = file::open_at(namespace.directory(), name, true)? else { return gone() };
        if identity.is_some_and(|identity| identity != file.identity()) {
            return gone();
        }
        if read_regular(&file)?.is_none() {
            return Err(foreign(namespace, name));
        }
        if flock(&file, Flock::Shared)? && lock_byte_of_description(&file, 0)? {
            if remove_if_same(namespace, name, &file)? {
                return Ok(());
            }
            continue; // somebody else removed it, and the name may lead to another object now
        }
        drop(file);
        wait.again(namespace, name)?;
    }
}
