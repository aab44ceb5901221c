//! Memory of the queue that Python code looks at: a run that this process owns, mapped until the last view of
//! it is gone, and the class `isthmus._core.View`.

use std::ffi::c_int;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use isthmus_core::error::Error;
use isthmus_core::owner::Owner;
use isthmus_core::process;
use isthmus_core::queue::{Leased, Run};
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};

use crate::errors::OrRaise;
use crate::queue::PyQueue;
use crate::receiving::copy;

/// A run that this process owns, and the mapping it lies in, whether the queue's handle is closed or not.
pub(crate) struct Hold {
    queue: Py<PyQueue>,
    me: Owner,
    run: Run,
    epoch: u64,
    /// Given back when dropped.
    ours: AtomicBool,
}

impl Hold {
    /// With `ours` the run is given back when this is dropped; without, somebody else says what becomes of it.
    pub(crate) fn new(slf: &Bound<'_, PyQueue>, me: Owner, run: Run, ours: bool) -> PyResult<Hold> {
        slf.get().handle.session().keep().or_raise(slf.py())?;
        let ours = AtomicBool::new(ours);
        Ok(Hold { queue: slf.clone().unbind(), me, run, epoch: process::epoch(), ours })
    }

    pub(crate) fn queue(&self) -> &PyQueue {
        self.queue.get()
    }

    pub(crate) fn run(&self) -> Run {
        self.run
    }

    /// False in a forked child: the run is its parent's.
    pub(crate) fn is_here(&self) -> bool {
        self.epoch == process::epoch()
    }

    pub(crate) fn address(&self, length: usize) -> *mut u8 {
        let queue = self.queue().handle.queue();
        queue.memory().address(queue.run_offset(self.run), length)
    }

    /// The run of a lease that was acknowledged: it can be given back.
    fn take_over(&self) {
        self.ours.store(true, Ordering::Relaxed);
    }

    /// The run is the queue's now.
    pub(crate) fn forget(&self) {
        self.ours.store(false, Ordering::Relaxed);
    }

    /// Gives the run back, once; false where it was not ours any more.
    pub(crate) fn free(&self) -> bool {
        if !self.ours.swap(false, Ordering::AcqRel) || !self.is_here() {
            return true;
        }
        self.queue().handle.queue().free(self.me, self.run)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.free();
        self.queue.get().handle.session().release();
    }
}

/// What happens to a leased run when the last view of it is gone.
pub(crate) enum Ending {
    /// The lease was acknowledged.
    Free,
    /// The message goes back to the queue.
    GiveBack { lease: Leased, reason: String, for_good: bool },
}

/// Memory of this process that Python code reads and writes.
pub(crate) struct Private {
    start: *mut u8,
    length: usize,
}

// SAFETY: plain memory; who reads and writes it when is Python's to say, as with a bytearray.
unsafe impl Send for Private {}
// SAFETY: as above.
unsafe impl Sync for Private {}

impl Private {
    pub(crate) fn new(bytes: Vec<u8>) -> Private {
        let length = bytes.len();
        Private { start: Box::into_raw(bytes.into_boxed_slice()).cast(), length }
    }

    pub(crate) fn start(&self) -> *mut u8 {
        self.start
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // SAFETY: made by Box::into_raw from a slice of this length, and dropped once.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.start, self.length)) });
    }
}

enum Source {
    /// In the queue's memory.
    Shared(Hold),
    /// A small message, copied.
    Private(Private),
}

/// A message seen in place; `isthmus.Queue.get_view` says more.
#[pyclass(name = "View", module = "isthmus", frozen)]
pub(crate) struct PyView {
    source: Source,
    length: usize,
    writable: bool,
    /// The lease says what becomes of the memory, not the view.
    leased: bool,
    exports: AtomicUsize,
    released: AtomicBool,
    ending: Mutex<Option<Ending>>,
}

impl PyView {
    pub(crate) fn shared(hold: Hold, length: usize, writable: bool, leased: bool) -> PyView {
        PyView::new(Source::Shared(hold), length, writable, leased)
    }

    pub(crate) fn private(bytes: &[u8], writable: bool) -> PyView {
        PyView::new(Source::Private(Private::new(bytes.to_vec())), bytes.len(), writable, false)
    }

    fn new(source: Source, length: usize, writable: bool, leased: bool) -> PyView {
        PyView {
            source,
            length,
            writable,
            leased,
            exports: AtomicUsize::new(0),
            released: AtomicBool::new(false),
            ending: Mutex::new(None),
        }
    }

    fn start(&self) -> *mut u8 {
        match &self.source {
            Source::Shared(hold) => hold.address(self.length),
            Source::Private(bytes) => bytes.start(),
        }
    }

    /// The run, for one who makes something else of it than a view.
    pub(crate) fn hold(&self) -> Option<&Hold> {
        match &self.source {
            Source::Shared(hold) => Some(hold),
            Source::Private(_) => None,
        }
    }

    /// True where a memoryview or an array of it lives.
    pub(crate) fn is_exported(&self) -> bool {
        self.exports.load(Ordering::Acquire) > 0
    }

    /// A copy of the message.
    pub(crate) fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        copy(py, self.start(), self.length)
    }

    /// Says what becomes of the memory; it happens now, or when the last view of it is gone.
    pub(crate) fn end(&self, ending: Ending) -> bool {
        self.released.store(true, Ordering::Release);
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner) = Some(ending);
        self.exports.load(Ordering::Acquire) > 0 || self.finish()
    }

    /// False where the memory was not ours any more.
    fn finish(&self) -> bool {
        let ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Source::Shared(hold) = &self.source else { return true };
        match ending {
            None => true,
            Some(Ending::Free) => {
                if self.leased {
                    hold.take_over();
                }
                hold.free()
            }
            Some(Ending::GiveBack { lease, reason, for_good }) => {
                hold.forget();
                !hold.is_here() || hold.queue().handle.give_back(&lease, &reason, for_good)
            }
        }
    }
}

#[pymethods]
impl PyView {
    /// Lets go of the memory; it is given back when the last buffer taken of it (a memoryview, an array) is gone.
    ///
    /// Raises `BuriedError` where the other processes had declared this one dead: what was read may have been
    /// another message's.
    pub(crate) fn release(&self, py: Python<'_>) -> PyResult<()> {
        let before = self.released.swap(true, Ordering::AcqRel);
        if before || self.leased || self.end(Ending::Free) {
            return Ok(());
        }
        Err(crate::errors::convert(py, Error::Buried))
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.release(py)
    }

    fn __len__(&self) -> usize {
        self.length
    }

    fn __getitem__<'py>(slf: &Bound<'py, Self>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        PyMemoryView::from(slf)?.get_item(key)
    }

    fn __repr__(&self) -> String {
        let released = if self.released.load(Ordering::Relaxed) { " (released)" } else { "" };
        format!("<isthmus.View of {} bytes{released}>", self.length)
    }

    /// True where the bytes may be changed.
    #[getter]
    fn writable(&self) -> bool {
        self.writable
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let this = slf.get();
        if this.released.load(Ordering::Acquire) {
            return Err(PyBufferError::new_err("this view was released"));
        }
        // SAFETY: the interpreter gives a Py_buffer to fill; the memory stays until it is released again,
        // because the buffer holds a reference to the view and exports are counted.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                this.start().cast(),
                this.length as isize,
                c_int::from(!this.writable),
                flags,
            )
        };
        if filled != 0 {
            return Err(PyErr::fetch(slf.py()));
        }
        this.exports.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        if self.exports.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.finish();
        }
    }
}
