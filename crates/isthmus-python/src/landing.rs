//! A large message on its way in, under `isthmus.Stream`.

use std::mem::MaybeUninit;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use isthmus_core::error::Result;
use isthmus_core::sys::pipe::{self, Moved, READABLE};
use isthmus_core::sys::socket::receive_now;
use pyo3::exceptions::{PyBlockingIOError, PyMemoryError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyBytes;

use crate::errors::OrRaise;
use crate::patience::PyPatience;
use crate::receiving::blank;

/// Longest time without a look at signals and at the clock of whoever waits.
const SLICE: Duration = Duration::from_millis(10);

const EAGAIN: i32 = 11;

/// The `bytes` of one message, which the kernel copies to where they belong. What came stays when a call is
/// interrupted.
#[pyclass(name = "Landing", module = "isthmus._core", frozen)]
pub(crate) struct PyLanding {
    /// Made when the first bytes come; not given to anybody before it is complete, and until then it may be
    /// written.
    message: PyOnceLock<Py<PyBytes>>,
    size: usize,
    /// How many of them have come. Who writes holds the lock.
    came: Mutex<usize>,
}

enum Met {
    /// It is complete, or time to look at other things.
    Enough,
    Nothing,
    End,
}

impl PyLanding {
    fn came(&self) -> MutexGuard<'_, usize> {
        self.came.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn message(&self, py: Python<'_>) -> PyResult<&Py<PyBytes>> {
        self.message.get_or_try_init(py, || blank(py, self.size).map(Bound::unbind))
    }

    /// Where the bytes of the message are, as a number: pointers are not Send.
    fn start(&self, py: Python<'_>) -> PyResult<usize> {
        // SAFETY: it is a bytes object.
        Ok(unsafe { ffi::PyBytes_AsString(self.message(py)?.as_ptr()) } as usize)
    }

    /// What is missing, of the message that begins at `start`; only for who holds the lock, and not when it is
    /// complete.
    fn rest<'a>(&'a self, start: usize, came: &'a mut MutexGuard<'_, usize>) -> &'a mut [MaybeUninit<u8>] {
        debug_assert!(**came < self.size);
        // SAFETY: inside the object, which lives as long as this and is nobody else's before it is complete; the
        // lock is held as long as the slice lives.
        unsafe {
            let start = (start as *mut MaybeUninit<u8>).add(**came);
            std::slice::from_raw_parts_mut(start, self.size - **came)
        }
    }

    fn receive(&self, start: usize, fd: i32, patience: Option<&PyPatience>) -> Result<Met> {
        let began = Instant::now();
        let mut came = self.came();
        while *came < self.size {
            match receive_now(fd, self.rest(start, &mut came))? {
                Moved::Bytes(0) => return Ok(Met::End),
                Moved::Bytes(count) => *came += count,
                Moved::WouldBlock => {
                    let look = || pipe::ready(fd, READABLE, 0).unwrap_or(true);
                    if !patience.is_some_and(|patience| patience.0.spin(None, look)) {
                        return Ok(Met::Nothing);
                    }
                }
            }
            if began.elapsed() > SLICE {
                break;
            }
        }
        Ok(Met::Enough)
    }
}

#[pymethods]
impl PyLanding {
    /// For a message of `size` bytes, of which the first have come; the system gives the memory as they come.
    #[new]
    fn new(py: Python<'_>, size: usize, first: &[u8]) -> PyResult<PyLanding> {
        if isize::try_from(size).is_err() {
            return Err(PyMemoryError::new_err(format!("a message of {size} bytes")));
        }
        let landing = PyLanding { message: PyOnceLock::new(), size, came: Mutex::new(0) };
        landing.add(py, first)?;
        Ok(landing)
    }

    /// Bytes that have not come yet.
    #[getter]
    fn missing(&self) -> usize {
        self.size - *self.came()
    }

    /// Bytes of all of it.
    #[getter]
    fn size(&self) -> usize {
        self.size
    }

    /// A copy of the bytes that have come.
    fn begun<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let start = self.start(py)?;
        let came = self.came();
        // SAFETY: so many bytes at the beginning were written, and who writes behind them holds the lock.
        let begun = unsafe { std::slice::from_raw_parts(start as *const u8, *came) };
        Ok(PyBytes::new(py, begun))
    }

    /// Puts the bytes that come next; False where there are none, which is what the end looks like.
    fn add(&self, py: Python<'_>, data: &[u8]) -> PyResult<bool> {
        if data.is_empty() {
            return Ok(false);
        }
        let start = self.start(py)?;
        let mut came = self.came();
        if data.len() > self.size - *came {
            return Err(PyValueError::new_err("more bytes than are missing"));
        }
        for (place, byte) in self.rest(start, &mut came).iter_mut().zip(data) {
            place.write(*byte);
        }
        *came += data.len();
        Ok(true)
    }

    /// Receives from a socket what is there, and what comes while it looks; False at the end of the stream.
    ///
    /// BlockingIOError when there is nothing more and the message is not complete. It may come back earlier.
    fn fill(&self, py: Python<'_>, fd: i32, patience: Option<&Bound<'_, PyPatience>>) -> PyResult<bool> {
        let patience = patience.map(Bound::get);
        let start = self.start(py)?;
        match py.detach(|| self.receive(start, fd, patience)).or_raise(py)? {
            Met::Enough => Ok(true),
            Met::End => Ok(false),
            Met::Nothing => Err(PyBlockingIOError::new_err((EAGAIN, "nothing is there"))),
        }
    }

    /// The message, which is complete.
    fn take(&self, py: Python<'_>) -> PyResult<Py<PyBytes>> {
        if self.missing() > 0 {
            return Err(PyValueError::new_err("the message is not complete"));
        }
        Ok(self.message(py)?.clone_ref(py))
    }
}
