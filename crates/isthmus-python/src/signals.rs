//! What `isthmus.signals` needs of the kernel and Python does not have.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use isthmus_core::sys::signal::{self, Set, capture, timer};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::errors::{OrRaise, raise};

/// This process was asked to end: waits for something to do end too.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// Whether this process was asked to end: who waits for work looks once more whether there is some.
#[inline]
pub(crate) fn stopping() -> bool {
    STOPPING.load(Ordering::Relaxed)
}

/// What may have come while Python code waits: signals first, and with `for_work` also that this process was
/// asked to end, which is `ShutDown`.
#[inline]
pub(crate) fn heed(py: Python<'_>, for_work: bool) -> PyResult<()> {
    py.check_signals()?;
    if for_work && stopping() {
        return Err(raise(py, "ShutDown", "this process was asked to end (graceful_shutdown)", &[]));
    }
    Ok(())
}

/// Says that this process was asked to end, or is not any more.
#[pyfunction]
pub(crate) fn signal_stopping(stopping: bool) {
    STOPPING.store(stopping, Ordering::SeqCst);
}

fn set(signals: &[i32]) -> Set {
    signals.iter().fold(0, |set, &number| set | signal::bit(number))
}

/// Sends a signal with a number to the process (or the process group) behind a pidfd.
#[pyfunction]
pub(crate) fn signal_queue(
    py: Python<'_>,
    pidfd: i32,
    signal_: i32,
    value: i32,
    group: bool,
) -> PyResult<()> {
    signal::queue(pidfd, signal_, value, group).or_raise(py)
}

/// signalfd(2).
#[pyfunction]
pub(crate) fn signal_descriptor(py: Python<'_>, signals: Vec<i32>) -> PyResult<i32> {
    signal::descriptor(set(&signals)).or_raise(py)
}

/// Captures signals; with `settle` every other thread is made to block them. How many threads do not yet.
#[pyfunction]
pub(crate) fn signal_capture(
    py: Python<'_>,
    signals: Vec<i32>,
    journal: i32,
    bell: i32,
    settle: bool,
) -> PyResult<usize> {
    let signals = set(&signals);
    capture::install(signals, journal, bell, settle).or_raise(py)?;
    Ok(if settle { py.detach(|| capture::settle(signals)) } else { 0 })
}

/// Puts back what was there before `signal_capture`.
#[pyfunction]
pub(crate) fn signal_release(signals: Vec<i32>) {
    capture::release(set(&signals));
}

/// The calling thread has captured signals unblocked on purpose.
#[pyfunction]
pub(crate) fn signal_window(open: bool) {
    capture::window(open);
}

/// Sends this process a signal again that the journal has.
#[pyfunction]
pub(crate) fn signal_again(py: Python<'_>, record: &[u8]) -> PyResult<()> {
    capture::again_from(record).or_raise(py)
}

/// Gives the memory of the first `length` bytes of a journal back.
#[pyfunction]
pub(crate) fn signal_forget(journal: i32, length: u64) {
    capture::forget(journal, length);
}

static FOR_MAIN: AtomicU64 = AtomicU64::new(0);

extern "C" fn unblock_main(_: *mut c_void) -> c_int {
    signal::unblock(FOR_MAIN.swap(0, Ordering::SeqCst));
    0
}

/// Unblocks signals in the main thread, as soon as that runs Python code.
#[pyfunction]
pub(crate) fn signal_unblock_main(signals: Vec<i32>) -> PyResult<()> {
    FOR_MAIN.fetch_or(set(&signals), Ordering::SeqCst);
    // SAFETY: a function without an argument, which needs nothing but the thread it runs in.
    if unsafe { ffi::Py_AddPendingCall(Some(unblock_main), std::ptr::null_mut()) } != 0 {
        return Err(PyRuntimeError::new_err("the main thread has too many calls pending"));
    }
    Ok(())
}

fn seconds(name: &str, value: f64) -> PyResult<Duration> {
    if value.is_nan() || value < 0.0 {
        return Err(PyValueError::new_err(format!("{name} is {value}: it takes seconds, 0 or more")));
    }
    // Longer than a Duration is as good as for ever.
    Ok(Duration::try_from_secs_f64(value).unwrap_or(Duration::MAX))
}

fn setting(after: f64, interval: f64) -> PyResult<timer::Setting> {
    let (mut after, interval) = (seconds("after", after)?, seconds("interval", interval)?);
    if after.is_zero() && !interval.is_zero() {
        after = Duration::from_nanos(1); // zero would stop it
    }
    Ok(timer::Setting { after, interval })
}

/// timerfd_create(2).
#[pyfunction]
pub(crate) fn timer_descriptor(py: Python<'_>) -> PyResult<i32> {
    timer::descriptor().or_raise(py)
}

/// timerfd_settime(2).
#[pyfunction]
pub(crate) fn timer_set_descriptor(py: Python<'_>, fd: i32, after: f64, interval: f64) -> PyResult<()> {
    timer::set_descriptor(fd, setting(after, interval)?).or_raise(py)
}

/// timerfd_gettime(2).
#[pyfunction]
pub(crate) fn timer_left_descriptor(py: Python<'_>, fd: i32) -> PyResult<f64> {
    Ok(timer::left_descriptor(fd).or_raise(py)?.as_secs_f64())
}

/// timer_create(2).
#[pyfunction]
pub(crate) fn timer_create(py: Python<'_>, signal_: i32, value: i32) -> PyResult<usize> {
    timer::create(signal_, value).or_raise(py)
}

/// timer_settime(2).
#[pyfunction]
pub(crate) fn timer_set(py: Python<'_>, timer_: usize, after: f64, interval: f64) -> PyResult<()> {
    timer::set(timer_, setting(after, interval)?).or_raise(py)
}

/// timer_gettime(2).
#[pyfunction]
pub(crate) fn timer_left(py: Python<'_>, timer_: usize) -> PyResult<f64> {
    Ok(timer::left(timer_).or_raise(py)?.as_secs_f64())
}

/// timer_delete(2).
#[pyfunction]
pub(crate) fn timer_delete(py: Python<'_>, timer_: usize) -> PyResult<()> {
    timer::delete(timer_).or_raise(py)
}
