//! `PosixQueue.notify`: signals, and functions that the C library calls in a thread of its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use isthmus_core::error::Error;
use isthmus_core::process;
use isthmus_core::sys::mq::{self, Notice};
use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::queue::PyPosixQueue;
use crate::errors::convert;

/// Functions that wait for their notice, by the number that goes with it. The library may call after a registration
/// has ended, so it is given a number and not an address.
static WAITING: Mutex<Option<HashMap<u64, Py<PyAny>>>> = Mutex::new(None);
static NUMBERS: AtomicU64 = AtomicU64::new(1);

const EBUSY: i32 = 16;
/// The largest number of a signal.
const SIGRTMAX: i64 = 64;

/// The registration of a handle.
pub(super) struct Ticket {
    number: u64,
    epoch: u64,
}

fn insert(number: u64, function: Py<PyAny>) {
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.get_or_insert_default().insert(number, function);
}

fn remove(number: u64) -> Option<Py<PyAny>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?.remove(&number)
}

/// In a thread of the C library.
fn called(number: u64) {
    let Some(function) = remove(number) else { return };
    // None where Python is about to end: then there is nobody to tell, and the object is left alone.
    let mut function = Some(function);
    Python::try_attach(|py| {
        if let Some(function) = function.take()
            && let Err(error) = function.call0(py)
        {
            error.write_unraisable(py, Some(function.bind(py)));
        }
    });
    std::mem::forget(function);
}

impl PyPosixQueue {
    pub(super) fn register(&self, py: Python<'_>, to: &Bound<'_, PyAny>, payload: i64) -> PyResult<()> {
        let queue = self.queue(py)?;
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let notice = if to.is_none() {
            None
        } else if to.is_callable() {
            insert(number, to.clone().unbind());
            Some(Notice::Call(called, number))
        } else {
            let signal: i64 = to.extract().map_err(|_| {
                PyTypeError::new_err(format!(
                    "to takes the number of a signal, a function or None, not {to:?}"
                ))
            })?;
            if !(1..=SIGRTMAX).contains(&signal) {
                return Err(PyValueError::new_err(format!("{signal} is no signal: 1 to {SIGRTMAX} are")));
            }
            let Ok(payload) = i32::try_from(payload) else {
                return Err(PyValueError::new_err(format!("payload is {payload}: it takes 32 bits")));
            };
            Some(Notice::Signal(signal as i32, u64::from(payload as u32)))
        };
        // A registration of ours is replaced; the kernel refuses a second one even of the same process.
        let ours = self.forget_notice();
        if ours && notice.is_some() {
            let _ = mq::notify(queue.raw(), None);
        }
        // The C library starts a thread the first time.
        let done = py.detach(|| mq::notify(queue.raw(), notice));
        match (done, notice) {
            (Ok(()), Some(_)) => {
                let ticket = Ticket { number, epoch: process::epoch() };
                *self.notice.lock().unwrap_or_else(PoisonError::into_inner) = Some(ticket);
                Ok(())
            }
            (Ok(()), None) => Ok(()),
            (Err(error), _) => {
                remove(number);
                Err(Self::refused(py, queue.raw(), error))
            }
        }
    }

    fn refused(py: Python<'_>, fd: i32, error: Error) -> PyErr {
        if !matches!(error, Error::Os { errno: EBUSY, .. }) {
            return convert(py, error);
        }
        let who = match mq::status(fd) {
            Some((_, pid)) if pid != 0 => format!("process {pid}"),
            _ => "another process".to_owned(),
        };
        PyOSError::new_err((
            EBUSY,
            format!("{who} is registered for the notices of this queue, and the kernel takes one at a time"),
        ))
    }

    /// Forgets the function of the last registration; true where there may still be one at the kernel.
    fn forget_notice(&self) -> bool {
        let ticket = self.notice.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A forked child has a copy of what its parent registered, and the kernel knows the parent only.
        ticket.is_some_and(|ticket| {
            remove(ticket.number);
            ticket.epoch == process::epoch()
        })
    }

    /// Ends the registration, if there is one.
    pub(super) fn cancel_notice(&self) {
        if self.forget_notice()
            && let Some(fd) = self.fd()
        {
            let _ = mq::notify(fd, None);
        }
    }
}
