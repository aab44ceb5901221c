//! The kernel's own mechanisms that other programs use too: POSIX queues and semaphores, System V objects.

use std::time::{Duration, Instant};

use isthmus_core::error::{Error, Result};
use isthmus_core::sys::mq::{Create, Outcome};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::arguments::Timeout;
use crate::errors::convert;
use crate::signals::{heed, stopping};

pub(crate) mod notice;
pub(crate) mod queue;
pub(crate) mod semaphore;
pub(crate) mod sysv;
pub(crate) mod transfer;

/// Longest sleep in the kernel without a look at signals (one may come just before the sleep), at the handle (it
/// may be closed) and at the clock (it may be set back).
const SLICE: Duration = Duration::from_millis(200);

fn create(text: &str) -> PyResult<Create> {
    match text {
        "open_or_create" => Ok(Create::Missing),
        "create" => Ok(Create::New),
        "open" => Ok(Create::Never),
        other => Err(PyValueError::new_err(format!("no such mode: {other}"))),
    }
}

/// Permission bits of what is made.
fn permissions(mode: i64) -> PyResult<u32> {
    match u32::try_from(mode) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err(PyValueError::new_err(format!("mode is {mode:#o}: it takes permission bits, 0 to 0o777"))),
    }
}

/// Waits by `attempt(how_long)` until it is done, which `None` says was not so in time. Who waits `for_work` in a
/// process that was asked to end tries once, then hears of it.
///
/// It sleeps at once. Trying again for a while first, as waits in shared memory do, was measured: each try is a
/// system call that takes the queue's lock from the other side, and made round trips seven times as long.
fn wait<T: Send>(
    py: Python<'_>,
    timeout: Timeout,
    for_work: bool,
    closed: impl Fn() -> bool,
    mut attempt: impl FnMut(Option<Duration>) -> Result<Outcome<T>> + Send,
) -> PyResult<Option<T>> {
    let deadline = match timeout {
        Timeout::Never => None,
        Timeout::Until(deadline) => Some(deadline),
        _ => return Ok(None),
    };
    loop {
        let most = if for_work && stopping() { Duration::ZERO } else { SLICE };
        let slice = deadline.map_or(most, |end| end.saturating_duration_since(Instant::now()).min(most));
        match py.detach(|| attempt(Some(slice))) {
            Ok(Outcome::Done(value)) => return Ok(Some(value)),
            Ok(Outcome::TimedOut | Outcome::Interrupted) => {}
            Err(error) => return Err(convert(py, error)),
        }
        heed(py, for_work)?;
        if closed() {
            return Err(convert(py, Error::Closed));
        }
        if deadline.is_some_and(|end| Instant::now() >= end) {
            return Ok(None);
        }
    }
}
