//! The class `isthmus._core.Mutex`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use isthmus_core::error::{Death, Error};
use isthmus_core::lock::Slices;
use isthmus_core::mutex::Found;
use isthmus_core::mutex::handle::{MutexHandle, PLAIN, RECURSIVE};
use isthmus_core::owner::Owner;
use isthmus_core::sync::handle::{CONDITION_LOCK, Recorded};
use isthmus_core::wait::Waited;
use isthmus_core::waiters::Mode;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::arguments::{Timeout, mode, namespace};
use crate::driver::{Rounds, look_briefly};
use crate::errors::{OrRaise, death_fields, number, raise};
use crate::situation::Watch;

/// A lock between processes that says when its owner was killed.
///
/// Opens or creates the mutex `name`, or makes an anonymous one for children; `isthmus.Mutex` says more.
#[pyclass(name = "Mutex", module = "isthmus._core", subclass, frozen)]
pub(crate) struct PyMutex {
    pub(crate) handle: MutexHandle,
    recovers: bool,
    /// Whether a wait that would never end raises.
    detects: AtomicBool,
}

/// How an attempt to take the mutex ended.
enum Taken {
    Clean,
    Repair(Death),
    TimedOut,
}

impl PyMutex {
    fn owner_died(&self, py: Python<'_>, death: Death) -> PyErr {
        let what = match self.handle.session().object().name() {
            Some(name) => format!("mutex {name:?}"),
            None => "a mutex without a name".to_owned(),
        };
        let text = format!(
            "{death} was killed holding {what}; what it protects may be half changed (repair it in `with \
             mutex.recover():`)"
        );
        let [pid, since] = death_fields(py, death);
        let what = PyString::new(py, &what).into_any().unbind();
        raise(py, "OwnerDied", &text, &[pid, since, ("what", what)])
    }

    /// Takes the mutex, free or (with `recover`) poisoned.
    #[cold]
    fn take(
        &self,
        py: Python<'_>,
        context: Option<u32>,
        timeout: Timeout,
        recover: bool,
        waited: bool,
    ) -> PyResult<Taken> {
        let session = self.handle.session();
        let _stay = session.stay().or_raise(py)?;
        let me = session.me_as(context).or_raise(py)?;
        let timed = !matches!(timeout, Timeout::Never);
        // Said to whoever looks for deadlocks; one who only asks does not wait.
        let _record = match timeout {
            Timeout::Ask | Timeout::Last | Timeout::Try => None,
            _ => Some(Recorded::new(session, me, (Mode::Exclusive, timed))),
        };
        let mut slices = Slices::default();
        slices.slept = waited;
        let taken = self.take_on(py, context, timeout, recover, &mut slices);
        if slices.slept {
            // Closed meanwhile or not: nobody else would take a claim of a living process back.
            match taken {
                Ok(Taken::Clean | Taken::Repair(_)) => self.handle.mutex().give_up(me),
                _ => self.handle.mutex().leave(me, &slices),
            }
        }
        taken
    }

    fn take_on(
        &self,
        py: Python<'_>,
        context: Option<u32>,
        timeout: Timeout,
        recover: bool,
        slices: &mut Slices,
    ) -> PyResult<Taken> {
        let deadline = timeout.deadline();
        let mut last = false;
        let mut rounds = Rounds::default();
        let mut watch = Watch::new(deadline.is_none() && self.detects.load(Ordering::Relaxed));
        loop {
            let me = self.handle.session().me_as(context).or_raise(py)?;
            let mutex = self.handle.mutex();
            let held = if recover {
                match self.handle.try_recover(me, slices) {
                    Ok(None) => return Ok(Taken::Clean),
                    Ok(Some(death)) => return Ok(Taken::Repair(death)),
                    Err(owner) => owner,
                }
            } else {
                match self.handle.try_acquire(me, slices) {
                    Found::Acquired => return Ok(Taken::Clean),
                    Found::Poisoned(death) => return Err(self.owner_died(py, death)),
                    Found::Held(owner) => owner,
                }
            };
            if held == me && matches!(timeout, Timeout::Never) {
                let text = "this thread holds the mutex already: acquiring it again would never end";
                return Err(raise(py, "DeadlockError", text, &[]));
            }
            if matches!(timeout, Timeout::Ask) {
                return Err(raise(py, "WouldBlock", "this would have to wait", &[("on", number(py, 0))]));
            }
            if rounds.next(py, false, deadline)? {
                return Ok(Taken::TimedOut);
            }
            if look_briefly(|| mutex.may_go_on(me)) {
                continue;
            }
            py.check_signals()?;
            let waited = py.detach(|| self.handle.wait(me, slices, deadline)).or_raise(py)?;
            // After every sleep, interrupted or not: a signal may have come just before it.
            py.check_signals()?;
            watch.look(py, self.handle.session(), me)?;
            if waited == Waited::TimedOut {
                // Before giving up: is the owner alive at all?
                if last || !mutex.check_owner() {
                    return Ok(Taken::TimedOut);
                }
                last = true;
            }
        }
    }

