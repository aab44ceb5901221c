//! The class `isthmus._core.Sync`: semaphores, read-write locks, events, conditions and barriers. Which of them it is
//! says its kind; the classes of `isthmus` give each its own face.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use isthmus_core::error::Death;
use isthmus_core::object::{BARRIER, BOUNDED_SEMAPHORE, CONDITION, EVENT, RWLOCK, SEMAPHORE};
use isthmus_core::owner::Owner;
use isthmus_core::sync::barrier::{Arrival, Outcome};
use isthmus_core::sync::handle::{Kind, SyncHandle, Took};
use isthmus_core::sync::{Episode, Want};
use isthmus_core::wait::Waited;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::arguments::{Timeout, mode, namespace};
use crate::driver::{Rounds, look_briefly};
use crate::errors::{OrRaise, death_fields, number, raise};
use crate::signals::heed;
use crate::situation::Watch;

/// An object of synchronization; the classes of `isthmus` say more.
#[pyclass(name = "Sync", module = "isthmus._core", subclass, frozen)]
pub(crate) struct PySync {
    pub(crate) handle: Arc<SyncHandle>,
    /// What `acquire` takes.
    pub(crate) want: Want,
    what: &'static str,
    /// Whether a wait that would never end raises.
    detects: AtomicBool,
}

/// What is wanted, by name.
pub(crate) fn want(what: &str, number: u64) -> PyResult<Want> {
    Ok(match what {
        "permit" => Want::Permit,
        "read" => Want::Read,
        "write" => Want::Write,
        "set" => Want::Set(number),
        "open" => Want::Open(number),
        "notified" => Want::Notified(number as usize),
        other => return Err(PyValueError::new_err(format!("nothing is called {other:?}"))),
    })
}

fn kind(text: &str) -> PyResult<(u32, Want, &'static str)> {
    Ok(match text {
        "semaphore" => (SEMAPHORE, Want::Permit, "semaphore"),
        "bounded_semaphore" => (BOUNDED_SEMAPHORE, Want::Permit, "bounded semaphore"),
        "read" => (RWLOCK, Want::Read, "read-write lock"),
        "write" => (RWLOCK, Want::Write, "read-write lock"),
        "event" => (EVENT, Want::Set(0), "event"),
        "condition" => (CONDITION, Want::Notified(0), "condition"),
        "barrier" => (BARRIER, Want::Open(0), "barrier"),
        other => return Err(PyValueError::new_err(format!("nothing is called {other:?}"))),
    })
}

impl PySync {
    fn owner_died(&self, py: Python<'_>, death: Death) -> PyErr {
        let what = match self.handle.session().object().name() {
            Some(name) => format!("{} {name:?}", self.what),
            None => format!("a {} without a name", self.what),
        };
        let text = format!(
            "{death} was killed writing under {what}; what it protects may be half changed (repair it in `with \
             lock.recover():`)"
        );
        let [pid, since] = death_fields(py, death);
        let what = PyString::new(py, &what).into_any().unbind();
        raise(py, "OwnerDied", &text, &[pid, since, ("what", what)])
    }

    fn would_block(py: Python<'_>) -> PyErr {
        raise(py, "WouldBlock", "this would have to wait", &[("on", number(py, 0))])
    }

