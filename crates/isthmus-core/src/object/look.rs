//! A close look at one object from outside. Its memory is mapped for reading only: whoever looks holds no lock,
//! attaches nowhere and cannot write, so nobody who uses the object can notice it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::header::{ANONYMOUS, BELL, BODY, CELLS, SHARED_MEMORY, cell};
use super::list::{Listing, describe, look_through};
use super::remove::read_regular;
use crate::error::Result;
use crate::memory::mapping::Mapping;
use crate::namespace::{Namespace, check_name};
use crate::owner::Owner;
use crate::registry::{ProcessInfo, Registry};
use crate::sys::file::{self, File};
use crate::sys::map::Map;

/// Where the header has the random word (`header.rs`).
const NONCE: usize = 0x30;

/// An object that is only looked at.
#[derive(Debug)]
pub struct Glimpse {
    listing: Listing,
    map: Option<Map>,
    registry: Arc<Registry>,
}

/// What a living process does with an object, all of its handles together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The process.
    pub process: ProcessInfo,
    /// How many handles of it are open.
    pub handles: u64,
    /// How many of its event loops have waited for the object and may again.
    pub loops: u64,
    /// Bits whose meaning the kind gives.
    pub roles: u64,
    /// Threads that wait as producers.
    pub producers_waiting: u64,
    /// Threads that wait as consumers, or for a lock.
    pub consumers_waiting: u64,
}

impl Glimpse {
    /// The object of this name; `None` where there is none. What cannot be used says so in its listing.
    pub fn of(namespace: &Namespace, name: &str) -> Result<Option<Glimpse>> {
        check_name(name)?;
        let registry = Registry::for_namespace(namespace)?;
        let Some((mut listing, mut file)) = look_through(namespace, &registry, name.to_owned()) else {
            return Ok(None);
        };
        if let Some(found) = file.as_ref().map(File::stat).transpose()?
            && found.reserved < found.size
        {
            // A hole would take memory to look at, and end by SIGBUS where there is none.
            listing.problem = Some("has holes: a copy that nobody has opened yet".to_owned());
            file = None;
        }
        // The file is as long as its header says: that was checked. Of shared memory only the head is of interest.
        let size = if listing.kind == SHARED_MEMORY { BODY } else { listing.size as usize };
        let map = file.map(|file| Map::read_only(&file, size)).transpose()?;
        Ok(Some(Glimpse { listing, map, registry }))
    }

    /// The objects without a name that a process has open, as far as it lets this one see them.
    pub fn anonymous_of(namespace: &Namespace, pid: u32) -> Result<Vec<Glimpse>> {
        let registry = Registry::for_namespace(namespace)?;
        let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return Ok(Vec::new()) };
        let ours = |entry: &std::fs::DirEntry| {
            std::fs::read_link(entry.path())
                .is_ok_and(|to| to.as_os_str().as_encoded_bytes().starts_with(b"/memfd:isthmus"))
        };
        let numbers = entries.flatten().filter(ours);
        let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let mut found: Vec<Glimpse> = Vec::new();
        for fd in numbers {
            // What is closed meanwhile, or nobody may see, is left out.
            let Ok(file) = file::open_of_process(pid, fd) else { continue };
            let Ok(Some(header)) = read_regular(&file) else { continue };
            let size = file.stat()?.size;
            let sound = header.flags & ANONYMOUS != 0 && header.identity == registry.identity();
            if !sound || !header.fits(size) {
                continue;
            }
            let mut listing = Listing::blank(format!("descriptor {fd} of process {pid}"));
            describe(&header, &mut listing);
            listing.size = size;
            let map = Map::read_only(&file, BODY.max(size.min(64 << 20) as usize))?;
            found.push(Glimpse { listing, map: Some(map), registry: Arc::clone(&registry) });
        }
        Ok(found)
    }

    /// Random word that tells the object from any other; 0 where it cannot be read.
    pub fn nonce(&self) -> u64 {
        self.map.as_ref().map_or(0, |map| map.word(NONCE).load(Ordering::Acquire))
    }

    /// What its file says.
    pub fn listing(&self) -> &Listing {
        &self.listing
    }

    /// Who is alive in its namespace.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Its memory, which must not be written to; `None` where it has a problem or is shorter than `size`. It is
    /// mapped as long as the glimpse lives.
    pub fn memory(&self, size: usize) -> Option<Mapping> {
        let map = self.map.as_ref().filter(|map| map.len() >= size && map.len() >= BODY)?;
        // SAFETY: the map lives as long as the glimpse, whose users only load (a store would be a fault of theirs).
        Some(unsafe { Mapping::new(map.ptr(), map.len()) })
    }

    /// The living processes that use it, in the order of their ids.
    pub fn users(&self) -> Vec<User> {
        let Some(map) = self.map.as_ref() else { return Vec::new() };
        let mut users: Vec<User> = Vec::new();
        for index in 0..CELLS {
            let read = |word: usize| map.word(cell(index, word)).load(Ordering::Acquire);
            let owner = Owner::from_word(read(0)).as_process();
            if owner.is_none() {
                continue;
            }
            let known = users.iter().position(|user| user.process.owner == owner);
            let at = known.unwrap_or(users.len());
            if known.is_none() {
                let Some(process) = self.registry.describe(owner).filter(|info| info.alive) else { continue };
                let (handles, loops, roles) = (0, 0, 0);
                let (producers_waiting, consumers_waiting) = (0, 0);
                users.push(User { process, handles, loops, roles, producers_waiting, consumers_waiting });
            }
            let (user, roles, waiting) = (&mut users[at], read(1), read(2));
            if roles & BELL != 0 {
                user.loops += 1;
                continue;
            }
            user.handles += 1;
            user.roles |= roles;
            user.producers_waiting += waiting & 0xffff_ffff;
            user.consumers_waiting += waiting >> 32;
        }
        users.sort_by_key(|user| user.process.pid);
        users
    }
}
