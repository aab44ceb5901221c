//! Putting: small messages through the ring, large ones in a block, and waiting for what becomes of them.

use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use isthmus_core::owner::Owner;
use isthmus_core::process;
use isthmus_core::queue::handle::QueueHandle;
use isthmus_core::queue::{Attempt, Fate, INLINE_MAX, MAX_CAPACITY, On, Run};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::arguments::Timeout;
use crate::driver::{End, drive, look_briefly};
use crate::errors::{OrRaise, number, raise};
use crate::message::Parts;
use crate::queue::{DETACH_FROM, PyQueue};

impl PyQueue {
    pub(crate) fn full_error(&self, py: Python<'_>, on: On, size: usize, sent: usize) -> PyErr {
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

    /// Puts one message that goes through the ring; says at which position.
    pub(crate) fn put_small(
        &self,
        py: Python<'_>,
        level: u8,
        message: &[u8],
        timeout: Timeout,
    ) -> PyResult<u64> {
        let queue = self.handle.queue();
        drive(py, &self.handle, End::Producer, timeout, |me, a| queue.try_put(me, a, level, message))?
            .map_err(|on| self.full_error(py, on, message.len(), 0))
    }

    /// Puts a message in a run that was claimed and filled.
    pub(crate) fn put_run(
        &self,
        py: Python<'_>,
        level: u8,
        run: Run,
        length: usize,
        timeout: Timeout,
    ) -> PyResult<u64> {
        let queue = self.handle.queue();
        drive(py, &self.handle, End::Producer, timeout, |me, a| queue.try_put_run(me, a, level, run, length))?
            .map_err(|on| self.full_error(py, on, length, 0))
    }

    pub(crate) fn claim(&self, py: Python<'_>, length: usize, timeout: Timeout) -> PyResult<Run> {
        self.check_size(py, length)?;
        let queue = self.handle.queue();
        drive(py, &self.handle, End::Producer, timeout, |me, a| queue.try_claim(me, a, length))?
            .map_err(|on| self.full_error(py, on, length, 0))
    }

    fn put_large(&self, py: Python<'_>, level: u8, parts: &Parts<'_>, timeout: Timeout) -> PyResult<u64> {
        let queue = self.handle.queue();
        let length = parts.len();
        let _stay = self.handle.session().stay().or_raise(py)?;
        let run = self.claim(py, length, timeout)?;
        let me = self.handle.producer().or_raise(py)?;
        let claim = Claim::new(&self.handle, me, run);
        let slices: Vec<&[u8]> = parts.slices().collect();
        let fill = || {
            let mut to = queue.memory().address(queue.run_offset(run), length);
            for part in slices {
                // SAFETY: the run is ours and as long as all parts; a private slice cannot overlap it.
                unsafe {
                    std::ptr::copy_nonoverlapping(part.as_ptr(), to, part.len());
                    to = to.add(part.len());
                }
            }
        };
        if length >= DETACH_FROM {
            py.detach(fill);
        } else {
            fill();
        }
        let position = self.put_run(py, level, run, length, timeout)?;
        std::mem::forget(claim);
        Ok(position)
    }

    /// Puts a message, small or large; says at which position.
    pub(crate) fn put_parts(
        &self,
        py: Python<'_>,
        level: u8,
        parts: &Parts<'_>,
        timeout: Timeout,
    ) -> PyResult<u64> {
        if parts.len() <= self.handle.queue().geometry().inline_max() {
            let mut buffer = [MaybeUninit::uninit(); INLINE_MAX];
            self.put_small(py, level, parts.gather(&mut buffer), timeout)
        } else {
            self.put_large(py, level, parts, timeout)
        }
    }

    /// Refuses a message that could never fit; says what to set.
    pub(crate) fn check_size(&self, py: Python<'_>, size: usize) -> PyResult<()> {
        let geometry = self.handle.queue().geometry();
        let limit = geometry.message_max();
        if size <= limit {
            return Ok(());
        }
        let enough = size.checked_mul(2).and_then(usize::checked_next_power_of_two);
        let advice = match enough.filter(|enough| *enough as u64 <= MAX_CAPACITY) {
            Some(enough) => format!("create it with capacity={enough} or more"),
            None => "and no queue does".to_owned(),
        };
        let text = format!(
            "a message of {size} bytes is over the limit of {limit}: a queue of capacity={} holds no larger ones \
             ({advice})",
            geometry.capacity,
        );
        let fields = [("size", number(py, size as u64)), ("limit", number(py, limit as u64))];
        Err(raise(py, "TooLarge", &text, &fields))
    }

    /// Waits until a message that was put has been taken, or is done.
    pub(crate) fn wait_for(
        &self,
        py: Python<'_>,
        level: u8,
        position: u64,
        done: bool,
        timeout: Timeout,
    ) -> PyResult<()> {
        let queue = self.handle.queue();
        let deadline = timeout.deadline();
        let _stay = self.handle.session().stay().or_raise(py)?;
        let reached = || match queue.fate(level, position) {
            Ok(Fate::Waiting) => false,
            Ok(Fate::Leased) => !done,
            _ => true,
        };
        loop {
            let me = self.handle.producer().or_raise(py)?;
            if reached() || look_briefly(reached) {
                return match queue.fate(level, position).or_raise(py)? {
                    Fate::Dead(reason) => {
                        let text = format!("the message was given up and is in q.dead: {reason}");
                        let reason = PyString::new(py, &reason).into_any().unbind();
                        Err(raise(py, "Undelivered", &text, &[("reason", reason)]))
                    }
                    _ => Ok(()),
                };
            }
            let left = deadline.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                let what = if done { "acknowledged" } else { "taken by a consumer" };
                let text = format!("the message is in the queue, but was not {what} in time");
                return Err(raise(py, "Timeout", &text, &[]));
            }
            py.detach(|| {
                queue.wait_progress(left, reached)?;
                queue.redeliver(me, &Attempt::default())
            })
            .or_raise(py)?;
            py.check_signals()?;
        }
    }
}

/// A run owned until it is dropped (given back) or forgotten (the queue's now).
pub(crate) struct Claim<'a> {
    handle: &'a QueueHandle,
    me: Owner,
    run: Run,
    epoch: u64,
}

impl<'a> Claim<'a> {
    pub(crate) fn new(handle: &'a QueueHandle, me: Owner, run: Run) -> Claim<'a> {
        Claim { handle, me, run, epoch: process::epoch() }
    }

    /// Gives the run back; false where it was not ours any more.
    pub(crate) fn free(self) -> bool {
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
