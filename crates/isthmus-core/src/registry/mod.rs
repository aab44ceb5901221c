//! Who is alive: one file per namespace in which every process holds a slot and a lock on it (rule 2).
//!
//! `layout.rs` specifies the file and its crash windows, `evidence.rs` the proof of death, `claim.rs` taking
//! a slot; here is opening, the process's own identity, and asking about others.
//!
//! The registry is opened once per process and stays open: closing any descriptor of the file drops this
//! process's lock. That is repaired ([`Registry::relock`]), but between containers that cannot see each
//! other it would be taken for death.

mod claim;
mod evidence;
mod layout;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Death, Error, Result};
use crate::namespace::Namespace;
use crate::owner::Owner;
use crate::process::{self, ForkLock, Shelf};
use crate::sys::clock;
use crate::sys::file::{self, File};
use crate::sys::limits;
use crate::sys::lock;
use crate::sys::map::Map;
use crate::sys::proc;
use evidence::Identity;
use layout::{BURIED, FILE_SIZE, LIVE, NAME, SLOTS, at, generation, state, word};

/// All registries open in this process.
static OPEN: Shelf<Arc<Registry>> = Shelf::new();

/// What the registry knows of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its identity.
    pub owner: Owner,
    /// Its process id in its own PID namespace.
    pub pid: u32,
    /// The beginning of its command line, without the folder of the program.
    pub command: String,
    /// Its effective user.
    pub uid: u32,
    /// When it claimed its slot, ns since 1970.
    pub since_ns: u64,
    /// False once its death is proven.
    pub alive: bool,
}

/// The registry of one namespace.
#[derive(Debug)]
pub struct Registry {
    path: PathBuf,
    file: File,
    map: Map,
    identity: [u64; 2],
    /// Serializes claims and reopening within this process.
    lock: ForkLock,
    /// The epoch in which `me` was claimed.
    me_epoch: AtomicU64,
    me: AtomicU64,
    /// What this process wrote into its slot: to find and repair what another wrote over it.
    written: [AtomicU64; 5],
}

impl Registry {
    /// The registry of a namespace, created if there is none; one per file and process.
    pub fn for_namespace(namespace: &Namespace) -> Result<Arc<Registry>> {
        let mut open = OPEN.lock();
        for _ in 0..1000 {
            let Some(found) = file::stat_at(namespace.directory(), NAME)? else {
                Registry::create(namespace)?;
                continue;
            };
            let path = namespace.path_of(NAME);
            if !found.is_regular() || found.size != FILE_SIZE {
                return Err(Error::Incompatible(format!(
                    "{} is a file of {} bytes, a registry of this program has {FILE_SIZE}; remove the \
                     namespace directory when no process uses it",
                    path.display(),
                    found.size
                )));
            }
            // Looked up by what stat says, so that a registry in use is not opened (and closed) again.
            if let Some(known) = known(open.items(), (found.dev, found.ino)) {
                return Ok(known);
            }
            let Some(opened) = file::open_at(namespace.directory(), NAME, true)? else { continue };
            if let Some(known) = known(open.items(), opened.identity()) {
                opened.leak(); // replaced in between by one that is in use here: closing would drop its lock
                return Ok(known);
            }
            if opened.identity() != (found.dev, found.ino) {
                continue; // replaced in between by a new one: look again
            }
            if opened.stat()?.reserved < FILE_SIZE {
                // Holes (somebody copied the file): reserve them now instead of a SIGBUS later.
                limits::reserve(&opened, FILE_SIZE, Some((namespace.directory(), namespace.path())))?;
            }
            let map = Map::shared(&opened, FILE_SIZE as usize)?;
            let registry = Arc::new(Registry {
                identity: layout::check_header(&map, &path)?,
                path,
                file: opened,
                map,
                lock: ForkLock::new(),
                me_epoch: AtomicU64::new(0),
                me: AtomicU64::new(0),
                written: [const { AtomicU64::new(0) }; 5],
            });
            // Deleted namespaces that no handle uses any more are let go, or descriptors would run out.
            let unused =
                |it: &Arc<Registry>| Arc::strong_count(it) == 1 && it.file.stat().is_ok_and(|s| s.links == 0);
            let mut items: Vec<_> = open.items().iter().filter(|it| !unused(it)).cloned().collect();
            items.push(registry.clone());
            open.replace(items);
            return Ok(registry);
        }
        Err(Error::Invalid(format!("{} is replaced again and again", namespace.path_of(NAME).display())))
    }

