//! The class `isthmus._core.SharedMemory`.

use std::path::PathBuf;

use isthmus_core::shared_memory::handle::{Attributes, CONTENT, SharedMemoryHandle};
use isthmus_core::sys::region::Access;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::arguments::{mode, namespace};
use crate::errors::OrRaise;
use crate::mapping::{PyMapping, SLICE};

/// Named memory that lives as long as somebody uses it; `isthmus.SharedMemory` says more.
#[pyclass(name = "SharedMemory", module = "isthmus._core", frozen)]
pub(crate) struct PySharedMemory {
    handle: SharedMemoryHandle,
}

#[pymethods]
impl PySharedMemory {
    #[new]
    fn new(
        py: Python<'_>,
        name: &str,
        mode_: &str,
        size: Option<u64>,
        description: &[u8],
        persistent: Option<bool>,
        namespace_: Option<PathBuf>,
    ) -> PyResult<PySharedMemory> {
        let space = namespace(py, namespace_.as_deref())?;
        let (how, asked) = (mode(mode_)?, Attributes { size, description, persistent });
        let handle = py.detach(|| SharedMemoryHandle::open(&space, name, how, &asked)).or_raise(py)?;
        Ok(PySharedMemory { handle })
    }

    /// Where it is: namespace and name; for pickling.
    fn _place(&self) -> (PathBuf, String) {
        let object = self.handle.session().object();
        (object.namespace().path().to_owned(), object.name().unwrap_or_default().to_owned())
    }

    /// Bytes of content.
    fn size(&self, py: Python<'_>) -> PyResult<u64> {
        self.handle.size().or_raise(py)
    }

    /// What was said of the content when it was created.
    fn description<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.handle.description().or_raise(py)?))
    }

    /// The first bytes of the content, mapped.
    fn map(&self, py: Python<'_>, length: u64, writable: bool) -> PyResult<PyMapping> {
        let file = self.handle.content(writable).or_raise(py)?;
        let access = if writable { Access::Write } else { Access::Read };
        PyMapping::of(file.raw(), CONTENT, length, access)
    }

    /// Makes it larger, if it is smaller than that; says how large it is then.
    fn grow(&self, py: Python<'_>, size: u64) -> PyResult<u64> {
        let file = self.handle.content(true).or_raise(py)?;
        let mut reserved = 0;
        loop {
            let stay = self.handle.session().stay().or_raise(py)?;
            let done =
                py.detach(|| self.handle.reserve_some(&file, &mut reserved, size, SLICE)).or_raise(py)?;
            drop(stay);
            py.check_signals()?;
            if done {
                return self.handle.grow(size).or_raise(py);
            }
        }
    }

    /// Ends this handle. Closing twice does nothing.
    fn close(&self) {
        self.handle.session().close(|| ());
    }

    /// Removes the name; those who have it open go on using it.
    fn unlink(&self, py: Python<'_>) -> PyResult<()> {
        self.handle.session().object().unlink().or_raise(py)
    }

    #[getter]
    fn persistent(&self) -> bool {
        self.handle.session().object().persistent()
    }

    #[getter]
    fn closed(&self) -> bool {
        self.handle.session().is_closed()
    }
}
