//! The class `isthmus._core.Value`.

use std::path::PathBuf;

use isthmus_core::value::handle::{Attributes, Type, Typed, ValueHandle};
use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt, PyType};

use crate::arguments::{mode, namespace};
use crate::errors::OrRaise;

/// A number that processes share.
///
/// Opens or creates the value `name`, or makes an anonymous one for children; `isthmus.Value` says more.
#[pyclass(name = "Value", module = "isthmus._core", subclass, frozen)]
pub(crate) struct PyValue {
    handle: ValueHandle,
}

/// What was given, as error texts show it.
fn shown(given: &Bound<'_, PyAny>) -> String {
    let text = given.repr().map(|text| text.to_string());
    match text {
        Ok(text) if text.len() <= 100 => text,
        // Long, or an integer so large that Python does not print it.
        _ => given
            .get_type()
            .name()
            .map_or_else(|_| "what was given".to_owned(), |name| format!("this {name}")),
    }
}

/// The argument as a number of a type; the error says what that type takes.
#[inline]
fn number<'py, N>(kind: Type, given: &Bound<'py, PyAny>) -> PyResult<N>
where
    N: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    given.extract().map_err(|error| misfit(kind, given, error))
}

#[cold]
fn misfit(kind: Type, given: &Bound<'_, PyAny>, error: PyErr) -> PyErr {
    let py = given.py();
    if error.is_instance_of::<PyOverflowError>(py) {
        let limits = match kind {
            Type::Int => format!("{} to {}", i64::MIN, i64::MAX),
            Type::Float => format!("{:e} to {:e}", f64::MIN, f64::MAX),
        };
        PyOverflowError::new_err(format!(
            "{} does not fit into a Value of type {kind}, which holds {limits}",
            shown(given)
        ))
    } else if error.is_instance_of::<PyTypeError>(py) {
        let takes = match kind {
            Type::Int => "integers only",
            Type::Float => "floats and integers",
        };
        PyTypeError::new_err(format!("{}: a Value of type {kind} takes {takes}", shown(given)))
    } else {
        error
    }
}