    /// Builds a registry under no name and publishes it; another process may be first.
    fn create(namespace: &Namespace) -> Result<()> {
        let directory = namespace.directory();
        let file = file::unnamed(directory, namespace.path(), namespace.file_mode())?;
        limits::reserve(&file, FILE_SIZE, Some((directory, namespace.path())))?;
        let map = Map::shared(&file, FILE_SIZE as usize)?;
        let write = |offset: usize, value: u64| map.word(offset).store(value, Ordering::Relaxed);
        write(layout::H_VERSION, layout::VERSION);
        write(layout::H_IDENTITY, proc::random_word());
        write(layout::H_IDENTITY + 8, proc::random_word());
        write(layout::H_SLOTS, SLOTS);
        write(layout::H_SLOT_SIZE, layout::SLOT_SIZE);
        write(layout::H_CREATED, clock::wall_ns());
        map.word(layout::H_MAGIC).store(layout::MAGIC, Ordering::Release);
        file::publish(&file, directory, NAME).map(|_| ())
    }

    /// 128 random bits that tell this registry from any other.
    pub fn identity(&self) -> [u64; 2] {
        self.identity
    }

    /// This process. Claims a slot at the first call in a process, so also in a forked child.
    /// [`Error::Buried`] for ever once peers have declared this process dead.
    #[inline]
    pub fn me(&self) -> Result<Owner> {
        // SYNC(me): `me` is written before `me_epoch`.
        if self.me_epoch.load(Ordering::Acquire) != process::epoch() {
            return self.claim();
        }
        let me = Owner::from_word(self.me.load(Ordering::Relaxed));
        if self.word_of(me) == word(me.generation(), LIVE) { Ok(me) } else { Err(Error::Buried) }
    }

    /// Whether nobody has declared `owner` dead: one load.
    #[inline(always)]
    pub fn is_live(&self, owner: Owner) -> bool {
        self.word_of(owner) == word(owner.generation(), LIVE)
    }

    /// Whether this process is `owner` (claims nothing).
    #[inline]
    pub fn is_me(&self, owner: Owner) -> bool {
        self.me_epoch.load(Ordering::Acquire) == process::epoch()
            && self.me.load(Ordering::Relaxed) == owner.as_process().word()
    }

    /// Process id of this process, as it has entered itself.
    #[inline]
    pub fn pid(&self) -> u32 {
        self.written[0].load(Ordering::Relaxed) as u32
    }

    /// Whether the process of `owner` is dead, beyond doubt. Buries it on proof, so that a process wrongly
    /// thought dead can never act again. Costs one load for the buried, about a microsecond for the living.
    pub fn is_dead(&self, owner: Owner) -> bool {
        let slot = owner.slot();
        if slot == 0 || u64::from(slot) >= SLOTS {
            return true;
        }
        let seen = self.word_of(owner);
        if seen != word(owner.generation(), LIVE) {
            return true;
        }
        if self.is_me(owner) {
            return false;
        }
        let holder = self.descriptor().map(|file| lock::holder_of_byte(file, u64::from(slot)));
        let dead = match holder {
            Some(Ok(Some(pid))) if u64::from(pid) == self.field(slot, layout::PID) => false,
            // Held by its owner in another PID namespace, or by a claimer that is looking at the slot (and
            // may have been stopped doing so: death must be seen all the same).
            Some(Ok(Some(_))) => {
                let who = self.identity_in(slot);
                who.pid_ns == proc::namespace_of("self", "pid") && evidence::is_dead(&who, false)
            }
            Some(Ok(None)) => evidence::is_dead(&self.identity_in(slot), true),
            // The descriptor was taken from us: only /proc is left.
            Some(Err(_)) | None => evidence::is_dead(&self.identity_in(slot), false),
        };
        dead && self.bury(slot, seen)
    }

    /// Slow-path hook: takes this process's lock again if a foreign close dropped it. [`Error::Buried`] if
    /// peers have declared this process dead. Does nothing before the first [`Registry::me`].
    pub fn relock(&self) -> Result<()> {
        if self.me_epoch.load(Ordering::Acquire) != process::epoch() {
            return Ok(());
        }
        let me = self.me()?;
        if let Some(file) = self.descriptor() {
            // Taken: a claimer is looking at the slot; it will find us in /proc and let go. Next time, then.
            let mine = Identity::from_words(self.written.each_ref().map(|it| it.load(Ordering::Relaxed)));
            if lock::lock_byte(file, u64::from(me.slot()))? && self.identity_in(me.slot()) != mine {
                self.write_fields(me.slot(), &mine);
            }
        }
        self.me().map(|_| ())
    }

