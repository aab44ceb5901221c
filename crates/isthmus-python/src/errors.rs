//! One conversion from the core's errors to the classes of `isthmus._errors`.

use std::path::Path;

use isthmus_core::error::{Death, Error};
use pyo3::exceptions::{PyFileExistsError, PyFileNotFoundError, PyOSError, PyPermissionError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

static CLASSES: PyOnceLock<Py<PyModule>> = PyOnceLock::new();

fn class<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    let module = CLASSES.get_or_try_init(py, || py.import("isthmus._errors").map(Bound::unbind))?;
    module.bind(py).getattr(name)
}

/// An error of the class `name` of `isthmus._errors`.
pub(crate) fn raise(py: Python<'_>, name: &str, text: &str, fields: &[(&str, Py<PyAny>)]) -> PyErr {
    let build = || {
        let keywords = PyDict::new(py);
        for (key, value) in fields {
            keywords.set_item(key, value)?;
        }
        class(py, name)?.call((text,), Some(&keywords))
    };
    match build() {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}

/// True where the error is of the class `name` of `isthmus._errors`.
pub(crate) fn is(py: Python<'_>, error: &PyErr, name: &str) -> bool {
    class(py, name).is_ok_and(|class| error.is_instance(py, &class))
}

/// A number as a field of an error.
pub(crate) fn number(py: Python<'_>, value: u64) -> Py<PyAny> {
    value.into_pyobject(py).map_or_else(|never| match never {}, |v| v.into_any().unbind())
}

/// `pid` and `since` of a death, as the classes take them.
pub(crate) fn death_fields(py: Python<'_>, death: Death) -> [(&'static str, Py<PyAny>); 2] {
    let since = pyo3::types::PyFloat::new(py, death.since_ns as f64 / 1e9).into_any().unbind();
    [("pid", number(py, u64::from(death.pid))), ("since", since)]
}

/// The Python error for an error of the core.
pub(crate) fn convert(py: Python<'_>, error: Error) -> PyErr {
    let text = error.to_string();
    match error {
        Error::Closed => raise(py, "ClosedError", &text, &[]),
        Error::ShutDown => raise(py, "ShutDown", &text, &[]),
        Error::PeerDied(death) => raise(py, "PeerDied", &text, &death_fields(py, death)),
        Error::OwnerDied(death) => raise(py, "OwnerDied", &text, &death_fields(py, death)),
        Error::TooLarge { size, limit, .. } => {
            raise(py, "TooLarge", &text, &[("size", number(py, size)), ("limit", number(py, limit))])
        }
        Error::Invalid(_) => PyValueError::new_err(text),
        Error::Incompatible(_) => raise(py, "IncompatibleError", &text, &[]),
        Error::Corrupt(_) => raise(py, "CorruptError", &text, &[]),
        Error::Exists(path) => file_error::<PyFileExistsError>(EEXIST, text, &path),
        Error::NotFound(path) => file_error::<PyFileNotFoundError>(ENOENT, text, &path),
        Error::Permission(_) => PyPermissionError::new_err(text),
        Error::NoSpace(_) => raise(py, "NoSpaceError", &text, &[]),
        Error::NotOwner(_) => raise(py, "NotOwnerError", &text, &[]),
        Error::Unsupported(_) => raise(py, "Unsupported", &text, &[]),
        Error::Buried => raise(py, "BuriedError", &text, &[]),
        Error::Timeout(_) => raise(py, "Timeout", &text, &[]),
        Error::Os { call, path, errno } => match path {
            Some(path) => file_error::<PyOSError>(errno, os_text(call, errno), &path),
            None => PyOSError::new_err((errno, os_text(call, errno))),
        },
    }
}

const EEXIST: i32 = 17;
const ENOENT: i32 = 2;

/// What the system says of an error, and to which call.
fn os_text(call: &str, errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    let said = text.split(" (os error").next().unwrap_or(&text);
    format!("{said} ({call})")
}

/// The path goes over as text: a `pathlib.Path` would have to be imported, in the middle of an error.
fn file_error<T: pyo3::PyTypeInfo>(errno: i32, text: String, path: &Path) -> PyErr {
    PyErr::new::<T, _>((errno, text, path.to_string_lossy().into_owned()))
}

/// `?` for results of the core.
pub(crate) trait OrRaise<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> OrRaise<T> for isthmus_core::error::Result<T> {
    #[inline]
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        match self {
            Ok(value) => Ok(value),
            Err(error) => Err(convert(py, error)),
        }
    }
}
