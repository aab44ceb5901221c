//! Waiting without blocking: what stands in the way of a call, as an object that an event loop can wait for.
//!
//! A call that is given `_core.ASK` as its timeout never waits: it raises `WouldBlock`, which says what a [`PyWait`] is
//! to be made of. The driver of `isthmus.aio` (and `isthmus.select`) *arms* that with the bell of its loop, and asks
//! again when the bell has rung.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use isthmus_core::bell::Bell;
use isthmus_core::error::Result;
use isthmus_core::memory::mapping::Mapping;
use isthmus_core::mutex::Mutex;
use isthmus_core::owner::Owner;
use isthmus_core::queue::{Fate, On, Queue};
use isthmus_core::registry::Registry;
use isthmus_core::session::Session;
use isthmus_core::sync::Want;
use isthmus_core::sync::handle::{Recorded, SyncHandle};
use isthmus_core::wait::{DATA_SLICE, WATCH_SLICE, WaitPoint};
use isthmus_core::waiters::Mode;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::arguments::namespace;
use crate::errors::OrRaise;
use crate::mutex::PyMutex;
use crate::queue::PyQueue;
use crate::situation::check;
use crate::sync::PySync;

/// What a call waits for.
pub(crate) trait Awaited: Send + Sync {
    /// The object.
    fn session(&self) -> &Session;
    /// Where it waits; `None` for what can only be tried again, because it lasts a moment.
    fn point(&self) -> Option<WaitPoint>;
    /// True where trying again may end otherwise, errors included.
    fn ready(&self) -> Result<bool>;
    /// Says that the event loop of a cell waits; true where it need not.
    fn arm(&self, point: WaitPoint, cell: usize) -> Result<bool> {
        point.arm(&self.session().memory(), cell);
        self.ready()
    }
    /// What is done for the dead after each slice of waiting.
    fn look(&self) -> Result<()>;
    /// Hands on a wake-up that was not used.
    fn pass_on(&self) {}
    /// Equal for those who wait at the same point for the same.
    fn key(&self) -> u64 {
        0
    }
    /// True where one waiter takes what another then has to wait for.
    fn exclusive(&self) -> bool {
        true
    }
    /// True where deaths of others end the wait.
    fn watches(&self) -> bool {
        true
    }
    /// Keeps others from taking what the caller, which has waited long, is to have next.
    fn claim(&self) -> Result<()> {
        Ok(())
    }
    /// The caller is served, or goes away: its claim ends.
    fn give_up(&self) -> Result<()> {
        Ok(())
    }
    /// Enters the caller among the waiters of the object, where it has a table of them.
    fn record(&self, _timed: bool) -> Option<usize> {
        None
    }
    /// The waiter, where its handle was asked to look for deadlocks.
    fn detects(&self) -> Option<Owner> {
        None
    }
    /// On which side of the queue the caller waits, for `stats()`.
    fn consuming(&self) -> Option<bool> {
        None
    }
}

/// What stands in the way of a call.
#[pyclass(name = "Wait", module = "isthmus._core", frozen)]
pub(crate) struct PyWait(Box<dyn Awaited>);

impl PyWait {
    pub(crate) fn new(awaited: impl Awaited + 'static) -> PyWait {
        PyWait(Box::new(awaited))
    }
}

#[pymethods]
impl PyWait {
    /// What `WouldBlock.on` of a call on a queue stands for.
    #[staticmethod]
    fn queue(queue: Py<PyQueue>, on: u64) -> PyResult<PyWait> {
        let on = On::from_code(on)
            .ok_or_else(|| PyValueError::new_err(format!("{on} is not what a queue waits for")))?;
        Ok(PyWait::new(QueueWait { queue, aim: Aim::Way(on) }))
    }

    /// A message to be there.
    #[staticmethod]
    fn readable(queue: Py<PyQueue>) -> PyWait {
        PyWait::new(QueueWait { queue, aim: Aim::Readable })
    }

    /// A message that was put to be taken, or done.
    #[staticmethod]
    fn fate(queue: Py<PyQueue>, level: u8, position: u64, done: bool) -> PyWait {
        PyWait::new(QueueWait { queue, aim: Aim::Fate { level, position, done } })
    }

