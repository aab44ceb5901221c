//! The class `isthmus._core.PosixQueue`: a queue of the kernel under the interface of `Queue`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use isthmus_core::error::Error;
use isthmus_core::process;
use isthmus_core::sys::mq::{self, Access, Attributes, Outcome, PRIORITIES, Ready, Wanted};
use pyo3::exceptions::{PyResourceWarning, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::{create, permissions, wait};
use crate::arguments::Timeout;
use crate::errors::{OrRaise, convert, raise};
use crate::message::Codec;

/// Bytes of a name after the slash.
pub(super) const NAME_MAX: usize = 255;

/// See `PyPosixQueue::kept`: the epoch, and messages with their priorities.
type Kept = (u64, VecDeque<(Py<PyBytes>, u32)>);
/// See `PyPosixQueue::_stats`.
type Stats = (u64, Option<u64>, Option<u32>, u64, u64, f64, f64, usize, usize);

/// A queue of the kernel; `isthmus.PosixQueue` says more.
#[pyclass(name = "PosixQueue", module = "isthmus._core", subclass, frozen)]
pub(crate) struct PyPosixQueue {
    /// The descriptor for calls that hold the GIL, -1 once closed. Who gives up the GIL holds `queue` meanwhile.
    fd: AtomicI32,
    queue: Mutex<Option<Arc<mq::Queue>>>,
    name: String,
    access: Access,
    pub(super) messages: u64,
    pub(super) message_max: usize,
    priorities: u32,
    codec: OnceLock<Codec>,
    /// Messages that were received and not handed over: what came after one that could not be decoded, or while
    /// Ctrl+C was pressed. They belong to the process of this epoch.
    kept: Mutex<Kept>,
    pub(super) keeps: AtomicBool,
    pub(super) put: AtomicU64,
    pub(super) got: AtomicU64,
    /// The last call slept, for a message or for room: so will the next one, which need not try first.
    pub(super) sleeps: [AtomicBool; 2],
    /// Calls that wait, for a message or for room.
    waiting: [AtomicUsize; 2],
    pub(super) notice: Mutex<Option<super::notice::Ticket>>,
    sample: Mutex<(Instant, u64, u64)>,
}

/// A call that waits, counted as long as it does.
pub(super) struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PyPosixQueue {
    /// Counts a call that waits, for `stats()`.
    pub(super) fn count(&self, for_message: bool) -> Waiting<'_> {
        let counter = &self.waiting[usize::from(!for_message)];
        counter.fetch_add(1, Ordering::Relaxed);
        Waiting(counter)
    }

    #[inline]
    pub(super) fn codec(&self) -> Option<&Codec> {
        self.codec.get()
    }

    /// The descriptor, for as long as the GIL is held.
    #[inline]
    pub(super) fn fd(&self) -> Option<i32> {
        Some(self.fd.load(Ordering::Relaxed)).filter(|fd| *fd >= 0)
    }

    pub(super) fn open_fd(&self, py: Python<'_>) -> PyResult<i32> {
        self.fd().ok_or_else(|| convert(py, Error::Closed))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.fd().is_none()
    }

    /// The queue, which stays open as long as somebody has it from here.
    pub(super) fn queue(&self, py: Python<'_>) -> PyResult<Arc<mq::Queue>> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.clone().ok_or_else(|| convert(py, Error::Closed))
    }

    #[inline]
    pub(super) fn priority(&self, priority: i64) -> PyResult<u32> {
        match u32::try_from(priority) {
            Ok(level) if level < self.priorities => Ok(level),
            _ => Err(PyValueError::new_err(format!(
                "priority is {priority}: this queue has priorities 0 to {}",
                self.priorities - 1
            ))),
        }
    }

    /// An error of a call on the descriptor, in words where it has a known cause.
    #[cold]
    pub(super) fn error(&self, py: Python<'_>, error: Error, sends: bool) -> PyErr {
        const EBADF: i32 = 9;
        let wrong = if sends { Access::Read } else { Access::Write };
        if matches!(error, Error::Os { errno: EBADF, .. }) && self.access == wrong {
            let (has, needs) = if sends { ("r", "w") } else { ("w", "r") };
            let text = format!(
                "this handle of {} was opened with access={has:?}; open another with {needs:?} or \"rw\"",
                self.name
            );
            return raise(py, "Unsupported", &text, &[]);
        }
        convert(py, error)
    }

    pub(super) fn attributes(&self, py: Python<'_>) -> PyResult<Attributes> {
        mq::attributes(self.open_fd(py)?).or_raise(py)
    }

    /// Puts received messages before all others of this process.
    pub(super) fn keep(&self, messages: impl DoubleEndedIterator<Item = (Py<PyBytes>, u32)>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.0 = process::epoch();
        for message in messages.rev() {
            kept.1.push_front(message);
        }
        self.keeps.store(!kept.1.is_empty(), Ordering::Release);
    }

    /// Takes the next message that was kept.
    #[cold]
    pub(super) fn kept<'py>(&self, py: Python<'py>) -> Option<(Bound<'py, PyBytes>, u32)> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.0 != process::epoch() {
            kept.1.clear(); // they are our parent's
        }
        let next = kept.1.pop_front();
        self.keeps.store(!kept.1.is_empty(), Ordering::Release);
        next.map(|(message, priority)| (message.into_bound(py), priority))
    }

    fn count_kept(&self) -> usize {
        if !self.keeps.load(Ordering::Acquire) {
            return 0;
        }
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.0 == process::epoch() { kept.1.len() } else { 0 }
    }

    /// Waits until the descriptor is ready.
    fn poll(&self, py: Python<'_>, ready: Ready, timeout: Timeout) -> PyResult<bool> {
        let queue = self.queue(py)?;
        if !timeout.waits() {
            return Ok(mq::poll(queue.raw(), ready, Duration::ZERO).or_raise(py)? == Outcome::Done(()));
        }
        let for_work = ready == Ready::Read;
        let _waiting = for_work.then(|| self.count(true));
        let done = wait(
            py,
            timeout,
            for_work,
            || self.is_closed(),
            |limit| mq::poll(queue.raw(), ready, limit.unwrap_or_default()),
        )?;
        Ok(done.is_some())
    }
}

