//! The class `isthmus._core.Queue`.

use std::mem::MaybeUninit;
use std::path::PathBuf;

use isthmus_core::error::Error;
use isthmus_core::owner::Owner;
use isthmus_core::process;
use isthmus_core::queue::handle::{Attributes, QueueHandle};
use isthmus_core::queue::{Attempt, INLINE_MAX, On, Run, Step, Taken};
use pyo3::exceptions::{PyResourceWarning, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::arguments::{Bytes, Timeout, mode, namespace};
use crate::driver::{End, drive, drive_from};
use crate::errors::{OrRaise, number, raise};

/// Copies from this size on give up the GIL: below, giving it up costs more than it gives others.
const DETACH_FROM: usize = 256 << 10;
/// Bytes and messages that one critical section of a batch copies at most.
const BATCH_BYTES: usize = 64 << 10;
const BATCH_MESSAGES: usize = 512;

/// Each message goes to one consumer, in any process.
///
/// Opens or creates the queue `name`, or makes an anonymous one for children; `isthmus.Queue` says more.
#[pyclass(name = "Queue", module = "isthmus._core", subclass, frozen)]
pub(crate) struct PyQueue {
    pub(crate) handle: QueueHandle,
}

impl PyQueue {
    fn full_error(&self, py: Python<'_>, on: On, size: usize, sent: usize) -> PyErr {
        let capacity = self.handle.queue().geometry().capacity;
        let text = match on {
            On::ProducerLock => self.lock_text(0, "put"),
            _ => format!(
                "the queue is full: no room for a message of {size} bytes in time; {} messages wait in its \
                 capacity of {capacity} bytes (get them, or create it with a larger capacity=)",
                self.handle.queue().depth()
            ),
        };
        raise(py, "Full", &text, &[("sent", number(py, sent as u64))])
    }

    fn empty_error(&self, py: Python<'_>, on: On) -> PyErr {
        let text = match on {
            On::ConsumerLock => self.lock_text(1, "get"),
            _ => "no message came in time".to_owned(),
        };
        raise(py, "Empty", &text, &[])
    }

    fn lock_text(&self, which: usize, what: &str) -> String {
        let owner = self.handle.queue().lock_owners()[which];
        let pid = self.handle.session().registry().describe(owner).map_or(0, |info| info.pid);
        format!("process {pid} has been in the middle of a {what} all the time; is it stopped?")
    }

    /// Puts one message that goes through the ring.
    fn put_small(&self, py: Python<'_>, message: &[u8], timeout: Timeout) -> PyResult<()> {
        let queue = self.handle.queue();
        drive(py, &self.handle, End::Producer, timeout, |me, attempt| queue.try_put(me, attempt, message))?
            .map_err(|on| self.full_error(py, on, message.len(), 0))
    }

    fn put_large(&self, py: Python<'_>, message: &[u8], timeout: Timeout) -> PyResult<()> {
        let queue = self.handle.queue();
        let length = message.len();
        self.check_size(py, length)?;
        let _stay = self.handle.session().stay().or_raise(py)?;
        let run = drive(py, &self.handle, End::Producer, timeout, |me, a| queue.try_claim(me, a, length))?
            .map_err(|on| self.full_error(py, on, length, 0))?;
        let me = self.handle.producer().or_raise(py)?;
        let claim = Claim::new(&self.handle, me, run);
        let fill = || {
            let to = queue.memory().address(queue.run_offset(run), length);
            // SAFETY: the run is ours and at least this long; a private slice cannot overlap it.
            unsafe { std::ptr::copy_nonoverlapping(message.as_ptr(), to, length) };
        };
        if length >= DETACH_FROM {
            py.detach(fill);
        } else {
            fill();
        }
        drive(py, &self.handle, End::Producer, timeout, |me, a| queue.try_put_run(me, a, run, length))?
            .map_err(|on| self.full_error(py, on, length, 0))?;
        std::mem::forget(claim);
        Ok(())
    }

    /// Refuses a message that could never fit; says what to set.
    fn check_size(&self, py: Python<'_>, size: usize) -> PyResult<()> {
        let geometry = self.handle.queue().geometry();
        let limit = geometry.message_max();
        if size <= limit {
            return Ok(());
        }
        let text = format!(
            "a message of {size} bytes is over the limit of {limit}: a queue of capacity={} holds no larger ones \
             (create it with capacity={} or more)",
            geometry.capacity,
            (2 * size).next_power_of_two()
        );
        let fields = [("size", number(py, size as u64)), ("limit", number(py, limit as u64))];
        Err(raise(py, "TooLarge", &text, &fields))
    }

    /// A large message that was taken: copied out, its block given back.
    pub(crate) fn receive<'py>(
        &self,
        py: Python<'py>,
        me: Owner,
        run: Run,
        length: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let _stay = self.handle.session().stay().or_raise(py)?;
        let claim = Claim::new(&self.handle, me, run);
        let queue = self.handle.queue();
        let object = blank(py, length)?;
        let from = queue.memory().address(queue.run_offset(run), length) as usize;
        // SAFETY: nobody else knows the new object yet, so its bytes may still be written.
        let to = unsafe { ffi::PyBytes_AsString(object.as_ptr()) } as usize;
        // SAFETY: both are `length` bytes long: the run is ours and checked, the object was made so.
        // Addresses cross into the closure as numbers because pointers are not Send.
        let copy = move || unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, length) };
        if length >= DETACH_FROM {
            py.detach(copy);
        } else {
            copy();
        }
        if !claim.free() {
            return Err(crate::errors::convert(py, Error::Buried));
        }
        Ok(object)
    }
}

