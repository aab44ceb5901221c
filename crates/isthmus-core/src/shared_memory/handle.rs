//! What a user holds of a shared memory: the object's file and attachment, and where to map its content from.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{DESCRIPTION, DESCRIPTION_MAX, Extent, LENGTH, PAGE, SIZE};
use crate::error::{Error, Result};
use crate::memory::mapping::Mapping;
use crate::namespace::Namespace;
use crate::object::{BODY, Listing, Mode, Object, SHARED_MEMORY, Spec};
use crate::session::Session;
use crate::sys::file::{self, File};
use crate::sys::limits;
use crate::sys::map::Map;

/// Layout version.
pub const VERSION: u32 = 1;
/// Where the content begins in the file.
pub const CONTENT: u64 = (BODY + PAGE) as u64;
/// Largest size: the kernel counts in signed numbers.
pub const SIZE_MAX: u64 = i64::MAX as u64 - CONTENT;

/// What a new shared memory is to be like; an existing one is accepted in everything that is `None`.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// Bytes of content of a new one; an existing one has to have as many, or more, unless a description is
    /// given: then the caller compares what is described.
    pub size: Option<u64>,
    /// What is in it, in words that the caller understands; of a new one.
    pub description: &'a [u8],
    /// Whether it outlives its last user.
    pub persistent: Option<bool>,
}

impl Attributes<'_> {
    fn spec(&self) -> Spec {
        let mut attributes = [0; 16];
        attributes[0] = self.size.unwrap_or(0);
        Spec {
            kind: SHARED_MEMORY,
            version: VERSION,
            size: CONTENT,
            attributes,
            persistent: self.persistent.unwrap_or(false),
        }
    }

    fn format(&self, map: &Map) {
        map.word(BODY + SIZE).store(self.size.unwrap_or(0), Ordering::Relaxed);
        map.word(BODY + LENGTH).store(self.description.len() as u64, Ordering::Relaxed);
        for (index, part) in self.description.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            map.word(BODY + DESCRIPTION + index * 8).store(u64::from_le_bytes(word), Ordering::Relaxed);
        }
    }
}

/// Refuses a file whose content begins elsewhere.
fn check_start(name: &str, start: u64) -> Result<()> {
    match start {
        CONTENT => Ok(()),
        other => Err(Error::Corrupt(format!(
            "{name} says that its content begins at {other}, and it begins at {CONTENT}"
        ))),
    }
}

/// An open shared memory.
pub struct SharedMemoryHandle {
    // Before the session: it points into the session's mapping, and fields drop in order.
    extent: Extent<Mapping>,
    session: Session,
}

impl SharedMemoryHandle {
    /// Opens or creates a named shared memory.
    pub fn open(
        namespace: &Arc<Namespace>,
        name: &str,
        mode: Mode,
        asked: &Attributes<'_>,
    ) -> Result<SharedMemoryHandle> {
        if asked.description.len() > DESCRIPTION_MAX {
            return Err(Error::TooLarge {
                what: "bytes that describe what is in a shared memory",
                size: asked.description.len() as u64,
                limit: DESCRIPTION_MAX as u64,
            });
        }
        if let Some(size) = asked.size.filter(|size| *size > SIZE_MAX) {
            return Err(Error::TooLarge { what: "bytes of shared memory", size, limit: SIZE_MAX });
        }
        let init = |map: &Map| {
            asked.format(map);
            Ok(())
        };
        let object =
            Object::open(namespace, name, mode, &asked.spec(), &init, &|_, start| check_start(name, start))?;
        if let Some(persistent) = asked.persistent.filter(|p| *p != object.persistent()) {
            return Err(Error::Incompatible(format!(
                "the shared memory exists with persistent={} and {persistent} was asked for",
                object.persistent()
            )));
        }
        let session = Session::new(object)?;
        let extent = Extent::new(session.memory(), BODY);
        let handle = SharedMemoryHandle { extent, session };
        let found = handle.size()?;
        match asked.size {
            Some(size) if size > found && asked.description.is_empty() => Err(Error::Incompatible(format!(
                "the shared memory {name} exists with size={found} and size={size} was asked for; open it without \
                 size and grow it"
            ))),
            _ => Ok(handle),
        }
    }