    /// Takes what is wanted, waiting for it; false where time was up.
    #[cold]
    fn take(
        &self,
        py: Python<'_>,
        context: Option<u32>,
        want: Want,
        timeout: Timeout,
        attempt: &dyn Fn(Owner) -> isthmus_core::error::Result<Took>,
    ) -> PyResult<bool> {
        let session = self.handle.session();
        let _stay = session.stay().or_raise(py)?;
        let deadline = timeout.deadline();
        let mut episode = Episode::default();
        // Something to happen is waited for, unlike something to be free, by who has nothing to do meanwhile.
        let for_work = matches!(want, Want::Set(_) | Want::Notified(_) | Want::Open(_)) && timeout.waits();
        let mut rounds = Rounds::default();
        let mut last = false;
        let mut record = None;
        let mut watch = Watch::new(deadline.is_none() && self.detects.load(Ordering::Relaxed));
        let taken = loop {
            let me = self.handle.session().me_as(context).or_raise(py)?;
            match attempt(me).or_raise(py)? {
                Took::Yes => break Ok(true),
                Took::Poisoned(death) => break Err(self.owner_died(py, death)),
                Took::Blocked => {}
            }
            if matches!(timeout, Timeout::Ask) {
                return Err(PySync::would_block(py));
            }
            match rounds.next(py, for_work, deadline) {
                Ok(false) => {}
                Ok(true) => break Ok(false),
                Err(error) => break Err(error),
            }
            if look_briefly(|| self.handle.is_ready(me, want)) {
                continue;
            }
            if let Err(error) = heed(py, for_work) {
                break Err(error);
            }
            if record.is_none() && matches!(timeout, Timeout::Never | Timeout::Until(_)) {
                record = Some(self.handle.record(me, want, deadline.is_some()));
            }
            let waited = py.detach(|| self.handle.wait(me, want, &mut episode, deadline));
            // After every sleep, interrupted or not: a signal may have come just before it.
            if let Err(error) = py.check_signals() {
                break Err(error);
            }
            if let Err(error) = watch.look(py, session, me) {
                break Err(error);
            }
            match waited.or_raise(py) {
                Err(error) => break Err(error),
                Ok(Waited::TimedOut) if last => break Ok(false),
                Ok(Waited::TimedOut) => {
                    // Before giving up, what the dead hold is taken back.
                    last = true;
                    if let Err(error) = self.handle.look(me, want).or_raise(py) {
                        break Err(error);
                    }
                }
                Ok(_) => {}
            }
        };
        drop(record);
        if episode.has_slept()
            && let Ok(me) = self.handle.session().me_as(context)
        {
            self.handle.leave(me, true);
        }
        taken
    }

    fn acquire_for(&self, py: Python<'_>, context: Option<u32>, timeout: Timeout) -> PyResult<bool> {
        if !matches!(self.want, Want::Permit | Want::Read | Want::Write) {
            return Err(self.wrong());
        }
        self.take(py, context, self.want, timeout, &|me| self.handle.try_take(me, self.want))
    }

    fn give(&self, py: Python<'_>, context: Option<u32>, count: u64) -> PyResult<()> {
        let me = self.handle.session().me_as(context).or_raise(py)?;
        self.handle.give_back(me, self.want, count).or_raise(py)
    }

    fn give_back(&self, py: Python<'_>, count: i128, context: Option<u32>) -> PyResult<()> {
        let most = if self.want == Want::Permit { u64::MAX } else { 1 };
        match u64::try_from(count).ok().filter(|count| (1..=most).contains(count)) {
            Some(count) => self.give(py, context, count),
            None => Err(PyValueError::new_err(format!(
                "n is {count}: a {} is given back {}",
                self.what,
                if most == 1 { "once at a time" } else { "1 or more times" }
            ))),
        }
    }

    fn wrong(&self) -> PyErr {
        PyRuntimeError::new_err(format!("a {} does not do that", self.what))
    }

    /// Repeats what needs the guard of the structure, which others hold for less than a microsecond unless they are
    /// stopped in it.
    fn guarded<T>(
        &self,
        py: Python<'_>,
        timeout: Timeout,
        mut step: impl FnMut() -> PyResult<Option<T>>,
    ) -> PyResult<T> {
        let _stay = self.handle.session().stay().or_raise(py)?;
        let mut nap = 50;
        loop {
            if let Some(done) = step()? {
                return Ok(done);
            }
            if matches!(timeout, Timeout::Ask) {
                return Err(PySync::would_block(py));
            }
            py.detach(|| isthmus_core::sys::clock::nap_us(nap));
            py.check_signals()?;
            nap = (nap * 2).min(20_000);
        }
    }
}

#[pymethods]
impl PySync {
    #[new]
    #[pyo3(signature = (kind_, name, mode_, limit, default, namespace_, adopt = None))]
    #[expect(clippy::too_many_arguments, reason = "the Python side gives them names")]
    fn new(
        py: Python<'_>,
        kind_: &str,
        name: Option<&str>,
        mode_: &str,
        limit: Option<i128>,
        default: u64,
        namespace_: Option<PathBuf>,
        adopt: Option<(u32, i32, u64)>,
    ) -> PyResult<PySync> {
        let (kind, want, what) = kind(kind_)?;
        let space = namespace(py, namespace_.as_deref())?;
        let limit = match limit {
            None => None,
            Some(asked) => Some(u64::try_from(asked).map_err(|_| {
                PyValueError::new_err(format!("a {what} cannot have {asked}: it takes 0 or more"))
            })?),
        };
        let handle = match (name, adopt) {
            // The anonymous object behind a descriptor of another process: for unpickling.
            (_, Some(place)) => SyncHandle::from_fd_of(&space, kind, place),
            (Some(name), None) => SyncHandle::open(&space, name, mode(mode_)?, kind, (limit, default)),
            (None, None) => SyncHandle::anonymous(&space, kind, limit.unwrap_or(default)),
        };
        Ok(PySync { handle: Arc::new(handle.or_raise(py)?), want, what, detects: AtomicBool::new(false) })
    }