    /// What is known of a process, dead or alive; `None` once its slot belongs to another.
    pub fn describe(&self, owner: Owner) -> Option<ProcessInfo> {
        let owner = owner.as_process();
        let known =
            |seen: u64| generation(seen) == owner.generation() && matches!(state(seen), LIVE | BURIED);
        let slot = owner.slot();
        if slot == 0 || u64::from(slot) >= SLOTS || !known(self.word_of(owner)) {
            return None;
        }
        let mut command = Vec::with_capacity(layout::COMMAND_LEN);
        for part in 0..layout::COMMAND_LEN / 8 {
            command.extend_from_slice(&self.field(slot, layout::COMMAND + part * 8).to_le_bytes());
        }
        let end = command.iter().position(|&byte| byte == 0).unwrap_or(command.len());
        let command = String::from_utf8_lossy(&command[..end]);
        let info = ProcessInfo {
            owner,
            pid: self.field(slot, layout::PID) as u32,
            command: command.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
            uid: self.field(slot, layout::USER) as u32,
            since_ns: self.field(slot, layout::CLAIMED),
            alive: !self.is_dead(owner),
        };
        std::sync::atomic::fence(Ordering::Acquire);
        // Fields are written only while the word is CLAIMING with a higher generation.
        known(self.word_of(owner)).then_some(info)
    }

    /// The process in a slot, where its generation passes a check.
    pub fn resolve(&self, slot: u32, matches: impl Fn(u32) -> bool) -> Option<ProcessInfo> {
        let generation = generation(self.word_of(Owner::process(slot, 0)));
        if matches(generation) { self.describe(Owner::process(slot, generation)) } else { None }
    }

    /// What an error about a dead process carries. Parts no longer known are 0.
    pub fn death(&self, owner: Owner) -> Death {
        let mut death = Death { owner, pid: 0, since_ns: 0 };
        if let Some(info) = self.describe(owner) {
            let noticed = self.field(owner.slot(), layout::NOTICED);
            death.pid = info.pid;
            death.since_ns = layout::noticed_ns(noticed, owner.generation());
        }
        death
    }

    /// All living processes of the namespace; buries the dead among them.
    pub fn living(&self) -> Vec<ProcessInfo> {
        let slots = 1..SLOTS as u32;
        let words = slots.map(|slot| (slot, self.map.word(at(slot, layout::WORD)).load(Ordering::Acquire)));
        words
            .filter(|(_, seen)| state(*seen) == LIVE)
            .filter_map(|(slot, seen)| self.describe(Owner::process(slot, generation(seen))))
            .filter(|info| info.alive)
            .collect()
    }

    /// The word of an owner's slot; 0 (nobody) for a slot that cannot be.
    #[inline(always)]
    fn word_of(&self, owner: Owner) -> u64 {
        let slot = owner.slot();
        if u64::from(slot) >= SLOTS {
            return 0;
        }
        // SYNC(slot): fields are written before the word says LIVE.
        self.map.word(at(slot, layout::WORD)).load(Ordering::Acquire)
    }

    fn field(&self, slot: u32, field: usize) -> u64 {
        self.map.word(at(slot, field)).load(Ordering::Acquire)
    }

    fn identity_in(&self, slot: u32) -> Identity {
        Identity {
            pid: self.field(slot, layout::PID),
            pid_ns: self.field(slot, layout::PID_NS),
            time_ns: self.field(slot, layout::TIME_NS),
            start: self.field(slot, layout::START),
            stack: self.field(slot, layout::STACK),
        }
    }

    /// Turns `LIVE(g)` into `BURIED(g)`. True also if another has; the slot cannot become LIVE(g) again.
    fn bury(&self, slot: u32, seen: u64) -> bool {
        let generation = generation(seen);
        let place = self.map.word(at(slot, layout::WORD));
        if place.compare_exchange(seen, word(generation, BURIED), Ordering::AcqRel, Ordering::Acquire).is_ok()
        {
            let noticed = layout::noticed(clock::wall_ns(), generation);
            self.map.word(at(slot, layout::NOTICED)).store(noticed, Ordering::Release);
        }
        true
    }

    /// The open file. A program that closes descriptors it does not know (a daemon does) may have taken it
    /// away; then it is opened again under its name, if that still is the same file.
    fn descriptor(&self) -> Option<&File> {
        if self.file.stat().is_ok() {
            return Some(&self.file);
        }
        let _guard = self.lock.lock();
        (self.file.stat().is_ok() || self.file.reopen(&self.path)).then_some(&self.file)
    }
}

fn known(items: &[Arc<Registry>], identity: (u64, u64)) -> Option<Arc<Registry>> {
    items.iter().find(|it| it.file.identity() == identity).cloned()
}

#[cfg(test)]
mod tests;