    /// The object and this process's part in it.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Bytes of content, with memory behind them.
    pub fn size(&self) -> Result<u64> {
        self.session.me()?;
        let size = self.extent.size();
        let object = self.session.object();
        check(size, object.file().stat()?.size, object.name().unwrap_or("the shared memory"))?;
        Ok(size)
    }

    /// What was said of the content when it was created.
    pub fn description(&self) -> Result<Vec<u8>> {
        self.session.me()?;
        let map = self.session.object().map();
        let length = map.word(BODY + LENGTH).load(Ordering::Relaxed);
        if length > DESCRIPTION_MAX as u64 {
            return Err(Error::Corrupt(format!(
                "a description of {length} bytes, {DESCRIPTION_MAX} at most"
            )));
        }
        let words = (0..(length as usize).div_ceil(8))
            .flat_map(|index| map.word(BODY + DESCRIPTION + index * 8).load(Ordering::Relaxed).to_le_bytes());
        Ok(words.take(length as usize).collect())
    }

    /// Reserves the next bytes on the way to `size`, at most `most` of them; true once all are there. For callers
    /// that want to look around in between; [`SharedMemoryHandle::grow`] then finds them. `file` is the content,
    /// opened for this: others may close the handle meanwhile, and its descriptor may then be another file's.
    pub fn reserve_some(&self, file: &File, reserved: &mut u64, size: u64, most: u64) -> Result<bool> {
        if size > SIZE_MAX {
            return Err(Error::TooLarge { what: "bytes of shared memory", size, limit: SIZE_MAX });
        }
        self.session.me()?;
        let from = (*reserved).max(self.extent.size());
        if from >= size {
            return Ok(true);
        }
        let to = size.min(from.saturating_add(most));
        let place = self.session.object().namespace().path();
        limits::check_range(file.raw(), (CONTENT + from, CONTENT + size), place)?;
        limits::reserve_range(file.raw(), (CONTENT + from, CONTENT + to), place)?;
        *reserved = to;
        Ok(to == size)
    }

    /// Makes it `size` bytes, if it is smaller; says how many they are then. They have to be reserved.
    pub fn grow(&self, size: u64) -> Result<u64> {
        self.session.me()?;
        self.extent.grow(size, |_, to| {
            let length = self.session.object().file().stat()?.size;
            if to <= SIZE_MAX && CONTENT + to <= length {
                return Ok(());
            }
            Err(Error::Invalid(format!("{to} bytes were not reserved: the file has {length}")))
        })
    }

    /// The file, opened anew, to map the content from: a mapping keeps what it was made through, and must not
    /// keep the lock that says the object is in use.
    pub fn content(&self, write: bool) -> Result<File> {
        self.session.me()?;
        file::open_again(self.session.object().file(), write)
    }
}

/// What a shared memory has to show from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Bytes of content.
    pub size: u64,
    /// What was said of it when it was created.
    pub description: Vec<u8>,
}

/// The content of a named shared memory that is only looked at: nothing stays open, nobody is disturbed. `None`
/// where it is gone, [`Error::Incompatible`] where it was cut.
pub fn peek(namespace: &Namespace, listing: &Listing) -> Result<Option<Content>> {
    let Some(file) = file::open_at(namespace.directory(), &listing.name, false)? else { return Ok(None) };
    let mut page = vec![0; PAGE];
    let got = file::read_at(&file, &mut page, BODY as u64)?;
    let word = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap_or_default());
    let (size, length) = (word(SIZE), word(LENGTH));
    // Asked after the size was read: a file only becomes longer.
    check(size, file.stat()?.size, &listing.name)?;
    if got < PAGE || length > DESCRIPTION_MAX as u64 {
        return Err(Error::Corrupt(format!("a description of {length} bytes, {DESCRIPTION_MAX} at most")));
    }
    let description = page[DESCRIPTION..DESCRIPTION + length as usize].to_vec();
    Ok(Some(Content { size, description }))
}

/// Refuses a size without ground under it.
fn check(size: u64, file: u64, name: &str) -> Result<()> {
    if size <= SIZE_MAX && CONTENT + size <= file {
        return Ok(());
    }
    Err(Error::Incompatible(format!(
        "{name} is truncated: {size} bytes of content from {CONTENT} on, and the file has {file}"
    )))
}