/// A run owned until it is dropped (given back) or forgotten (the queue's now).
struct Claim<'a> {
    handle: &'a QueueHandle,
    me: Owner,
    run: Run,
    epoch: u64,
}

impl<'a> Claim<'a> {
    fn new(handle: &'a QueueHandle, me: Owner, run: Run) -> Claim<'a> {
        Claim { handle, me, run, epoch: process::epoch() }
    }

    /// Gives the run back; false where it was not ours any more.
    fn free(self) -> bool {
        let freed = self.handle.queue().free(self.me, self.run);
        std::mem::forget(self);
        freed
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // In a child that a signal handler forked meanwhile, the run is still the parent's.
        if self.epoch == process::epoch() {
            self.handle.queue().free(self.me, self.run);
        }
    }
}

#[pymethods]
impl PyQueue {
    #[new]
    #[pyo3(signature = (name, mode_, capacity, persistent, ends_with_producers, namespace_, adopt = None))]
    #[expect(clippy::too_many_arguments, reason = "the Python side gives them names")]
    fn new(
        py: Python<'_>,
        name: Option<&str>,
        mode_: &str,
        capacity: Option<i128>,
        persistent: Option<bool>,
        ends_with_producers: Option<bool>,
        namespace_: Option<PathBuf>,
        adopt: Option<(u32, i32, u64)>,
    ) -> PyResult<PyQueue> {
        // The anonymous queue behind a descriptor of another process (pid, fd, nonce): for unpickling.
        if let Some((pid, fd, nonce)) = adopt {
            let space = namespace(py, namespace_.as_deref())?;
            return Ok(PyQueue { handle: QueueHandle::from_fd_of(&space, pid, fd, nonce).or_raise(py)? });
        }
        let capacity = capacity
            .map(|asked| match u64::try_from(asked) {
                Ok(asked) if asked > 0 => Ok(asked),
                _ => Err(PyValueError::new_err(format!("capacity is {asked}: it takes bytes, 1 or more"))),
            })
            .transpose()?;
        let space = namespace(py, namespace_.as_deref())?;
        let asked = Attributes { capacity, ends_with_producers, persistent };
        let handle = match name {
            Some(name) => QueueHandle::open(&space, name, mode(mode_)?, &asked),
            None => QueueHandle::anonymous(&space, &asked),
        };
        Ok(PyQueue { handle: handle.or_raise(py)? })
    }

