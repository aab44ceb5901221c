//! The class `isthmus._core.Queue`.

use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use isthmus_core::owner::Owner;
use isthmus_core::queue::handle::{Attributes, MessageType, QueueHandle};
use isthmus_core::queue::{Attempt, INLINE_MAX, MAX_LEVELS, On, Place, Step};
use pyo3::exceptions::{PyResourceWarning, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::arguments::{Timeout, count, integer, integer_or_none, mode, namespace, shown};
use crate::batch;
use crate::driver::{End, drive, drive_from, until_readable};
use crate::errors::{OrRaise, raise};
use crate::hold::Hold;
use crate::lease::PyLease;
use crate::letters::Row;
use crate::message::{Codec, Parts};
use crate::receiving::small;
use crate::reservation::PyReservation;

/// Copies from this size on give up the GIL: below, giving it up costs more than it gives others.
pub(crate) const DETACH_FROM: usize = 256 << 10;
/// Most that `max_deliveries` takes: what the state of a lease has room for.
const MAX_DELIVERIES: u64 = (1 << 24) - 1;
/// Longest wait for readiness without a look at signals and at the dead.
const LOOK: Duration = Duration::from_millis(80);

/// Each message goes to one consumer, in any process.
///
/// Opens or creates the queue `name`, or makes an anonymous one for children; `isthmus.Queue` says more.
#[pyclass(name = "Queue", module = "isthmus._core", subclass, frozen)]
pub(crate) struct PyQueue {
    pub(crate) handle: QueueHandle,
    codec: OnceLock<Codec>,
    /// The record that the last lease of this handle used.
    pub(crate) near: AtomicUsize,
    pub(crate) leases: AtomicUsize,
    /// When a lease last looked for those of the dead, in milliseconds; 0: never.
    pub(crate) looked: AtomicUsize,
    sample: Mutex<Sample>,
}

/// What `stats()` measures rates against.
struct Sample {
    at: Instant,
    put: u64,
    got: u64,
}

impl PyQueue {
    pub(crate) fn empty_error(&self, py: Python<'_>, on: On) -> PyErr {
        let text = match on {
            On::ConsumerLock => self.lock_text(1, "get"),
            On::Leases => format!(
                "no message could be leased in time: all {} leases of the queue are in use (acknowledge some, empty \
                 q.dead, or create it with a larger capacity=)",
                self.handle.queue().geometry().leases
            ),
            _ => "no message came in time".to_owned(),
        };
        raise(py, "Empty", &text, &[])
    }

    pub(crate) fn lock_text(&self, which: usize, what: &str) -> String {
        let owner = self.handle.queue().lock_owners()[which];
        let pid = self.handle.session().registry().describe(owner).map_or(0, |info| info.pid);
        format!("process {pid} has been in the middle of a {what} all the time; is it stopped?")
    }

    fn level(&self, priority: i64) -> PyResult<u8> {
        let levels = self.handle.queue().geometry().levels;
        match u8::try_from(priority) {
            Ok(level) if usize::from(level) < levels => Ok(level),
            _ => Err(PyValueError::new_err(format!(
                "priority is {}: this queue has priorities 0 to {} (create it with priorities=)",
                shown(priority),
                levels - 1
            ))),
        }
    }

    fn with_handle(handle: QueueHandle) -> PyQueue {
        let numbers = handle.queue().numbers();
        PyQueue {
            handle,
            codec: OnceLock::new(),
            near: AtomicUsize::new(0),
            leases: AtomicUsize::new(0),
            looked: AtomicUsize::new(0),
            sample: Mutex::new(Sample { at: Instant::now(), put: numbers.put, got: numbers.got }),
        }
    }

    #[inline]
    pub(crate) fn codec(&self) -> Option<&Codec> {
        self.codec.get()
    }

    /// A record that has become free: the next lease tries it first.
    pub(crate) fn note_lease(&self, index: usize) {
        self.near.store(index, Ordering::Relaxed);
    }
}

#[pymethods]
impl PyQueue {
    #[new]
    #[pyo3(signature = (
        name, mode_, capacity, priorities, max_deliveries, type_, default_type_, persistent, ends_with_producers,
        namespace_, adopt = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "the Python side gives them names")]
    fn new(
        py: Python<'_>,
        name: Option<&str>,
        mode_: &str,
        #[pyo3(from_py_with = integer_or_none)] capacity: Option<i64>,
        #[pyo3(from_py_with = integer_or_none)] priorities: Option<i64>,
        #[pyo3(from_py_with = integer_or_none)] max_deliveries: Option<i64>,
        type_: Option<(u64, String)>,
        default_type_: (u64, String),
        persistent: Option<bool>,
        ends_with_producers: Option<bool>,
        namespace_: Option<PathBuf>,
        adopt: Option<(u32, i32, u64)>,
    ) -> PyResult<PyQueue> {
        let message_type = type_.map(|(fingerprint, name)| MessageType { fingerprint, name });
        let default_type = MessageType { fingerprint: default_type_.0, name: default_type_.1 };
        let space = namespace(py, namespace_.as_deref())?;
        // The anonymous queue behind a descriptor of another process (pid, fd, nonce): for unpickling.
        if let Some((pid, fd, nonce)) = adopt {
            return Ok(PyQueue::with_handle(QueueHandle::from_fd_of(&space, pid, fd, nonce).or_raise(py)?));
        }
        let asked = Attributes {
            capacity: count("capacity", "bytes", capacity, u64::MAX)?,
            priorities: count("priorities", "levels", priorities, MAX_LEVELS as u64)?.map(|n| n as usize),
            max_deliveries: count("max_deliveries", "times", max_deliveries, MAX_DELIVERIES)?
                .map(|n| n as u32),
            message_type,
            default_type,
            ends_with_producers,
            persistent,
        };
        let handle = match name {
            Some(name) => QueueHandle::open(&space, name, mode(mode_)?, &asked),
            None => QueueHandle::anonymous(&space, &asked),
        };
        Ok(PyQueue::with_handle(handle.or_raise(py)?))
    }

    /// What the messages are: fingerprint and name; and whether only this user can have made them.
    fn _type(&self) -> (u64, String, bool) {
        let found = self.handle.message_type();
        let private = self.handle.session().object().namespace().is_private();
        (found.fingerprint, found.name, private)
    }

    /// Says how objects become messages and messages objects, once; `source` is what the user gave as the type.
    fn _use(&self, source: Py<PyAny>, codec: &Bound<'_, PyAny>) -> PyResult<()> {
        let _ = self.codec.set(Codec::new(source, codec)?);
        Ok(())
    }

    /// What the user gave as the type; for pickling.
    fn _source(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.codec.get().map(|codec| codec.source.clone_ref(py))
    }

    /// Where the object is: namespace, name, descriptor, nonce; for pickling.
    fn _place(&self) -> (PathBuf, Option<String>, i32, u64) {
        let object = self.handle.session().object();
        let name = object.name().map(str::to_owned);
        (object.namespace().path().to_owned(), name, object.fd(), object.nonce())
    }

    /// Puts a message.
    ///
    /// Waits up to `timeout` seconds for room (None waits, 0 tries). Raises `Full` when there is none in
    /// time, `TooLarge` when there never can be, `ShutDown` after `shutdown()`, `ClosedError`; what the type does
    /// not take is refused with `TypeError`. A consumer that is killed takes at most the message of that call with
    /// it; the room comes back.
    ///
    /// `priority` is 0 (the least urgent) up to one less than the queue's `priorities`. With
    /// `until="received"` the call returns when a consumer has the message, with `until="done"` when it was
    /// acknowledged (a consumer that uses `get` does so at once); where that does not happen in time,
    /// `Timeout` is raised and the message stays in the queue, and where it ends in `q.dead`, `Undelivered`.
    #[pyo3(signature = (message, timeout = None, *, priority = 0, until = None))]
    fn put(
        &self,
        py: Python<'_>,
        message: &Bound<'_, PyAny>,
        timeout: Option<Timeout>,
        #[pyo3(from_py_with = integer)] priority: i64,
        until: Option<&str>,
    ) -> PyResult<()> {
        let timeout = timeout.unwrap_or(Timeout::Never);
        let done = match until {
            None => None,
            Some("received") => Some(false),
            Some("done") => Some(true),
            Some(other) => {
                return Err(PyValueError::new_err(format!(
                    "until is {other:?}: it takes \"received\", \"done\" or None"
                )));
            }
        };
        let (level, position) = self.post(py, message, priority, timeout)?;
        done.map_or(Ok(()), |done| self.wait_for(py, level, position, done, timeout))
    }

    /// Puts a message; level and position under which its fate can be asked for.
    #[pyo3(name = "_post")]
    fn post(
        &self,
        py: Python<'_>,
        message: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = integer)] priority: i64,
        timeout: Timeout,
    ) -> PyResult<(u8, u64)> {
        let level = self.level(priority)?;
        let parts = Parts::new(self.codec(), message)?;
        Ok((level, self.put_parts(py, level, &parts, timeout)?))
    }

    /// What has become of a message: `Undelivered`, or `Timeout` where nothing has.
    fn _fate(&self, py: Python<'_>, level: u8, position: u64, done: bool) -> PyResult<()> {
        self.wait_for(py, level, position, done, Timeout::Try)
    }

    /// Takes the next message.
    ///
    /// Waits up to `timeout` seconds for one (None waits, 0 tries). Raises `Empty` when none came,
    /// `ShutDown` when none will come any more, `PeerDied` when the last producer of a queue with
    /// `ends_with_producers` was killed, `InvalidMessage` when it cannot be decoded (it is kept in `q.dead`),
    /// `ClosedError`.
    #[pyo3(signature = (timeout = None))]
    pub(crate) fn get<'py>(slf: &Bound<'py, Self>, timeout: Option<Timeout>) -> PyResult<Bound<'py, PyAny>> {
        PyQueue::get_message(slf, timeout.unwrap_or(Timeout::Never))
    }

    /// Takes the next message and leaves it where it is.
    ///
    /// A queue of bytes gives a `View`: an object with the buffer protocol whose memory stays as it is until it
    /// is released (or gone) and the last buffer taken of it is gone too; other types give an object on that
    /// memory, such as an array. Small messages (up to 4096 bytes) are copied. Read-only unless `writable`.
    /// Waits and raises as `get` does. Should this process be killed, the memory comes back.
    #[pyo3(signature = (timeout = None, *, writable = false))]
    fn get_view<'py>(
        slf: &Bound<'py, Self>,
        timeout: Option<Timeout>,
        writable: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); INLINE_MAX];
        let taken = slf.get().take(slf.py(), timeout.unwrap_or(Timeout::Never), &mut buffer)?;
        PyQueue::open_view(slf, &taken, &buffer, writable)
    }

    /// Takes the next message on lease: it is done only when the lease is acknowledged.
    ///
    /// `with q.lease() as job:` acknowledges at the end and gives the message back where an exception leaves the
    /// block; a process that dies gives back what it had on lease. What comes back is handed out before all
    /// others, at most `max_deliveries` times, then it goes to `q.dead`. With `view` a large message stays in
    /// the queue's memory, as with `get_view`. Waits and raises as `get` does, and `Empty` also where
    /// all leases of the queue are in use.
    #[pyo3(signature = (timeout = None, *, view = false))]
    fn lease(slf: &Bound<'_, Self>, timeout: Option<Timeout>, view: bool) -> PyResult<PyLease> {
        PyQueue::take_lease(slf, timeout.unwrap_or(Timeout::Never), view)
    }

    /// Memory for a message of `length` bytes; `timeout` is for this and again for putting it, unless `within` says
    /// otherwise for this.
    #[pyo3(signature = (length, timeout, priority, within = None))]
    fn _reserve(
        slf: &Bound<'_, Self>,
        #[pyo3(from_py_with = integer)] length: i64,
        timeout: Option<f64>,
        #[pyo3(from_py_with = integer)] priority: i64,
        within: Option<Timeout>,
    ) -> PyResult<PyReservation> {
        let (py, this) = (slf.py(), slf.get());
        let until = match within {
            Some(within) => within,
            None => Timeout::new(timeout)?,
        };
        let level = this.level(priority)?;
        let Ok(length) = usize::try_from(length) else {
            return Err(PyValueError::new_err(format!(
                "size is {}: it takes bytes, 0 or more",
                shown(length)
            )));
        };
        let hold = if length <= this.handle.queue().geometry().inline_max() {
            this.handle.producer().or_raise(py)?;
            None
        } else {
            let run = this.claim(py, length, until)?;
            Some(Hold::new(slf, this.handle.producer().or_raise(py)?, run, true)?)
        };
        Ok(PyReservation::new(slf, length, hold, level, timeout))
    }

    /// Puts all messages in order and says how many they were; far cheaper than one by one.
    ///
    /// `timeout` is for the whole call. Where not all fit in time, `Full.sent` says how many of them (the
    /// first ones) are in the queue; the other errors of `put` carry the same attribute.
    #[pyo3(signature = (messages, timeout = None, *, priority = 0))]
    fn put_many(
        &self,
        py: Python<'_>,
        messages: &Bound<'_, PyAny>,
        timeout: Option<Timeout>,
        #[pyo3(from_py_with = integer)] priority: i64,
    ) -> PyResult<usize> {
        batch::put_many(self, py, messages, timeout.unwrap_or(Timeout::Never), self.level(priority)?)
    }

    /// Takes up to `limit` messages, at least one; far cheaper than one by one.
    ///
    /// Waits for the first as `get` does, then takes what is there. What cannot be decoded goes to `q.dead`;
    /// `InvalidMessage` is raised only where nothing else was there.
    #[pyo3(signature = (limit, timeout = None))]
    fn get_many<'py>(
        slf: &Bound<'py, Self>,
        #[pyo3(from_py_with = integer)] limit: i64,
        timeout: Option<Timeout>,
    ) -> PyResult<Bound<'py, PyList>> {
        let Some(limit) = usize::try_from(limit).ok().filter(|limit| *limit > 0) else {
            return Err(PyValueError::new_err(format!(
                "limit is {}: it takes 1 or more messages",
                shown(limit)
            )));
        };
        batch::get_many(slf, limit, timeout.unwrap_or(Timeout::Never))
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match PyQueue::get(slf, None) {
            Ok(message) => Ok(Some(message)),
            Err(error) if crate::errors::is(slf.py(), &error, "ShutDown") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Accepts no more messages; consumers get what is inside, then `ShutDown` (iteration ends).
    fn shutdown(&self, py: Python<'_>) -> PyResult<()> {
        self.shut(py, Timeout::Never)
    }

    #[pyo3(name = "_shutdown")]
    fn shut(&self, py: Python<'_>, timeout: Timeout) -> PyResult<()> {
        let attempt = Attempt::default();
        match self.handle.try_shut_down(&attempt).or_raise(py)? {
            Step::Done(()) => Ok(()),
            Step::Wait(on) => drive_from(py, &self.handle, End::Producer, timeout, on, |_, attempt| {
                self.handle.try_shut_down(attempt)
            })?
            .map_err(|on| self.full_error(py, on, 0, 0)),
        }
    }

    /// Ends this handle. The last one to close removes the name, unless the queue is persistent; where
    /// messages are lost with it, a `ResourceWarning` says how many. Closing twice does nothing.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let abandoned = self.handle.close();
        if abandoned > 0 {
            let name = self
                .handle
                .session()
                .object()
                .name()
                .map_or("without a name".to_owned(), |n| format!("{n:?}"));
            let text = format!("queue {name} was closed by its last user with {abandoned} messages inside");
            let text = std::ffi::CString::new(text).unwrap_or_default();
            PyErr::warn(py, &py.get_type::<PyResourceWarning>(), &text, 1)?;
        }
        Ok(())
    }

    /// Removes the name; those who have it open go on using it. `FileNotFoundError` where it is gone.
    fn unlink(&self, py: Python<'_>) -> PyResult<()> {
        self.handle.session().object().unlink().or_raise(py)
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyResult<PyRef<'_, Self>> {
        slf.handle.session().me().or_raise(slf.py())?;
        Ok(slf)
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.close(py)
    }

    /// The name, or None for an anonymous queue.
    #[getter]
    fn name(&self) -> Option<String> {
        self.handle.session().object().name().map(str::to_owned)
    }

    /// Bytes for messages: half for small ones (up to 4096 bytes each), the rest for large ones.
    #[getter]
    fn capacity(&self) -> u64 {
        self.handle.queue().geometry().capacity
    }

    /// Bytes of the largest message that fits.
    #[getter]
    fn message_max(&self) -> usize {
        self.handle.queue().geometry().message_max()
    }

    /// True after `close()`.
    #[getter]
    fn closed(&self) -> bool {
        self.handle.session().is_closed()
    }

    /// Messages inside; another moment may differ.
    fn qsize(&self, py: Python<'_>) -> PyResult<u64> {
        self.handle.depth().or_raise(py)
    }

    /// True where no message is inside; another moment may differ.
    fn empty(&self, py: Python<'_>) -> PyResult<bool> {
        self.handle.session().me().or_raise(py)?;
        Ok(!self.handle.queue().has_message())
    }

    /// Levels of priority.
    #[getter]
    fn priorities(&self) -> usize {
        self.handle.queue().geometry().levels
    }

    /// How often a message is handed out at most before it goes to `q.dead`.
    #[getter]
    fn max_deliveries(&self) -> u32 {
        self.handle.max_deliveries()
    }

    /// How much of the capacity is taken, 0.0 to 1.0: of the small messages' part or of the large ones', whichever
    /// is fuller.
    #[getter]
    fn fill(&self, py: Python<'_>) -> PyResult<f64> {
        self.handle.session().me().or_raise(py)?;
        Ok(self.handle.queue().fill())
    }

    /// Waits until `get` would not have to wait; True then (also where it would raise, because the queue has
    /// ended), False where that was not so within `timeout` seconds (None waits, 0 looks). Takes nothing.
    #[pyo3(signature = (timeout = None))]
    fn wait_readable(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        until_readable(py, &self.handle, Timeout::new(timeout)?)
    }

    /// Waits until less than the part `below` of the capacity is taken, as `fill` says; True then, False where that
    /// was not so within `timeout` seconds (None waits, 0 looks). True at once after `shutdown()`.
    ///
    /// That there is room for a certain message only `put` can tell: a large one may not fit at any `fill`.
    ///
    /// For a producer that slows down before the queue is full: put until `fill` is over the high-water mark,
    /// then wait here for the low one.
    #[pyo3(signature = (timeout = None, *, below = 1.0))]
    fn wait_writable(&self, py: Python<'_>, timeout: Option<f64>, below: f64) -> PyResult<bool> {
        if !(below > 0.0 && below <= 1.0) {
            return Err(PyValueError::new_err(format!("below is {below}: it takes more than 0.0 up to 1.0")));
        }
        let deadline = Timeout::new(timeout)?.deadline();
        let queue = self.handle.queue();
        let _stay = self.handle.session().stay().or_raise(py)?;
        let reached = || queue.fill() < below || queue.is_shut();
        loop {
            let me = self.handle.session().me().or_raise(py)?;
            if reached() {
                return Ok(true);
            }
            let left = deadline.map_or(LOOK, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(false);
            }
            py.detach(|| {
                queue.wait_progress(left.min(LOOK), reached)?;
                queue.reclaim(me, &Attempt::default())
            })
            .or_raise(py)?;
            py.check_signals()?;
        }
    }

    /// The oldest message that nobody could use: (data, reason, sender, deliveries, number, priority, size).
    fn _letter<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Row<'py>>> {
        let (py, this) = (slf.py(), slf.get());
        let queue = this.handle.queue();
        let mut buffer = [MaybeUninit::<u8>::uninit(); INLINE_MAX];
        let letter = drive(py, &this.handle, End::Consumer, Timeout::Try, |me, attempt| {
            queue.try_take_letter(me, attempt, &mut buffer)
        })?
        .map_err(|on| this.empty_error(py, on))?;
        let Some(letter) = letter else { return Ok(None) };
        let data = match letter.place {
            Place::Inline => small(py, &buffer, letter.length),
            Place::Block(run) => this.receive(py, run, letter.length)?,
        };
        Ok(Some(this.row(letter, data)))
    }

    /// What `_letter` would give, all of it, without data.
    fn _letters<'py>(&self, py: Python<'py>) -> PyResult<Vec<Row<'py>>> {
        let queue = self.handle.queue();
        let letters = drive(py, &self.handle, End::Consumer, Timeout::Try, |me, attempt| {
            queue.try_peek_letters(me, attempt)
        })?
        .map_err(|on| self.empty_error(py, on))?;
        Ok(letters.into_iter().map(|letter| self.row(letter, PyBytes::new(py, b""))).collect())
    }

    /// Hands all messages of `q.dead` out again; says how many.
    fn _requeue(&self, py: Python<'_>) -> PyResult<usize> {
        let queue = self.handle.queue();
        drive(py, &self.handle, End::Consumer, Timeout::Try, |me, attempt| queue.try_requeue(me, attempt))?
            .map_err(|on| self.empty_error(py, on))
    }

    /// The numbers of `isthmus.QueueStats`, in its order.
    fn _stats(&self, py: Python<'_>) -> PyResult<Stats> {
        let numbers = self.handle.numbers().or_raise(py)?;
        let session = self.handle.session();
        let mut attached: Vec<Owner> =
            session.object().attachments().into_iter().map(|(_, owner, _)| owner).collect();
        attached.sort_unstable_by_key(|owner| owner.word());
        attached.dedup();
        attached.retain(|owner| !session.registry().is_dead(*owner));
        let (put_rate, get_rate) = {
            let mut sample = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let seconds = (now - sample.at).as_secs_f64().max(1e-9);
            let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
            let rates = (rate(numbers.put, sample.put), rate(numbers.got, sample.got));
            *sample = Sample { at: now, put: numbers.put, got: numbers.got };
            rates
        };
        let (producers, consumers) = session.object().waiting();
        Ok((
            numbers.depth,
            numbers.put,
            numbers.got,
            put_rate,
            get_rate,
            numbers.bytes_in_use,
            self.capacity(),
            numbers.largest,
            attached.len(),
            producers,
            consumers,
            (numbers.leased, numbers.dead),
        ))
    }
}

/// See `isthmus.QueueStats`; the last two are a pair, because tuples end at twelve.
type Stats = (u64, u64, u64, f64, f64, u64, u64, u64, usize, u64, u64, (u64, u64));