    /// The fill to fall below a mark.
    #[staticmethod]
    fn below(queue: Py<PyQueue>, mark: f64) -> PyWait {
        PyWait::new(QueueWait { queue, aim: Aim::Below(mark) })
    }

    /// A mutex to be free, or poisoned, for a task.
    #[staticmethod]
    #[pyo3(signature = (mutex, context = 0))]
    fn mutex(mutex: Py<PyMutex>, context: u32) -> PyWait {
        PyWait::new(MutexWait { mutex, context })
    }

    /// Another object of synchronization to give what is wanted, to a task; `number` is the generation or cell.
    #[staticmethod]
    #[pyo3(signature = (sync, what, context = 0, number = 0))]
    fn sync(sync: Py<PySync>, what: &str, context: u32, number: u64) -> PyResult<PyWait> {
        let want = crate::sync::want(what, number)?;
        Ok(PyWait::new(SyncWait { sync, context, want }))
    }

    /// Claims what is waited for, for one that has waited long.
    fn claim(&self) {
        let _ = self.0.session().me().and_then(|_| self.0.claim());
    }

    /// Gives a claim up.
    fn give_up(&self) {
        let _ = self.0.session().me().and_then(|_| self.0.give_up());
    }

    /// Says that a task waits, to whoever looks for deadlocks; the number to `unrecord`.
    fn record(&self, timed: bool) -> Option<usize> {
        self.0.session().me().ok().and_then(|_| self.0.record(timed))
    }

    /// Whether its handle was asked to look for deadlocks.
    #[getter]
    fn detects(&self) -> bool {
        self.0.detects().is_some()
    }

    /// `DeadlockError` where the wait closes a cycle.
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        self.0.detects().map_or(Ok(()), |me| check(py, self.0.session(), me))
    }

    /// It waits no more.
    fn unrecord(&self, number: usize) {
        if self.0.session().me().is_ok() {
            Recorded::end(self.0.session(), number);
        }
    }

    /// Which place of its object this is; None where there is nothing to be woken by.
    #[getter]
    fn point(&self) -> Option<usize> {
        self.0.point().map(WaitPoint::offset)
    }

    /// Equal for those who wait at the same point for the same.
    #[getter]
    fn key(&self) -> u64 {
        self.0.key()
    }

    /// True where one waiter takes what another then has to wait for.
    #[getter]
    fn exclusive(&self) -> bool {
        self.0.exclusive()
    }

    /// After how many seconds at most to `look()`.
    #[getter]
    fn slice(&self) -> f64 {
        // A closed handle has no memory to look at.
        let watches = self.0.session().me().is_err() || self.0.watches();
        if watches { WATCH_SLICE } else { DATA_SLICE }.as_secs_f64()
    }

    /// Directory of the namespace.
    #[getter]
    fn namespace(&self) -> OsString {
        self.0.session().object().namespace().path().as_os_str().to_owned()
    }

    /// What the bell will say when the object rings it.
    fn token(&self, py: Python<'_>, bell: &PyBell) -> PyResult<u32> {
        self.0.session().bell(&bell.0).map(|(_, token)| token).or_raise(py)
    }

    /// Has the bell rung from now on; true where trying again may end otherwise already.
    fn arm(&self, bell: &PyBell) -> bool {
        // Whatever is wrong, trying again says it.
        let arm = || {
            let (cell, _) = self.0.session().bell(&bell.0)?;
            self.0.point().map_or(Ok(true), |point| self.0.arm(point, cell))
        };
        arm().unwrap_or(true)
    }

    /// Nobody waits with this bell at this point any more.
    fn disarm(&self, bell: &PyBell) {
        if let (Some(point), Ok((cell, _))) = (self.0.point(), self.0.session().bell(&bell.0))
            && self.0.session().owns_bit(cell)
        {
            point.disarm(&self.0.session().memory(), cell);
        }
    }

    /// True where trying again may end otherwise, errors included.
    fn ready(&self) -> bool {
        self.0.session().me().and_then(|_| self.0.ready()).unwrap_or(true)
    }

    /// As `ready`, looked at for about two microseconds.
    fn ready_soon(&self) -> bool {
        self.ready() || crate::driver::look_briefly(|| self.ready())
    }

    /// Does for the dead what a thread does after each slice of a wait; true where trying again may end otherwise.
    fn look(&self) -> bool {
        let looked = self.0.session().me().and_then(|_| self.0.look());
        looked.is_err() || self.ready()
    }

    /// Hands on a wake-up that was not used.
    fn pass_on(&self) {
        if self.0.session().me().is_ok() {
            self.0.pass_on();
        }
    }

    /// Counts a task that begins or ends to wait, for `stats()`.
    fn count(&self, begins: bool) {
        if let (Some(consuming), Ok(_)) = (self.0.consuming(), self.0.session().me()) {
            self.0.session().count_waiting(consuming, begins);
        }
    }
}

