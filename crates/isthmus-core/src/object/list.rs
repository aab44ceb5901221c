//! Looking at a namespace from outside: what is there, who uses it, what is garbage. Takes no lock that an
//! object's users could notice, except on garbage.

use super::header::{BODY, CELLS, Header, cell};
use super::remove::{read_regular, remove_garbage, unlink};
use crate::error::{Error, Result};
use crate::namespace::{Namespace, check_name};
use crate::owner::Owner;
use crate::registry::{ProcessInfo, Registry};
use crate::sys::file::{self, File};

/// One file of a namespace.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Its name.
    pub name: String,
    /// Kind of object; 0 if it is none.
    pub kind: u32,
    /// Layout version of the kind.
    pub version: u32,
    /// Length in bytes.
    pub size: u64,
    /// When it was created, ns since 1970; 0 unknown.
    pub created_ns: u64,
    /// Stays until unlinked.
    pub persistent: bool,
    /// Words whose meaning the kind gives.
    pub attributes: [u64; 16],
    /// Living processes that use it, each once.
    pub attached: Vec<ProcessInfo>,
    /// Why it cannot be used, if so.
    pub problem: Option<String>,
}

/// All files of the namespace that could be objects; what vanishes meanwhile is left out.
pub fn inspect(namespace: &Namespace) -> Result<Vec<Listing>> {
    let registry = Registry::for_namespace(namespace)?;
    let names = namespace.list()?;
    Ok(names.into_iter().filter_map(|name| look(namespace, &registry, name)).collect())
}

fn look(namespace: &Namespace, registry: &Registry, name: String) -> Option<Listing> {
    look_through(namespace, registry, name).map(|(listing, _)| listing)
}

/// What there is to say about a file, and the file, opened for reading, where it is a sound object.
pub(super) fn look_through(
    namespace: &Namespace,
    registry: &Registry,
    name: String,
) -> Option<(Listing, Option<File>)> {
    let mut listing = Listing::blank(name);
    match fill(namespace, registry, &mut listing) {
        Ok(Some(file)) => Some((listing, Some(file))),
        Ok(None) => None,
        Err(error) => {
            listing.problem = Some(error.to_string());
            Some((listing, None))
        }
    }
}

impl Listing {
    pub(super) fn blank(name: String) -> Listing {
        Listing {
            name,
            kind: 0,
            version: 0,
            size: 0,
            created_ns: 0,
            persistent: false,
            attributes: [0; 16],
            attached: Vec::new(),
            problem: None,
        }
    }
}

/// `None` if the file is gone.
fn fill(namespace: &Namespace, registry: &Registry, listing: &mut Listing) -> Result<Option<File>> {
    // Looked at before opening: opening a FIFO or a device has effects.
    let Some(found) = file::stat_at(namespace.directory(), &listing.name)? else { return Ok(None) };
    listing.size = found.size;
    let foreign = || Error::Incompatible("not an object of this version of Isthmus".to_owned());
    if !found.is_regular() {
        return Err(foreign());
    }
    let Some(file) = file::open_at(namespace.directory(), &listing.name, false)? else { return Ok(None) };
    let Some(header) = read_regular(&file)? else { return Err(foreign()) };
    listing.size = file.stat()?.size;
    describe(&header, listing);
    let mut table = vec![0; BODY - cell(0, 0)];
    let got = file::read_at(&file, &mut table, cell(0, 0) as u64)?;
    if header.identity != registry.identity() {
        return Err(Error::Incompatible("belongs to a registry that was deleted".to_owned()));
    }
    if !header.fits(listing.size) || got < table.len() {
        return Err(Error::Incompatible(format!(
            "truncated or resized: its header says {} bytes, the file has {}",
            header.total, listing.size
        )));
    }
    for index in 0..CELLS {
        let start = cell(index, 0) - cell(0, 0);
        let word = u64::from_le_bytes(table[start..start + 8].try_into().unwrap_or_default());
        let owner = Owner::from_word(word).as_process();
        if owner.is_none() || listing.attached.iter().any(|known| known.owner == owner) {
            continue;
        }
        listing.attached.extend(registry.describe(owner).filter(|info| info.alive));
    }
    Ok(Some(file))
}

pub(super) fn describe(header: &Header, listing: &mut Listing) {
    listing.kind = header.kind;
    listing.version = header.version;
    listing.created_ns = header.created_ns;
    listing.persistent = header.persistent();
    listing.attributes = header.attributes;
}

impl Namespace {
    /// Removes the names of objects that nobody uses any more and that are not persistent; says which.
    /// Foreign files, and those this user may not touch or that cannot be looked at now, stay.
    pub fn sweep(&self) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for name in self.list()? {
            if matches!(remove_garbage(self, &name, None), Ok(true)) {
                removed.push(name);
            }
        }
        self.sweep_bells();
        Ok(removed)
    }

    /// Removes the name of an object, persistent or in use; its users keep what they have.
    pub fn unlink(&self, name: &str) -> Result<()> {
        check_name(name)?;
        unlink(self, name, None)
    }
}
