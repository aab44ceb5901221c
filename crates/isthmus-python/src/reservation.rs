//! The class `isthmus._core.Reservation`: a message that is filled in place before it is put.

use std::ffi::c_int;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use isthmus_core::process;
use pyo3::exceptions::{PyBufferError, PyRuntimeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyMemoryView;

use crate::arguments::{Timeout, integer, shown};
use crate::errors::is;
use crate::hold::{Hold, Private};
use crate::queue::PyQueue;
use crate::receiving::copy;

const OPEN: u8 = 0;
const PUT: u8 = 1;
const CANCELLED: u8 = 2;

enum Source {
    /// In the queue's memory.
    Shared(Hold),
    /// A small message: put with a copy.
    Private(Private),
}

/// Memory for one message, to be filled and put; `isthmus.Queue.reserve` says more.
#[pyclass(name = "Reservation", module = "isthmus", frozen)]
pub(crate) struct PyReservation {
    queue: Py<PyQueue>,
    source: Source,
    reserved: usize,
    length: AtomicUsize,
    level: u8,
    /// Seconds, for memory and again for putting: filling takes as long as it takes.
    timeout: Option<f64>,
    state: AtomicU8,
    epoch: u64,
    exports: AtomicUsize,
    /// What `with` gave out.
    memory: Mutex<Option<Py<PyMemoryView>>>,
}

impl PyReservation {
    pub(crate) fn new(
        slf: &Bound<'_, PyQueue>,
        length: usize,
        run: Option<Hold>,
        level: u8,
        timeout: Option<f64>,
    ) -> PyReservation {
        let source = match run {
            Some(hold) => Source::Shared(hold),
            None => Source::Private(Private::new(vec![0; length])),
        };
        PyReservation {
            queue: slf.clone().unbind(),
            source,
            reserved: length,
            length: AtomicUsize::new(length),
            level,
            timeout,
            state: AtomicU8::new(OPEN),
            epoch: process::epoch(),
            exports: AtomicUsize::new(0),
            memory: Mutex::new(None),
        }
    }

    fn start(&self) -> *mut u8 {
        match &self.source {
            Source::Shared(hold) => hold.address(self.reserved),
            Source::Private(bytes) => bytes.start(),
        }
    }

    fn check_open(&self) -> PyResult<()> {
        match self.state.load(Ordering::Acquire) {
            OPEN => Ok(()),
            PUT => Err(PyRuntimeError::new_err("this reservation was put already")),
            _ => Err(PyRuntimeError::new_err("this reservation was cancelled")),
        }
    }

    /// Gives the memory back, at once or (as it may still be written) with the last array made of it.
    fn give_back(&self, hold: &Hold) {
        if self.exports.load(Ordering::Acquire) == 0 {
            hold.free();
        }
    }

    /// True for the first who settles what becomes of it; in a forked child nobody does: it is its parent's.
    fn settle(&self, state: u8) -> bool {
        self.epoch == process::epoch()
            && self.state.compare_exchange(OPEN, state, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Takes the memoryview given out by `with` away, where nothing was made of it that still lives.
    fn withdraw(&self, py: Python<'_>) {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(memory) = memory {
            let _ = memory.bind(py).call_method0("release");
        }
    }
}

#[pymethods]
impl PyReservation {
    /// Puts the message. What was reserved must not be written any more.
    fn put(&self, py: Python<'_>) -> PyResult<()> {
        self.put_within(py, Timeout::new(self.timeout)?)
    }

    /// As `put`; with a timeout of its own.
    #[pyo3(name = "_put")]
    fn put_within(&self, py: Python<'_>, timeout: Timeout) -> PyResult<()> {
        if !self.settle(PUT) {
            return if self.epoch == process::epoch() { self.check_open() } else { Ok(()) };
        }
        let queue = self.queue.get();
        self.withdraw(py);
        let length = self.length.load(Ordering::Acquire);
        let put = match &self.source {
            Source::Shared(hold) => {
                let put = queue.put_run(py, self.level, hold.run(), length, timeout);
                match &put {
                    Ok(_) => hold.forget(),
                    Err(error) if is(py, error, "WouldBlock") => {}
                    Err(_) => self.give_back(hold),
                }
                put
            }
            Source::Private(bytes) => copy(py, bytes.start(), length)
                .and_then(|message| queue.put_small(py, self.level, message.as_bytes(), timeout)),
        };
        if let Err(error) = &put {
            let state = if is(py, error, "WouldBlock") { OPEN } else { CANCELLED };
            self.state.store(state, Ordering::Release);
        }
        put.map(drop)
    }

    /// Gives the memory back without putting anything; does nothing where that is settled already.
    fn cancel(&self, py: Python<'_>) {
        self.withdraw(py);
        if self.settle(CANCELLED)
            && let Source::Shared(hold) = &self.source
        {
            self.give_back(hold);
        }
    }

    /// Makes the message shorter than what was reserved: only the first `length` bytes are put.
    fn shorten(&self, #[pyo3(from_py_with = integer)] length: i64) -> PyResult<()> {
        self.check_open()?;
        match usize::try_from(length).ok().filter(|length| *length <= self.reserved) {
            Some(length) => self.length.store(length, Ordering::Release),
            None => {
                return Err(PyValueError::new_err(format!(
                    "length is {}: {} bytes were reserved",
                    shown(length),
                    self.reserved
                )));
            }
        }
        Ok(())
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyMemoryView>> {
        let this = slf.get();
        this.check_open()?;
        let memory = PyMemoryView::from(slf)?;
        *this.memory.lock().unwrap_or_else(PoisonError::into_inner) = Some(memory.clone().unbind());
        Ok(memory)
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        if !kind.is_none() {
            self.cancel(py);
            return Ok(());
        }
        if self.check_open().is_ok() { self.put(py) } else { Ok(()) }
    }

    /// Whether it was put or cancelled.
    #[getter(_settled)]
    fn is_settled(&self) -> bool {
        self.check_open().is_err()
    }

    fn __len__(&self) -> usize {
        self.length.load(Ordering::Acquire)
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let this = slf.get();
        this.check_open().map_err(|error| PyBufferError::new_err(error.value(slf.py()).to_string()))?;
        // SAFETY: the interpreter gives a Py_buffer to fill; the memory stays mapped (and, for a small message,
        // allocated) as long as the reservation, to which the buffer holds a reference.
        let filled = unsafe {
            let start = this.start().cast();
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, this.reserved as isize, 0, flags)
        };
        if filled != 0 {
            return Err(PyErr::fetch(slf.py()));
        }
        this.exports.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        if self.exports.fetch_sub(1, Ordering::AcqRel) == 1
            && self.state.load(Ordering::Acquire) == CANCELLED
            && let Source::Shared(hold) = &self.source
        {
            hold.free();
        }
    }
}