    #[inline]
    fn acquire_within(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        Timeout::check(timeout)?;
        let me = self.handle.session().me_here().or_raise(py)?;
        if self.handle.try_acquire(me, &Slices::default()) == Found::Acquired {
            return Ok(true);
        }
        let timeout = Timeout::new(timeout)?;
        Ok(!matches!(self.take(py, None, timeout, self.recovers, false)?, Taken::TimedOut))
    }
}

#[pymethods]
impl PyMutex {
    #[new]
    #[pyo3(signature = (name, mode_, on_owner_died, namespace_, adopt = None, flavour = "mutex"))]
    fn new(
        py: Python<'_>,
        name: Option<&str>,
        mode_: &str,
        on_owner_died: &str,
        namespace_: Option<PathBuf>,
        adopt: Option<(u32, i32, u64)>,
        flavour: &str,
    ) -> PyResult<PyMutex> {
        let flavour = match flavour {
            "rlock" => RECURSIVE,
            "condition" => CONDITION_LOCK,
            _ => PLAIN,
        };
        let recovers = match on_owner_died {
            "raise" => false,
            "recover" => true,
            other => {
                return Err(PyValueError::new_err(format!(
                    "on_owner_died is {other:?}: it takes \"raise\" or \"recover\""
                )));
            }
        };
        let space = namespace(py, namespace_.as_deref())?;
        let handle = match (name, adopt) {
            // The anonymous mutex behind a descriptor of another process: for unpickling.
            (_, Some(place)) => MutexHandle::from_fd_of(&space, place, flavour),
            (Some(name), None) => MutexHandle::open(&space, name, mode(mode_)?, flavour),
            (None, None) => MutexHandle::anonymous(&space, flavour),
        };
        Ok(PyMutex { handle: handle.or_raise(py)?, recovers, detects: AtomicBool::new(false) })
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

    /// Where the object is: namespace, name, descriptor, nonce, whether it recovers; for pickling.
    fn _place(&self) -> (PathBuf, Option<String>, i32, u64, bool) {
        let object = self.handle.session().object();
        let name = object.name().map(str::to_owned);
        (object.namespace().path().to_owned(), name, object.fd(), object.nonce(), self.recovers)
    }

    /// Takes the mutex; False when `timeout` seconds went by (None waits, 0 tries).
    ///
    /// Raises `OwnerDied` where its owner was killed: the mutex is then *not* held (see `recover`), or,
    /// with `on_owner_died="recover"`, takes it all the same. Raises `DeadlockError` where this thread
    /// holds it already and would wait for ever.
    #[pyo3(signature = (timeout = None))]
    fn acquire(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        self.acquire_within(py, timeout)
    }

    /// Gives the mutex back. `NotOwnerError` where this thread does not hold it.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        let me = self.handle.session().me_here().or_raise(py)?;
        self.handle.release(me).or_raise(py)
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyResult<PyRef<'_, Self>> {
        slf.acquire_within(slf.py(), None)?;
        Ok(slf)
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let me = self.handle.session().me_here().or_raise(py)?;
        match self.handle.release(me) {
            // In a forked child the mutex is still the parent's.
            Err(_) if self.handle.is_parents() => Ok(()),
            // A condition's wait that could not get it back says why, and is what there is to see.
            Err(Error::NotOwner(_)) if !error.is_none() => Ok(()),
            other => other.or_raise(py),
        }
    }

