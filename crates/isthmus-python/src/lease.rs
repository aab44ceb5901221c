//! The class `isthmus._core.Lease`: a message that is done only when its consumer says so.

use std::sync::atomic::{AtomicBool, Ordering};

use isthmus_core::error::Error;
use isthmus_core::process;
use isthmus_core::queue::Leased;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::errors::OrRaise;
use crate::hold::{Ending, PyView};
use crate::queue::PyQueue;

/// A message on lease; `isthmus.Queue.lease` says more.
#[pyclass(name = "Lease", module = "isthmus", frozen, freelist = 16)]
pub(crate) struct PyLease {
    queue: Py<PyQueue>,
    leased: Leased,
    /// The message.
    #[pyo3(get)]
    message: Py<PyAny>,
    /// Holds the run of a large message.
    block: Option<Py<PyView>>,
    epoch: u64,
    ended: AtomicBool,
}

impl PyLease {
    #[inline]
    pub(crate) fn new(slf: &Bound<'_, PyQueue>, leased: Leased, message: Py<PyAny>) -> PyResult<PyLease> {
        // The record is written when the lease ends, whether the queue's handle is closed or not.
        slf.get().handle.session().keep().or_raise(slf.py())?;
        slf.get().note_lease(leased.index());
        let queue = slf.clone().unbind();
        let (epoch, ended) = (process::epoch(), AtomicBool::new(false));
        Ok(PyLease { queue, leased, message, block: None, epoch, ended })
    }

    pub(crate) fn set_message(&mut self, message: Py<PyAny>) {
        self.message = message;
    }

    /// The run of a large message is the lease's from now on.
    pub(crate) fn hold<'a, 'py>(&'a mut self, view: Bound<'py, PyView>) -> &'a Bound<'py, PyView>
    where
        'py: 'a,
    {
        let py = view.py();
        self.block.insert(view.unbind()).bind(py)
    }

    /// The message cannot be used: it goes back, or to `q.dead`.
    pub(crate) fn refuse(&self, reason: String, for_good: bool) {
        if self.begin_end() {
            self.give_back(reason, for_good);
        }
    }

    /// The usual end: nobody has ended it before, and it is acknowledged; false where that is not so, and nothing
    /// was done.
    #[inline]
    pub(crate) fn try_acknowledge(&self) -> bool {
        self.block.is_none() && self.begin_end() && {
            let ended = self.acknowledge();
            // The whole method finds it lost once more, and says so.
            self.ended.store(ended, Ordering::Release);
            ended
        }
    }

    /// The first to end it does; in a forked child nobody does: the lease is its parent's.
    fn begin_end(&self) -> bool {
        // With the GIL held: nobody comes in between.
        let first = self.epoch == process::epoch() && !self.ended.load(Ordering::Relaxed);
        if first {
            self.ended.store(true, Ordering::Relaxed);
        }
        first
    }

    fn give_back(&self, reason: String, for_good: bool) -> bool {
        match &self.block {
            Some(view) => view.get().end(Ending::GiveBack { lease: self.leased, reason, for_good }),
            None => self.queue.get().handle.give_back(&self.leased, &reason, for_good),
        }
    }

    fn end_or_raise(&self, py: Python<'_>, end: impl FnOnce() -> bool) -> PyResult<()> {
        if self.ended.load(Ordering::Acquire) {
            return Err(PyRuntimeError::new_err("this lease has ended already"));
        }
        if self.begin_end() && !end() {
            return Err(crate::errors::convert(py, Error::Buried));
        }
        Ok(())
    }

    #[inline]
    fn acknowledge(&self) -> bool {
        let ended = self.queue.get().handle.acknowledge(&self.leased);
        // Where it was lost, the run is somebody else's.
        if let Some(view) = self.block.as_ref().filter(|_| ended) {
            view.get().end(Ending::Free);
        }
        ended
    }
}

#[pymethods]
impl PyLease {
    /// How often the message was handed out, this time included.
    #[getter]
    fn delivery_count(&self) -> u32 {
        self.leased.deliveries()
    }

    /// Which message of its level it is, from 0.
    #[getter]
    fn number(&self) -> u64 {
        self.leased.origin.number
    }

    /// Its level of priority.
    #[getter]
    fn priority(&self) -> u8 {
        self.leased.origin.level
    }

    /// Process id of who put it; None where that process is not known any more.
    #[getter]
    fn sender(&self) -> Option<u32> {
        self.queue.get().handle.sender(self.leased.origin.sender)
    }

    /// True once acknowledged or given back.
    #[getter]
    fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// The message is done and will not be handed out again.
    ///
    /// Raises `RuntimeError` where the lease has ended already, and `BuriedError` where the others had declared
    /// this process dead and handed the message to somebody else.
    fn ack(&self, py: Python<'_>) -> PyResult<()> {
        self.end_or_raise(py, || self.acknowledge())
    }

    /// Gives the message back: the next consumer gets it, before all others; after `max_deliveries` it goes to
    /// `q.dead` with the reason. Where views of it are still in use it goes back with the last of them.
    #[pyo3(signature = (reason = ""))]
    fn nack(&self, py: Python<'_>, reason: &str) -> PyResult<()> {
        self.end_or_raise(py, || self.give_back(reason.to_owned(), false))
    }

    /// Nobody will be able to use the message: it goes to `q.dead` at once.
    #[pyo3(signature = (reason = ""))]
    fn reject(&self, py: Python<'_>, reason: &str) -> PyResult<()> {
        self.end_or_raise(py, || self.give_back(reason.to_owned(), true))
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        if !self.begin_end() {
            return Ok(());
        }
        let ended = if kind.is_none() {
            self.acknowledge()
        } else {
            let name = error.get_type().name().map_or_else(|_| String::new(), |name| name.to_string());
            self.give_back(format!("{name}: {error}"), false)
        };
        if ended { Ok(()) } else { Err(crate::errors::convert(py, Error::Buried)) }
    }

    fn __repr__(&self) -> String {
        let ended = if self.ended.load(Ordering::Relaxed) { " (ended)" } else { "" };
        format!("<isthmus.Lease of message {}, delivery {}{ended}>", self.number(), self.delivery_count())
    }
}

impl Drop for PyLease {
    fn drop(&mut self) {
        if !self.ended.load(Ordering::Acquire) {
            self.refuse("the lease was dropped without an acknowledgement".to_owned(), false);
        }
        self.queue.get().handle.session().release();
    }
}
