//! Arguments as Python gives them: timeouts, buffers, where an object is.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_core::namespace::Namespace;
use isthmus_core::object::Mode;
use pyo3::exceptions::{PyBufferError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::errors::OrRaise;

/// How long a call may take.
#[derive(Clone, Copy)]
pub(crate) enum Timeout {
    Never,
    Try,
    Until(Instant),
    /// Does not wait: raises `WouldBlock`, which says what to wait for. For event loops.
    Ask,
    /// As a try, but does not wait for a lock that another process is in the middle of, either.
    Last,
}

/// What event loops give in place of seconds.
#[pyclass(name = "Ask", module = "isthmus._core", frozen)]
pub(crate) struct PyAsk(Timeout);

impl PyAsk {
    pub(crate) fn both(py: Python<'_>) -> PyResult<[Py<PyAsk>; 2]> {
        Ok([Py::new(py, PyAsk(Timeout::Ask))?, Py::new(py, PyAsk(Timeout::Last))?])
    }
}

impl<'py> FromPyObject<'_, 'py> for Timeout {
    type Error = PyErr;

    fn extract(object: pyo3::Borrowed<'_, 'py, PyAny>) -> PyResult<Timeout> {
        if let Ok(ask) = object.cast::<PyAsk>() {
            return Ok(ask.get().0);
        }
        Timeout::new(Some(object.extract()?))
    }
}

impl Timeout {
    /// Refuses what is no timeout, for calls that may not need one.
    #[inline]
    pub(crate) fn check(seconds: Option<f64>) -> PyResult<()> {
        match seconds {
            Some(seconds) if seconds.is_nan() || seconds < 0.0 => Timeout::new(Some(seconds)).map(drop),
            _ => Ok(()),
        }
    }

    /// Seconds, `None` for ever.
    pub(crate) fn new(seconds: Option<f64>) -> PyResult<Timeout> {
        match seconds {
            None => Ok(Timeout::Never),
            Some(0.0) => Ok(Timeout::Try),
            Some(seconds) if seconds > 0.0 => {
                // Beyond what a Duration holds is as good as for ever.
                let length = Duration::try_from_secs_f64(seconds).ok();
                let end = length.and_then(|length| Instant::now().checked_add(length));
                Ok(end.map_or(Timeout::Never, Timeout::Until))
            }
            Some(seconds) => Err(PyValueError::new_err(format!(
                "timeout is {seconds}: it takes seconds from 0 (tries) upwards, or None (waits)"
            ))),
        }
    }

    /// Whether a call waits at all: one that only tries takes what is there also in a process that was asked to end.
    #[inline]
    pub(crate) fn waits(self) -> bool {
        matches!(self, Timeout::Never | Timeout::Until(_))
    }

    pub(crate) fn deadline(self) -> Option<Instant> {
        match self {
            Timeout::Never => None,
            Timeout::Try | Timeout::Ask | Timeout::Last => Some(Instant::now()),
            Timeout::Until(deadline) => Some(deadline),
        }
    }
}

/// Bytes of an object, readable as long as this lives; a view of anything but `bytes` holds the exporter
/// (a `bytearray` cannot be resized meanwhile).
pub(crate) struct Bytes {
    view: Option<Box<ffi::Py_buffer>>,
    start: *const u8,
    length: usize,
}

impl Bytes {
    #[inline]
    pub(crate) fn new(object: &Bound<'_, PyAny>) -> PyResult<Bytes> {
        let mut bytes = Bytes { view: None, start: std::ptr::null(), length: 0 };
        let pointer = object.as_ptr();
        // SAFETY: the object is alive and the GIL is held (there is a Bound); the type was checked.
        // The caller keeps the object alive as long as this value: it borrows an argument.
        unsafe {
            if ffi::PyBytes_Check(pointer) != 0 {
                bytes.start = ffi::PyBytes_AsString(pointer).cast();
                bytes.length = ffi::PyBytes_Size(pointer) as usize;
                return Ok(bytes);
            }
        }
        bytes.borrow(object)?;
        Ok(bytes)
    }