    /// From now on a wait that would never end raises `DeadlockError`.
    fn _detect(&self) {
        self.detects.store(true, Ordering::Relaxed);
    }

    /// Whether it does.
    #[pyo3(name = "_detects")]
    pub(crate) fn detects(&self) -> bool {
        self.detects.load(Ordering::Relaxed)
    }

    /// The same handle for what else its object can be taken for.
    fn _as(slf: PyRef<'_, Self>, kind_: &str) -> PyResult<PySync> {
        let (_, want, what) = kind(kind_)?;
        let detects = AtomicBool::new(slf.detects.load(Ordering::Relaxed));
        Ok(PySync { handle: Arc::clone(&slf.handle), want, what, detects })
    }

    /// Where the object is: namespace, name, descriptor, nonce; for pickling.
    fn _place(&self) -> (PathBuf, Option<String>, i32, u64) {
        let object = self.handle.session().object();
        (object.namespace().path().to_owned(), object.name().map(str::to_owned), object.fd(), object.nonce())
    }

    /// Takes it; False when `timeout` seconds went by (None waits, 0 tries).
    #[pyo3(signature = (timeout = None))]
    fn acquire(&self, py: Python<'_>, timeout: Option<Timeout>) -> PyResult<bool> {
        self.acquire_for(py, None, timeout.unwrap_or(Timeout::Never))
    }

    /// Gives it back; of a semaphore, `n` permits.
    #[pyo3(signature = (n = 1))]
    fn release(&self, py: Python<'_>, n: i128) -> PyResult<()> {
        self.give_back(py, n, None)
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyResult<PyRef<'_, Self>> {
        slf.acquire_for(slf.py(), None, Timeout::Never)?;
        Ok(slf)
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.give(py, None, 1)
    }

    /// As `acquire`, for a task that says who it is.
    fn _acquire_as(&self, py: Python<'_>, context: u32, timeout: Timeout) -> PyResult<bool> {
        self.acquire_for(py, Some(context), timeout)
    }

    /// Gives back so many, for this thread or a task.
    #[pyo3(signature = (count, context = None))]
    fn _release(&self, py: Python<'_>, count: i128, context: Option<u32>) -> PyResult<()> {
        self.give_back(py, count, context)
    }

    /// What was asked for at creation: permits, parties.
    fn _limit(&self) -> u64 {
        self.handle.limit()
    }

    /// Permits that are free.
    fn _value(&self, py: Python<'_>) -> PyResult<u64> {
        self.handle.session().me().or_raise(py)?;
        match self.handle.kind() {
            Kind::Semaphore(it) => Ok(it.value()),
            Kind::Bounded(it) => {
                it.reclaim();
                Ok(it.value() as u64)
            }
            _ => Err(self.wrong()),
        }
    }

    /// Process ids of those who have it: for writing, for reading (or permits).
    fn _holders(&self, py: Python<'_>) -> PyResult<(Option<u32>, Vec<u32>)> {
        let session = self.handle.session();
        session.me().or_raise(py)?;
        let pid = |owner: Owner| session.registry().describe(owner).map(|info| info.pid);
        Ok(match self.handle.kind() {
            Kind::Bounded(it) => (None, it.holders().into_iter().filter_map(pid).collect()),
            Kind::RwLock(it) => {
                (pid(it.writer().owner()), it.readers().into_iter().filter_map(pid).collect())
            }
            Kind::Condition(it) => (None, it.list().into_iter().filter_map(pid).collect()),
            Kind::Barrier(it) => (None, it.list().into_iter().filter_map(pid).collect()),
            _ => (None, Vec::new()),
        })
    }

