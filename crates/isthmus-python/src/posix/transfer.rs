//! Sending to and receiving from a queue of the kernel, with types.

use std::mem::MaybeUninit;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use isthmus_core::error::Result;
use isthmus_core::sys::mq::{self, Outcome, Received};
use pyo3::exceptions::{PyException, PyMemoryError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};

use super::queue::PyPosixQueue;
use super::wait;
use crate::arguments::Timeout;
use crate::errors::{number, raise};
use crate::message::Parts;

/// Messages up to this size are received on the stack: the kernel's usual limit.
const SMALL: usize = 8192;
/// Messages from this size on are copied by the kernel without the GIL.
const DETACH_FROM: usize = 256 << 10;

/// A call that took longer has slept, and the next one is likely to sleep too: it does not try before.
const SLEPT: Duration = Duration::from_micros(6);

/// Which way a message goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Receive = 0,
    Send = 1,
}

/// A message as one piece: most are in one.
fn gather<'a>(parts: &'a Parts<'_>, buffer: &'a mut Vec<u8>) -> &'a [u8] {
    if let Some(whole) = parts.whole() {
        return whole;
    }
    buffer.clear();
    buffer.reserve_exact(parts.len());
    parts.slices().for_each(|part| buffer.extend_from_slice(part));
    buffer
}

impl PyPosixQueue {
    /// One system call: a try with the GIL, where that is short and lately was not in vain; else a sleep without.
    #[inline]
    fn transfer<T: Send>(
        &self,
        py: Python<'_>,
        way: Way,
        large: bool,
        timeout: impl FnOnce() -> PyResult<Timeout>,
        mut call: impl FnMut(i32, Option<Duration>) -> Result<Outcome<T>> + Send,
    ) -> PyResult<Option<T>> {
        let fd = self.open_fd(py)?;
        if !large && !self.sleeps[way as usize].load(Ordering::Relaxed) {
            match call(fd, None) {
                Ok(Outcome::Done(value)) => return Ok(Some(value)),
                Ok(_) => {}
                Err(error) => return Err(self.error(py, error, way == Way::Send)),
            }
        }
        self.wait_on(py, way, timeout()?, call)
    }

    fn wait_on<T: Send>(
        &self,
        py: Python<'_>,
        way: Way,
        timeout: Timeout,
        mut call: impl FnMut(i32, Option<Duration>) -> Result<Outcome<T>> + Send,
    ) -> PyResult<Option<T>> {
        let queue = self.queue(py)?;
        let fd = queue.raw();
        let mut fault = None;
        // What fails is a fault of the descriptor, which this handle puts into words.
        let mut attempt = |limit| match call(fd, limit) {
            Err(error) => {
                fault = Some(error);
                Ok(Outcome::Done(None))
            }
            Ok(Outcome::Done(value)) => Ok(Outcome::Done(Some(value))),
            Ok(Outcome::TimedOut) => Ok(Outcome::TimedOut),
            Ok(Outcome::Interrupted) => Ok(Outcome::Interrupted),
        };
        let done = if timeout.waits() {
            let start = Instant::now();
            let _waiting = self.count(way == Way::Receive);
            let done = wait(py, timeout, way == Way::Receive, || self.is_closed(), &mut attempt)?;
            self.sleeps[way as usize].store(start.elapsed() > SLEPT, Ordering::Relaxed);
            done
        } else {
            match py.detach(|| attempt(None)) {
                Ok(Outcome::Done(value)) => Some(value),
                _ => None,
            }
        };
        if let Some(error) = fault {
            return Err(self.error(py, error, way == Way::Send));
        }
        Ok(done.flatten())
    }

    // ---------------------------------------------------------------- sending

