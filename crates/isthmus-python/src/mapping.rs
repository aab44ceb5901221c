//! Mappings of files for views, and reserving what is under them: `isthmus._core.Mapping`, `reserve`.

use std::ffi::c_int;
use std::path::Path;

use isthmus_core::sys::limits;
use isthmus_core::sys::region::{Access, Region};
use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::errors::OrRaise;

/// Reserved between two looks at signals: some 10 ms.
pub(crate) const SLICE: u64 = 64 << 20;

/// A part of a file, mapped as long as it or a buffer taken of it lives; keeps no descriptor.
#[pyclass(name = "Mapping", module = "isthmus._core", frozen)]
pub(crate) struct PyMapping {
    /// `None`: of no bytes, which the kernel does not map.
    region: Option<Region>,
    writable: bool,
}

impl PyMapping {
    pub(crate) fn of(fd: i32, offset: u64, length: u64, access: Access) -> PyResult<PyMapping> {
        let beyond = || PyOverflowError::new_err(format!("{length} bytes are more than can be mapped"));
        let length = isize::try_from(length).map_err(|_| beyond())?.unsigned_abs();
        let region = match length {
            0 => None,
            length => Some(Python::attach(|py| Region::map(fd, offset, length, access).or_raise(py))?),
        };
        Ok(PyMapping { region, writable: access != Access::Read })
    }

    fn range(&self, start: usize, length: Option<usize>) -> PyResult<(usize, usize)> {
        let all = self.region.as_ref().map_or(0, Region::len);
        let length = length.unwrap_or(all.saturating_sub(start));
        match start.checked_add(length) {
            Some(end) if end <= all => Ok((start, length)),
            _ => Err(PyValueError::new_err(format!("bytes {start} and {length} more: there are {all}"))),
        }
    }
}

#[pymethods]
impl PyMapping {
    #[new]
    #[pyo3(signature = (fd, offset, length, access))]
    fn new(fd: i32, offset: u64, length: u64, access: &str) -> PyResult<PyMapping> {
        let access = match access {
            "read" => Access::Read,
            "write" => Access::Write,
            "copy" => Access::Copy,
            other => return Err(PyValueError::new_err(format!("no such access: {other}"))),
        };
        PyMapping::of(fd, offset, length, access)
    }

    fn __len__(&self) -> usize {
        self.region.as_ref().map_or(0, Region::len)
    }

    #[getter]
    fn writable(&self) -> bool {
        self.writable
    }

    /// `madvise` of the pages of a range.
    #[pyo3(signature = (advice, start = 0, length = None))]
    fn advise(&self, py: Python<'_>, advice: i32, start: usize, length: Option<usize>) -> PyResult<()> {
        let (start, length) = self.range(start, length)?;
        let Some(region) = &self.region else { return Ok(()) };
        py.detach(|| region.advise(start, length, advice)).or_raise(py)
    }

    /// Puts huge pages under it, as far as whole ones fit.
    fn collapse(&self, py: Python<'_>) -> PyResult<()> {
        let Some(region) = &self.region else { return Ok(()) };
        py.detach(|| region.collapse()).or_raise(py)
    }

    /// `msync` of the pages of a range: waits until they are stored.
    #[pyo3(signature = (start = 0, length = None))]
    fn flush(&self, py: Python<'_>, start: usize, length: Option<usize>) -> PyResult<()> {
        let (start, length) = self.range(start, length)?;
        let Some(region) = &self.region else { return Ok(()) };
        py.detach(|| region.flush(start, length)).or_raise(py)
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let this = slf.get();
        let start = this.region.as_ref().map_or(std::ptr::dangling_mut(), Region::ptr);
        // SAFETY: the interpreter gives a Py_buffer to fill; the memory stays mapped as long as the buffer's
        // reference to this object, which never unmaps it before its end.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                start.cast(),
                this.__len__() as isize,
                c_int::from(!this.writable),
                flags,
            )
        };
        if filled != 0 { Err(PyErr::fetch(slf.py())) } else { Ok(()) }
    }
}

/// Gives the bytes from `start` to `end` of a file memory, or room on its disk; `place` names it in errors.
///
/// Ctrl+C ends it in between; what is reserved then stays.
#[pyfunction]
pub(crate) fn reserve(py: Python<'_>, fd: i32, start: u64, end: u64, place: &str) -> PyResult<()> {
    if i64::try_from(end).is_err() {
        return Err(PyOverflowError::new_err(format!("no file has {end} bytes")));
    }
    let mut done = start;
    while done < end {
        let next = end.min(done.saturating_add(SLICE));
        py.detach(|| {
            limits::check_range(fd, (done, end), Path::new(place))?;
            limits::reserve_range(fd, (done, next), Path::new(place))
        })
        .or_raise(py)?;
        py.check_signals()?;
        done = next;
    }
    Ok(())
}
