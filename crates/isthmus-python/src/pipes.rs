//! Calls on pipes that the standard library of Python does not have.

use isthmus_core::sys::pipe::{self, Moved};
use pyo3::prelude::*;

use crate::errors::OrRaise;

/// Copies up to `size` bytes from one pipe into another without taking them: how many, 0 at the end, -1 where
/// it would block.
#[pyfunction]
pub(crate) fn tee(py: Python<'_>, source: i32, target: i32, size: usize) -> PyResult<isize> {
    Ok(match pipe::tee(source, target, size).or_raise(py)? {
        Moved::Bytes(count) => count.cast_signed(),
        Moved::WouldBlock => -1,
    })
}

/// In a forked child: it is killed when the thread of `parent` that forked it ends. False: that was before.
#[pyfunction]
pub(crate) fn die_with_parent(py: Python<'_>, parent: u32) -> PyResult<bool> {
    pipe::die_with_parent(parent).or_raise(py)
}