    /// Where the object is: namespace, name, descriptor, nonce; for pickling.
    fn _place(&self) -> (PathBuf, Option<String>, i32, u64) {
        let object = self.handle.session().object();
        let name = object.name().map(str::to_owned);
        (object.namespace().path().to_owned(), name, object.fd(), object.nonce())
    }

    /// Puts a message: `bytes` or anything else with a contiguous buffer.
    ///
    /// Waits up to `timeout` seconds for room (None waits, 0 tries). Raises `Full` when there is none in
    /// time, `TooLarge` when there never can be, `ShutDown` after `shutdown()`, `ClosedError`. A consumer
    /// that is killed takes at most the message of that call with it; the room comes back.
    #[pyo3(signature = (message, timeout = None))]
    fn put(&self, py: Python<'_>, message: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<()> {
        let timeout = Timeout::new(timeout)?;
        let bytes = Bytes::new(message)?;
        let message = bytes.as_slice();
        if message.len() <= self.handle.queue().geometry().inline_max() {
            self.put_small(py, message, timeout)
        } else {
            self.put_large(py, message, timeout)
        }
    }

    /// Takes the next message.
    ///
    /// Waits up to `timeout` seconds for one (None waits, 0 tries). Raises `Empty` when none came,
    /// `ShutDown` when none will come any more, `PeerDied` when the last producer of a queue with
    /// `ends_with_producers` was killed, `ClosedError`.
    #[pyo3(signature = (timeout = None))]
    fn get<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyBytes>> {
        let queue = self.handle.queue();
        let mut buffer = [MaybeUninit::<u8>::uninit(); INLINE_MAX];
        let taken = drive(py, &self.handle, End::Consumer, Timeout::new(timeout)?, |me, attempt| {
            queue.try_get(me, attempt, &mut buffer)
        })?
        .map_err(|on| self.empty_error(py, on))?;
        match taken {
            // SAFETY: try_get has filled the first `length` bytes.
            Taken::Inline(length) => Ok(PyBytes::new(py, unsafe {
                std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length)
            })),
            Taken::Block(run, length) => self.receive(py, self.handle.consumer().or_raise(py)?, run, length),
        }
    }