/// A FIFO in a namespace that wakes an event loop when something it waits for may have come.
#[pyclass(name = "Bell", module = "isthmus._core", frozen)]
pub(crate) struct PyBell(Arc<Bell>);

/// What a call on a queue waits for.
enum Aim {
    /// What was in the way of it.
    Way(On),
    /// A message to be there, to be taken by whoever is first.
    Readable,
    /// A message that was put to be taken, or done.
    Fate { level: u8, position: u64, done: bool },
    /// The fill to fall below a mark.
    Below(f64),
}

/// A call on a queue that waits.
pub(crate) struct QueueWait {
    queue: Py<PyQueue>,
    aim: Aim,
}

impl QueueWait {
    fn queue(&self) -> &Queue<Mapping, Arc<Registry>> {
        self.queue.get().handle.queue()
    }

    fn on(&self) -> On {
        match self.aim {
            Aim::Way(on) => on,
            Aim::Readable => On::Messages,
            Aim::Fate { .. } => On::Leases,
            Aim::Below(_) => On::BlockSpace(0),
        }
    }
}

impl Awaited for QueueWait {
    fn session(&self) -> &Session {
        self.queue.get().handle.session()
    }

    fn point(&self) -> Option<WaitPoint> {
        match self.aim {
            Aim::Fate { .. } | Aim::Below(_) => Some(self.queue().progress_point()),
            _ => self.queue().wait_point(self.on()),
        }
    }

    fn ready(&self) -> Result<bool> {
        let queue = self.queue();
        Ok(match self.aim {
            Aim::Way(on) => queue.may_go_on(self.session().me()?, on),
            Aim::Readable => queue.has_message() || self.queue.get().handle.check_end().is_err(),
            Aim::Fate { level, position, done } => match queue.fate(level, position)? {
                Fate::Waiting => false,
                Fate::Leased => !done,
                _ => true,
            },
            Aim::Below(mark) => queue.fill() < mark || queue.is_shut(),
        })
    }

    fn look(&self) -> Result<()> {
        self.queue().look(self.session().me()?, self.on())?;
        if self.on() == On::Messages { self.queue.get().handle.check_end() } else { Ok(()) }
    }

    fn key(&self) -> u64 {
        match self.aim {
            Aim::Way(on) => on.code() << 3,
            Aim::Readable => 1,
            Aim::Fate { level, position, done } => {
                2 | u64::from(done) << 2 | u64::from(level) << 3 ^ position << 8
            }
            Aim::Below(mark) => 3 ^ mark.to_bits() << 2,
        }
    }

    fn pass_on(&self) {
        if matches!(self.aim, Aim::Way(_) | Aim::Readable) {
            self.queue().pass_on(self.on());
        }
    }

    fn exclusive(&self) -> bool {
        matches!(self.aim, Aim::Way(_))
    }

    fn watches(&self) -> bool {
        let handle = &self.queue.get().handle;
        self.on() != On::Messages || handle.ends_with_producers() || handle.queue().has_leases()
    }

    fn consuming(&self) -> Option<bool> {
        match self.aim {
            Aim::Way(On::Messages | On::Leases) | Aim::Readable => Some(true),
            Aim::Way(On::RingSpace(..) | On::BlockSpace(_)) => Some(false),
            _ => None,
        }
    }
}

/// A call on a mutex that waits, of a task.
struct MutexWait {
    mutex: Py<PyMutex>,
    context: u32,
}