    /// Takes a read-write lock for repair: None where it was healthy, else who died when.
    #[pyo3(signature = (timeout = None, *, context = None))]
    fn _recover(
        &self,
        py: Python<'_>,
        timeout: Option<Timeout>,
        context: Option<u32>,
    ) -> PyResult<Option<Py<PyAny>>> {
        let Kind::RwLock(lock) = self.handle.kind() else { return Err(self.wrong()) };
        let repaired = std::cell::Cell::new(None);
        let attempt = |me: Owner| {
            Ok(match lock.try_recover(me) {
                Some(death) => {
                    repaired.set(death);
                    Took::Yes
                }
                None => Took::Blocked,
            })
        };
        if !self.take(py, context, Want::Write, timeout.unwrap_or(Timeout::Never), &attempt)? {
            return Err(raise(py, "Timeout", "the lock was held all the time", &[]));
        }
        Ok(repaired.get().map(|death| self.owner_died(py, death).into_value(py).into_any()))
    }

    /// Ends a repair: the lock is healthy again, or poisoned as before.
    #[pyo3(signature = (healthy, *, context = None))]
    fn _recovered(&self, py: Python<'_>, healthy: bool, context: Option<u32>) -> PyResult<()> {
        let Kind::RwLock(lock) = self.handle.kind() else { return Err(self.wrong()) };
        let me = self.handle.session().me_as(context).or_raise(py)?;
        if lock.writer().owner() != me {
            return Ok(());
        }
        if healthy { lock.release_write(me) } else { lock.release_poisoned(me) }.or_raise(py)
    }

    /// True while the event is set.
    fn is_set(&self, py: Python<'_>) -> PyResult<bool> {
        self.handle.session().me().or_raise(py)?;
        match self.handle.kind() {
            Kind::Event(event) => Ok(event.is_set()),
            _ => Err(self.wrong()),
        }
    }

    /// Sets the event, or clears it.
    fn _set(&self, py: Python<'_>, on: bool) -> PyResult<()> {
        self.handle.session().me().or_raise(py)?;
        match self.handle.kind() {
            Kind::Event(event) if on => event.set(),
            Kind::Event(event) => event.clear(),
            _ => return Err(self.wrong()),
        }
        Ok(())
    }

    /// Generation of the event: what a wait begins with.
    fn _generation(&self, py: Python<'_>) -> PyResult<u64> {
        self.handle.session().me().or_raise(py)?;
        match self.handle.kind() {
            Kind::Event(event) => Ok(event.generation()),
            _ => Err(self.wrong()),
        }
    }

    /// Waits until what is wanted has come; False when time was up.
    #[pyo3(signature = (what, number, timeout, context = None))]
    fn _wait(
        &self,
        py: Python<'_>,
        what: &str,
        number: u64,
        timeout: Option<Timeout>,
        context: Option<u32>,
    ) -> PyResult<bool> {
        let want = want(what, number)?;
        let attempt = |me: Owner| Ok(if self.handle.is_ready(me, want) { Took::Yes } else { Took::Blocked });
        self.take(py, context, want, timeout.unwrap_or(Timeout::Never), &attempt)
    }

    /// Condition: begins to wait; the number of the cell. The caller holds the lock.
    #[pyo3(signature = (timeout = None, context = None))]
    fn _enter(&self, py: Python<'_>, timeout: Option<Timeout>, context: Option<u32>) -> PyResult<usize> {
        let Kind::Condition(condition) = self.handle.kind() else { return Err(self.wrong()) };
        let me = self.handle.session().me_as(context).or_raise(py)?;
        self.guarded(py, timeout.unwrap_or(Timeout::Never), || condition.enter(me).or_raise(py))
    }

    /// Condition: ends to wait; whether it was notified.
    #[pyo3(signature = (cell, timeout = None, context = None))]
    fn _leave(
        &self,
        py: Python<'_>,
        cell: usize,
        timeout: Option<Timeout>,
        context: Option<u32>,
    ) -> PyResult<bool> {
        let Kind::Condition(condition) = self.handle.kind() else { return Err(self.wrong()) };
        let me = self.handle.session().me_as(context).or_raise(py)?;
        self.guarded(py, timeout.unwrap_or(Timeout::Never), || Ok(condition.leave(me, cell)))
    }

    /// Condition: notifies up to so many.
    #[pyo3(signature = (count, timeout = None, context = None))]
    fn _notify(
        &self,
        py: Python<'_>,
        count: i128,
        timeout: Option<Timeout>,
        context: Option<u32>,
    ) -> PyResult<usize> {
        let Kind::Condition(condition) = self.handle.kind() else { return Err(self.wrong()) };
        let Ok(count) = usize::try_from(count) else {
            return Err(PyValueError::new_err(format!("n is {count}: it takes 0 or more waiters")));
        };
        let me = self.handle.session().me_as(context).or_raise(py)?;
        self.guarded(py, timeout.unwrap_or(Timeout::Never), || {
            let _ = condition.pass_on(me);
            Ok(condition.notify(me, count))
        })
    }