    /// Puts all messages in order and says how many they were; far cheaper than one by one.
    ///
    /// `timeout` is for the whole call. Where not all fit in time, `Full.sent` says how many of them (the
    /// first ones) are in the queue; the other errors of `put` carry the same attribute.
    #[pyo3(signature = (messages, timeout = None))]
    fn put_many(&self, py: Python<'_>, messages: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<usize> {
        let timeout = Timeout::new(timeout)?;
        let mut sent = messages.cast_exact::<PyList>().map_or(0, |list| self.put_list(list));
        let objects: Vec<Bound<'_, PyAny>> = match messages.cast::<PyList>() {
            Ok(list) => list.iter().skip(sent).collect(),
            Err(_) => messages.try_iter()?.collect::<PyResult<_>>()?,
        };
        let before = sent;
        let sent_before = |error: PyErr| {
            let _ = error.value(py).setattr("sent", before);
            error
        };
        let bytes = objects.iter().map(Bytes::new).collect::<PyResult<Vec<_>>>().map_err(sent_before)?;
        let slices: Vec<&[u8]> = bytes.iter().map(Bytes::as_slice).collect();
        let queue = self.handle.queue();
        let geometry = queue.geometry();
        // A message that can never fit is refused before the first one is put.
        self.check_size(py, slices.iter().map(|m| m.len()).max().unwrap_or(0)).map_err(sent_before)?;
        while sent - before < slices.len() {
            let left = &slices[sent - before..];
            let batch = batch_of(left, geometry.inline_max());
            let done = if batch == 0 {
                self.put_large(py, left[0], timeout).map(|()| 1)
            } else {
                self.put_batch(py, &left[..batch], timeout)
            };
            match done {
                Ok(count) => sent += count,
                Err(error) => {
                    let _ = error.value(py).setattr("sent", sent);
                    return Err(error);
                }
            }
        }
        Ok(sent)
    }

    /// Takes up to `limit` messages, at least one; far cheaper than one by one.
    ///
    /// Waits for the first as `get` does, then takes what is there.
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
        let timeout = Timeout::new(timeout)?;
        let mut taken: Vec<Bound<'py, PyBytes>> = Vec::with_capacity(limit.min(BATCH_MESSAGES));
        let mut lengths = Vec::with_capacity(limit.min(BATCH_MESSAGES));
        while taken.len() < limit {
            let got = taken.len();
            match self.take_batch(py, limit - got, &mut lengths, &mut taken, timeout) {
                Ok(true) => {}
                Ok(false) => break,
                // What was taken before is handed over; an error that stays comes again with the next call.
                Err(_) if got > 0 => break,
                Err(error) => return Err(error),
            }
        }
        PyList::new(py, taken)
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        match self.get(py, None) {
            Ok(message) => Ok(Some(message)),
            Err(error) if crate::errors::is(py, &error, "ShutDown") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Accepts no more messages; consumers get what is inside, then `ShutDown` (iteration ends).
    fn shutdown(&self, py: Python<'_>) -> PyResult<()> {
        let attempt = Attempt::default();
        match self.handle.try_shut_down(&attempt).or_raise(py)? {
            Step::Done(()) => Ok(()),
            Step::Wait(on) => {
                drive_from(py, &self.handle, End::Producer, Timeout::Never, on, |_, attempt| {
                    self.handle.try_shut_down(attempt)
                })?
                .map_err(|on| self.full_error(py, on, 0, 0))
            }
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
        Ok(self.handle.numbers().or_raise(py)?.depth)
    }

    /// True where no message is inside; another moment may differ.
    fn empty(&self, py: Python<'_>) -> PyResult<bool> {
        self.handle.session().me().or_raise(py)?;
        Ok(self.handle.queue().is_empty())
    }

    /// depth, put, got, `bytes_in_use`, capacity, largest, attached, producers and consumers waiting.
    #[expect(clippy::type_complexity, reason = "a named tuple on the Python side")]
    fn _stats(&self, py: Python<'_>) -> PyResult<(u64, u64, u64, u64, u64, u64, usize, bool, bool)> {
        let numbers = self.handle.numbers().or_raise(py)?;
        let session = self.handle.session();
        let mut attached: Vec<Owner> =
            session.object().attachments().into_iter().map(|(_, owner, _)| owner).collect();
        attached.sort_unstable_by_key(|owner| owner.word());
        attached.dedup();
        attached.retain(|owner| !session.registry().is_dead(*owner));
        Ok((
            numbers.depth,
            numbers.put,
            numbers.got,
            numbers.bytes_in_use,
            self.capacity(),
            numbers.largest,
            attached.len(),
            numbers.producers_waiting,
            numbers.consumers_waiting,
        ))
    }
}

impl PyQueue {
    /// Appends the messages of one critical section to `taken`, at most `limit`; false where there is none
    /// (with some taken before; otherwise it waits for one).
    fn take_batch<'py>(
        &self,
        py: Python<'py>,
        limit: usize,
        lengths: &mut Vec<usize>,
        taken: &mut Vec<Bound<'py, PyBytes>>,
        timeout: Timeout,
    ) -> PyResult<bool> {
        let (queue, got) = (self.handle.queue(), taken.len());
        let me = self.handle.consumer().or_raise(py)?;
        lengths.clear();
        queue.peek_lengths(limit.min(BATCH_MESSAGES), BATCH_BYTES, lengths);
        // The objects are made first, so that messages are copied once, straight into them.
        let blanks = lengths.iter().map(|length| blank(py, *length)).collect::<PyResult<Vec<_>>>()?;
        let buffer = |(object, length): (&Bound<'py, PyBytes>, &usize)| {
            // SAFETY: nobody else knows the new object yet, which is `length` bytes long.
            unsafe {
                let start = ffi::PyBytes_AsString(object.as_ptr()).cast::<MaybeUninit<u8>>();
                std::slice::from_raw_parts_mut(start, *length)
            }
        };
        let mut buffers: Vec<_> = blanks.iter().zip(&*lengths).map(buffer).collect();
        let step = queue.try_get_batch(me, &Attempt::default(), &mut buffers);
        let (count, large) = match step.or_raise(py)? {
            Step::Done(done) => done,
            Step::Wait(_) if got > 0 => return Ok(false),
            Step::Wait(on) => drive_from(py, &self.handle, End::Consumer, timeout, on, |me, attempt| {
                queue.try_get_batch(me, attempt, &mut buffers)
            })?
            .map_err(|on| self.empty_error(py, on))?,
        };
        // What another consumer was faster with goes back unused.
        taken.extend(blanks.into_iter().take(count));
        if let Some(Taken::Block(run, length)) = large {
            taken.push(self.receive(py, self.handle.consumer().or_raise(py)?, run, length)?);
            return Ok(true);
        }
        Ok(count > 0 || got == 0)
    }

    /// Puts the small `bytes` at the front of a list as long as nothing is in the way; says how many. What
    /// is in the way (no room, another type, an error) is found again by the caller, who handles it.
    fn put_list(&self, list: &Bound<'_, PyList>) -> usize {
        let queue = self.handle.queue();
        let inline_max = queue.geometry().inline_max();
        let mut sent = 0;
        loop {
            let mut batch: Vec<&[u8]> = Vec::with_capacity(BATCH_MESSAGES.min(list.len() - sent));
            let mut room = BATCH_BYTES;
            for at in sent..list.len().min(sent + BATCH_MESSAGES) {
                // SAFETY: the index is inside the list, and no Python code runs (nor does the GIL change
                // hands) before the batch is copied: the list keeps its items alive until then.
                unsafe {
                    let item = ffi::PyList_GetItem(list.as_ptr(), at as isize);
                    if ffi::PyBytes_CheckExact(item) == 0 {
                        break;
                    }
                    let length = ffi::PyBytes_Size(item) as usize;
                    if length > inline_max || length > room {
                        break;
                    }
                    room -= length;
                    batch.push(std::slice::from_raw_parts(ffi::PyBytes_AsString(item).cast::<u8>(), length));
                }
            }
            let step = match self.handle.producer() {
                Ok(me) if !batch.is_empty() => queue.try_put_batch(me, &Attempt::default(), &batch),
                _ => return sent,
            };
            match step {
                Ok(Step::Done(count)) => sent += count,
                _ => return sent,
            }
        }
    }

    fn put_batch(&self, py: Python<'_>, messages: &[&[u8]], timeout: Timeout) -> PyResult<usize> {
        let queue = self.handle.queue();
        drive(py, &self.handle, End::Producer, timeout, |me, attempt| {
            queue.try_put_batch(me, attempt, messages)
        })?
        .map_err(|on| self.full_error(py, on, messages[0].len(), 0))
    }
}

/// A `bytes` object to be filled before anybody sees it.
fn blank(py: Python<'_>, length: usize) -> PyResult<Bound<'_, PyBytes>> {
    // SAFETY: NULL asks for uninitialised bytes; the result is checked.
    unsafe {
        let object = ffi::PyBytes_FromStringAndSize(std::ptr::null(), length as isize);
        Ok(Bound::from_owned_ptr_or_err(py, object)?.cast_into_unchecked())
    }
}

/// How many of these go into one critical section; 0 where the first is a large one.
fn batch_of(messages: &[&[u8]], inline_max: usize) -> usize {
    let mut bytes = 0;
    let fits = |message: &&&[u8]| {
        bytes += message.len();
        message.len() <= inline_max && bytes <= BATCH_BYTES
    };
    messages.iter().take(BATCH_MESSAGES).take_while(fits).count()
}
