//! The kernel's own mechanisms that other programs use too: POSIX queues and semaphores, System V objects.

use std::time::{Duration, Instant};

use isthmus_core::error::{Error, Result};
use isthmus_core::sys::mq::{Create, Outcome};
use isthmus_core::wait::Spin;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::arguments::Timeout;
use crate::errors::convert;

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

/// Waits by `attempt(how_long)` until it is done, which `None` says was not so in time; one that was tried before.
/// First it tries again for as long as that has paid lately (`budget`, in nanoseconds), then it sleeps.
fn wait<T: Send>(
    py: Python<'_>,
    timeout: Timeout,
    mut budget: u32,
    closed: impl Fn() -> bool,
    mut attempt: impl FnMut(Option<Duration>) -> Result<Outcome<T>> + Send,
) -> PyResult<(Option<T>, u32)> {
    let deadline = match timeout {
        Timeout::Try => return Ok((None, budget)),
        other => other.deadline(),
    };
    let start = Instant::now();
    let mut spins = true;
    loop {
        py.check_signals()?;
        if closed() {
            return Err(convert(py, Error::Closed));
        }
        let now = Instant::now();
        let slice = deadline.map_or(SLICE, |end| end.saturating_duration_since(now).min(SLICE));
        let outcome = py.detach(|| {
            if std::mem::take(&mut spins)
                && let Some(outcome) = spin(budget, deadline, &mut attempt)
            {
                return outcome;
            }
            attempt(Some(slice))
        });
        match outcome {
            Ok(Outcome::Done(value)) => {
                let spin = Spin::with_budget(budget);
                spin.learn(start.elapsed());
                budget = spin.learned();
                return Ok((Some(value), budget));
            }
            Ok(Outcome::TimedOut) if deadline.is_some_and(|end| Instant::now() >= end) => {
                py.check_signals()?;
                return Ok((None, budget));
            }
            Ok(Outcome::TimedOut | Outcome::Interrupted) => {}
            Err(error) => return Err(convert(py, error)),
        }
    }
}

/// Tries without sleeping; `None` where that was in vain.
fn spin<T>(
    budget: u32,
    deadline: Option<Instant>,
    attempt: &mut impl FnMut(Option<Duration>) -> Result<Outcome<T>>,
) -> Option<Result<Outcome<T>>> {
    let attempt = std::cell::RefCell::new(attempt);
    let ended = std::cell::Cell::new(None);
    Spin::with_budget(budget).until(deadline, || match (attempt.borrow_mut())(None) {
        Ok(Outcome::TimedOut) => false,
        other => {
            ended.set(Some(other));
            true
        }
    });
    ended.take()
}