#[pymethods]
impl PyPosixQueue {
    #[new]
    #[pyo3(signature = (name, mode_, access, permissions_, maxsize, message_max, priorities))]
    #[expect(clippy::too_many_arguments, reason = "the Python side gives them names")]
    fn new(
        py: Python<'_>,
        name: &str,
        mode_: &str,
        access: &str,
        permissions_: i64,
        maxsize: Option<i128>,
        message_max: Option<i128>,
        priorities: Option<i128>,
    ) -> PyResult<PyPosixQueue> {
        let access = match access {
            "r" => Access::Read,
            "w" => Access::Write,
            "rw" => Access::Both,
            other => {
                let text = format!("access is {other:?}: it takes \"r\", \"w\" or \"rw\"");
                return Err(PyValueError::new_err(text));
            }
        };
        let count = |what: &str, unit: &str, asked| crate::arguments::count(what, unit, asked, u64::MAX);
        let wanted = Wanted {
            messages: count("maxsize", "messages", maxsize)?,
            size: count("message_max", "bytes", message_max)?,
        };
        let levels = u64::from(PRIORITIES);
        let priorities = crate::arguments::count("priorities", "levels of priority", priorities, levels)?;
        let c_name = mq::name(name, "POSIX queue", NAME_MAX).or_raise(py)?;
        let permissions = permissions(permissions_)?;
        let queue = mq::Queue::open(&c_name, create(mode_)?, access, permissions, wanted).or_raise(py)?;
        let Attributes { messages, size, .. } = mq::attributes(queue.raw()).or_raise(py)?;
        Ok(PyPosixQueue {
            fd: AtomicI32::new(queue.raw()),
            queue: Mutex::new(Some(Arc::new(queue))),
            name: c_name.to_string_lossy().into_owned(),
            access,
            messages,
            message_max: size as usize,
            priorities: priorities.unwrap_or(levels) as u32,
            codec: OnceLock::new(),
            kept: Mutex::new((process::epoch(), VecDeque::new())),
            keeps: AtomicBool::new(false),
            put: AtomicU64::new(0),
            got: AtomicU64::new(0),
            sleeps: [AtomicBool::new(false), AtomicBool::new(false)],
            waiting: [AtomicUsize::new(0), AtomicUsize::new(0)],
            notice: Mutex::new(None),
            sample: Mutex::new((Instant::now(), 0, 0)),
        })
    }

    /// Sets the codec; the first one stays.
    fn _use(&self, source: Py<PyAny>, codec: &Bound<'_, PyAny>) -> PyResult<()> {
        let _ = self.codec.set(Codec::new(source, codec)?);
        Ok(())
    }

    /// What was given as the type; None for bytes.
    fn _source(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.codec().map(|codec| codec.source.clone_ref(py))
    }

    /// Puts a message; waits for room up to `timeout` seconds (None waits, 0 tries).
    ///
    /// A higher `priority` goes first, always. Raises `Full`, `TooLarge` for a message over `message_max` bytes,
    /// `ClosedError`, and what the type's encoder raises. `until` is for queues in shared memory: `Unsupported`.
    #[pyo3(signature = (message, timeout = None, *, priority = 0, until = None))]
    fn put(
        &self,
        py: Python<'_>,
        message: &Bound<'_, PyAny>,
        timeout: Option<f64>,
        priority: i64,
        until: Option<&str>,
    ) -> PyResult<()> {
        self.put_one(py, message, timeout, priority, until)
    }