    pub(crate) fn empty() -> Bytes {
        Bytes { view: None, start: std::ptr::null(), length: 0 }
    }

    #[cold]
    fn borrow(&mut self, object: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = object.py();
        let mut view = Box::new(ffi::Py_buffer::new());
        // SAFETY: a fresh Py_buffer at an address that stays, kept only where the call succeeds.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut *view, ffi::PyBUF_SIMPLE) } != 0 {
            let error = PyErr::fetch(py);
            let kind = object.get_type();
            return Err(if error.is_instance_of::<PyBufferError>(py) {
                PyBufferError::new_err(format!(
                    "the message is a {kind} that is not contiguous in memory ({}); make a contiguous copy",
                    error.value(py)
                ))
            } else {
                PyTypeError::new_err(format!(
                    "the message is a {kind}; type=bytes takes bytes and other objects with the buffer protocol"
                ))
            });
        }
        self.start = view.buf.cast();
        self.length = view.len as usize;
        self.view = Some(view);
        Ok(())
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        if self.length == 0 {
            return &[];
        }
        // SAFETY: start and length come from the object or its exported buffer, which both stay.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

impl Drop for Bytes {
    #[inline]
    fn drop(&mut self) {
        if let Some(view) = &mut self.view {
            // SAFETY: filled by PyObject_GetBuffer and released once; the GIL is held wherever
            // values of this type live.
            unsafe { ffi::PyBuffer_Release(&raw mut **view) };
        }
    }
}

pub(crate) fn mode(text: &str) -> PyResult<Mode> {
    match text {
        "open_or_create" => Ok(Mode::OpenOrCreate),
        "create" => Ok(Mode::Create),
        "open" => Ok(Mode::Open),
        other => Err(PyValueError::new_err(format!("no such mode: {other}"))),
    }
}

pub(crate) fn namespace(py: Python<'_>, path: Option<&Path>) -> PyResult<Arc<Namespace>> {
    Namespace::open(path).or_raise(py)
}

/// An integer of any size; beyond 64 bits it is the largest or the smallest there is, which no limit here allows.
pub(crate) fn integer(given: &Bound<'_, PyAny>) -> PyResult<i64> {
    match given.extract::<i64>() {
        Err(error) if error.is_instance_of::<PyOverflowError>(given.py()) => {
            let negative = given.call_method0("__index__")?.lt(0)?;
            Ok(if negative { i64::MIN } else { i64::MAX })
        }
        other => other,
    }
}

/// As [`integer`], or None.
pub(crate) fn integer_or_none(given: &Bound<'_, PyAny>) -> PyResult<Option<i64>> {
    if given.is_none() { Ok(None) } else { integer(given).map(Some) }
}

/// What [`integer`] was given, for error texts.
pub(crate) fn shown(number: i64) -> String {
    match number {
        i64::MIN => "-2**63 or less".to_owned(),
        i64::MAX => "2**63 - 1 or more".to_owned(),
        other => other.to_string(),
    }
}

/// A number that was asked for: 1 to `limit`.
pub(crate) fn count(
    name: &str,
    unit: &str,
    asked: Option<impl Into<i128>>,
    limit: u64,
) -> PyResult<Option<u64>> {
    let asked = asked.map(Into::into);
    let text = |asked: i128| i64::try_from(asked).map_or_else(|_| asked.to_string(), shown);
    match asked.map(|asked| (text(asked), u64::try_from(asked))) {
        None => Ok(None),
        Some((_, Ok(asked))) if (1..=limit).contains(&asked) => Ok(Some(asked)),
        Some((asked, _)) if limit == u64::MAX => {
            Err(PyValueError::new_err(format!("{name} is {asked}: it takes {unit}, 1 or more")))
        }
        Some((asked, _)) => {
            Err(PyValueError::new_err(format!("{name} is {asked}: it takes {unit}, 1 to {limit}")))
        }
    }
}