    /// As `acquire`, for a task that says who it is, and whether it has waited already.
    fn _acquire_as(&self, py: Python<'_>, context: u32, waited: bool, timeout: Timeout) -> PyResult<bool> {
        Ok(!matches!(self.take(py, Some(context), timeout, self.recovers, waited)?, Taken::TimedOut))
    }

    /// As `release`, for a task.
    fn _release_as(&self, py: Python<'_>, context: u32) -> PyResult<()> {
        self.handle.release(self.handle.session().me_as(Some(context)).or_raise(py)?).or_raise(py)
    }

    /// Whether this thread or a task holds it.
    #[pyo3(signature = (context = None))]
    fn _is_mine(&self, py: Python<'_>, context: Option<u32>) -> PyResult<bool> {
        // First: it says so where the handle is closed and has no memory.
        let me = self.handle.session().me_as(context).or_raise(py)?;
        Ok(self.handle.mutex().owner() == me)
    }

    /// Gives it back as often as it was taken; how often that was beside the first time.
    #[pyo3(signature = (context = None))]
    fn _release_all(&self, py: Python<'_>, context: Option<u32>) -> PyResult<u64> {
        self.handle.release_all(self.handle.session().me_as(context).or_raise(py)?).or_raise(py)
    }

    /// Takes it again as often as `_release_all` said.
    #[pyo3(signature = (depth, context = None, timeout = None, waited = false))]
    fn _acquire_again(
        &self,
        py: Python<'_>,
        depth: u64,
        context: Option<u32>,
        timeout: Option<Timeout>,
        waited: bool,
    ) -> PyResult<bool> {
        let timeout = timeout.unwrap_or(Timeout::Never);
        let taken = !matches!(self.take(py, context, timeout, self.recovers, waited)?, Taken::TimedOut);
        if taken {
            self.handle.restore(depth);
        }
        Ok(taken)
    }

    /// Takes a mutex for repair, for this thread or a task: None where it was healthy, else who died when.
    #[pyo3(signature = (timeout = None, *, context = None, waited = false))]
    fn _recover(
        &self,
        py: Python<'_>,
        timeout: Option<Timeout>,
        context: Option<u32>,
        waited: bool,
    ) -> PyResult<Option<Py<PyAny>>> {
        match self.take(py, context, timeout.unwrap_or(Timeout::Never), true, waited)? {
            Taken::Clean => Ok(None),
            Taken::Repair(death) => Ok(Some(self.owner_died(py, death).into_value(py).into_any())),
            Taken::TimedOut => Err(raise(py, "Timeout", "the mutex was held all the time", &[])),
        }
    }

    /// Ends a repair: the mutex is healthy again, or poisoned as before.
    #[pyo3(signature = (healthy, *, context = None))]
    fn _recovered(&self, py: Python<'_>, healthy: bool, context: Option<u32>) -> PyResult<()> {
        let me = self.handle.session().me_as(context).or_raise(py)?;
        let mutex = self.handle.mutex();
        if mutex.owner() != me {
            return Ok(());
        }
        if healthy { mutex.release(me) } else { mutex.release_poisoned(me) }.or_raise(py)
    }

    /// True where somebody holds the mutex, dead or alive.
    fn locked(&self, py: Python<'_>) -> PyResult<bool> {
        self.handle.session().me().or_raise(py)?;
        Ok(!self.handle.mutex().owner().is_none() || self.handle.mutex().poisoned().is_some())
    }

    /// Process id of the owner, None where nobody holds the mutex.
    fn owner(&self, py: Python<'_>) -> PyResult<Option<u32>> {
        self.handle.session().me().or_raise(py)?;
        let owner: Owner = self.handle.mutex().owner();
        Ok(self.handle.session().registry().describe(owner).map(|info| info.pid))
    }

    /// Ends this handle; a mutex that is held stays held by its owner. Closing twice does nothing.
    fn close(&self) {
        self.handle.close();
    }

    /// Removes the name; those who have it open go on using it. `FileNotFoundError` where it is gone.
    fn unlink(&self, py: Python<'_>) -> PyResult<()> {
        self.handle.session().object().unlink().or_raise(py)
    }

    /// The name, or None for an anonymous mutex.
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