    /// Takes the oldest message of the highest priority; waits up to `timeout` seconds (None waits, 0 tries).
    ///
    /// Raises `Empty`, `ClosedError`, and `InvalidMessage` for a message that is not of the queue's type: it is
    /// taken, its bytes are in the error's `data`, and the next call goes on with the next message.
    #[pyo3(signature = (timeout = None))]
    fn get<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.get_one(py, timeout)?.0)
    }

    /// As `get`, and says the priority too: `(message, priority)`.
    #[pyo3(signature = (timeout = None))]
    fn get_with_priority<'py>(
        &self,
        py: Python<'py>,
        timeout: Option<f64>,
    ) -> PyResult<(Bound<'py, PyAny>, u32)> {
        self.get_one(py, timeout)
    }

    /// Puts all messages in order and says how many they were.
    ///
    /// `timeout` is for the whole call. Where not all fit in time, `Full.sent` says how many of them (the first ones)
    /// are in the queue; the other errors of `put` carry the same attribute.
    #[pyo3(signature = (messages, timeout = None, *, priority = 0))]
    fn put_many(
        &self,
        py: Python<'_>,
        messages: &Bound<'_, PyAny>,
        timeout: Option<f64>,
        priority: i64,
    ) -> PyResult<usize> {
        self.put_all(py, messages, timeout, priority)
    }

    /// Takes up to `limit` messages, at least one: waits for the first as `get` does, then takes what is there.
    ///
    /// One that cannot be decoded ends the list before it, and is raised as `InvalidMessage` by the next call.
    #[pyo3(signature = (limit, timeout = None))]
    fn get_many<'py>(
        &self,
        py: Python<'py>,
        limit: i64,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyList>> {
        let Some(limit) = usize::try_from(limit).ok().filter(|limit| *limit > 0) else {
            return Err(PyValueError::new_err(format!("limit is {limit}: it takes 1 or more messages")));
        };
        self.get_up_to(py, limit, timeout)
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.get_one(py, None) {
            Ok((message, _)) => Ok(Some(message)),
            // This process was asked to end; the queue knows no end.
            Err(error) if crate::errors::is(py, &error, "ShutDown") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks to be told once when a message comes into the empty queue and nobody waits in `get`; mq_notify(3).
    ///
    /// `to` is the number of a signal, which is sent to this process with `payload` (32 bits), or a function without
    /// arguments, which is called in a thread that the C library starts; None ends the registration. The kernel
    /// takes one process a queue: OSError with EBUSY where another is registered. Register again after each notice,
    /// and *then* take all messages with `get(0)`: one that has come in between gives no notice. Closing any handle
    /// of this queue in this process ends the registration. It is not inherited by forked children.
    #[pyo3(signature = (to, *, payload = 0))]
    fn notify(&self, py: Python<'_>, to: &Bound<'_, PyAny>, payload: i64) -> PyResult<()> {
        self.register(py, to, payload)
    }

    /// Waits until `get` would not have to wait; False where that was not so within `timeout` seconds (None waits,
    /// 0 looks). Takes nothing: another consumer may be faster.
    #[pyo3(signature = (timeout = None))]
    fn wait_readable(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let timeout = Timeout::new(timeout)?;
        self.open_fd(py)?;
        Ok(self.count_kept() > 0 || self.poll(py, Ready::Read, timeout)?)
    }

    /// Waits until less than the part `below` of `maxsize` is taken; False where that was not so within `timeout`
    /// seconds (None waits, 0 looks).
    ///
    /// The kernel tells only of a full queue that has room again; for a lower mark this looks every 1 to 20 ms.
    #[pyo3(signature = (timeout = None, *, below = 1.0))]
    fn wait_writable(&self, py: Python<'_>, timeout: Option<f64>, below: f64) -> PyResult<bool> {
        if !(below > 0.0 && below <= 1.0) {
            return Err(PyValueError::new_err(format!("below is {below}: it takes more than 0.0 up to 1.0")));
        }
        let timeout = Timeout::new(timeout)?;
        if below >= 1.0 {
            return self.poll(py, Ready::Write, timeout);
        }
        let deadline = timeout.deadline();
        let mut pause = Duration::from_millis(1);
        while self.fill(py)? >= below {
            let left = deadline.map_or(pause, |end| end.saturating_duration_since(Instant::now()).min(pause));
            if left.is_zero() {
                return Ok(false);
            }
            py.detach(|| std::thread::sleep(left));
            py.check_signals()?;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        Ok(true)
    }

    /// Messages inside; another moment may differ.
    fn qsize(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.attributes(py)?.depth + self.count_kept() as u64)
    }

    /// True where no message is inside; another moment may differ.
    fn empty(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.qsize(py)? == 0)
    }

    /// True where no further message has room; another moment may differ.
    fn full(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.attributes(py)?.depth >= self.messages)
    }

    /// How much of `maxsize` is taken, 0.0 to 1.0.
    #[getter]
    fn fill(&self, py: Python<'_>) -> PyResult<f64> {
        Ok(self.attributes(py)?.depth as f64 / self.messages as f64)
    }

    /// Depth, bytes inside (None where not opened for receiving), who is registered for notification, put, got, both
    /// a second since the last call, and how many calls of this handle wait for a message and for room.
    fn _stats(&self, py: Python<'_>) -> PyResult<Stats> {
        let depth = self.qsize(py)?;
        let status = mq::status(self.open_fd(py)?);
        let (put, got) = (self.put.load(Ordering::Relaxed), self.got.load(Ordering::Relaxed));
        let mut sample = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let seconds = (now - sample.0).as_secs_f64().max(1e-9);
        let rates = ((put - sample.1) as f64 / seconds, (got - sample.2) as f64 / seconds);
        *sample = (now, put, got);
        let registered = status.map(|(_, pid)| pid).filter(|pid| *pid != 0);
        let [consumers, producers] = self.waiting.each_ref().map(|count| count.load(Ordering::Relaxed));
        let bytes = status.map(|(bytes, _)| bytes);
        Ok((depth, bytes, registered, put, got, rates.0, rates.1, consumers, producers))
    }

    /// Counts a task that begins or ends to wait, for a message or for room.
    fn _waits(&self, for_message: bool, begins: bool) {
        let counter = &self.waiting[usize::from(!for_message)];
        if begins {
            counter.fetch_add(1, Ordering::Relaxed)
        } else {
            counter.fetch_sub(1, Ordering::Relaxed)
        };
    }

    /// Ends this handle; the queue stays, with its messages, until `unlink()`. Closing twice does nothing.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let kept = self.count_kept();
        self.cancel_notice();
        self.fd.store(-1, Ordering::Relaxed);
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        if kept > 0 && self.kept(py).is_some() {
            while self.kept(py).is_some() {}
            let text = format!(
                "queue {} was closed with {kept} messages that were received and not handed over",
                self.name
            );
            let text = std::ffi::CString::new(text).unwrap_or_default();
            PyErr::warn(py, &py.get_type::<PyResourceWarning>(), &text, 1)?;
        }
        Ok(())
    }

    /// Removes the name; those who have it open go on using it. `FileNotFoundError` where it is gone.
    fn unlink(&self, py: Python<'_>) -> PyResult<()> {
        unlink_queue(py, &self.name)
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyResult<PyRef<'_, Self>> {
        slf.open_fd(slf.py())?;
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

    /// The descriptor, for `select`, `poll` and event loops: readable when a message is inside, writable when there
    /// is room. It is the queue's own: do not close it, read it or change its flags.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.open_fd(py)
    }

    /// The name as C programs give it to mq_open: `/jobs`.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// Most messages at a time (mq_maxmsg).
    #[getter]
    fn maxsize(&self) -> u64 {
        self.messages
    }

    /// Bytes of the largest message that fits (mq_msgsize).
    #[getter]
    fn message_max(&self) -> usize {
        self.message_max
    }

    /// Bytes for messages: `maxsize` of `message_max` bytes each.
    #[getter]
    fn capacity(&self) -> u64 {
        self.messages.saturating_mul(self.message_max as u64)
    }

    /// Levels of priority.
    #[getter]
    fn priorities(&self) -> u32 {
        self.priorities
    }

    /// What this handle may do: `"r"` receives, `"w"` sends, `"rw"` both.
    #[getter]
    fn access(&self) -> &'static str {
        match self.access {
            Access::Read => "r",
            Access::Write => "w",
            Access::Both => "rw",
        }
    }

    /// True after `close()`.
    #[getter]
    fn closed(&self) -> bool {
        self.is_closed()
    }
}

impl Drop for PyPosixQueue {
    fn drop(&mut self) {
        self.cancel_notice();
    }
}

/// Removes the POSIX queue of this name.
#[pyfunction]
pub(crate) fn unlink_queue(py: Python<'_>, name: &str) -> PyResult<()> {
    mq::unlink(&mq::name(name, "POSIX queue", NAME_MAX).or_raise(py)?).or_raise(py)
}
