//! Many messages in one call.

use std::mem::MaybeUninit;

use isthmus_core::queue::{Attempt, Place, Step};
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::arguments::Timeout;
use crate::driver::{End, drive, drive_from};
use crate::errors::OrRaise;
use crate::message::Parts;
use crate::queue::PyQueue;
use crate::receiving::blank;

const SIGINT: i32 = 2;

/// Bytes and messages that one critical section of a batch copies at most.
const BATCH_BYTES: usize = 64 << 10;
const BATCH_MESSAGES: usize = 512;

pub(crate) fn put_many(
    this: &PyQueue,
    py: Python<'_>,
    messages: &Bound<'_, PyAny>,
    timeout: Timeout,
    level: u8,
) -> PyResult<usize> {
    let plain = messages.cast_exact::<PyList>().ok().filter(|_| this.codec().is_none());
    let mut sent = plain.map_or(0, |list| this.put_list(level, list));
    let objects: Vec<Bound<'_, PyAny>> = match messages.cast::<PyList>() {
        Ok(list) => list.iter().skip(sent).collect(),
        Err(_) => messages.try_iter()?.collect::<PyResult<_>>()?,
    };
    let before = sent;
    let sent_before = |error: PyErr| {
        let _ = error.value(py).setattr("sent", before);
        error
    };
    let parts = objects.iter().map(|object| Parts::new(this.codec(), object));
    let parts = parts.collect::<PyResult<Vec<_>>>().map_err(sent_before)?;
    // A message that can never fit is refused before the first one is put.
    this.check_size(py, parts.iter().map(Parts::len).max().unwrap_or(0)).map_err(sent_before)?;
    let inline_max = this.handle.queue().geometry().inline_max();
    while sent - before < parts.len() {
        let left = &parts[sent - before..];
        let batch = batch_of(left, inline_max);
        let done = if batch.is_empty() {
            this.put_parts(py, level, &left[0], timeout).map(|_| 1)
        } else {
            this.put_batch(py, level, &batch, timeout)
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

pub(crate) fn get_many<'py>(
    slf: &Bound<'py, PyQueue>,
    limit: usize,
    timeout: Timeout,
) -> PyResult<Bound<'py, PyList>> {
    let (py, this) = (slf.py(), slf.get());
    let mut taken: Vec<Bound<'py, PyAny>> = Vec::with_capacity(limit.min(BATCH_MESSAGES));
    let mut lengths = Vec::with_capacity(limit.min(BATCH_MESSAGES));
    let mut invalid = None;
    while taken.len() < limit {
        let got = taken.len();
        // Decoding may have closed the handle.
        if let Err(error) = this.handle.consumer() {
            return if got > 0 { PyList::new(py, taken) } else { Err(crate::errors::convert(py, error)) };
        }
        let more = if this.codec().is_some() || this.handle.queue().has_returned() {
            // One by one: decoding costs more than taking.
            let message = if got == 0 && invalid.is_none() {
                PyQueue::get_message(slf, timeout).map(Some)
            } else {
                PyQueue::get_if_there(slf)
            };
            message.map(|message| {
                let more = message.is_some();
                taken.extend(message);
                more
            })
        } else {
            this.take_batch(py, limit - got, &mut lengths, &mut taken, timeout)
        };
        match more {
            Ok(true) => {}
            Ok(false) => break,
            // It is in q.dead; those behind it are good.
            Err(error) if crate::errors::is(py, &error, "InvalidMessage") => invalid = Some(error),
            // What was taken before is handed over. An error that stays comes again with the next call; Ctrl+C
            // is made to come again.
            Err(error) if got > 0 => {
                if error.is_instance_of::<PyKeyboardInterrupt>(py) {
                    // SAFETY: may be called at any time; the handler runs soon after.
                    unsafe { ffi::PyErr_SetInterruptEx(SIGINT) };
                }
                break;
            }
            Err(error) => return Err(invalid.unwrap_or(error)),
        }
    }
    match invalid {
        Some(error) if taken.is_empty() => Err(error),
        _ => PyList::new(py, taken),
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
        taken: &mut Vec<Bound<'py, PyAny>>,
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
        taken.extend(blanks.into_iter().take(count).map(Bound::into_any));
        if let Some(large) = large
            && let Place::Block(run) = large.place
        {
            taken.push(self.receive(py, run, large.length)?.into_any());
            return Ok(true);
        }
        Ok(count > 0 || got == 0)
    }

    /// Puts the small `bytes` at the front of a list as long as nothing is in the way; says how many. What
    /// is in the way (no room, another type, an error) is found again by the caller, who handles it.
    fn put_list(&self, level: u8, list: &Bound<'_, PyList>) -> usize {
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
                Ok(me) if !batch.is_empty() => queue.try_put_batch(me, &Attempt::default(), level, &batch),
                _ => return sent,
            };
            match step {
                Ok(Step::Done(count)) => sent += count,
                _ => return sent,
            }
        }
    }

    fn put_batch(&self, py: Python<'_>, level: u8, messages: &[&[u8]], timeout: Timeout) -> PyResult<usize> {
        let queue = self.handle.queue();
        drive(py, &self.handle, End::Producer, timeout, |me, attempt| {
            queue.try_put_batch(me, attempt, level, messages)
        })?
        .map_err(|on| self.full_error(py, on, messages[0].len(), 0))
    }
}

/// The messages at the front that go into one critical section; none where the first is a large one.
fn batch_of<'a>(parts: &'a [Parts<'_>], inline_max: usize) -> Vec<&'a [u8]> {
    let mut bytes = 0;
    let fits = |message: &&[u8]| {
        bytes += message.len();
        message.len() <= inline_max && bytes <= BATCH_BYTES
    };
    parts.iter().take(BATCH_MESSAGES).map_while(Parts::whole).take_while(fits).collect()
}
