//! Who holds what and who waits for what: facts for `isthmus.doctor`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use isthmus_core::namespace::Namespace;
use isthmus_core::owner::Owner;
use isthmus_core::registry::Registry;
use isthmus_core::session::Session;
use isthmus_core::sync::situation;
use isthmus_core::waiters::Mode;
use pyo3::prelude::*;

use crate::errors::OrRaise;
use crate::objects::kind;

/// (identity, process id, thread or task, command, alive)
type Who = (u64, u32, u32, String, bool);
/// (name, has one, kind, identity, holders with mode, waiters with mode, timed, since, who is next, death, users)
type Row = (
    String,
    bool,
    &'static str,
    u64,
    Vec<(Who, &'static str)>,
    Vec<(Who, &'static str, bool, f64)>,
    Option<Who>,
    Option<(u32, f64)>,
    usize,
);

const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Exclusive => "exclusive",
        Mode::Shared => "shared",
        Mode::Permit => "permit",
        Mode::Signal => "signal",
    }
}

fn who(registry: &Registry, owner: Owner) -> Who {
    let (pid, command, alive) = registry
        .describe(owner)
        .map_or((0, String::new(), false), |info| (info.pid, info.command, info.alive));
    (owner.word(), pid, owner.context(), command, alive)
}

/// All locks of a namespace, those without a name included.
#[pyfunction]
#[pyo3(signature = (namespace_ = None))]
pub(crate) fn situation_of(py: Python<'_>, namespace_: Option<PathBuf>) -> PyResult<Vec<Row>> {
    let space = Namespace::open_as_found(namespace_.as_deref()).or_raise(py)?;
    let registry = Registry::for_namespace(&space).or_raise(py)?;
    let things = py.detach(|| situation::situation(&space)).or_raise(py)?;
    let row = |thing: situation::Thing| {
        let holders = thing.holders.iter().map(|(owner, how)| (who(&registry, *owner), mode(*how)));
        let waiters = thing.waiters.iter().map(|record| {
            let since = record.since_ns as f64 / 1e9;
            (who(&registry, record.owner), mode(record.mode), record.timed, since)
        });
        (
            thing.name.clone(),
            thing.named,
            kind(thing.kind),
            thing.nonce,
            holders.collect(),
            waiters.collect(),
            (!thing.claim.is_none()).then(|| who(&registry, thing.claim)),
            thing.poisoned.map(|death| (death.pid, death.since_ns as f64 / 1e9)),
            thing.users,
        )
    };
    Ok(things.into_iter().map(row).collect())
}

/// How often a waiter looks whether it is in a deadlock.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Looks now and then, during a wait without end, whether it can ever end.
pub(crate) struct Watch {
    next: Option<Instant>,
}

impl Watch {
    /// For a handle that was asked to raise, and a wait without a timeout.
    pub(crate) fn new(raises: bool) -> Watch {
        Watch { next: raises.then(|| Instant::now() + LOOK_EVERY) }
    }

    /// `DeadlockError` where the wait of `me` closes a cycle; with nothing held.
    pub(crate) fn look(&mut self, py: Python<'_>, session: &Session, me: Owner) -> PyResult<()> {
        let Some(next) = self.next.filter(|next| Instant::now() >= *next) else { return Ok(()) };
        let object = session.object();
        py.import("isthmus._doctor")?
            .call_method1("check", (object.namespace().path().as_os_str(), me.word(), object.nonce()))?;
        self.next = Some(next.max(Instant::now()) + LOOK_EVERY);
        Ok(())
    }
}

/// `DeadlockError` where the wait of `me` closes a cycle.
pub(crate) fn check(py: Python<'_>, session: &Session, me: Owner) -> PyResult<()> {
    let object = session.object();
    let place = (object.namespace().path().as_os_str(), me.word(), object.nonce());
    py.import("isthmus._doctor")?.call_method1("check", place).map(drop)
}