    fn send(
        &self,
        py: Python<'_>,
        message: &[u8],
        priority: u32,
        timeout: impl FnOnce() -> PyResult<Timeout>,
    ) -> PyResult<bool> {
        let large = message.len() >= DETACH_FROM;
        let sent =
            self.transfer(py, Way::Send, large, timeout, |fd, limit| mq::send(fd, message, priority, limit))?;
        if sent.is_some() {
            // With the GIL held: counted without a locked instruction.
            self.put.store(self.put.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        Ok(sent.is_some())
    }

    fn check_size(&self, py: Python<'_>, size: usize) -> PyResult<()> {
        if size <= self.message_max {
            return Ok(());
        }
        let limit = self.message_max;
        let text = format!(
            "a message of {size} bytes is over message_max={limit} of this queue (make it with a larger one, up to \
             the limit in /proc/sys/fs/mqueue/msgsize_max; isthmus.Queue(name) in shared memory takes larger ones)"
        );
        let fields = [("size", number(py, size as u64)), ("limit", number(py, limit as u64))];
        Err(raise(py, "TooLarge", &text, &fields))
    }

    fn full_error(&self, py: Python<'_>, sent: usize) -> PyErr {
        let text = format!(
            "the queue is full: no room for a message in time; it takes {} (maxsize) of them, whatever their size",
            self.messages
        );
        raise(py, "Full", &text, &[("sent", number(py, sent as u64))])
    }

    #[inline]
    pub(super) fn put_one(
        &self,
        py: Python<'_>,
        message: &Bound<'_, PyAny>,
        timeout: Option<f64>,
        priority: i64,
        until: Option<&str>,
    ) -> PyResult<()> {
        if until.is_some() {
            let text = "until= is not known of kernel queues: their consumers give no sign; isthmus.Queue(name) \
                        in shared memory has it";
            return Err(raise(py, "Unsupported", text, &[]));
        }
        Timeout::check(timeout)?;
        let priority = self.priority(priority)?;
        let parts = Parts::new(self.codec(), message)?;
        self.check_size(py, parts.len())?;
        let mut buffer = Vec::new();
        if self.send(py, gather(&parts, &mut buffer), priority, || Timeout::new(timeout))? {
            return Ok(());
        }
        Err(self.full_error(py, 0))
    }

    pub(super) fn put_all(
        &self,
        py: Python<'_>,
        messages: &Bound<'_, PyAny>,
        timeout: Option<f64>,
        priority: i64,
    ) -> PyResult<usize> {
        let timeout = Timeout::new(timeout)?;
        let priority = self.priority(priority)?;
        self.open_fd(py)?;
        let mut sent = 0;
        self.put_rest(py, messages, timeout, priority, &mut sent).inspect_err(|error| {
            let _ = error.value(py).setattr("sent", sent);
        })?;
        Ok(sent)
    }

    fn put_rest(
        &self,
        py: Python<'_>,
        messages: &Bound<'_, PyAny>,
        timeout: Timeout,
        priority: u32,
        sent: &mut usize,
    ) -> PyResult<()> {
        let objects = messages.try_iter()?.collect::<PyResult<Vec<_>>>()?;
        let parts = objects.iter().map(|object| Parts::new(self.codec(), object));
        let parts = parts.collect::<PyResult<Vec<_>>>()?;
        // A message that can never fit is refused before the first one is put.
        self.check_size(py, parts.iter().map(Parts::len).max().unwrap_or(0))?;
        let mut buffer = Vec::new();
        for one in &parts {
            if !self.send(py, gather(one, &mut buffer), priority, || Ok(timeout))? {
                return Err(self.full_error(py, *sent));
            }
            *sent += 1;
        }
        Ok(())
    }

    // ---------------------------------------------------------------- receiving

    fn receive<'py>(
        &self,
        py: Python<'py>,
        buffer: &mut [MaybeUninit<u8>],
        timeout: impl FnOnce() -> PyResult<Timeout>,
    ) -> PyResult<Option<(Bound<'py, PyBytes>, u32)>> {
        let start = buffer.as_ptr();
        let large = buffer.len() >= DETACH_FROM;
        let received =
            self.transfer(py, Way::Receive, large, timeout, |fd, limit| mq::receive(fd, buffer, limit))?;
        let Some(Received { length, priority }) = received else { return Ok(None) };
        self.got.store(self.got.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        // SAFETY: the kernel has filled this much of the buffer.
        let message = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) };
        Ok(Some((PyBytes::new(py, message), priority)))
    }

