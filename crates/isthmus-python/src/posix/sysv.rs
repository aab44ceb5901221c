//! System V: what /proc/sysvipc has no answer for.

use isthmus_core::sys::sysv::{self, Kind};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors::OrRaise;

/// Removes the object of this kind (`queue`, `semaphores`, `segment`) and number; False where there is none.
#[pyfunction]
pub(crate) fn sysv_remove(py: Python<'_>, kind: &str, id: i32) -> PyResult<bool> {
    let kind = match kind {
        "queue" => Kind::Queue,
        "semaphores" => Kind::Semaphores,
        "segment" => Kind::Segment,
        other => return Err(PyValueError::new_err(format!("no such kind: {other}"))),
    };
    sysv::remove(kind, id).or_raise(py)
}

/// The values of a set of semaphores; None where it is gone or may not be read.
#[pyfunction]
pub(crate) fn sysv_values(id: i32, count: usize) -> Option<Vec<u16>> {
    sysv::values(id, count)
}
