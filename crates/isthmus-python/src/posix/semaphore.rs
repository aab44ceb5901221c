//! The class `isthmus._core.NamedSemaphore`: the C library's semaphores with a name.

use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use isthmus_core::error::Error;
use isthmus_core::sys::mq::name;
use isthmus_core::sys::semaphore::{self, NAME_MAX, Semaphore, VALUE_MAX};
use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;

use super::{create, permissions, wait};
use crate::arguments::Timeout;
use crate::errors::{OrRaise, convert};

/// A counter that any program shares; `isthmus.NamedSemaphore` says more.
#[pyclass(name = "NamedSemaphore", module = "isthmus._core", subclass, frozen)]
pub(crate) struct PyNamedSemaphore {
    /// For calls that hold the GIL; null once closed. Who gives up the GIL holds `owner` meanwhile.
    semaphore: AtomicPtr<Semaphore>,
    owner: Mutex<Option<Arc<Semaphore>>>,
    name: String,
}

impl PyNamedSemaphore {
    /// Calls with the semaphore, for calls that do not wait.
    #[inline]
    fn with<T>(&self, py: Python<'_>, call: impl FnOnce(&Semaphore) -> T) -> PyResult<T> {
        // SAFETY: null, or what `owner` holds: `close` needs the GIL, which is held here to the end of the call.
        unsafe { self.semaphore.load(Relaxed).as_ref() }.map(call).ok_or_else(|| convert(py, Error::Closed))
    }

    /// The semaphore, which stays open as long as somebody has it from here.
    fn shared(&self, py: Python<'_>) -> PyResult<Arc<Semaphore>> {
        let semaphore = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        semaphore.clone().ok_or_else(|| convert(py, Error::Closed))
    }

    fn is_closed(&self) -> bool {
        self.semaphore.load(Relaxed).is_null()
    }

    #[inline]
    fn take(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        Timeout::check(timeout)?;
        if self.with(py, Semaphore::try_acquire)? {
            return Ok(true);
        }
        self.wait(py, Timeout::new(timeout)?)
    }

    #[cold]
    fn wait(&self, py: Python<'_>, timeout: Timeout) -> PyResult<bool> {
        let semaphore = self.shared(py)?;
        let attempt = |limit: Option<std::time::Duration>| semaphore.acquire(limit.unwrap_or_default());
        Ok(wait(py, timeout, false, || self.is_closed(), attempt)?.is_some())
    }

    fn give(&self, py: Python<'_>) -> PyResult<()> {
        if self.with(py, Semaphore::release)? {
            return Ok(());
        }
        let text = format!("{} has the largest value already, {VALUE_MAX}", self.name);
        Err(PyOverflowError::new_err(text))
    }
}

#[pymethods]
impl PyNamedSemaphore {
    #[new]
    #[pyo3(signature = (name_, mode_, initial, permissions_))]
    fn new(
        py: Python<'_>,
        name_: &str,
        mode_: &str,
        initial: i128,
        permissions_: i64,
    ) -> PyResult<PyNamedSemaphore> {
        let value = u32::try_from(initial).ok().filter(|value| *value <= VALUE_MAX).ok_or_else(|| {
            PyValueError::new_err(format!("initial is {initial}: a semaphore has 0 to {VALUE_MAX}"))
        })?;
        let c_name = name(name_, "POSIX semaphore", NAME_MAX).or_raise(py)?;
        let (create, permissions) = (create(mode_)?, permissions(permissions_)?);
        let semaphore = Arc::new(Semaphore::open(&c_name, create, permissions, value).or_raise(py)?);
        Ok(PyNamedSemaphore {
            semaphore: AtomicPtr::new(Arc::as_ptr(&semaphore).cast_mut()),
            owner: Mutex::new(Some(semaphore)),
            name: c_name.to_string_lossy().into_owned(),
        })
    }

    /// Takes one; False when `timeout` seconds went by (None waits, 0 tries).
    #[pyo3(signature = (timeout = None))]
    fn acquire(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        self.take(py, timeout)
    }

    /// Gives `n` back, or more than there were: anyone may. OverflowError beyond 2147483647, where some of them may
    /// have been given.
    #[pyo3(signature = (n = 1))]
    fn release(&self, py: Python<'_>, n: i64) -> PyResult<()> {
        if !(1..=i64::from(VALUE_MAX)).contains(&n) {
            return Err(PyValueError::new_err(format!("n is {n}: it takes 1 to {VALUE_MAX}")));
        }
        (0..n).try_for_each(|_| self.give(py))
    }

    /// How many there are; 0 while others wait. Another moment may differ.
    #[getter]
    fn value(&self, py: Python<'_>) -> PyResult<i32> {
        self.with(py, Semaphore::value)
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyResult<PyRef<'_, Self>> {
        slf.take(slf.py(), None)?;
        Ok(slf)
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.give(py)
    }

    /// Ends this handle; what it has taken stays taken. The semaphore stays until `unlink()`. Closing twice does
    /// nothing.
    fn close(&self) {
        self.semaphore.store(std::ptr::null_mut(), Relaxed);
        self.owner.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Removes the name; those who have it open go on using it. `FileNotFoundError` where it is gone.
    fn unlink(&self, py: Python<'_>) -> PyResult<()> {
        unlink_semaphore(py, &self.name)
    }

    /// The name as C programs give it to sem_open: `/seats`.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// True after `close()`.
    #[getter]
    fn closed(&self) -> bool {
        self.is_closed()
    }
}

/// Removes the POSIX semaphore of this name.
#[pyfunction]
pub(crate) fn unlink_semaphore(py: Python<'_>, name_: &str) -> PyResult<()> {
    semaphore::unlink(&name(name_, "POSIX semaphore", NAME_MAX).or_raise(py)?).or_raise(py)
}