    /// Takes a message, with room for it made as needed.
    #[inline]
    fn take<'py>(
        &self,
        py: Python<'py>,
        timeout: impl FnOnce() -> PyResult<Timeout>,
    ) -> PyResult<Option<(Bound<'py, PyBytes>, u32)>> {
        if self.keeps.load(Ordering::Relaxed) {
            self.open_fd(py)?;
            if let Some(kept) = self.kept(py) {
                return Ok(Some(kept));
            }
        }
        if self.message_max <= SMALL {
            let mut buffer = [MaybeUninit::uninit(); SMALL];
            return self.receive(py, &mut buffer, timeout);
        }
        // Not touched beyond what is received, so not cleared either.
        let mut buffer = Vec::with_capacity(self.message_max);
        self.receive(py, buffer.spare_capacity_mut(), timeout)
    }

    fn empty_error(py: Python<'_>) -> PyErr {
        raise(py, "Empty", "no message came in time", &[])
    }

    #[inline]
    pub(super) fn get_one<'py>(
        &self,
        py: Python<'py>,
        timeout: Option<f64>,
    ) -> PyResult<(Bound<'py, PyAny>, u32)> {
        Timeout::check(timeout)?;
        let Some((message, priority)) = self.take(py, || Timeout::new(timeout))? else {
            return Err(Self::empty_error(py));
        };
        let Some(codec) = self.codec() else { return Ok((message.into_any(), priority)) };
        match codec.decode(message.as_any(), message.as_bytes().first().copied()) {
            Ok(object) => Ok((object, priority)),
            Err(error) => Err(self.not_decoded(py, message, priority, error)),
        }
    }

    pub(super) fn get_up_to<'py>(
        &self,
        py: Python<'py>,
        limit: usize,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyList>> {
        let timeout = Timeout::new(timeout)?;
        let mut messages = Vec::new();
        while messages.len() < limit {
            let timeout = if messages.is_empty() { timeout } else { Timeout::Try };
            match self.take(py, || Ok(timeout)) {
                Ok(Some(message)) => messages.push(message),
                Err(error) if messages.is_empty() => return Err(error),
                // An error that stays comes again.
                Ok(None) | Err(_) => break,
            }
        }
        if messages.is_empty() {
            return Err(Self::empty_error(py));
        }
        let Some(codec) = self.codec() else {
            return PyList::new(py, messages.into_iter().map(|(message, _)| message));
        };
        let decoded = PyList::empty(py);
        for at in 0..messages.len() {
            let (message, priority) = &messages[at];
            match codec.decode(message.as_any(), message.as_bytes().first().copied()) {
                Ok(object) => decoded.append(object)?,
                Err(error) if at == 0 || !says_invalid(py, &error) => {
                    // Interrupted: nobody has seen what was decoded before, so all of it comes again.
                    let rest = if says_invalid(py, &error) { at + 1 } else { 0 };
                    let (message, priority) = (message.clone(), *priority);
                    let again = messages.drain(..).skip(rest);
                    self.keep(again.map(|(m, p)| (m.unbind(), p)).collect::<Vec<_>>().into_iter());
                    if rest == 0 {
                        return Err(error);
                    }
                    return Err(self.not_decoded(py, message, priority, error));
                }
                Err(_) => {
                    self.keep(messages.drain(at..).map(|(m, p)| (m.unbind(), p)));
                    break;
                }
            }
        }
        Ok(decoded)
    }

    /// What is raised for a message that could not be decoded. What is no fault of the message, such as Ctrl+C,
    /// stays itself, and the message comes again.
    #[cold]
    fn not_decoded(&self, py: Python<'_>, message: Bound<'_, PyBytes>, priority: u32, error: PyErr) -> PyErr {
        if !says_invalid(py, &error) {
            self.keep(std::iter::once((message.unbind(), priority)));
            return error;
        }
        let what = self
            .codec()
            .and_then(|codec| codec.source.bind(py).getattr("__name__").ok()?.extract::<String>().ok());
        let what = what.unwrap_or_else(|| "message of this type".to_owned());
        let kind = error.get_type(py).name().map_or_else(|_| String::new(), |name| name.to_string());
        let reason = format!("{kind}: {}", error.value(py));
        let text = format!(
            "a message of {} bytes is not a valid {what}: {reason}; its bytes are in the error's data",
            message.as_bytes().len()
        );
        let fields = [
            ("number", number(py, self.got.load(Ordering::Relaxed).saturating_sub(1))),
            ("reason", PyString::new(py, &reason).into_any().unbind()),
            ("data", message.into_any().unbind()),
        ];
        let raised = raise(py, "InvalidMessage", &text, &fields);
        raised.set_cause(py, Some(error));
        raised
    }
}

fn says_invalid(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyException>(py) && !error.is_instance_of::<PyMemoryError>(py)
}