    /// Barrier: arrives; None where it is broken, else index, generation, cell, and whether it was the last.
    #[pyo3(signature = (timeout = None, context = None))]
    fn _arrive(
        &self,
        py: Python<'_>,
        timeout: Option<Timeout>,
        context: Option<u32>,
    ) -> PyResult<Option<(usize, u64, usize, bool)>> {
        let Kind::Barrier(barrier) = self.handle.kind() else { return Err(self.wrong()) };
        let me = self.handle.session().me_as(context).or_raise(py)?;
        let arrived = self.guarded(py, timeout.unwrap_or(Timeout::Never), || Ok(barrier.arrive(me)))?;
        Ok(arrived.map(|it| (it.index, it.generation, it.cell, barrier.is_last(&it))))
    }

    /// Barrier: opens it, by the last; False where it broke.
    #[pyo3(signature = (arrival, timeout = None, context = None))]
    fn _open(
        &self,
        py: Python<'_>,
        arrival: (usize, u64, usize, bool),
        timeout: Option<Timeout>,
        context: Option<u32>,
    ) -> PyResult<bool> {
        let Kind::Barrier(barrier) = self.handle.kind() else { return Err(self.wrong()) };
        let me = self.handle.session().me_as(context).or_raise(py)?;
        let arrival = Arrival { index: arrival.0, generation: arrival.1, cell: arrival.2 };
        let timeout = timeout.unwrap_or(Timeout::Never);
        Ok(self.guarded(py, timeout, || Ok(barrier.open(me, &arrival)))? == Outcome::Open)
    }

    /// Barrier: what became of an arrival, and its end: True open, False broken, None not known yet.
    #[pyo3(signature = (arrival, timeout = None, context = None))]
    fn _outcome(
        &self,
        py: Python<'_>,
        arrival: (usize, u64, usize, bool),
        timeout: Option<Timeout>,
        context: Option<u32>,
    ) -> PyResult<Option<bool>> {
        let Kind::Barrier(barrier) = self.handle.kind() else { return Err(self.wrong()) };
        let me = self.handle.session().me_as(context).or_raise(py)?;
        let arrival = Arrival { index: arrival.0, generation: arrival.1, cell: arrival.2 };
        let outcome = barrier.outcome(me, &arrival);
        self.guarded(py, timeout.unwrap_or(Timeout::Never), || Ok(barrier.leave(me, &arrival)))?;
        Ok(match outcome {
            Outcome::Open => Some(true),
            Outcome::Broken => Some(false),
            Outcome::Waiting => None,
        })
    }

    /// Barrier: breaks it for all who wait and come.
    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        self.handle.session().me().or_raise(py)?;
        match self.handle.kind() {
            Kind::Barrier(barrier) => {
                barrier.abort();
                Ok(())
            }
            _ => Err(self.wrong()),
        }
    }

    /// Barrier: makes it whole again.
    #[pyo3(signature = (timeout = None))]
    fn _reset(&self, py: Python<'_>, timeout: Option<Timeout>) -> PyResult<()> {
        let Kind::Barrier(barrier) = self.handle.kind() else { return Err(self.wrong()) };
        let me = self.handle.session().me_here().or_raise(py)?;
        self.guarded(py, timeout.unwrap_or(Timeout::Never), || Ok(barrier.reset(me)))
    }

    /// Barrier: how many wait, and whether it is broken.
    fn _barrier(&self, py: Python<'_>) -> PyResult<(usize, bool)> {
        self.handle.session().me().or_raise(py)?;
        match self.handle.kind() {
            Kind::Barrier(barrier) => Ok((barrier.waiting(), barrier.is_broken())),
            _ => Err(self.wrong()),
        }
    }

    /// Ends this handle; what is held stays held. Closing twice does nothing.
    fn close(&self) {
        self.handle.close();
    }

    /// Removes the name; those who have it open go on using it. `FileNotFoundError` where it is gone.
    fn unlink(&self, py: Python<'_>) -> PyResult<()> {
        self.handle.session().object().unlink().or_raise(py)
    }

    /// The name, or None where it has none.
    #[getter]
    fn name(&self) -> Option<String> {
        self.handle.session().object().name().map(str::to_owned)
    }

    /// True after `close()`.
    #[getter]
    fn closed(&self) -> bool {
        self.handle.session().is_closed()
    }
}