/// `int` or `float`, as Python calls them.
fn asked_type(kind: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Type>> {
    let Some(given) = kind else { return Ok(None) };
    let py = given.py();
    if given.is(py.get_type::<PyInt>()) {
        Ok(Some(Type::Int))
    } else if given.is(py.get_type::<PyFloat>()) {
        Ok(Some(Type::Float))
    } else {
        Err(PyTypeError::new_err(format!("type is {}: it takes int, float or None", shown(given))))
    }
}

/// What a new value begins with.
fn first(initial: &Bound<'_, PyAny>, asked: Option<Type>) -> PyResult<Typed> {
    let kind = match asked {
        Some(kind) => kind,
        None if initial.is_instance_of::<PyFloat>() || !initial.hasattr("__index__")? => Type::Float,
        None => Type::Int,
    };
    Ok(match kind {
        Type::Int => Typed::Int(number(kind, initial)?),
        Type::Float => Typed::Float(number(kind, initial)?),
    })
}

#[cold]
fn overflow(more: i64, to: i64) -> PyErr {
    let (beyond, limit) = if more < 0 { ("less", i64::MIN) } else { ("more", i64::MAX) };
    PyOverflowError::new_err(format!(
        "adding {more} to {to} gives {beyond} than {limit}, the limit of a Value of type int; nothing was changed"
    ))
}

fn float(py: Python<'_>, number: f64) -> Bound<'_, PyAny> {
    PyFloat::new(py, number).into_any()
}

fn int(py: Python<'_>, number: i64) -> Bound<'_, PyAny> {
    number.into_pyobject(py).map_or_else(|never| match never {}, Bound::into_any)
}

/// The number as an object.
pub(crate) fn python(py: Python<'_>, number: Typed) -> Bound<'_, PyAny> {
    match number {
        Typed::Int(number) => int(py, number),
        Typed::Float(number) => float(py, number),
    }
}

impl PyValue {
    fn exchange_for<'py>(&self, new: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let (py, kind) = (new.py(), self.handle.kind());
        // Arguments are converted before the handle is looked at: that may run code, which may close it.
        Ok(match kind {
            Type::Int => {
                let new: i64 = number(kind, new)?;
                int(py, self.handle.value().or_raise(py)?.exchange(new))
            }
            Type::Float => {
                let new: f64 = number(kind, new)?;
                float(py, self.handle.value().or_raise(py)?.exchange(new))
            }
        })
    }
}

#[pymethods]
impl PyValue {
    #[new]
    #[pyo3(signature = (name, mode_, initial, type_, persistent, namespace_, adopt = None))]
    #[expect(clippy::too_many_arguments, reason = "the Python side gives them names")]
    fn new(
        py: Python<'_>,
        name: Option<&str>,
        mode_: &str,
        initial: &Bound<'_, PyAny>,
        type_: Option<&Bound<'_, PyAny>>,
        persistent: Option<bool>,
        namespace_: Option<PathBuf>,
        adopt: Option<(u32, i32, u64)>,
    ) -> PyResult<PyValue> {
        let kind = asked_type(type_)?;
        let asked = Attributes { initial: first(initial, kind)?, kind, persistent };
        let space = namespace(py, namespace_.as_deref())?;
        let handle = match (name, adopt) {
            // The anonymous value behind a descriptor of another process: for unpickling.
            (_, Some((pid, fd, nonce))) => ValueHandle::from_fd_of(&space, pid, fd, nonce),
            (Some(name), None) => ValueHandle::open(&space, name, mode(mode_)?, &asked),
            (None, None) => ValueHandle::anonymous(&space, &asked),
        };
        Ok(PyValue { handle: handle.or_raise(py)? })
    }

    /// Where the object is: namespace, name, descriptor, nonce; for pickling.
    fn _place(&self) -> (PathBuf, Option<String>, i32, u64) {
        let object = self.handle.session().object();
        let name = object.name().map(str::to_owned);
        (object.namespace().path().to_owned(), name, object.fd(), object.nonce())
    }

    /// The number as it is now.
    fn get<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let value = self.handle.value().or_raise(py)?;
        Ok(match self.handle.kind() {
            Type::Int => int(py, value.get()),
            Type::Float => float(py, value.get()),
        })
    }

    /// Replaces the number.
    fn set(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.exchange_for(value).map(drop)
    }

    /// Adds `n` in one step and returns the sum.
    ///
    /// `OverflowError` where an int would leave the 64 bits it has; the number is then as it was.
    fn add<'py>(&self, n: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let (py, kind) = (n.py(), self.handle.kind());
        match kind {
            Type::Int => {
                let more: i64 = number(kind, n)?;
                let added = self.handle.value().or_raise(py)?.add(more);
                added.map(|sum| int(py, sum)).map_err(|before| overflow(more, before))
            }
            Type::Float => {
                let more: f64 = number(kind, n)?;
                let (Ok(sum) | Err(sum)) = self.handle.value().or_raise(py)?.add(more);
                Ok(float(py, sum))
            }
        }
    }

    /// Replaces the number in one step and returns the one before.
    fn exchange<'py>(&self, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.exchange_for(value)
    }

    /// Replaces the number in one step where it equals `expected`; True where it did.
    ///
    /// Floats are compared by value, as `==` does: 0.0 equals -0.0, and NaN equals nothing.
    fn compare_and_set(&self, expected: &Bound<'_, PyAny>, new: &Bound<'_, PyAny>) -> PyResult<bool> {
        let (py, kind) = (new.py(), self.handle.kind());
        Ok(match kind {
            Type::Int => {
                let (expected, new): (i64, i64) = (number(kind, expected)?, number(kind, new)?);
                self.handle.value().or_raise(py)?.compare_and_set(expected, new)
            }
            Type::Float => {
                let (expected, new): (f64, f64) = (number(kind, expected)?, number(kind, new)?);
                self.handle.value().or_raise(py)?.compare_and_set(expected, new)
            }
        })
    }

    /// The number; what is assigned replaces it. `value += 1` are two steps: use `add`.
    #[getter(value)]
    fn get_value<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.get(py)
    }

    #[setter(value)]
    fn set_value(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.set(value)
    }

    /// `int` or `float`.
    #[getter(r#type)]
    fn kind<'py>(&self, py: Python<'py>) -> Bound<'py, PyType> {
        match self.handle.kind() {
            Type::Int => py.get_type::<PyInt>(),
            Type::Float => py.get_type::<PyFloat>(),
        }
    }

    /// Ends this handle. Closing twice does nothing.
    fn close(&self) {
        self.handle.session().close(|| ());
    }

    /// Removes the name; those who have it open go on using it. `FileNotFoundError` where it is gone.
    fn unlink(&self, py: Python<'_>) -> PyResult<()> {
        self.handle.session().object().unlink().or_raise(py)
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyResult<PyRef<'_, Self>> {
        slf.handle.session().me().or_raise(slf.py())?;
        Ok(slf)
    }

    fn __exit__(&self, _kind: &Bound<'_, PyAny>, _error: &Bound<'_, PyAny>, _traceback: &Bound<'_, PyAny>) {
        self.close();
    }

    /// The name, or None for an anonymous value.
    #[getter]
    fn name(&self) -> Option<String> {
        self.handle.session().object().name().map(str::to_owned)
    }

    /// True after `close()`.
    #[getter]
    fn closed(&self) -> bool {
        self.handle.session().is_closed()
    }
}