impl MutexWait {
    fn mutex(&self) -> &Mutex<Mapping, Arc<Registry>> {
        self.mutex.get().handle.mutex()
    }

    fn me(&self) -> Result<Owner> {
        Ok(self.session().me()?.with_context(self.context))
    }
}

impl Awaited for MutexWait {
    fn session(&self) -> &Session {
        self.mutex.get().handle.session()
    }

    fn point(&self) -> Option<WaitPoint> {
        Some(self.mutex().bells())
    }

    fn ready(&self) -> Result<bool> {
        Ok(self.mutex().may_go_on(self.me()?))
    }

    fn arm(&self, _point: WaitPoint, cell: usize) -> Result<bool> {
        // Free but claimed by another: that one's release rings.
        Ok(self.mutex().arm(cell) && self.mutex().may_go_on(self.me()?))
    }

    fn look(&self) -> Result<()> {
        self.mutex().look_after(self.me()?)
    }

    fn claim(&self) -> Result<()> {
        self.mutex().claim(self.me()?);
        Ok(())
    }

    fn give_up(&self) -> Result<()> {
        self.mutex().give_up(self.me()?);
        Ok(())
    }

    fn pass_on(&self) {
        self.mutex().pass_on();
    }

    fn record(&self, timed: bool) -> Option<usize> {
        Recorded::new(self.session(), self.me().ok()?, (Mode::Exclusive, timed)).keep()
    }

    fn detects(&self) -> Option<Owner> {
        self.me().ok().filter(|_| self.mutex.get().detects())
    }
}

/// A call on another object of synchronization that waits, of a task.
struct SyncWait {
    sync: Py<PySync>,
    context: u32,
    want: Want,
}

impl SyncWait {
    fn handle(&self) -> &SyncHandle {
        &self.sync.get().handle
    }

    fn me(&self) -> Result<Owner> {
        Ok(self.session().me()?.with_context(self.context))
    }
}

impl Awaited for SyncWait {
    fn session(&self) -> &Session {
        self.handle().session()
    }

    fn point(&self) -> Option<WaitPoint> {
        Some(self.handle().point(self.want))
    }

    fn ready(&self) -> Result<bool> {
        Ok(self.handle().is_ready(self.me()?, self.want))
    }

    fn look(&self) -> Result<()> {
        self.handle().look(self.me()?, self.want)
    }

    fn key(&self) -> u64 {
        match self.want {
            Want::Permit => 0,
            Want::Read => 1,
            Want::Write => 2,
            Want::Set(generation) => 3 | generation << 3,
            Want::Open(generation) => 4 | generation << 3,
            Want::Notified(cell) => 5 | (cell as u64) << 3,
        }
    }

    fn exclusive(&self) -> bool {
        matches!(self.want, Want::Permit | Want::Write)
    }

    fn claim(&self) -> Result<()> {
        self.handle().claim(self.me()?, self.want);
        Ok(())
    }

    fn give_up(&self) -> Result<()> {
        self.handle().leave(self.me()?, false);
        Ok(())
    }

    fn pass_on(&self) {
        if let Ok(me) = self.me() {
            self.handle().leave(me, self.exclusive());
        }
    }

    fn record(&self, timed: bool) -> Option<usize> {
        self.handle().record(self.me().ok()?, self.want, timed).keep()
    }

    fn detects(&self) -> Option<Owner> {
        self.me().ok().filter(|_| self.sync.get().detects())
    }
}

#[pymethods]
impl PyBell {
    #[new]
    fn new(py: Python<'_>, namespace_: Option<PathBuf>) -> PyResult<PyBell> {
        let namespace = namespace(py, namespace_.as_deref())?;
        Bell::new(&namespace).map(PyBell).or_raise(py)
    }

    /// The descriptor that becomes readable; -1 once closed.
    fn fileno(&self) -> i32 {
        self.0.fd()
    }

    /// The tokens of objects that have rung since the last call; None where some may be missing.
    fn read(&self) -> Option<Vec<u32>> {
        let (tokens, more) = self.0.read();
        (!more).then_some(tokens)
    }

    /// True after `close()`, and in a forked child.
    #[getter]
    fn closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Ends it.
    fn close(&self) {
        self.0.close();
    }
}
